// SPDX-License-Identifier: MIT
//
// The output of a shell command. With it, files are unpacked without linking a library.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>

namespace transformer {

// Everything that the command prints to its standard output; nothing if it fails.
inline std::string output_of(const std::string& command) {
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot run: " + command);
  std::string bytes, buffer(1 << 16, '\0');
  for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) bytes.append(buffer, 0, n);
  if (pclose(pipe) != 0) bytes.clear();
  return bytes;
}

}  // namespace transformer
