// SPDX-License-Identifier: MIT
// A regular file of which any range can be read or mapped into memory, without the rest.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/io/write_file.hpp"

#if defined(__unix__) || defined(__APPLE__)
#define GMA_IO_MAPS_FILES 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#else
#define GMA_IO_MAPS_FILES 0
#include <fstream>
#endif

namespace gma::io::detail {

/// An open file. It stays the same file when another one takes its name. Every fault is a std::runtime_error
/// "gma::<function>: <path>: <what>".
class RangeFile {
 public:
  /// Opens a regular file for reading.
  RangeFile(const char* function, const std::filesystem::path& path);

  /// The number of bytes when it was opened.
  std::uint64_t size() const { return size_; }

  /// Copies the bytes [offset, offset + count) to `to`. Fails if the file does not have them, also if it lost them
  /// after it was opened.
  void read(std::uint64_t offset, void* to, std::uint64_t count) const;

  /// Fails if the file does not have these bytes now.
  void check(std::uint64_t offset, std::uint64_t count) const;

  /// The same bytes, mapped into memory where the system can, else copied. They live as long as the pointer, also
  /// after the file object. Fails as read() does. A file that becomes shorter later takes mapped bytes away: their
  /// next use is then a signal of the system (SIGBUS).
  std::shared_ptr<const unsigned char> map(std::uint64_t offset, std::uint64_t count) const;

  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    gma::detail::raise<std::runtime_error>(gma::detail::concatenate(origin_, parts...));
  }

 private:
#if GMA_IO_MAPS_FILES
  /// Closes the file at the end of its life.
  class Handle {
   public:
    Handle() = default;
    Handle(Handle&& other) noexcept : number(std::exchange(other.number, -1)) {}
    Handle& operator=(Handle&& other) noexcept {
      std::swap(number, other.number);
      return *this;
    }
    ~Handle() {
      if (number >= 0) ::close(number);
    }
    int number = -1;
  };
#else
  using Handle = std::ifstream;
#endif

  void check_range(std::uint64_t offset, std::uint64_t count, std::uint64_t size) const;

  std::string origin_;
  mutable Handle file_;  // reading moves the position of a stream
  std::uint64_t size_ = 0;
};

// Implementation -----------------------------------------------------------------------------------------------------

inline void RangeFile::check_range(std::uint64_t offset, std::uint64_t count, std::uint64_t size) const {
  if (offset <= size && count <= size - offset) return;
  const std::uint64_t left = offset < size ? size - offset : 0;
  fail("ends after ", left, " bytes of the next ", count, size < size_ ? ": it has become shorter" : "");
}

#if GMA_IO_MAPS_FILES

inline RangeFile::RangeFile(const char* function, const std::filesystem::path& path)
    : origin_(gma::detail::concatenate("gma::", function, ": ", shown_path(path), ": ")) {
  const auto reason = [] { return std::generic_category().message(errno); };
  // Without O_NONBLOCK, opening a pipe that nobody writes would never return.
  file_.number = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (file_.number < 0 && errno == ENOENT) fail("cannot be read: ", reason());
  if (file_.number < 0) fail("cannot be opened: ", reason());
  struct stat found {};
  if (::fstat(file_.number, &found) != 0) fail("cannot be read: ", reason());
  if (!S_ISREG(found.st_mode)) {
    fail("cannot be read: ",
         S_ISDIR(found.st_mode) ? std::generic_category().message(EISDIR) : "it is no regular file");
  }
  size_ = static_cast<std::uint64_t>(found.st_size);
}

inline void RangeFile::read(std::uint64_t offset, void* to, std::uint64_t count) const {
  check_range(offset, count, size_);
  constexpr std::uint64_t most = std::uint64_t{1} << 30;  // some systems refuse 2 GiB at a time
  char* next = static_cast<char*>(to);
  for (std::uint64_t left = count; left > 0;) {
    const auto part = static_cast<std::size_t>((std::min)(left, most));
    const ssize_t got = ::pread(file_.number, next, part, static_cast<off_t>(offset + (count - left)));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("cannot be read: ", std::generic_category().message(errno));
    if (got == 0) fail("ends after ", count - left, " bytes of the next ", count, ": it has become shorter");
    next += got;
    left -= static_cast<std::uint64_t>(got);
  }
}

inline void RangeFile::check(std::uint64_t offset, std::uint64_t count) const {
  struct stat found {};
  if (::fstat(file_.number, &found) != 0) fail("cannot be read: ", std::generic_category().message(errno));
  check_range(offset, count, (std::min)(size_, static_cast<std::uint64_t>(found.st_size)));
}

#else

inline RangeFile::RangeFile(const char* function, const std::filesystem::path& path)
    : origin_(gma::detail::concatenate("gma::", function, ": ", shown_path(path), ": ")) {
  std::error_code error;
  static_cast<void>(std::filesystem::file_size(path, error));  // an error for everything except regular files
  if (error) fail("cannot be read: ", error.message());
  errno = 0;
  file_.open(path, std::ios::binary);
  if (!file_) fail("cannot be opened: ", std::generic_category().message(errno));
  // Take the size of the opened file: another file may have this name by now.
  const std::streamoff size = file_.seekg(0, std::ios::end).tellg();
  if (size < 0) fail("cannot be read: its size is not known");
  size_ = static_cast<std::uint64_t>(size);
}

inline void RangeFile::read(std::uint64_t offset, void* to, std::uint64_t count) const {
  check_range(offset, count, size_);
  if (count == 0) return;
  file_.clear();
  file_.seekg(static_cast<std::streamoff>(offset));
  file_.read(static_cast<char*>(to), static_cast<std::streamsize>(count));
  if (!file_) fail("ends after ", file_.gcount(), " bytes of the next ", count, ": it has become shorter");
}

inline void RangeFile::check(std::uint64_t offset, std::uint64_t count) const { check_range(offset, count, size_); }

#endif

inline std::shared_ptr<const unsigned char> RangeFile::map(std::uint64_t offset, std::uint64_t count) const {
  check(offset, count);
#if GMA_IO_MAPS_FILES
  const long page = ::sysconf(_SC_PAGESIZE);
  const std::uint64_t before = page > 0 ? offset % static_cast<std::uint64_t>(page) : 0;
  const std::uint64_t length = before + count;
  if (count > 0 && page > 0 && length <= (std::numeric_limits<std::size_t>::max)()) {
    const auto bytes = static_cast<std::size_t>(length);
    void* start = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file_.number, static_cast<off_t>(offset - before));
    if (start != MAP_FAILED) {
      const auto unmap = [bytes](void* mapped) { ::munmap(mapped, bytes); };
      const std::shared_ptr<void> owner(start, unmap);
      return {owner, static_cast<const unsigned char*>(start) + before};
    }
  }
#endif
  const auto copy = std::make_shared<std::vector<unsigned char>>(static_cast<std::size_t>(count));
  read(offset, copy->data(), count);
  return {copy, copy->data()};
}

}  // namespace gma::io::detail
