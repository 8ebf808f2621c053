// SPDX-License-Identifier: MIT
//
// ListOps as a task: which of ten values does this expression have? Training and test cases are drawn from the grammar
// of listops.hpp, with seeds that never change. No test case occurs in the training set or twice in the test set.
#pragma once

#include <array>
#include <unordered_set>

#include "listops.hpp"
#include "order.hpp"

namespace classification {

class ListOps : public Task {
 public:
  ListOps(const listops::Grammar& grammar, Index training, Index tests) : grammar_(grammar), size_(training) {
    require(training > 0 && tests > 0, "listops: training and tests must be positive");
    Random random(1, 1);
    while (Index(tests_.size()) < tests) {
      Example example;
      const auto value = Token(listops::draw(grammar_, random, example.tokens));
      example.targets = {value};
      if (hashes_.insert(hash(example.tokens)).second) tests_.push_back(std::move(example));
    }
  }

  TaskShape shape() const override {
    TaskShape shape;
    shape.vocabulary = listops::vocabulary;
    shape.classes = 10;
    shape.longest = grammar_.longest;
    return shape;
  }
  void training(std::uint64_t seed, std::uint64_t n, Example& example) const override {
    training_case(epoch_order(seed, n, size_), example);
  }
  Index tests() const override { return Index(tests_.size()); }
  void test(Index i, Example& example) const override { example = tests_[std::size_t(i)]; }

  // The share of the most frequent value: small and large ones are more frequent, for MIN and MAX.
  double chance() const override {
    std::array<Index, 10> counts{};
    for (const Example& example : tests_) ++counts[example.targets.front()];
    return double(*std::max_element(counts.begin(), counts.end())) / double(tests_.size());
  }

  // Member i of the training set.
  void training_case(Index i, Example& example) const {
    Random random(2, std::uint64_t(i));
    example.places.clear();
    do {
      example.targets.assign(1, Token(listops::draw(grammar_, random, example.tokens)));
    } while (hashes_.count(hash(example.tokens)) > 0);
  }

 private:
  static std::uint64_t hash(const std::vector<Token>& tokens) {
    std::uint64_t h = tokens.size();
    for (const Token token : tokens) h = scramble(h ^ token);
    return h;
  }

  listops::Grammar grammar_;
  Index size_;
  std::vector<Example> tests_;
  std::unordered_set<std::uint64_t> hashes_;  // of the test cases
};

}  // namespace classification
