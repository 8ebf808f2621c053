// SPDX-License-Identifier: MIT
//
// The tasks: the grammar and the values of ListOps, the places of recall, the files of Fashion-MNIST, and the order in
// which examples come.

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>

#include "../budget.hpp"
#include "../fashion.hpp"
#include "../listops_task.hpp"

namespace classification {
namespace {

int value_of(const std::string& text) { return listops::evaluate(listops::tokens_of(text)); }

TEST(ListOps, ValuesByHand) {
  EXPECT_EQ(value_of("7"), 7);
  EXPECT_EQ(value_of("[MAX 2 9 [MIN 4 7 ] 0 ]"), 9);
  EXPECT_EQ(value_of("[MIN 5 3 8 ]"), 3);
  EXPECT_EQ(value_of("[SM 9 8 7 ]"), 4);
  EXPECT_EQ(value_of("[MED 1 9 2 ]"), 2);
  EXPECT_EQ(value_of("[MED 9 1 4 2 ]"), 3);
  EXPECT_EQ(value_of("[MED 2 5 ]"), 3);  // 3.5, rounded down
  EXPECT_EQ(value_of("[SM [SM [SM 5 5 ] 1 ] [MAX [MED 8 6 7 ] 3 ] [MIN 4 4 ] ]"), 2);
}

TEST(ListOps, WhatIsNoExpressionIsRefused) {
  for (const char* text : {"", "]", "1 2", "[MAX", "[MAX 1", "[MAX ]", "[MAX 1 ] ]", "[MIN [MAX 1 ]"})
    EXPECT_THROW(value_of(text), std::invalid_argument) << text;
  EXPECT_THROW(value_of("[AVG 1 2 ]"), std::invalid_argument);
}

TEST(ListOps, TextAndBack) {
  const std::string text = "[MAX 2 9 [MIN 4 7 ] 0 ]";
  EXPECT_EQ(listops::text_of(listops::tokens_of(text)), text);
}

// Depth and numbers of arguments of an expression, read from its tokens.
struct Measures {
  Index depth = 0, fewest = 100, most = 0;
};
Measures measure(const std::vector<Token>& tokens) {
  Measures m;
  std::vector<Index> arguments;
  for (const Token token : tokens) {
    if (token == listops::close) {
      m.fewest = (std::min)(m.fewest, arguments.back());
      m.most = (std::max)(m.most, arguments.back());
      arguments.pop_back();
      continue;
    }
    if (!arguments.empty()) ++arguments.back();
    if (token >= 10) arguments.push_back(0);
    m.depth = (std::max)(m.depth, Index(arguments.size()));
  }
  return m;
}

TEST(ListOps, DrawnExpressionsFollowTheGrammar) {
  const listops::Grammar grammar;
  Random random(5);
  std::vector<Token> tokens;
  std::map<int, int> values, operators;
  Measures all;
  for (int i = 0; i < 300; ++i) {
    const int value = listops::draw(grammar, random, tokens);
    EXPECT_EQ(listops::evaluate(tokens), value);
    EXPECT_GE(tokens.size(), 512u);
    EXPECT_LE(tokens.size(), 2048u);
    const Measures m = measure(tokens);
    all.depth = (std::max)(all.depth, m.depth);
    all.fewest = (std::min)(all.fewest, m.fewest);
    all.most = (std::max)(all.most, m.most);
    ++values[value];
    for (const Token token : tokens) ++operators[token];
  }
  EXPECT_EQ(all.depth, 10);
  EXPECT_EQ(all.fewest, 2);
  EXPECT_EQ(all.most, 10);
  EXPECT_EQ(values.size(), 10u);
  EXPECT_EQ(operators.size(), std::size_t(listops::vocabulary));
}

listops::Grammar tiny_grammar() {
  listops::Grammar grammar;
  grammar.shortest = grammar.longest = 4;  // 4 x 100 expressions
  return grammar;
}

TEST(ListOps, TestCasesAreNotTrainedOn) {
  const ListOps task(tiny_grammar(), 2000, 100);
  std::set<std::vector<Token>> tests;
  Example example;
  for (Index i = 0; i < task.tests(); ++i) {
    task.test(i, example);
    EXPECT_EQ(listops::evaluate(example.tokens), example.targets.front());
    EXPECT_TRUE(tests.insert(example.tokens).second) << "twice in the test set";
  }
  std::set<std::vector<Token>> training;
  for (Index i = 0; i < 2000; ++i) {
    task.training_case(i, example);
    EXPECT_EQ(listops::evaluate(example.tokens), example.targets.front());
    EXPECT_EQ(tests.count(example.tokens), 0u) << listops::text_of(example.tokens);
    training.insert(example.tokens);
  }
  EXPECT_GT(training.size(), 290u);  // nearly all of the others
  EXPECT_GT(task.chance(), 0.1);
}

TEST(Recall, SequencesAreWhatTheyShouldBe) {
  const RecallSize size{32, 256, 512};
  const Recall task(size, 50);
  Example example;
  std::set<std::vector<Token>> seen;
  for (std::uint64_t n = 0; n < 100; ++n) {
    if (n < 50) task.test(Index(n), example);
    if (n >= 50) task.training(1, n, example);
    ASSERT_EQ(example.tokens.size(), 256u);
    ASSERT_EQ(example.places.size(), 192u);
    ASSERT_EQ(example.targets.size(), 192u);
    std::map<Token, Token> dictionary;
    for (std::size_t i = 0; i < 64; i += 2) dictionary[example.tokens[i]] = example.tokens[i + 1];
    EXPECT_EQ(dictionary.size(), 32u);
    std::map<Token, int> asked;
    for (std::size_t q = 0; q < 192; ++q) {
      EXPECT_EQ(example.places[q], Index(64 + q));
      const Token key = example.tokens[64 + q];
      EXPECT_LT(key, 256);
      EXPECT_TRUE(example.targets[q] >= 256 && example.targets[q] < 512);
      EXPECT_EQ(dictionary.at(key), example.targets[q]);
      EXPECT_EQ(asked[key]++, int(q / 32));
    }
    EXPECT_TRUE(seen.insert(example.tokens).second);
  }
  EXPECT_THROW(Recall({32, 95, 512}, 1), std::invalid_argument);
  EXPECT_THROW(Recall({32, 96, 62}, 1), std::invalid_argument);
}

TEST(Fashion, IdxFiles) {
  const std::string header("\0\0\10\2\0\0\0\2\0\0\0\3", 12);
  const Idx idx = parse_idx(header + "abcdef", "it");
  EXPECT_EQ(idx.sizes, (std::vector<Index>{2, 3}));
  EXPECT_EQ(idx.numbers, "abcdef");
  EXPECT_THROW(parse_idx(header + "abcde", "it"), std::invalid_argument);
  EXPECT_THROW(parse_idx(header.substr(0, 9), "it"), std::invalid_argument);
  EXPECT_THROW(parse_idx("not such a file", "it"), std::invalid_argument);
  EXPECT_THROW(Fashion("/nowhere", 1, 1), std::runtime_error);
}

TEST(Fashion, TheRealFiles) {
  const std::string directory = "/usr/share/datasets/fashion-mnist";
  if (!std::filesystem::exists(directory)) GTEST_SKIP() << "dataset-fashion-mnist is not installed";
  const Fashion task(directory, 0, 0);
  ASSERT_EQ(task.tests(), 10000);
  std::map<Token, int> classes;
  Example example;
  for (Index i = 0; i < task.tests(); ++i) {
    task.test(i, example);
    ASSERT_EQ(example.tokens.size(), 784u);
    ++classes[example.targets.front()];
  }
  EXPECT_EQ(classes.size(), 10u);
  for (const auto& [label, count] : classes) EXPECT_EQ(count, 1000) << label;
  EXPECT_EQ(example.tokens[0], 0);
}

TEST(Order, EveryEpochIsAnotherPermutation) {
  for (const Index size : {1, 2, 63, 64, 65, 1000}) {
    std::vector<Index> first, second;
    for (Index i = 0; i < size; ++i) {
      first.push_back(epoch_order(1, std::uint64_t(i), size));
      second.push_back(epoch_order(1, std::uint64_t(size + i), size));
    }
    if (size > 2) {
      EXPECT_NE(first, second);
      EXPECT_FALSE(std::is_sorted(first.begin(), first.end()));
    }
    for (auto& order : {&first, &second}) {
      std::sort(order->begin(), order->end());
      for (Index i = 0; i < size; ++i) EXPECT_EQ((*order)[std::size_t(i)], i);
    }
  }
}

TEST(Budgets, NamesAreChecked) {
  for (const std::string task : all_tasks) {
    for (const std::string budget : {"smoke", "small", "full"})
      EXPECT_NO_THROW(validate(budget_of(task, budget).model));
  }
  EXPECT_THROW(budget_of("recall", "medium"), std::invalid_argument);
  EXPECT_THROW(budget_of("chess", "small"), std::invalid_argument);
}

}  // namespace
}  // namespace classification
