// SPDX-License-Identifier: MIT
//
// gma::io::write_file, which writes files that are complete or missing, in folders that need not exist.
#pragma once

#include <filesystem>
#include <gma/io/write_file.hpp>
#include <string>
#include <system_error>

namespace transformer {

inline void make_folder_of(const std::filesystem::path& path) {
  std::error_code ignored;  // if it matters, writing the file fails too
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ignored);
}

// Throws std::runtime_error, and leaves the old file, if that fails.
inline void write_file(const std::filesystem::path& path, const std::string& contents) {
  make_folder_of(path);
  gma::io::write_file(path, contents);
}

}  // namespace transformer
