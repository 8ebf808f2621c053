// SPDX-License-Identifier: MIT
// The binary form of everything that is saved. It is the same on every machine:
//
//   8 bytes   magic: what the stream holds
//   uint32    byte-order mark 0x01020304; a stream whose mark reads backwards has the other byte order
//   uint32    version of the format
//   uint32    bytes per number, 4 or 8
//   ...       the content: integers and IEEE 754 numbers
//   uint64    FNV-1a hash of all bytes after the magic: it detects every single changed byte
//
// Everything is little-endian and without padding. A stream may hold several objects one after the other: neither the
// writer nor the reader touches what follows an object.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <istream>
#include <limits>
#include <ostream>
#include <string>
#include <type_traits>

#include "gma/core/checks.hpp"
#include "gma/core/types.hpp"

namespace gma::detail {

/// What a stream holds. `magic` has 8 characters; `content` is its name in messages, as in "memory". Writers write
/// `version`. Readers take every version from `oldest` on; 0 stands for `version` alone.
struct BinaryFormat {
  const char* magic;
  const char* content;
  std::uint32_t version;
  std::uint32_t oldest = 0;
};

/// Bytes of the magic, the header and the checksum: the size of a saved object less its content.
inline constexpr std::size_t binary_overhead = 8 + 3 * sizeof(std::uint32_t) + sizeof(std::uint64_t);

/// Throws std::runtime_error: "gma::<function>: <parts...>".
template <class... Parts>
[[noreturn]] void runtime_error(const char* function, const Parts&... parts) {
  raise<std::runtime_error>(concatenate("gma::", function, ": ", parts...));
}

/// Writes one object. Arrays are written in blocks, on little-endian machines directly from their own memory. Call
/// finish() at the end.
class BinaryWriter {
 public:
  /// Writes magic and header for numbers of type S. `function` is the name of the public function, for messages.
  template <class S>
  static BinaryWriter start(const char* function, const BinaryFormat& format, std::ostream& stream);

  template <class Integer>
  void integer(Integer value);
  /// A number of rows, columns, layers: as an int64.
  void size(Index value) { integer(static_cast<std::uint64_t>(value)); }
  template <class S>
  void numbers(const S* values, Index count);
  /// All coefficients, row by row. The caller writes the size, if it is needed.
  template <class S>
  void numbers(const Matrix<S>& values) {
    numbers(values.data(), values.size());
  }
  template <class S>
  void numbers(const Vector<S>& values) {
    numbers(values.data(), values.size());
  }

  /// Writes the checksum and flushes the stream, so that a full disk is an error here and not after the last check.
  /// Throws std::runtime_error if the stream has failed.
  void finish();

 private:
  BinaryWriter(const char* function, std::ostream& stream) : function_(function), stream_(stream) {}
  void bytes(const char* data, std::size_t count);

  const char* function_;
  std::ostream& stream_;
  std::uint64_t hash_ = 0;
};

/// Reads one object. Every method throws std::runtime_error that says what was found where, and what was expected. No
/// method allocates more than about twice what the stream has delivered. Do not trust anything that was read before
/// finish() returned.
class BinaryReader {
 public:
  /// Reads magic and header. Refuses every version that is not one of the format's, and numbers that are not of type S.
  template <class S>
  static BinaryReader start(const char* function, const BinaryFormat& format, std::istream& stream);

  /// The version of the stream's format: it says how the content is laid out.
  std::uint32_t version() const { return version_; }

  /// `what` is the name of the value in messages.
  template <class Integer>
  Integer integer(const char* what);
  /// A number of rows, columns, layers: from 0 to largest_saved_size.
  Index size(const char* what);
  /// A number of events: from 0 to `most`. Nothing is allocated for it.
  Index count(const char* what, Index most);
  /// The product of two sizes; refused above largest_saved_size.
  Index size_of(const char* what, Index rows, Index cols) const;
  template <class S>
  Vector<S> numbers(const char* what, Index count);
  template <class S>
  Matrix<S> numbers(const char* what, Index rows, Index cols);

  /// Compares the checksum.
  void finish();

  /// Throws std::runtime_error: "gma::load: stream holds no valid memory: <parts...>".
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    runtime_error(function_, "stream holds no valid ", format_.content, ": ", parts...);
  }

 private:
  BinaryReader(const char* function, const BinaryFormat& format, std::istream& stream)
      : function_(function), format_(format), stream_(stream) {}
  void read_magic();
  void read_header(std::uint32_t scalar_size);
  void bytes(const char* what, char* data, std::size_t count);

  const char* function_;
  BinaryFormat format_;
  std::istream& stream_;
  std::uint32_t version_ = 0;
  std::uint64_t hash_ = 0;
  std::uint64_t position_ = 0;
};

// Implementation -----------------------------------------------------------------------------------------------------

inline constexpr std::uint32_t byte_order_mark = 0x01020304;
inline constexpr std::uint32_t reversed_byte_order_mark = 0x04030201;
/// About 2^40 where an Index has 64 bits: the bytes of that many numbers overflow no integer.
inline constexpr Index largest_saved_size = (std::numeric_limits<Index>::max)() >> (sizeof(Index) > 4 ? 23 : 4);

inline constexpr std::uint64_t fnv_start = 0xcbf29ce484222325;
inline std::uint64_t fnv_1a(std::uint64_t hash, const char* data, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    hash = (hash ^ static_cast<unsigned char>(data[i])) * std::uint64_t{0x100000001b3};
  }
  return hash;
}

inline bool machine_is_little_endian() {
  const std::uint32_t one = 1;
  unsigned char first;
  std::memcpy(&first, &one, 1);
  return first == 1;
}

/// The bits of any number.
template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

/// One number to its little-endian bytes and back. It works on any machine.
template <class T>
void to_little_endian(const T& value, char* bytes) {
  BitsOf<T> bits;
  std::memcpy(&bits, &value, sizeof bits);
  for (std::size_t i = 0; i < sizeof bits; ++i) bytes[i] = static_cast<char>((bits >> (8 * i)) & 0xff);
}
template <class T>
T from_little_endian(const char* bytes) {
  BitsOf<T> bits = 0;
  for (std::size_t i = 0; i < sizeof bits; ++i) {
    bits |= static_cast<BitsOf<T>>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class S>
constexpr void check_saved_scalar() {
  static_assert(std::is_same_v<S, float> || std::is_same_v<S, double>, "gma: only float or double can be saved");
  static_assert(std::numeric_limits<S>::is_iec559, "gma: saving needs IEEE 754 numbers");
}

template <class S>
BinaryWriter BinaryWriter::start(const char* function, const BinaryFormat& format, std::ostream& stream) {
  check_saved_scalar<S>();
  BinaryWriter writer(function, stream);
  stream.write(format.magic, 8);
  writer.hash_ = fnv_start;
  writer.integer(byte_order_mark);
  writer.integer(format.version);
  writer.integer(static_cast<std::uint32_t>(sizeof(S)));
  return writer;
}

inline void BinaryWriter::bytes(const char* data, std::size_t count) {
  hash_ = fnv_1a(hash_, data, count);
  stream_.write(data, static_cast<std::streamsize>(count));
}

template <class Integer>
void BinaryWriter::integer(Integer value) {
  static_assert(std::is_integral_v<Integer> && (sizeof(Integer) == 4 || sizeof(Integer) == 8));
  char data[sizeof value];
  to_little_endian(value, data);
  bytes(data, sizeof data);
}

template <class S>
void BinaryWriter::numbers(const S* values, Index count) {
  check_saved_scalar<S>();
  if (machine_is_little_endian()) {
    if (count > 0) bytes(reinterpret_cast<const char*>(values), static_cast<std::size_t>(count) * sizeof(S));
    return;
  }
  for (Index i = 0; i < count; ++i) {
    char data[sizeof(S)];
    to_little_endian(values[i], data);
    bytes(data, sizeof data);
  }
}

inline void BinaryWriter::finish() {
  integer(hash_);
  stream_.flush();
  if (!stream_) runtime_error(function_, "the stream failed");
}

template <class S>
BinaryReader BinaryReader::start(const char* function, const BinaryFormat& format, std::istream& stream) {
  check_saved_scalar<S>();
  BinaryReader reader(function, format, stream);
  reader.read_magic();
  reader.hash_ = fnv_start;
  reader.read_header(sizeof(S));
  return reader;
}

inline void BinaryReader::bytes(const char* what, char* data, std::size_t count) {
  stream_.read(data, static_cast<std::streamsize>(count));
  const std::size_t found = static_cast<std::size_t>(stream_.gcount());
  if (!stream_ || found != count) {
    refuse("it ends after ", position_ + found, " bytes, within its ", what);
  }
  position_ += count;
  hash_ = fnv_1a(hash_, data, count);
}

/// The bytes in a form that a message can print.
inline std::string printable(const char* data, std::size_t count) {
  std::string text(data, count);
  for (char& c : text) c = c >= ' ' && c <= '~' ? c : '.';
  return text;
}

inline void BinaryReader::read_magic() {
  char magic[8] = {};
  bytes("first 8 bytes", magic, sizeof magic);
  if (std::memcmp(magic, format_.magic, sizeof magic) != 0) {
    refuse("it starts with ", printable(magic, sizeof magic), ", expected ", format_.magic);
  }
}

inline void BinaryReader::read_header(std::uint32_t scalar_size) {
  const std::uint32_t mark = integer<std::uint32_t>("byte-order mark");
  if (mark == reversed_byte_order_mark) refuse("its byte order is big-endian, expected little-endian");
  if (mark != byte_order_mark) refuse("its byte-order mark is ", mark, ", expected ", byte_order_mark);
  version_ = integer<std::uint32_t>("version");
  const std::uint32_t oldest = format_.oldest == 0 ? format_.version : format_.oldest;
  if (version_ < oldest || version_ > format_.version) {
    const std::string older = oldest < format_.version ? concatenate(oldest, " to ") : std::string();
    refuse("it is of version ", version_, ", expected ", older, format_.version);
  }
  const std::uint32_t size = integer<std::uint32_t>("scalar size");
  if (size != scalar_size) refuse("its numbers have ", size, " bytes, expected ", scalar_size);
}

template <class Integer>
Integer BinaryReader::integer(const char* what) {
  static_assert(std::is_integral_v<Integer> && (sizeof(Integer) == 4 || sizeof(Integer) == 8));
  char data[sizeof(Integer)];
  bytes(what, data, sizeof data);
  return from_little_endian<Integer>(data);
}

inline Index BinaryReader::size(const char* what) {
  const std::uint64_t value = integer<std::uint64_t>(what);
  if (value > static_cast<std::uint64_t>(largest_saved_size)) {
    refuse("impossible size: ", what, " is ", value, ", expected at most ", largest_saved_size);
  }
  return static_cast<Index>(value);
}

inline Index BinaryReader::count(const char* what, Index most) {
  const std::uint64_t value = integer<std::uint64_t>(what);
  if (value > static_cast<std::uint64_t>(most)) refuse("its ", what, " is ", value, ", expected at most ", most);
  return static_cast<Index>(value);
}

inline Index BinaryReader::size_of(const char* what, Index rows, Index cols) const {
  if (cols != 0 && rows > largest_saved_size / cols) {
    refuse("impossible size: ", what, " is ", rows, " x ", cols, ", expected at most ", largest_saved_size,
           " coefficients");
  }
  return rows * cols;
}

template <class S>
Vector<S> BinaryReader::numbers(const char* what, Index count) {
  check_saved_scalar<S>();
  constexpr Index chunk = 1 << 16;
  Vector<S> values;
  while (values.size() < count) {  // a size is trusted only as far as data has arrived
    const Index begin = values.size(), step = (std::min)((std::max)(chunk, begin), count - begin);
    values.conservativeResize(begin + step);
    char* data = reinterpret_cast<char*>(values.data() + begin);
    bytes(what, data, static_cast<std::size_t>(step) * sizeof(S));
    if (machine_is_little_endian()) continue;
    for (Index i = begin; i < begin + step; ++i, data += sizeof(S)) values(i) = from_little_endian<S>(data);
  }
  return values;
}

template <class S>
Matrix<S> BinaryReader::numbers(const char* what, Index rows, Index cols) {
  const Vector<S> values = numbers<S>(what, size_of(what, rows, cols));
  return Eigen::Map<const Matrix<S>>(values.data(), rows, cols);
}

inline void BinaryReader::finish() {
  const std::uint64_t expected = hash_;
  const std::uint64_t found = integer<std::uint64_t>("checksum");
  if (found != expected) refuse("its checksum is ", found, ", expected ", expected, ": it is corrupt");
}

}  // namespace gma::detail
