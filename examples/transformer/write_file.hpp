// SPDX-License-Identifier: MIT
//
// Files that are whole or not there: written beside their name, then renamed over it, so that a reader never sees half
// of one, and a full disk costs nothing.
#pragma once

#include <filesystem>
#include <fstream>
#include <ostream>
#include <stdexcept>
#include <string>
#include <system_error>

namespace transformer {

// write(stream) gives the contents. The directory is made where there is none. Throws std::runtime_error, and leaves
// what was there, where that fails.
template <class Write>
void write_file(const std::filesystem::path& path, const Write& write) {
  std::error_code ignored;  // where it matters, the file cannot be written either
  if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path(), ignored);
  const std::filesystem::path fresh = path.string() + ".new";
  {
    std::ofstream out(fresh, std::ios::binary);
    write(static_cast<std::ostream&>(out));
    out.close();
    if (!out) {
      std::filesystem::remove(fresh, ignored);
      throw std::runtime_error("cannot write " + path.string());
    }
  }
  std::filesystem::rename(fresh, path);
}

inline void write_file(const std::filesystem::path& path, const std::string& contents) {
  write_file(path, [&](std::ostream& out) { out << contents; });
}

}  // namespace transformer
