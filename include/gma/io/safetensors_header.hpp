// SPDX-License-Identifier: MIT
// The header of a safetensors file: a JSON object that gives each tensor a type, a shape and a range of the data.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gma/io/file.hpp"
#include "gma/io/tensor.hpp"

namespace gma::io::detail {

struct SafeTensorsEntry {
  DataType type = DataType::f32;
  std::string other_type;
  std::vector<Index> shape;
  std::uint64_t begin = 0, end = 0;  // in bytes from the start of the data
};

struct SafeTensorsHeader {
  std::map<std::string, SafeTensorsEntry> entries;
  std::map<std::string, std::string> metadata;
};

/// Longer headers are refused. The reference implementation refuses them too.
inline constexpr std::uint64_t safetensors_header_limit = 100'000'000;

inline constexpr const char* safetensors_metadata = "__metadata__";

/// Reads up to the first byte of data. Checks everything except how the ranges lie to each other.
inline SafeTensorsHeader read_safetensors_header(Input& input);

/// The entries in the order of their data. Fails unless they cover what is left of the input without gap, overlap or
/// rest.
using NamedEntry = std::map<std::string, SafeTensorsEntry>::value_type;
inline std::vector<NamedEntry*> entries_in_order(const Input& input, SafeTensorsHeader& header);

/// The JSON of a header, without its length.
inline std::string safetensors_json(const char* function, const SafeTensorsHeader& header);

// Implementation -----------------------------------------------------------------------------------------------------

struct SafeTensorsType {
  DataType type;
  const char* name;
};
inline constexpr SafeTensorsType safetensors_types[] = {
    {DataType::f64, "F64"},     {DataType::f32, "F32"}, {DataType::f16, "F16"}, {DataType::bf16, "BF16"},
    {DataType::i64, "I64"},     {DataType::i32, "I32"}, {DataType::i16, "I16"}, {DataType::i8, "I8"},
    {DataType::u64, "U64"},     {DataType::u32, "U32"}, {DataType::u16, "U16"}, {DataType::u8, "U8"},
    {DataType::boolean, "BOOL"}};

/// The fault of the name of a type that DataType lacks; "" if there is none. Such names have capitals, digits and
/// underscores, and are not those of DataType's own types.
inline std::string fault_of_type_name(const std::string& name) {
  bool is_name = !name.empty() && name.size() <= 32 && name[0] >= 'A' && name[0] <= 'Z';
  for (const char c : name) is_name = is_name && ((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_');
  for (const SafeTensorsType& type : safetensors_types) is_name = is_name && name != type.name;
  if (is_name) return "";
  return "dtype " + excerpt(name) +
         ", expected F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL or the name of another type";
}

/// Receives the header's JSON piece by piece and builds no tree, so that it sees repeated keys. The names and types of
/// the functions are those that nlohmann::json::sax_parse calls. Every fault leaves through Input::fail.
class SafeTensorsHandler {
 public:
  SafeTensorsHandler(const Input& input, SafeTensorsHeader& header) : input_(input), header_(header) {}

  bool null() { unexpected("null"); }
  bool boolean(bool value) { unexpected(value ? "true" : "false"); }
  bool number_integer(std::int64_t value) { unexpected(std::to_string(value)); }  // these are negative
  bool number_float(double, const std::string& text) { unexpected(excerpt(text)); }
  bool binary(nlohmann::json::binary_t&) { unexpected("binary data"); }

  bool number_unsigned(std::uint64_t value) {
    if (place_ == Place::shape) {
      if (value > static_cast<std::uint64_t>(largest_index)) fail("has a dimension of ", value, ", which overflows");
      entry_->shape.push_back(static_cast<Index>(value));
    } else if (place_ == Place::offsets && offsets_.size() < 2) {
      offsets_.push_back(value);
    } else {
      unexpected(std::to_string(value));
    }
    return true;
  }

  bool string(std::string& value) {
    if (place_ == Place::metadata) {
      *metadata_ = std::move(value);
    } else if (place_ == Place::entry && field_ == Field::dtype) {
      set_type(value);
    } else {
      unexpected("the string " + excerpt(value));
    }
    return true;
  }

  bool start_object(std::size_t) {
    if (place_ == Place::start) {
      place_ = Place::header;
    } else if (place_ == Place::header) {
      place_ = name_ == safetensors_metadata ? Place::metadata : Place::entry;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(std::string& value) {
    if (place_ == Place::header) {
      start_name(value);
    } else if (place_ == Place::metadata) {
      const auto [position, is_new] = header_.metadata.emplace(value, std::string());
      if (!is_new) fail("has the key ", excerpt(value), " twice");
      metadata_ = &position->second;
    } else {
      start_field(value);
    }
    return true;
  }

  bool end_object() {
    if (place_ == Place::entry) finish_entry();
    place_ = Place::header;
    return true;
  }

  bool start_array(std::size_t) {
    if (place_ == Place::entry && field_ == Field::shape) {
      place_ = Place::shape;
    } else if (place_ == Place::entry && field_ == Field::offsets) {
      place_ = Place::offsets;
      offsets_.clear();
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() {
    if (place_ == Place::offsets) finish_offsets();
    place_ = Place::entry;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) {
    std::string reason = error.what();
    reason.erase(0, reason.find("] ") + 2);  // the JSON library's error number
    input_.fail("header is no JSON at byte ", position, ": ", excerpt(reason, 200));
  }

 private:
  enum class Place { start, header, metadata, entry, shape, offsets };
  enum Field { dtype, shape, offsets };
  static constexpr const char* field_names[] = {"dtype", "shape", "data_offsets"};

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    if (name_ == safetensors_metadata) input_.fail(safetensors_metadata, " ", parts...);
    input_.fail("tensor ", excerpt(name_), " ", parts...);
  }

  [[noreturn]] void unexpected(const std::string& found) const {
    switch (place_) {
      case Place::start:
        input_.fail("header is ", found, ", expected an object");
      case Place::header:
        fail("is ", found, ", expected an object");
      case Place::metadata:
        fail("holds ", found, ", expected strings only");
      case Place::shape:
        fail("has ", found, " in its shape, expected integers of 0 or more");
      case Place::offsets:
        fail("has ", found, " in its data_offsets, expected two integers of 0 or more");
      case Place::entry:
        break;
    }
    fail("has as its ", field_names[field_], " ", found, ", expected ", field_ == dtype ? "a string" : "an array");
  }

  void start_name(std::string& name) {
    name_ = std::move(name);
    if (name_ == safetensors_metadata) {
      if (has_metadata_) input_.fail("header has ", safetensors_metadata, " twice");
      has_metadata_ = true;
      return;
    }
    const auto [position, is_new] = header_.entries.emplace(name_, SafeTensorsEntry());
    if (!is_new) input_.fail("header has the tensor ", excerpt(name_), " twice");
    entry_ = &position->second;
    for (bool& seen : seen_) seen = false;
  }

  void start_field(const std::string& name) {
    for (const Field field : {dtype, shape, offsets}) {
      if (name != field_names[field]) continue;
      if (seen_[field]) fail("has ", name, " twice");
      seen_[field] = true;
      field_ = field;
      return;
    }
    fail("has the key ", excerpt(name), ", expected only dtype, shape and data_offsets");
  }

  void set_type(const std::string& name) {
    for (const SafeTensorsType& type : safetensors_types) {
      if (name != type.name) continue;
      entry_->type = type.type;
      return;
    }
    const std::string fault = fault_of_type_name(name);
    if (!fault.empty()) fail("has ", fault);
    entry_->type = DataType::other;
    entry_->other_type = name;
  }

  void finish_offsets() {
    if (offsets_.size() != 2) fail("has ", offsets_.size(), " data_offsets, expected two");
    entry_->begin = offsets_[0];
    entry_->end = offsets_[1];
    if (entry_->begin > entry_->end) {
      fail("has data_offsets [", entry_->begin, ", ", entry_->end, "], expected the first not to exceed the second");
    }
  }

  void finish_entry() const {
    for (const Field field : {dtype, shape, offsets}) {
      if (!seen_[field]) fail("lacks ", field_names[field]);
    }
    const std::string fault = fault_of(entry_->type, entry_->shape, entry_->end - entry_->begin);
    if (!fault.empty()) fail("has ", fault);
  }

  const Input& input_;
  SafeTensorsHeader& header_;
  Place place_ = Place::start;
  Field field_ = dtype;
  std::string name_;                      // the key in the header that is being read
  SafeTensorsEntry* entry_ = nullptr;     // of the tensor of that name
  std::string* metadata_ = nullptr;       // the value of the metadata's current key
  std::vector<std::uint64_t> offsets_;    // of the current entry, so far
  bool seen_[3] = {false, false, false};  // whether the current entry had each field
  bool has_metadata_ = false;
};

inline SafeTensorsHeader read_safetensors_header(Input& input) {
  if (input.remaining() < 8) input.fail("is no safetensors file: it has ", input.remaining(), " bytes");
  char first[8] = {};
  input.read(first, sizeof first);
  std::uint64_t length = 0;
  for (int i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(first[i]);
  if (length > std::uint64_t{1} << 56) {  // a text, or a file of another kind
    input.fail("is no safetensors file: it starts with ", excerpt(std::string_view(first, sizeof first)),
               " for the length of a header, expected at most ", safetensors_header_limit);
  }
  if (length > safetensors_header_limit) {
    input.fail("header of ", length, " bytes, expected at most ", safetensors_header_limit);
  }
  if (length > input.remaining()) input.fail("header of ", length, " bytes, expected at most ", input.remaining());
  std::string text(input.in_memory(length), '\0');
  input.read(&text[0], length);
  if (text.empty() || text.front() != '{') input.fail("header does not start with '{'");
  if (text[text.find_last_not_of(' ')] != '}') input.fail("header has more than spaces after its last '}'");
  // The parser would take it for the end of the text.
  if (text.find('\0') != std::string::npos) input.fail("header is no JSON: it holds a zero byte");
  SafeTensorsHeader header;
  SafeTensorsHandler handler(input, header);
  nlohmann::json::sax_parse(text.data(), text.data() + text.size(), &handler);
  return header;
}

inline std::vector<NamedEntry*> entries_in_order(const Input& input, SafeTensorsHeader& header) {
  std::vector<NamedEntry*> in_order;
  for (NamedEntry& named : header.entries) in_order.push_back(&named);
  std::sort(in_order.begin(), in_order.end(), [](const NamedEntry* a, const NamedEntry* b) {
    return std::make_pair(a->second.begin, a->second.end) < std::make_pair(b->second.begin, b->second.end);
  });
  std::uint64_t position = 0;
  for (const NamedEntry* named : in_order) {
    const auto& [name, entry] = *named;
    if (entry.begin != position) {
      input.fail("tensor ", excerpt(name), " starts at byte ", entry.begin, " of the data, expected ", position, " (",
                 entry.begin < position ? "it overlaps another" : "there is a gap", ")");
    }
    position = entry.end;
  }
  if (position != input.remaining()) {
    input.fail("data has ", input.remaining(), " bytes, expected ", position, " (where the last tensor ends)");
  }
  return in_order;
}

/// `text` as a JSON string.
inline std::string json_string(const char* function, const std::string& text) {
  using Json = nlohmann::json;
  const Json json(text);
  std::string quoted = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (quoted != json.dump(-1, ' ', false, Json::error_handler_t::ignore)) {  // one marks invalid UTF-8, one drops it
    gma::detail::invalid_argument(function, "the name or metadata ", excerpt(text), " is not UTF-8");
  }
  return quoted;
}

inline std::string safetensors_json(const char* function, const SafeTensorsHeader& header) {
  std::string json = "{";
  if (!header.metadata.empty()) {
    json += "\"__metadata__\":{";
    for (const auto& [key, value] : header.metadata) {
      json += json_string(function, key) + ":" + json_string(function, value) + ",";
    }
    json.back() = '}';
    json += ",";
  }
  for (const auto& [name, entry] : header.entries) {
    json += json_string(function, name) + ":{\"dtype\":\"" + entry.other_type;
    for (const SafeTensorsType& type : safetensors_types) {
      if (type.type == entry.type) json += type.name;
    }
    json += "\",\"shape\":[";
    for (std::size_t i = 0; i < entry.shape.size(); ++i) json += (i == 0 ? "" : ",") + std::to_string(entry.shape[i]);
    json += "],\"data_offsets\":[" + std::to_string(entry.begin) + "," + std::to_string(entry.end) + "]},";
  }
  if (json.back() == ',') json.pop_back();
  return json + "}";
}

}  // namespace gma::io::detail
