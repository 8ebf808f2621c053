// SPDX-License-Identifier: MIT
//
// The result of `xz -9e` on the held-out bytes after it has seen the training bytes: the compressed size of both
// together less that of the training bytes alone. A general-purpose compressor is a language model too.
#pragma once

#include <unistd.h>
#include <cstdio>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>

#include "text.hpp"

namespace language_model {

namespace detail {

// A file that is removed at the end of the scope.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& contents)
      : path_((std::filesystem::temp_directory_path() / "language_model.XXXXXX").string()) {
    const int descriptor = mkstemp(path_.data());
    if (descriptor < 0) throw std::runtime_error("cannot create a temporary file in " + path_);
    std::FILE* file = fdopen(descriptor, "wb");
    const bool is_written = std::fwrite(contents.data(), 1, contents.size(), file) == contents.size();
    if (std::fclose(file) != 0 || !is_written) {
      std::remove(path_.c_str());
      throw std::runtime_error("cannot write the temporary file " + path_);
    }
  }
  ~TemporaryFile() { std::remove(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline Index xz_size(const std::string& contents) {
  const TemporaryFile file(contents);
  return Index(output_of("xz -9e --stdout '" + file.path() + "' 2>/dev/null").size());
}

}  // namespace detail

// Bits per held-out byte of a text of bytes; nothing if the program xz is missing.
inline std::optional<double> xz_bits_per_byte(const Text& text) {
  const std::string bytes(text.tokens.begin(), text.tokens.end());
  const Index both = detail::xz_size(bytes);
  const Index alone = detail::xz_size(bytes.substr(0, std::size_t(text.split)));
  if (both == 0 || alone == 0) return std::nullopt;
  return 8.0 * double(both - alone) / double(text.held_out());
}

}  // namespace language_model
