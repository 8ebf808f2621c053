// SPDX-License-Identifier: MIT
//
// Bytes of a text as UTF-8 that a browser or a table can show. A token of bytes may be half a letter.
#pragma once

#include <string>
#include <string_view>

namespace inspect_routing {

namespace detail {

inline unsigned byte_at(std::string_view text, std::size_t i) { return static_cast<unsigned char>(text[i]); }
inline bool is_inner(std::string_view text, std::size_t i) {
  return i < text.size() && (byte_at(text, i) & 0xC0u) == 0x80u;
}

inline std::string hexadecimal(unsigned byte) {
  constexpr char digits[] = "0123456789ABCDEF";
  return {'\\', 'x', digits[byte >> 4], digits[byte & 15]};
}

// The length of the well-formed UTF-8 sequence that begins at i; 0 if none does.
inline std::size_t sequence_length(std::string_view text, std::size_t i) {
  const unsigned first = byte_at(text, i);
  const std::size_t length = first < 0x80   ? 1
                             : first < 0xC2 ? 0
                             : first < 0xE0 ? 2
                             : first < 0xF0 ? 3
                             : first < 0xF5 ? 4
                                            : 0;
  for (std::size_t k = 1; k < length; ++k)
    if (!is_inner(text, i + k)) return 0;
  if (length < 3) return length;
  const unsigned second = byte_at(text, i + 1);
  const bool is_overlong = (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool is_beyond = (first == 0xED && second >= 0xA0) || (first == 0xF4 && second >= 0x90);
  return is_overlong || is_beyond ? 0 : length;
}

}  // namespace detail

// Copies well-formed UTF-8; writes any other byte as \xE2.
inline std::string legible(std::string_view bytes) {
  std::string text;
  for (std::size_t i = 0; i < bytes.size();) {
    const std::size_t length = detail::sequence_length(bytes, i);
    if (length == 0) {
      text += detail::hexadecimal(detail::byte_at(bytes, i++));
    } else {
      text += bytes.substr(i, length);
      i += length;
    }
  }
  return text;
}

// The same on one line: backslashes doubled, ends of lines, tabs and other control characters as \n, \t and \x1F.
inline std::string legible_line(std::string_view bytes) {
  std::string line, doubled;
  for (const char c : bytes) doubled += c == '\\' ? std::string("\\\\") : std::string(1, c);
  for (const char c : legible(doubled)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n')
      line += "\\n";
    else if (c == '\t')
      line += "\\t";
    else if (byte < 0x20 || byte == 0x7F)
      line += detail::hexadecimal(byte);
    else
      line += c;
  }
  return line;
}

// The last, or first, so many bytes, less the part of a letter that is cut off.
inline std::string_view last_letters(std::string_view text, std::size_t most) {
  if (text.size() <= most) return text;
  std::size_t begin = text.size() - most;
  while (detail::is_inner(text, begin)) ++begin;
  return text.substr(begin);
}
inline std::string_view first_letters(std::string_view text, std::size_t most) {
  if (text.size() <= most) return text;
  std::size_t end = most;
  while (end > 0 && detail::is_inner(text, end)) --end;
  return text.substr(0, end);
}

}  // namespace inspect_routing
