// SPDX-License-Identifier: MIT
// Bytes from memory or from a file under one reader, and files that appear whole or not at all.
#pragma once

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ios>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "gma/core/checks.hpp"

namespace gma::io::detail {

/// Bytes in order, from memory or from a regular file. Every fault is a std::runtime_error
/// "gma::<function>: <path>: <what>".
class Input {
 public:
  Input(const char* function, const unsigned char* data, std::size_t size);
  Input(const char* function, const std::filesystem::path& path);

  /// Bytes that are left.
  std::uint64_t remaining() const { return remaining_; }

  /// The next `count` bytes; fails if fewer are left.
  void read(void* to, std::uint64_t count);

  /// The next sizeof(Unsigned) bytes, a little-endian number.
  template <class Unsigned>
  Unsigned read_number();

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const;

 private:
  std::string origin_;
  const unsigned char* data_ = nullptr;
  std::ifstream stream_;
  std::uint64_t remaining_ = 0;
};

/// Bytes that lie elsewhere.
struct Piece {
  const void* data;
  std::size_t size;
};

inline std::vector<unsigned char> join(const std::vector<Piece>& pieces);

/// Makes `path` hold these bytes: they go to a new file in the same folder, which then takes the name. Where that fails
/// it throws std::runtime_error, the new file is removed, and what was at `path` is untouched.
inline void write_file(const char* function, const std::filesystem::path& path, const std::vector<Piece>& pieces);

/// A foreign text as it may stand in a message: quoted, cut after `limit` bytes, one '?' for each that is not
/// printable.
inline std::string excerpt(std::string_view text, std::size_t limit = 80);

// Implementation -----------------------------------------------------------------------------------------------------

inline Input::Input(const char* function, const unsigned char* data, std::size_t size)
    : origin_(gma::detail::concatenate("gma::", function, ": ")), data_(data), remaining_(size) {}

inline Input::Input(const char* function, const std::filesystem::path& path)
    : origin_(gma::detail::concatenate("gma::", function, ": ", path.string(), ": ")) {
  std::error_code error;
  remaining_ = std::filesystem::file_size(path, error);
  if (error) fail("cannot be read: ", error.message());
  errno = 0;
  stream_.open(path, std::ios::binary);
  if (!stream_) fail("cannot be opened: ", std::generic_category().message(errno));
}

template <class... Parts>
void Input::fail(const Parts&... parts) const {
  gma::detail::raise<std::runtime_error>(gma::detail::concatenate(origin_, parts...));
}

inline void Input::read(void* to, std::uint64_t count) {
  if (count > remaining_) fail("ends after ", remaining_, " bytes of the next ", count);
  if (count == 0) return;
  if (data_ != nullptr) {
    std::memcpy(to, data_, static_cast<std::size_t>(count));
    data_ += count;
  } else {
    stream_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
    if (!stream_) fail("cannot be read, ", remaining_, " bytes before its end");
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

/// A new file beside `target`, removed again unless it came to replace it. Functions say whether they succeeded, and
/// leave the reason in errno.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::filesystem::path& target) : target_(target) {
    auto number = std::chrono::steady_clock::now().time_since_epoch().count();
    for (int attempt = 0; attempt < 100 && file_ == nullptr; ++attempt, ++number) {
      path_ = target.parent_path() / ("gma-" + std::to_string(number) + ".tmp");
      errno = 0;
      file_ = std::fopen(path_.string().c_str(), "wbx");  // x: fails where the name is taken
      if (file_ == nullptr && errno != EEXIST) break;
    }
    exists_ = file_ != nullptr;
  }
  ~TemporaryFile() {
    if (file_ != nullptr) std::fclose(file_);
    std::error_code ignored;
    if (exists_) std::filesystem::remove(path_, ignored);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  bool created() const { return exists_; }
  bool write(const Piece& piece) {
    return piece.size == 0 || std::fwrite(piece.data, 1, piece.size, file_) == piece.size;
  }
  bool close() {
    std::FILE* file = file_;
    file_ = nullptr;
    return std::fclose(file) == 0;
  }
  bool replace_target() {
    std::error_code error;
    std::filesystem::rename(path_, target_, error);
    if (error) errno = error.value();
    exists_ = static_cast<bool>(error);
    return !error;
  }

 private:
  std::filesystem::path target_, path_;
  std::FILE* file_ = nullptr;
  bool exists_ = false;
};

inline void write_file(const char* function, const std::filesystem::path& path, const std::vector<Piece>& pieces) {
  std::string reason;
  {
    errno = 0;
    TemporaryFile file(path);
    bool written = file.created();
    for (const Piece& piece : pieces) written = written && file.write(piece);
    if (written && file.close() && file.replace_target()) return;
    reason = std::generic_category().message(errno);
  }
  gma::detail::raise<std::runtime_error>(
      gma::detail::concatenate("gma::", function, ": ", path.string(), ": cannot be written: ", reason));
}

inline std::string excerpt(std::string_view text, std::size_t limit) {
  std::string shown = "'";
  for (const char c : text.substr(0, limit)) shown += c >= ' ' && c <= '~' ? c : '?';
  return shown + (text.size() > limit ? "...'" : "'");
}

}  // namespace gma::io::detail
