// SPDX-License-Identifier: MIT
//
// Where the text comes from: a function that is asked for the next bytes, so that a file, a pipe and a test look alike.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#include "transformer/interruption.hpp"

namespace endless_text {

// Writes up to `most` of the next bytes to `to` and returns how many, at least one; 0 at the end of the text and after
// an interruption.
using ByteSource = std::function<std::size_t(char* to, std::size_t most)>;

// A file, or the standard input if the path is "-". It waits for a pipe that has nothing yet, except after Ctrl-C.
class DescriptorSource {
 public:
  explicit DescriptorSource(const std::string& path)
      : name_(path == "-" ? "the standard input" : path),
        descriptor_(path == "-" ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    struct stat status {};
    if (descriptor_ < 0 || fstat(descriptor_, &status) != 0) fail();
    if (S_ISREG(status.st_mode)) size_ = std::int64_t(status.st_size);
  }
  ~DescriptorSource() {
    if (descriptor_ > STDIN_FILENO) close(descriptor_);
  }
  DescriptorSource(const DescriptorSource&) = delete;
  DescriptorSource& operator=(const DescriptorSource&) = delete;

  // In bytes; -1 if nobody knows, as of a pipe.
  std::int64_t size() const { return size_; }

  std::size_t operator()(char* to, std::size_t most) {
    for (;;) {
      // A signal interrupts poll(), but not read().
      pollfd waiting{descriptor_, POLLIN, 0};
      const int ready = poll(&waiting, 1, 200);
      if (transformer::is_interrupted()) return 0;
      if (ready == 0 || (ready < 0 && errno == EINTR)) continue;
      const ssize_t count = ready < 0 ? -1 : read(descriptor_, to, most);
      if (count >= 0) return std::size_t(count);
      if (errno != EINTR && errno != EAGAIN) fail();
    }
  }

 private:
  [[noreturn]] void fail() const { throw std::runtime_error("cannot read " + name_ + ": " + std::strerror(errno)); }

  std::string name_;
  int descriptor_;
  std::int64_t size_ = -1;
};

// FNV-1a over bytes, 64 bits: tells two texts apart, not two enemies.
class Fingerprint {
 public:
  Fingerprint() = default;
  explicit Fingerprint(std::uint64_t value) : value_(value) {}
  void add(const void* bytes, std::size_t count) {
    const auto* byte = static_cast<const unsigned char*>(bytes);
    for (std::size_t i = 0; i < count; ++i) value_ = (value_ ^ byte[i]) * 0x100000001b3u;
  }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 0xcbf29ce484222325u;
};

}  // namespace endless_text
