// SPDX-License-Identifier: MIT
//
// The look of a token in the text, in six forms. A letter is one of a-z and A-Z, or any byte from 0x80 on, which in
// UTF-8 is usually a part of a letter.
//
//   whitespace    spaces, tabs, ends of lines
//   digit         0-9
//   continuation  a letter after a letter
//   word start    any other letter, in small letters or beyond ASCII
//   capitalised   any other letter A-Z
//   punctuation   everything else
//
// The form of a byte depends on it and on the byte before it, that of a subword piece on its first byte that is not
// whitespace: " the" starts a word because of its space, "the" if no letter is before it, and " " is whitespace.
#pragma once

#include <cstddef>
#include <string_view>

#include "transformer/types.hpp"

namespace inspect_routing {

using transformer::Index;

enum class SurfaceForm { whitespace, punctuation, digit, continuation, word_start, capitalised };

inline constexpr Index surface_forms = 6;

inline const char* name_of(SurfaceForm form) {
  constexpr const char* names[] = {"whitespace", "punctuation", "digit", "continuation", "word start", "capitalised"};
  return names[static_cast<int>(form)];
}

namespace detail {

inline bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
inline bool is_capital(char c) { return c >= 'A' && c <= 'Z'; }
inline bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || is_capital(c) || static_cast<unsigned char>(c) >= 0x80;
}

}  // namespace detail

// token: its bytes; before: the byte of the text before it, 0 at the beginning.
inline SurfaceForm surface_form(std::string_view token, char before) {
  std::size_t first = 0;
  while (first < token.size() && detail::is_space(token[first])) ++first;
  if (first == token.size()) return token.empty() ? SurfaceForm::punctuation : SurfaceForm::whitespace;
  const char c = token[first];
  if (first > 0) before = token[first - 1];
  if (detail::is_digit(c)) return SurfaceForm::digit;
  if (!detail::is_letter(c)) return SurfaceForm::punctuation;
  if (detail::is_letter(before)) return SurfaceForm::continuation;
  return detail::is_capital(c) ? SurfaceForm::capitalised : SurfaceForm::word_start;
}

}  // namespace inspect_routing
