// SPDX-License-Identifier: MIT
// The header of an .npy file: 6 magic bytes, a version, the length of a text, and that text, a Python dictionary.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gma/io/file.hpp"
#include "gma/io/tensor.hpp"

namespace gma::io::detail {

struct NpyHeader {
  DataType type = DataType::f64;
  bool big_endian = false;
  bool fortran_order = false;
  std::vector<Index> shape;
};

/// Reads up to the first byte of data.
inline NpyHeader read_npy_header(Input& input);

/// All bytes before those of `tensor`. Checks the tensor.
inline std::string npy_header(const char* function, const Tensor& tensor);

// Implementation -----------------------------------------------------------------------------------------------------

inline constexpr std::string_view npy_magic("\x93NUMPY", 6);

struct NpyType {
  DataType type;
  const char* code;  // a descr without its byte order
};
inline constexpr NpyType npy_types[] = {{DataType::f64, "f8"}, {DataType::f32, "f4"}, {DataType::f16, "f2"},
                                        {DataType::i64, "i8"}, {DataType::i32, "i4"}, {DataType::i16, "i2"},
                                        {DataType::i8, "i1"},  {DataType::u64, "u8"}, {DataType::u32, "u4"},
                                        {DataType::u16, "u2"}, {DataType::u8, "u1"},  {DataType::boolean, "b1"}};

/// Reads the one form of Python literal that a header may have: a dictionary of three known keys.
class NpyDictionary {
 public:
  NpyDictionary(const Input& input, std::string_view text) : input_(input), text_(text) {}

  NpyHeader read() {
    expect('{', "'{'");
    while (!take('}')) {
      read_item();
      if (!take(',')) {
        expect('}', "',' or '}'");
        break;
      }
    }
    if (text_.find_first_not_of(' ', at_) != text_.size() - 1 || text_.back() != '\n') {
      fail("expected only spaces and one new line after '}'");
    }
    if (!has_descr_) fail("lacks the key 'descr'");
    if (!has_order_) fail("lacks the key 'fortran_order'");
    if (!has_shape_) fail("lacks the key 'shape'");
    return std::move(header_);
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    input_.fail("header ", parts...);
  }
  [[noreturn]] void fail_at(const char* expected) const {
    if (at_ >= text_.size()) fail("ends where ", expected, " was expected");
    fail("has ", excerpt(text_.substr(at_), 20), " at byte ", at_, ", expected ", expected);
  }

  char peek() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool take(char c) {
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  void expect(char c, const char* expected) {
    if (!take(c)) fail_at(expected);
  }
  bool take_word(std::string_view word) {
    peek();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  void read_item() {
    const std::string_view key = read_string("a key in quotes");
    expect(':', "':'");
    if (key == "descr") {
      once(has_descr_, key);
      read_descr();
    } else if (key == "fortran_order") {
      once(has_order_, key);
      header_.fortran_order = take_word("True");
      if (!header_.fortran_order && !take_word("False")) fail_at("True or False");
    } else if (key == "shape") {
      once(has_shape_, key);
      read_shape();
    } else {
      fail("has the key ", excerpt(key), ", expected only 'descr', 'fortran_order' and 'shape'");
    }
  }

  void once(bool& seen, std::string_view key) const {
    if (seen) fail("has the key ", excerpt(key), " twice");
    seen = true;
  }

  /// Reads a text between ' or ", without escapes.
  std::string_view read_string(const char* expected) {
    const char quote = peek();
    if (quote != '\'' && quote != '"') fail_at(expected);
    const std::size_t begin = at_ + 1, end = text_.find(quote, begin);
    if (end == std::string_view::npos) fail("has a string without its closing quote");
    const std::string_view string = text_.substr(begin, end - begin);
    if (string.find('\\') != std::string_view::npos) fail("has the string ", excerpt(string), ", expected no escapes");
    at_ = end + 1;
    return string;
  }

  void read_descr() {
    if (peek() == '[') fail("describes records, which are not supported: expected numbers of one type");
    const std::string_view descr = read_string("a type in quotes");
    const char order = descr.empty() ? '\0' : descr.front();
    const std::string_view code = descr.substr(descr.empty() ? 0 : 1);
    if (code.substr(0, 1) == "O") fail("has descr ", excerpt(descr), ": Python objects are pickled and never read");
    for (const NpyType& candidate : npy_types) {
      if (code != candidate.code) continue;
      // Some writers give a byte order for bytes. For wider numbers '|' (none) and '=' (the writer's) do not tell the
      // order.
      const bool known = order == '<' || order == '>' || (order == '|' && width_of(candidate.type) == 1);
      if (!known) fail("has descr ", excerpt(descr), ", expected '<' or '>' as its order of bytes");
      header_.type = candidate.type;
      header_.big_endian = order == '>';
      return;
    }
    fail("has descr ", excerpt(descr), ", expected one of f2, f4, f8, i1, i2, i4, i8, u1, u2, u4, u8 and b1");
  }

  /// Reads () or (a,) or (a, b, ...); a comma may also follow the last number.
  void read_shape() {
    expect('(', "a tuple");
    while (!take(')')) {
      header_.shape.push_back(read_dimension());
      const bool comma = take(',');
      if (!comma && header_.shape.size() == 1) fail_at("',': (n) is no tuple");
      if (!comma) {
        expect(')', "',' or ')'");
        break;
      }
    }
  }

  Index read_dimension() {
    const auto digit = [&] { return at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; };
    peek();
    if (!digit()) fail_at("a dimension of 0 or more");
    const std::size_t begin = at_;
    Index number = 0;
    for (; digit(); ++at_) {
      const Index next = text_[at_] - '0';
      if (number > (largest_index - next) / 10) fail("has a dimension that overflows, expected one an Index can count");
      number = 10 * number + next;
    }
    if (text_[begin] == '0' && at_ - begin > 1) fail("has a dimension that starts with 0, expected a decimal number");
    return number;
  }

  const Input& input_;
  std::string_view text_;
  std::size_t at_ = 0;
  NpyHeader header_;
  bool has_descr_ = false, has_order_ = false, has_shape_ = false;
};

inline NpyHeader read_npy_header(Input& input) {
  char magic[npy_magic.size()] = {};
  if (input.remaining() < sizeof magic + 2) input.fail("is no npy file: it has ", input.remaining(), " bytes");
  input.read(magic, sizeof magic);
  if (std::string_view(magic, sizeof magic) != npy_magic) {
    input.fail("is no npy file: expected it to start with NUMPY after the byte 0x93, found ",
               excerpt(std::string_view(magic, sizeof magic)));
  }
  const int version = input.read_number<std::uint8_t>(), minor_version = input.read_number<std::uint8_t>();
  if (version < 1 || version > 3 || minor_version != 0) {
    input.fail("is of version ", version, ".", minor_version, ", expected 1.0, 2.0 or 3.0");
  }
  const std::uint32_t length = version == 1 ? input.read_number<std::uint16_t>() : input.read_number<std::uint32_t>();
  if (length == 0) input.fail("header is empty, expected a dictionary");
  if (length > input.remaining()) input.fail("header of ", length, " bytes, expected at most ", input.remaining());
  std::string text(length, '\0');
  input.read(&text[0], length);
  return NpyDictionary(input, text).read();
}

inline std::string npy_header(const char* function, const Tensor& tensor) {
  check_tensor(function, tensor);
  std::string code;
  for (const NpyType& type : npy_types) {
    if (type.type == tensor.type) code = type.code;
  }
  if (code.empty()) {
    const std::string type = tensor.type == DataType::other ? tensor.other_type : name_of(tensor.type);
    gma::detail::invalid_argument(function, "npy has no type for ", type, ", expected f32 or f16");
  }
  std::string text = "{'descr': '" + ((width_of(tensor.type) == 1 ? "|" : "<") + code);
  text += "', 'fortran_order': False, 'shape': (";
  for (std::size_t i = 0; i < tensor.shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(tensor.shape[i]);
  text += tensor.shape.size() == 1 ? ",), }" : "), }";
  const auto padded = [&](std::size_t prefix) { return (prefix + text.size() + 1 + 63) / 64 * 64 - prefix; };
  const bool is_short = padded(10) <= 0xffff;
  const std::size_t length = padded(is_short ? 10 : 12);
  if (length > 0xffffffff) gma::detail::invalid_argument(function, "a shape of ", tensor.shape.size(), " dimensions");
  std::string header(npy_magic);
  header += is_short ? '\1' : '\2';
  header += '\0';
  for (std::size_t i = 0; i < (is_short ? 2 : 4); ++i) header += static_cast<char>((length >> (8 * i)) & 0xff);
  text.resize(length - 1, ' ');
  return header + text + '\n';
}

}  // namespace gma::io::detail
