// SPDX-License-Identifier: MIT
//
// Associative recall with many queries, after S. Arora et al., Zoology, 2023 (there: MQAR). Causal:
//
//   k1 v1 k2 v2 ... kP vP  k7 k2 k11 ...
//
// P keys, each followed by its value; then only keys until the end of the sequence: all of them in random order, then
// in another random order, and so on. After each of those keys the answer is the key's value, which is not shown. All
// keys of a sequence are different, and so are its values. Keys come from one half of the vocabulary and values from
// the other. The value of a key is drawn anew for every sequence. The number of sequences is unlimited.
//
// Zoology's sequences ask once for every key, far apart among tokens without meaning. This gives a sixth of the answers
// to learn from.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "order.hpp"
#include "task.hpp"

namespace classification {

struct RecallSize {
  Index pairs = 32, length = 256, vocabulary = 512;
};

inline void validate(const RecallSize& size) {
  require(size.pairs >= 1 && size.length >= 3 * size.pairs, "recall: length must be at least three tokens per pair");
  require(size.vocabulary / 2 >= size.pairs && size.vocabulary <= 65536,
          "recall: vocabulary must be at least two per pair and at most 65536");
}

class Recall : public Task {
 public:
  Recall(const RecallSize& size, Index tests) : size_(size), tests_(tests) { validate(size); }

  TaskShape shape() const override {
    TaskShape shape;
    shape.vocabulary = size_.vocabulary;
    shape.is_causal = true;
    shape.answers_per_example = size_.length - 2 * size_.pairs;
    return shape;
  }
  void training(std::uint64_t seed, std::uint64_t n, Example& example) const override {
    Random random(scramble(seed), n);
    draw(random, example);
  }
  Index tests() const override { return tests_; }
  void test(Index i, Example& example) const override {
    Random random(0x7E57, std::uint64_t(i));
    draw(random, example);
  }

  // Any of the values that occur.
  double chance() const override { return 1 / double(size_.pairs); }

 private:
  void draw(Random& random, Example& example) const {
    const Index half = size_.vocabulary / 2;
    std::vector<Token> keys, values;
    draw_distinct(random, 0, half, keys);
    draw_distinct(random, half, size_.vocabulary - half, values);
    example.tokens.clear();
    example.places.clear();
    example.targets.clear();
    for (std::size_t i = 0; i < keys.size(); ++i) {
      example.tokens.push_back(keys[i]);
      example.tokens.push_back(values[i]);
    }
    for (std::size_t asked = 0; Index(example.tokens.size()) < size_.length; asked = (asked + 1) % keys.size()) {
      const std::size_t other = asked + random.below(keys.size() - asked);  // among those not yet asked in this round
      std::swap(keys[asked], keys[other]);
      std::swap(values[asked], values[other]);
      example.places.push_back(Index(example.tokens.size()));
      example.tokens.push_back(keys[asked]);
      example.targets.push_back(values[asked]);
    }
  }

  // As many tokens as there are pairs, of first ... first + count - 1.
  void draw_distinct(Random& random, Index first, Index count, std::vector<Token>& tokens) const {
    while (Index(tokens.size()) < size_.pairs) {
      const auto token = Token(first + Index(random.below(std::uint64_t(count))));
      if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(token);
    }
  }

  RecallSize size_;
  Index tests_;
};

}  // namespace classification
