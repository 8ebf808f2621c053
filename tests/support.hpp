// SPDX-License-Identifier: MIT
// What the tests of the operators share: random problems from fixed seeds, comparisons, and the list of mixture
// families.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "families.hpp"
#include "gma/gma.hpp"
#include "gma/testing/comparisons.hpp"
#include "tolerances.hpp"

namespace gma_test {

using gma::Index;
using gma::Matrix;
using gma::Memory;
using gma::Normalization;
using gma::Options;
using gma::TokenInputs;
using gma::Vector;

inline const char* name_of(Normalization normalization) {
  return normalization == Normalization::none ? "none" : normalization == Normalization::slot ? "slot" : "row";
}
constexpr Normalization all_normalizations[] = {Normalization::none, Normalization::slot, Normalization::row};

// Random numbers -----------------------------------------------------------------------------------------------------

/// Standard normal numbers from a fixed seed, by Box and Muller.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }
  template <class Derived>
  void fill(Eigen::MatrixBase<Derived>& matrix, double scale = 1) {
    for (Index i = 0; i < matrix.rows(); ++i) {
      for (Index j = 0; j < matrix.cols(); ++j) {
        matrix.derived()(i, j) = static_cast<typename Derived::Scalar>(scale * normal());
      }
    }
  }
  template <class S>
  Matrix<S> matrix(Index rows, Index cols, double scale = 1) {
    Matrix<S> result(rows, cols);
    fill(result, scale);
    return result;
  }
  template <class S>
  Vector<S> vector(Index size, double scale = 1) {
    Vector<S> result(size);
    fill(result, scale);
    return result;
  }

 private:
  std::mt19937_64 engine_;
};

// Mixture families ---------------------------------------------------------------------------------------------------

/// trivial: all components the same. degenerate: sharp and wide components, twins, very unequal weights. generic: none
/// of this.
enum class Regime { trivial, degenerate, generic };
constexpr Regime all_regimes[] = {Regime::trivial, Regime::degenerate, Regime::generic};
inline const char* name_of(Regime regime) {
  return regime == Regime::trivial ? "trivial" : regime == Regime::degenerate ? "degenerate" : "generic";
}

template <class S, class Covariance>
void randomize(gma::Mixture<S, Covariance>& mixture, Index components, Index dim, Regime regime, Random& random) {
  mixture = gma::Mixture<S, Covariance>(components, dim);
  if (regime == Regime::trivial) return;
  const bool generic = regime == Regime::generic;
  random.fill(mixture.means);
  random.fill(mixture.weight_logits, generic ? 0.5 : 4);
  random.fill(mixture.log_scales, generic ? 0.3 : 1);
  mixture.log_temperature = static_cast<S>(generic ? 0.3 : -0.5);
  if (!generic && components > 1) {
    mixture.means.row(1) = mixture.means.row(0);
    if (mixture.log_scales.rows() > 1) mixture.log_scales.row(1) = mixture.log_scales.row(0);
  }
}
/// Two factors; a component or dimension that is not divisible goes to the first.
template <class S, class Covariance>
void randomize(gma::ProductMixture<S, Covariance>& mixture, Index components, Index dim, Regime regime,
               Random& random) {
  const Index second = components % 2 == 0 ? 2 : 1;
  mixture.factors.resize(2);
  randomize(mixture.factors[0], components / second, dim - dim / 2, regime, random);
  randomize(mixture.factors[1], second, dim / 2, regime, random);
}

/// f(name, matrix) for every parameter; log_temperature comes as a 1 x 1 map.
template <class S, class Covariance, class F>
void for_each_parameter(gma::Mixture<S, Covariance>& mixture, const std::string& prefix, F&& f) {
  f(prefix + "weight_logits", mixture.weight_logits);
  f(prefix + "means", mixture.means);
  f(prefix + "log_scales", mixture.log_scales);
  Eigen::Map<Vector<S>> log_temperature(&mixture.log_temperature, 1);
  f(prefix + "log_temperature", log_temperature);
}
template <class S, class Covariance, class F>
void for_each_parameter(gma::ProductMixture<S, Covariance>& mixture, const std::string& prefix, F&& f) {
  for (std::size_t m = 0; m < mixture.factors.size(); ++m) {
    for_each_parameter(mixture.factors[m], prefix + "factors[" + std::to_string(m) + "].", f);
  }
}
template <class S, class F>
void for_each_part(Memory<S>& memory, const std::string& prefix, F&& f) {
  f(prefix + "slots", memory.slots);
  f(prefix + "mass", memory.mass);
  Eigen::Map<Vector<S>> log_forgetting(&memory.log_forgetting, 1);
  f(prefix + "log_forgetting", log_forgetting);
}

// Problems -----------------------------------------------------------------------------------------------------------

/// Everything an operator may be given, and upstream gradients for all it returns.
template <class S, class M>
struct Problem {
  M mixture;
  Matrix<S> queries, keys, values;
  TokenInputs<S> tokens;
  Memory<S> memory;  ///< before the first token; empty where there is none
};

template <class S, class M, class F>
void for_each_part(Problem<S, M>& problem, F&& f) {
  f(std::string("queries"), problem.queries);
  f(std::string("keys"), problem.keys);
  f(std::string("values"), problem.values);
  f(std::string("key_weights"), problem.tokens.key_weights);
  f(std::string("log_forgetting"), problem.tokens.log_forgetting);
  if (!problem.memory.empty()) for_each_part(problem.memory, "memory.", f);
  for_each_parameter(problem.mixture, "mixture.", f);
}
/// The same parts in the same order.
template <class M, class F>
void for_each_part(gma::Gradients<M>& gradients, bool with_memory, F&& f) {
  f(std::string("queries"), gradients.queries);
  f(std::string("keys"), gradients.keys);
  f(std::string("values"), gradients.values);
  f(std::string("key_weights"), gradients.key_weights);
  f(std::string("log_forgetting"), gradients.log_forgetting);
  if (with_memory) for_each_part(gradients.memory, "memory.", f);
  for_each_parameter(gradients.mixture, "mixture.", f);
}

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// Weights and forgetting per token: weights in (0, 2), a fifth of them 0; forgetting in (-0.5, 0), and -inf once in
/// the middle if `restarts`. A token of weight 0 has an invalid forgetting, which is to be ignored.
template <class S>
TokenInputs<S> random_tokens(Index count, bool restarts, Random& random) {
  TokenInputs<S> tokens{Vector<S>(count), Vector<S>(count)};
  for (Index j = 0; j < count; ++j) {
    tokens.key_weights(j) = static_cast<S>(random.uniform() < 0.2 ? 0.0 : 2 * random.uniform() + 1e-3);
    tokens.log_forgetting(j) = static_cast<S>(-0.5 * random.uniform());
    if (restarts && j == count / 2) tokens.log_forgetting(j) = -static_cast<S>(infinity);
    if (!(tokens.key_weights(j) > 0)) tokens.log_forgetting(j) = static_cast<S>(not_a_number);
  }
  return tokens;
}

/// Keys and values of absent tokens become NaN and infinity.
template <class S>
void poison_absent(const TokenInputs<S>& tokens, Matrix<S>& keys, Matrix<S>& values) {
  for (Index j = 0; j < tokens.key_weights.size(); ++j) {
    if (tokens.key_weights(j) > S(0)) continue;
    keys.row(j).setConstant(static_cast<S>(not_a_number));
    values.row(j).setConstant(static_cast<S>(infinity));
  }
}

/// One mixture of every family, compiled: forward verbs then share one instance for all of them.
template <class S>
std::vector<std::pair<std::string, gma::CompiledMixture<S>>> every_family(Index components, Index dim, Regime regime,
                                                                          std::uint64_t seed) {
  std::vector<std::pair<std::string, gma::CompiledMixture<S>>> result;
  Random random(seed);
  const auto add = [&](auto mixture, const char* name) {
    randomize(mixture, components, dim, regime, random);
    result.emplace_back(name, gma::compile(mixture));
  };
  all_families::for_each([&](auto family) { add(gma::Mixture<S, decltype(family)>(), family.name); });
  add(gma::ProductMixture<S, gma::Diagonal>(), "product");
  return result;
}

// Comparisons --------------------------------------------------------------------------------------------------------

using gma::testing::close;
using gma::testing::difference_quotient;
using gma::testing::relative_error;
using gma::testing::same_bits;

template <class S>
testing::AssertionResult close(const Memory<S>& a, const Memory<S>& b, double tolerance) {
  if (auto slots = close(a.slots, b.slots, tolerance); !slots) return slots << " (slots)";
  if (auto mass = close(a.mass, b.mass, tolerance); !mass) return mass << " (mass)";
  const double g_a = static_cast<double>(a.log_forgetting), g_b = static_cast<double>(b.log_forgetting);
  if (g_a == g_b || std::abs(g_a - g_b) <= tolerance * std::abs(g_b)) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "log_forgetting " << g_a << " and " << g_b;
}

template <class S>
bool same_bits(const Memory<S>& a, const Memory<S>& b) {
  return same_bits(a.slots, b.slots) && same_bits(a.mass, b.mass) &&
         std::memcmp(&a.log_forgetting, &b.log_forgetting, sizeof(S)) == 0;
}

template <class A>
bool all_finite(const Eigen::MatrixBase<A>& a) {
  return a.size() == 0 || a.array().isFinite().all();
}

/// Calls, and expects a std::invalid_argument whose message contains all of `words`.
template <class Exception = std::invalid_argument, class Call>
void expect_error(Call&& call, const std::vector<std::string>& words) {
  try {
    call();
    ADD_FAILURE() << "no exception; expected one that says " << words.front();
  } catch (const Exception& error) {
    for (const std::string& word : words) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what() << " lacks " << word;
    }
  }
}

/// Rows of a above rows of b.
template <class S>
Matrix<S> stacked(const Matrix<S>& a, const Matrix<S>& b) {
  Matrix<S> result(a.rows() + b.rows(), a.cols());
  result << a, b;
  return result;
}
template <class S>
Vector<S> stacked(const Vector<S>& a, const Vector<S>& b) {
  Vector<S> result(a.size() + b.size());
  result << a, b;
  return result;
}
template <class S>
TokenInputs<S> stacked(const TokenInputs<S>& a, const TokenInputs<S>& b) {
  return {stacked(a.key_weights, b.key_weights), stacked(a.log_forgetting, b.log_forgetting)};
}
template <class S>
TokenInputs<S> part_of(const TokenInputs<S>& tokens, Index begin, Index count) {
  TokenInputs<S> part;
  if (tokens.key_weights.size() != 0) part.key_weights = tokens.key_weights.segment(begin, count);
  if (tokens.log_forgetting.size() != 0) part.log_forgetting = tokens.log_forgetting.segment(begin, count);
  return part;
}

// Dense values -------------------------------------------------------------------------------------------------------

/// Mixture, memory or token inputs in double: what a float result is compared with.
template <class S>
Memory<double> in_double(const Memory<S>& memory) {
  return {memory.slots.template cast<double>(), memory.mass.template cast<double>(),
          static_cast<double>(memory.log_forgetting)};
}
template <class S>
TokenInputs<double> in_double(const TokenInputs<S>& tokens) {
  return {tokens.key_weights.template cast<double>(), tokens.log_forgetting.template cast<double>()};
}
template <class S>
Matrix<double> in_double(const Matrix<S>& matrix) {
  return matrix.template cast<double>();
}

/// What reference::causal() leaves in `memory`, for keys and values that nothing reads.
template <class M>
void dense_write(const M& mixture, const Matrix<double>& keys, const Matrix<double>& values, Memory<double>& memory,
                 const TokenInputs<double>& tokens) {
  gma::reference::causal(mixture, Matrix<double>(Matrix<double>::Zero(keys.rows(), mixture.dim())), keys, values,
                         memory, {}, tokens);
}

/// The largest tempered |log density|, at least 1: what the error of a softmax grows with.
template <class M>
double largest_logit(const M& mixture, const Matrix<double>& tokens) {
  double largest = 1;
  for (Index i = 0; i < tokens.rows(); ++i) {
    if (!tokens.row(i).array().isFinite().all()) continue;
    const Matrix<double> row = tokens.row(i);
    largest = std::max(largest, gma::reference::joint_log_density(mixture, row, true).cwiseAbs().maxCoeff());
  }
  return largest;
}

}  // namespace gma_test
