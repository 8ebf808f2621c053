// SPDX-License-Identifier: MIT
//
// The language of ListOps (N. Nangia and S. Bowman, 2018) as the Long Range Arena has it (Y. Tay et al., 2020):
//
//   expression = digit  |  operator expression expression ... "]"
//   digit      = "0" ... "9"
//   operator   = "[MAX"  |  "[MIN"  |  "[MED"  |  "[SM"
//
// The value of an expression is a digit: the largest, the smallest, the median, or the sum modulo 10 of the arguments.
// The median of an even number of arguments is the mean of the middle two, rounded down. One word is one token: a
// closing bracket is a token, and an operator includes its opening bracket.
//
// Expressions are drawn like the Arena's. An inner expression is a digit with probability 3/4, drawn uniformly, or else
// one of the operators, drawn uniformly, with 2 to 10 arguments, each drawn in the same way. At most 10 operators are
// nested, and the arguments of the tenth are digits. The outermost expression is an operator. An expression that does
// not have 512 to 2,048 tokens is drawn again.
#pragma once

#include <algorithm>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "task.hpp"

namespace classification {

namespace listops {

enum : Token { maximum = 10, minimum, median, sum, close, vocabulary };

constexpr const char* words[vocabulary] = {"0", "1", "2",    "3",    "4",    "5",   "6", "7",
                                           "8", "9", "[MAX", "[MIN", "[MED", "[SM", "]"};

struct Grammar {
  Index depth = 10;         // nested operators
  Index arguments = 10;     // at most; at least 2
  double operators = 0.25;  // probability that an argument is not a digit
  Index shortest = 512, longest = 2048;
};

inline int apply(Token op, std::vector<int> arguments) {
  std::sort(arguments.begin(), arguments.end());
  const std::size_t n = arguments.size();
  if (op == maximum) return arguments.back();
  if (op == minimum) return arguments.front();
  if (op == median) return (arguments[(n - 1) / 2] + arguments[n / 2]) / 2;
  return std::accumulate(arguments.begin(), arguments.end(), 0) % 10;
}

// Appends an expression whose operators are within `depth` others, and returns its value. Gives up and leaves the
// expression unfinished if it gets too long.
inline int draw_expression(const Grammar& grammar, Index depth, Random& random, std::vector<Token>& tokens) {
  const bool is_operator = depth == 0 || (depth < grammar.depth && random.uniform() < grammar.operators);
  if (!is_operator) {
    tokens.push_back(Token(random.below(10)));
    return tokens.back();
  }
  const auto op = Token(maximum + random.below(4));
  const Index count = 2 + Index(random.below(std::uint64_t(grammar.arguments - 1)));
  tokens.push_back(op);
  std::vector<int> arguments;
  while (Index(arguments.size()) < count && Index(tokens.size()) <= grammar.longest)
    arguments.push_back(draw_expression(grammar, depth + 1, random, tokens));
  tokens.push_back(close);
  return arguments.empty() ? 0 : apply(op, std::move(arguments));
}

// An expression of the right length, and its value.
inline int draw(const Grammar& grammar, Random& random, std::vector<Token>& tokens) {
  for (;;) {
    tokens.clear();
    const int value = draw_expression(grammar, 0, random, tokens);
    if (Index(tokens.size()) >= grammar.shortest && Index(tokens.size()) <= grammar.longest) return value;
  }
}

namespace detail {
inline int evaluate(const std::vector<Token>& tokens, std::size_t& next) {
  require(next < tokens.size(), "ListOps: the expression ends too early");
  const Token token = tokens[next++];
  if (token < 10) return token;
  require(token < close, "ListOps: expected a digit or an operator");
  std::vector<int> arguments;
  while (next < tokens.size() && tokens[next] != close) arguments.push_back(evaluate(tokens, next));
  require(next < tokens.size(), "ListOps: a bracket is not closed");
  require(!arguments.empty(), "ListOps: an operator has no arguments");
  ++next;
  return apply(token, std::move(arguments));
}
}  // namespace detail

// The value of one whole expression, computed only from its tokens. Throws std::invalid_argument on anything else.
inline int evaluate(const std::vector<Token>& tokens) {
  std::size_t next = 0;
  const int value = detail::evaluate(tokens, next);
  require(next == tokens.size(), "ListOps: something follows the expression");
  return value;
}

// Converts from and to words with blanks between them.
inline std::vector<Token> tokens_of(const std::string& text) {
  std::vector<Token> tokens;
  std::istringstream in(text);
  for (std::string word; in >> word;) {
    const auto* found = std::find(std::begin(words), std::end(words), word);
    require(found != std::end(words), "ListOps: unknown word " + word);
    tokens.push_back(Token(found - std::begin(words)));
  }
  return tokens;
}
inline std::string text_of(const std::vector<Token>& tokens) {
  std::string text;
  for (const Token token : tokens) text += (text.empty() ? "" : " ") + std::string(words[token]);
  return text;
}

}  // namespace listops

}  // namespace classification
