// SPDX-License-Identifier: MIT
//
// What a task is: sequences of tokens and the requested classes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "transformer/config.hpp"

namespace classification {

using namespace transformer;  // the model is built of examples/transformer

// One sequence and its question: the class of the whole, or a token after each of some tokens.
struct Example {
  std::vector<Token> tokens;   // [T]
  std::vector<Index> places;   // [Q], of the tokens after which an answer is asked; empty: one answer for the whole
  std::vector<Token> targets;  // [Q] or [1]: the answers
};

// The facts about a task that a model needs.
struct TaskShape {
  Index vocabulary = 0;           // V, of tokens
  Index classes = 0;              // C, of the whole sequence; 0: answers are tokens, at places
  Index longest = 0;              // tokens of the longest sequence, each of which gets a learned position; 0: none
  bool is_causal = false;         // whether a token may see only earlier tokens
  Index answers_per_example = 1;  // Q
};

// Examples are functions of their number, so threads draw them when they need them. Safe for many threads.
class Task {
 public:
  virtual ~Task() = default;
  virtual TaskShape shape() const = 0;

  // Example number n of a training run with this seed.
  virtual void training(std::uint64_t seed, std::uint64_t n, Example& example) const = 0;

  // The same test cases for every run. No run trains on them.
  virtual Index tests() const = 0;
  virtual void test(Index i, Example& example) const = 0;

  // The accuracy of the best answer that ignores the sequence, or that only knows which tokens occur.
  virtual double chance() const = 0;
};

}  // namespace classification
