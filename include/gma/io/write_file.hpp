// SPDX-License-Identifier: MIT
// Files that are replaced completely or not at all.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "gma/core/binary.hpp"
#include "gma/core/checks.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#elif defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#include <share.h>
#include <sys/stat.h>
#endif

namespace gma::io {

/// Makes the file at `path` hold `bytes`. The bytes go to a new file in the same folder and are flushed to the disk;
/// the new file then takes the name. Every reader, also after a crash or a loss of power, finds either the complete old
/// contents or the complete new ones.
///   links        a symbolic link stays a link: its target is replaced, or created if it is missing
///   permissions  the old file's permissions stay, and its owner and group if the system lets this user set them;
///                access lists, extended attributes and other hard links to the old file are not carried over
///   the rest     a pipe, a device and anything else that is not a regular file is written directly; a named pipe
///                needs a reader
///   writers      several writers of one file at a time do no harm: the last one to end wins. A writer that is killed
///                leaves gma-<number>.tmp beside the file, which the next writer of that file removes
/// Throws std::runtime_error "gma::io::write_file: <path>: cannot be written: <reason>"; the old file is then
/// untouched. Systems other than POSIX keep the first promise, except after a loss of power, and the one about writers.
inline void write_file(const std::filesystem::path& path, std::string_view bytes);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// A range of bytes that another object owns.
struct Piece {
  const void* data;
  std::size_t size;
};

/// A path for messages. On Windows it is UTF-8: string() may throw for letters that the system's code page lacks.
inline std::string shown_path(const std::filesystem::path& path) {
#if defined(_WIN32)
  const auto text = path.u8string();  // of char8_t from C++20 on
  return std::string(text.begin(), text.end());
#else
  return path.string();
#endif
}

/// write_file() for bytes in several places. `function` is the name of the public function, for messages.
inline void write_file(const char* function, const std::filesystem::path& path, const std::vector<Piece>& pieces);

/// How many names temporary files of `target` may have. Each writer takes one.
inline constexpr int temporary_names = 100;
inline std::filesystem::path temporary_name(const std::filesystem::path& target, int number) {
  const std::string name = shown_path(target.filename());
  const std::uint64_t hash = gma::detail::fnv_1a(gma::detail::fnv_start, name.data(), name.size());
  const std::string suffix = number == 0 ? "" : "-" + std::to_string(number);
  return target.parent_path() / ("gma-" + std::to_string(hash) + suffix + ".tmp");
}

// All functions below return whether they succeeded, and leave the reason in errno if they did not.

#if defined(__unix__) || defined(__APPLE__)

inline bool write_pieces(int file, const std::vector<Piece>& pieces) {
  constexpr std::size_t most = std::size_t{1} << 30;  // some systems refuse 2 GiB at a time
  for (const Piece& piece : pieces) {
    const char* data = static_cast<const char*>(piece.data);
    for (std::size_t left = piece.size; left > 0;) {
      const ssize_t written = ::write(file, data, (std::min)(left, most));
      if (written == 0) errno = EIO;
      if (written == 0 || (written < 0 && errno != EINTR)) return false;
      if (written < 0) continue;
      data += written;
      left -= static_cast<std::size_t>(written);
    }
  }
  return true;
}

/// Flushes to the disk, if the file is on one.
inline bool flush(int file) {
#if defined(F_FULLFSYNC)
  if (::fcntl(file, F_FULLFSYNC) == 0) return true;  // macOS: its fsync() stops at the disk's own cache
#endif
  while (::fsync(file) != 0) {
    if (errno != EINTR) return errno == EINVAL || errno == ENOTSUP || errno == ENOSYS;
  }
  return true;
}

/// Makes the last renaming in `folder` survive a loss of power. If the system cannot do this, nothing can be done.
inline void flush_folder(const std::filesystem::path& folder) {
  const int file = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) return;
  flush(file);
  ::close(file);
}

inline bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/// Whether the open file is the one with this name.
inline bool is_named(int file, const std::filesystem::path& path) {
  struct stat opened {};
  struct stat named {};
  return ::fstat(file, &opened) == 0 && ::lstat(path.c_str(), &named) == 0 && same_file(opened, named);
}

/// A new file beside `target`, removed again unless it replaces the target. Its writer holds a lock on it. The system
/// releases the lock of a killed writer: a file without a lock is a leftover.
class TemporaryFile {
 public:
  TemporaryFile(const std::filesystem::path& target, mode_t mode) : target_(target) {
    for (int number = 0; number < temporary_names && file_ < 0; ++number) {
      path_ = temporary_name(target, number);
      if (!create(mode) && errno != EEXIST) break;
    }
  }
  ~TemporaryFile() {
    if (file_ < 0) return;
    if (!is_in_place_) ::unlink(path_.c_str());
    ::close(file_);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  bool created() const { return file_ >= 0; }
  bool write(const std::vector<Piece>& pieces) { return write_pieces(file_, pieces); }

  /// Sets the permissions and, as far as possible, the owner. If the system does not keep the owner or group, the
  /// permissions are narrower.
  void be_like(const struct stat& old) {
    struct stat mine {};
    if (::fstat(file_, &mine) != 0) return;
    const bool same_owner =
        (mine.st_uid == old.st_uid && mine.st_gid == old.st_gid) || ::fchown(file_, old.st_uid, old.st_gid) == 0;
    const bool same_group =
        same_owner || mine.st_gid == old.st_gid || ::fchown(file_, static_cast<uid_t>(-1), old.st_gid) == 0;
    const mode_t kept = same_owner ? 07777 : same_group ? 0777 : 0707;
    if (::fchmod(file_, old.st_mode & kept) != 0) errno = 0;
  }

  bool replace_target() {
    is_in_place_ = flush(file_) && std::rename(path_.c_str(), target_.c_str()) == 0;
    if (is_in_place_) flush_folder(target_.parent_path());
    return is_in_place_;
  }

 private:
  bool create(mode_t mode) {
    remove_leftover();
    file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (file_ < 0) return false;
    // Before the lock was taken, another writer may have taken the file for a leftover.
    if ((::flock(file_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) && is_named(file_, path_)) return true;
    ::close(file_);
    file_ = -1;
    errno = EEXIST;
    return false;
  }

  void remove_leftover() const {
    const int leftover = ::open(path_.c_str(), O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (leftover < 0) return;
    if (::flock(leftover, LOCK_EX | LOCK_NB) == 0 && is_named(leftover, path_)) ::unlink(path_.c_str());
    ::close(leftover);
  }

  std::filesystem::path target_, path_;
  int file_ = -1;
  bool is_in_place_ = false;
};

/// Replaces `path` by the last of a chain of symbolic links. The target of the last link need not exist.
inline bool follow_links(std::filesystem::path& path) {
  for (int links = 0; links < 40; ++links) {
    std::error_code error;
    if (!std::filesystem::is_symlink(std::filesystem::symlink_status(path, error))) return true;
    const std::filesystem::path next = std::filesystem::read_symlink(path, error);
    if (error) errno = error.value();
    if (error) return false;
    path = path.parent_path() / next;
  }
  errno = ELOOP;
  return false;
}

/// Writes into the existing file or device.
inline bool write_into(const std::filesystem::path& path, const std::vector<Piece>& pieces) {
  // Without O_NONBLOCK, opening a pipe that nobody reads would never return.
  const int file = ::open(path.c_str(), O_WRONLY | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (file < 0) return false;
  const int flags = ::fcntl(file, F_GETFL);
  const bool written =
      flags >= 0 && ::fcntl(file, F_SETFL, flags & ~O_NONBLOCK) == 0 && write_pieces(file, pieces) && flush(file);
  const int reason = errno;
  const bool closed = ::close(file) == 0;
  if (!written) errno = reason;
  return written && closed;
}

inline bool try_write(const std::filesystem::path& path, const std::vector<Piece>& pieces) {
  struct stat old {};
  const bool exists = ::stat(path.c_str(), &old) == 0;
  if (!exists && errno != ENOENT) return false;
  const auto kind = exists ? old.st_mode & S_IFMT : S_IFREG;
  if (kind == S_IFDIR) errno = EISDIR;
  if (kind == S_IFDIR) return false;
  std::filesystem::path target = path;
  if (kind == S_IFREG && !follow_links(target)) return false;
  // Links in /proc may lead to files that no longer have a name.
  struct stat found {};
  const bool has_name = !exists || (::lstat(target.c_str(), &found) == 0 && same_file(found, old));
  if (kind != S_IFREG || !has_name) return write_into(path, pieces);
  TemporaryFile file(target, exists ? 0600 : 0666);
  if (!file.created() || !file.write(pieces)) return false;
  if (exists) file.be_like(old);
  return file.replace_target();
}

#else

/// A new file, open for writing; null if there is one with this name, or in case of a fault.
inline std::FILE* create(const std::filesystem::path& path) {
#if defined(_WIN32)
  int file = -1;
  constexpr int kind = _O_WRONLY | _O_CREAT | _O_EXCL | _O_BINARY;
  const int reason = ::_wsopen_s(&file, path.c_str(), kind, _SH_DENYNO, _S_IREAD | _S_IWRITE);
  errno = reason;
  std::FILE* stream = reason == 0 ? ::_fdopen(file, "wb") : nullptr;
  if (stream == nullptr && file >= 0) ::_close(file);
  return stream;
#else
  return std::fopen(path.c_str(), "wbx");
#endif
}

inline bool try_write(const std::filesystem::path& target, const std::vector<Piece>& pieces) {
  std::filesystem::path path;
  std::FILE* file = nullptr;
  std::error_code error;
  const bool is_folder = std::filesystem::is_directory(target, error);
  if (is_folder || target.filename().empty()) {
    errno = is_folder ? EISDIR : ENOENT;
    return false;
  }
  for (int number = 0; number < temporary_names && file == nullptr; ++number) {
    path = temporary_name(target, number);
    std::filesystem::remove(path, error);  // fails while its writer has it open
    errno = 0;
    file = create(path);
    if (file == nullptr && errno != EEXIST && errno != EACCES) break;
  }
  if (file == nullptr) return false;
  bool written = true;
  for (const Piece& piece : pieces) {
    written = written && (piece.size == 0 || std::fwrite(piece.data, 1, piece.size, file) == piece.size);
  }
  int reason = errno;
  if (std::fclose(file) != 0 && written) {
    reason = errno;
    written = false;
  }
  if (written) std::filesystem::rename(path, target, error);
  if (written && !error) return true;
  if (written) reason = error.default_error_condition().value();  // the system's own number may be another
  std::filesystem::remove(path, error);
  errno = reason;
  return false;
}

#endif

inline void write_file(const char* function, const std::filesystem::path& path, const std::vector<Piece>& pieces) {
  errno = 0;
  if (try_write(path, pieces)) return;
  gma::detail::runtime_error(function, shown_path(path),
                             ": cannot be written: ", std::generic_category().message(errno));
}

}  // namespace detail

inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
  detail::write_file("io::write_file", path, {{bytes.data(), bytes.size()}});
}

}  // namespace gma::io
