// SPDX-License-Identifier: MIT
//
// Files that are complete or missing (gma/io/write_file.hpp). Missing directories are created.
#pragma once

#include <filesystem>
#include <gma/io/write_file.hpp>
#include <locale>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>

namespace transformer {

// Throws std::runtime_error, and leaves the old file, if that fails.
inline void write_file(const std::filesystem::path& path, const std::string& contents) {
  std::error_code ignored;  // if it matters, writing the file fails too
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ignored);
  gma::io::write_file(path, contents);
}

// write(stream) writes the contents; numbers in them are formatted as in C.
template <class Write>
void write_file(const std::filesystem::path& path, const Write& write) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  write(static_cast<std::ostream&>(out));
  if (!out) throw std::runtime_error("cannot write " + path.string() + ": its contents do not fit into memory");
  write_file(path, out.str());
}

}  // namespace transformer
