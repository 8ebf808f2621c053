// SPDX-License-Identifier: MIT
//
// Pictures, drawn by gnuplot if it is installed.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "quoting.hpp"
#include "write_file.hpp"

namespace transformer {

// Writes a script into a directory and runs it there. Returns false if gnuplot is missing or fails.
inline bool run_gnuplot(const std::filesystem::path& directory, const std::string& name, const std::string& script) {
  write_file(directory / name, script);
  const std::string command =
      "cd -- " + shell_word(directory.string()) + " && gnuplot " + shell_word(name) + " >/dev/null 2>&1";
  return std::system(command.c_str()) == 0;
}

}  // namespace transformer
