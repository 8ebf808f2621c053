// SPDX-License-Identifier: MIT
//
// The text: one or more sources, read once, the last tenth of each held out, and cut into tokens. The first half of
// each held-out part is for validation (to choose with), the second half for a test (to report).
#pragma once

#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "options.hpp"
#include "transformer/output_of.hpp"
#include "vocabulary.hpp"

namespace language_model {

// Tokens [begin, end) of a text.
struct Part {
  Index begin, end;
  double bytes_per_token;
  Index size() const { return end - begin; }
};

struct Text {
  std::string name;
  Vocabulary vocabulary;
  std::vector<Token> tokens;  // for training of all sources, then for validation of all, then for the test of all
  Index split = 0;            // tokens before it are for training, the others are held out
  Index test_split = 0;       // held-out tokens before it are for validation, the others for the test
  Index held_out_bytes = 0, test_bytes = 0;  // those of the test are among the held-out ones

  Index size() const { return Index(tokens.size()); }
  Index held_out() const { return size() - split; }
  const Token* data() const { return tokens.data(); }
  double bytes_per_token() const { return double(held_out_bytes) / double(held_out()); }

  Part whole_held_out() const { return part(split, size(), held_out_bytes); }
  Part validation() const { return part(split, test_split, held_out_bytes - test_bytes); }
  Part test() const { return part(test_split, size(), test_bytes); }

 private:
  static Part part(Index begin, Index end, Index bytes) { return {begin, end, double(bytes) / double(end - begin)}; }
};

struct Source {
  std::string name, bytes;
};

namespace detail {

// Texts of Debian packages, and the commands that print them.
struct KnownSource {
  const char *name, *title, *package, *command;
};
inline constexpr KnownSource known_sources[] = {
    {"kjv", "the King James Bible", "bible-kjv", "bible -l 79 Gen1:1-Rev22:21"},
    {"anarchism", "An Anarchist FAQ", "anarchism", "zcat /usr/share/doc/anarchism/markdown/*.md.gz"},
};

// The place at which to cut a text in two: `place`, or the next one that is not inside a character of UTF-8.
inline std::size_t cut_near(const std::string& bytes, std::size_t place) {
  const auto is_inside = [&](std::size_t i) {
    return i < bytes.size() && (static_cast<unsigned char>(bytes[i]) & 0xC0) == 0x80;
  };
  for (std::size_t i = place; i < place + 4; ++i)
    if (!is_inside(i)) return i;
  return place;  // not UTF-8
}

}  // namespace detail

// `kjv`, `anarchism`, or a file.
inline Source load_source(const std::string& name) {
  for (const auto& known : detail::known_sources) {
    if (name != known.name) continue;
    Source source{known.title, output_of(std::string(known.command) + " 2>/dev/null")};
    if (source.bytes.empty())
      throw std::runtime_error("the text " + name + " is the output of `" + known.command +
                               "`, which failed.\nInstall it with `apt-get install " + known.package +
                               "`, or give any text with --text FILE");
    return source;
  }
  std::ifstream in(name, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read the text file " + name + " (other texts: kjv, anarchism)");
  Source source{name, std::string{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()}};
  if (in.bad()) throw std::runtime_error("error while reading the text file " + name);
  return source;
}

// pieces: the size of a vocabulary that is trained on the training part, 0 for bytes; or an existing vocabulary. There
// must be room for a window on both sides of the split.
inline Text split_text(const std::vector<Source>& sources, Index context, Index pieces = 0,
                       const Vocabulary* vocabulary = nullptr) {
  Text text;
  std::string training, validation, test;
  for (const Source& source : sources) {
    text.name += (text.name.empty() ? "" : " and ") + source.name;
    const std::string& bytes = source.bytes;
    const std::size_t split = bytes.size() - bytes.size() / 10;
    const std::size_t test_split = detail::cut_near(bytes, split + (bytes.size() - split) / 2);
    training += bytes.substr(0, split);
    validation += bytes.substr(split, test_split - split);
    test += bytes.substr(test_split);
  }
  text.vocabulary = vocabulary ? *vocabulary : pieces > 0 ? Vocabulary::train(training, pieces) : Vocabulary();
  text.tokens = text.vocabulary.encode(training);
  text.split = text.size();
  const auto append = [&](const std::string& bytes) {
    const std::vector<Token> more = text.vocabulary.encode(bytes);
    text.tokens.insert(text.tokens.end(), more.begin(), more.end());
  };
  append(validation);
  text.test_split = text.size();
  append(test);
  text.held_out_bytes = Index(validation.size() + test.size());
  text.test_bytes = Index(test.size());
  if (text.held_out() < context + 2)
    throw std::invalid_argument(text.name + " has " + std::to_string(text.size()) + " tokens; a context of " +
                                std::to_string(context) + " needs at least " + std::to_string(10 * (context + 2)) +
                                " (a tenth is held out): give a longer text or a smaller --context");
  return text;
}

inline Text load_text(const std::vector<std::string>& names, Index context, Index pieces = 0,
                      const Vocabulary* vocabulary = nullptr) {
  std::vector<Source> sources;
  for (const std::string& name : names) sources.push_back(load_source(name));
  return split_text(sources, context, pieces, vocabulary);
}

}  // namespace language_model
