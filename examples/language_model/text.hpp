// SPDX-License-Identifier: MIT
//
// The text: read once as bytes, the last tenth held out.
#pragma once

#include <cstdio>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "types.hpp"

namespace language_model {

struct Text {
  std::string name;
  std::vector<std::uint8_t> bytes;
  Index split = 0;  // bytes before it are for training, the others for validation

  Index size() const { return Index(bytes.size()); }
  Index held_out() const { return size() - split; }
  const std::uint8_t* data() const { return bytes.data(); }
};

namespace detail {

// Everything that a shell command prints to its standard output.
inline std::vector<std::uint8_t> output_of(const std::string& command) {
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("cannot run: " + command);
  std::vector<std::uint8_t> bytes, buffer(1 << 16);
  for (std::size_t n; (n = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    bytes.insert(bytes.end(), buffer.begin(), buffer.begin() + std::ptrdiff_t(n));
  if (pclose(pipe) != 0) bytes.clear();
  return bytes;
}

}  // namespace detail

// Needs room for a window on both sides of the split.
inline Text split_text(std::string name, std::vector<std::uint8_t> bytes, Index context) {
  Text text{std::move(name), std::move(bytes), 0};
  text.split = text.size() - text.size() / 10;
  const Index least = 10 * (context + 2);
  if (text.size() < least)
    throw std::invalid_argument(text.name + " has " + std::to_string(text.size()) + " bytes; a context of " +
                                std::to_string(context) + " needs at least " + std::to_string(least) +
                                " (a tenth is held out): give a longer text or a smaller --context");
  return text;
}

inline constexpr const char* bible_command = "bible -l 79 Gen1:1-Rev22:21";

inline std::vector<std::uint8_t> king_james_bible() {
  return detail::output_of(std::string(bible_command) + " 2>/dev/null");
}

// The King James Bible as Debian's package bible-kjv prints it, or any file.
inline Text load_text(const std::string& file, Index context) {
  if (file.empty()) {
    std::vector<std::uint8_t> bytes = king_james_bible();
    if (bytes.empty())
      throw std::runtime_error(std::string("the default text is what `") + bible_command +
                               "` prints, and that command is missing or failed.\n"
                               "Install it with `apt-get install bible-kjv`, or give any text with --text FILE");
    return split_text("the King James Bible", std::move(bytes), context);
  }
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read the text file " + file);
  std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (in.bad()) throw std::runtime_error("error while reading the text file " + file);
  return split_text(file, std::move(bytes), context);
}

}  // namespace language_model
