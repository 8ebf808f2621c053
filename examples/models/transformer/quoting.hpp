// SPDX-License-Identifier: MIT
//
// Any text, such as a path, as one word of a command.
#pragma once

#include <string>

namespace transformer {

namespace detail {

inline std::string between_quotes(const std::string& text, const char* quote) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string(quote) : std::string(1, c);
  return quoted + "'";
}

}  // namespace detail

inline std::string shell_word(const std::string& text) { return detail::between_quotes(text, "'\\''"); }
inline std::string gnuplot_string(const std::string& text) { return detail::between_quotes(text, "''"); }

}  // namespace transformer
