// SPDX-License-Identifier: MIT
// One reader for bytes in memory and bytes in a file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/io/range_file.hpp"
#include "gma/io/write_file.hpp"

namespace gma::io::detail {

/// Bytes in order, from memory or from a regular file. Every fault is a std::runtime_error
/// "gma::<function>: <path>: <what>".
class Input {
 public:
  Input(const char* function, const unsigned char* data, std::size_t size);
  Input(const char* function, const std::filesystem::path& path);

  /// The bytes of an open file, from its start. It must outlive the Input.
  Input(const char* function, const std::filesystem::path& path, const RangeFile& file);

  /// The number of bytes that are left.
  std::uint64_t remaining() const { return remaining_; }

  /// `bytes` as a size in memory; fails where a 32-bit machine cannot hold as many.
  std::size_t in_memory(std::uint64_t bytes) const;

  /// Reads the next `count` bytes; fails if fewer are left.
  void read(void* to, std::uint64_t count);

  /// Reads the next sizeof(Unsigned) bytes, a little-endian number.
  template <class Unsigned>
  Unsigned read_number();

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const;

 private:
  std::string origin_;
  const unsigned char* data_ = nullptr;
  std::unique_ptr<const RangeFile> own_file_;
  const RangeFile* file_ = nullptr;  // or null: the bytes are in memory
  std::uint64_t position_ = 0;       // of the next byte in the file
  std::uint64_t remaining_ = 0;
};

inline std::vector<unsigned char> join(const std::vector<Piece>& pieces);

/// A foreign text in a form that a message can print: cut after `limit` bytes, '?' for each byte that is not printable.
inline std::string shown(std::string_view text, std::size_t limit = 80);

/// The same, in quotes.
inline std::string excerpt(std::string_view text, std::size_t limit = 80);

// Implementation -----------------------------------------------------------------------------------------------------

inline Input::Input(const char* function, const unsigned char* data, std::size_t size)
    : origin_(gma::detail::concatenate("gma::", function, ": ")), data_(data), remaining_(size) {}

inline Input::Input(const char* function, const std::filesystem::path& path)
    : origin_(gma::detail::concatenate("gma::", function, ": ", shown_path(path), ": ")),
      own_file_(std::make_unique<const RangeFile>(function, path)),
      file_(own_file_.get()),
      remaining_(file_->size()) {}

inline Input::Input(const char* function, const std::filesystem::path& path, const RangeFile& file)
    : origin_(gma::detail::concatenate("gma::", function, ": ", shown_path(path), ": ")),
      file_(&file),
      remaining_(file.size()) {}

template <class... Parts>
void Input::fail(const Parts&... parts) const {
  gma::detail::raise<std::runtime_error>(gma::detail::concatenate(origin_, parts...));
}

inline std::size_t Input::in_memory(std::uint64_t bytes) const {
#if SIZE_MAX < UINT64_MAX
  if (bytes > SIZE_MAX / 2) fail("needs ", bytes, " bytes of memory, more than this machine can address");
  return static_cast<std::size_t>(bytes);
#else
  return bytes;
#endif
}

inline void Input::read(void* to, std::uint64_t count) {
  if (count > remaining_) fail("ends after ", remaining_, " bytes of the next ", count);
  if (count == 0) return;
  if (file_ != nullptr) {
    file_->read(position_, to, count);
    position_ += count;
  } else {
    std::memcpy(to, data_, in_memory(count));
    data_ += count;
  }
  remaining_ -= count;
}

template <class Unsigned>
Unsigned Input::read_number() {
  unsigned char bytes[sizeof(Unsigned)] = {};
  read(bytes, sizeof bytes);
  std::uint64_t number = 0;
  for (std::size_t i = 0; i < sizeof bytes; ++i) number |= std::uint64_t{bytes[i]} << (8 * i);
  return static_cast<Unsigned>(number);
}

inline std::vector<unsigned char> join(const std::vector<Piece>& pieces) {
  std::size_t size = 0;
  for (const Piece& piece : pieces) size += piece.size;
  std::vector<unsigned char> bytes(size);
  unsigned char* to = bytes.data();
  for (const Piece& piece : pieces) {
    if (piece.size != 0) std::memcpy(to, piece.data, piece.size);
    to += piece.size;
  }
  return bytes;
}

inline std::string shown(std::string_view text, std::size_t limit) {
  std::string result;
  for (const char c : text.substr(0, limit)) result += c >= ' ' && c <= '~' ? c : '?';
  return result + (text.size() > limit ? "..." : "");
}

inline std::string excerpt(std::string_view text, std::size_t limit) { return "'" + shown(text, limit) + "'"; }

}  // namespace gma::io::detail
