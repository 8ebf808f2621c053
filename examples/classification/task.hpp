// SPDX-License-Identifier: MIT
//
// What there is to learn: sequences of tokens and the classes that are asked for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "transformer/config.hpp"

namespace classification {

using namespace transformer;  // the model is built of examples/transformer

// One sequence, and what is asked: the class of the whole, or a token at each of some places.
struct Example {
  std::vector<Token> tokens;   // [T]
  std::vector<Index> places;   // [Q], of the tokens after which an answer is asked; empty: one answer for the whole
  std::vector<Token> targets;  // [Q] or [1]: the answers
};

// What a model must know of a task.
struct TaskShape {
  Index vocabulary = 0;           // V, of tokens
  Index classes = 0;              // C, of the whole sequence; 0: answers are tokens, at places
  Index longest = 0;              // tokens of the longest sequence, each of which gets a learned position; 0: none
  bool is_causal = false;         // whether a token may hear only of those before it
  Index answers_per_example = 1;  // Q
};

// Examples are functions of their number, so that threads draw them as they need them. Safe for many threads.
class Task {
 public:
  virtual ~Task() = default;
  virtual TaskShape shape() const = 0;

  // Example number n of a training run with this seed.
  virtual void training(std::uint64_t seed, std::uint64_t n, Example& example) const = 0;

  // The same test cases for every run; none of them is trained on.
  virtual Index tests() const = 0;
  virtual void test(Index i, Example& example) const = 0;

  // The accuracy of the best answer that does not look at the sequence, or that looks at nothing but which tokens
  // occur.
  virtual double chance() const = 0;
};

}  // namespace classification
