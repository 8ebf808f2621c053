// SPDX-License-Identifier: MIT
// What the accuracy tests share: the contract, and figures that are printed when all of it is run.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "support.hpp"

namespace gma_test {

/// The contract: float against double of the same numbers, norm-wise, at any length: outputs, memories, gradients.
constexpr double contract = 1e-5;

/// What exceeds the contract so far, and by how much. All are small sums of large terms where values do not depend on
/// keys, so that slots differ the less the longer the stream is.
struct Bounds {
  double mixture = contract, forgetting = contract;
};
/// causal_backward under slot: weight_logits to 2.0e-5 (N = 131,072, time constant 1,000,000, values of mean 10).
constexpr Bounds causal_bounds{3e-5, contract};
/// bidirectional_backward under slot: means to 1.1e-5, log_scales to 1.3e-5, weight_logits to 3.1e-5; the gradient of
/// log_forgetting to 2.6e-5 with a time constant of 1,000,000 (N = 1,048,576, values of mean 3 and 10).
constexpr Bounds bidirectional_bounds{5e-5, 5e-5};

/// GMA_ACCURACY=full in the environment runs the whole table at its full length and prints its figures. It takes some
/// ten minutes; to be run by hand, gma_accuracy_test and gma_accuracy_streams_test.
inline bool runs_full() {
  const char* const value = std::getenv("GMA_ACCURACY");
  return value != nullptr && std::string(value) == "full";
}

/// One figure of the table.
inline void expect_figure(const std::string& name, double error, double bound = contract) {
  if (runs_full()) std::printf("  %-46s %.1e\n", name.c_str(), error);
  EXPECT_LE(error, bound) << name;
}
template <class A, class B>
void expect_accurate(const std::string& name, const Eigen::MatrixBase<A>& found, const Eigen::MatrixBase<B>& expected,
                     double bound = contract) {
  ASSERT_EQ(found.rows(), expected.rows()) << name;
  ASSERT_EQ(found.cols(), expected.cols()) << name;
  // What float can't hold any more, such as the gradient of a memory that all is forgotten of, counts as zero.
  const double difference = (found.template cast<double>() - expected.template cast<double>()).norm(),
               scale = std::max(expected.template cast<double>().norm(), 0x1p-100);
  expect_figure(name, std::isfinite(difference) ? difference / scale : infinity, bound);
}

/// What a memory stands for: the rounded sums and their remainders.
inline Memory<double> whole(const Memory<float>& memory) {
  Memory<double> sum = in_double(memory);
  if (memory.mass_remainder.size() != 0) {
    sum.slots += memory.slots_remainder.cast<double>();
    sum.mass += memory.mass_remainder.cast<double>();
  }
  sum.tokens = static_cast<double>(memory.tokens);
  return sum;
}

inline void expect_accurate(const std::string& name, const Memory<float>& found, const Memory<double>& expected,
                            double bound = contract) {
  expect_accurate(name + " slots", found.slots, expected.slots, bound);
  expect_accurate(name + " mass", found.mass, expected.mass, bound);
}

/// log_temperature is one number: the sum of the tempered logits times their gradients, terms of both signs that cancel
/// to any part of their size. Its error is that of its terms, so it is measured by the norm of all the gradient it is a
/// coordinate of.
template <class M>
double gradient_norm(M& gradient) {
  double squares = 0;
  for_each_parameter(gradient, "", [&](const std::string&, const auto& part) {
    squares += part.template cast<double>().squaredNorm();
  });
  return std::sqrt(squares);
}

/// Every field of a mixture's gradient.
inline void expect_accurate(const std::string& name, const gma::Mixture<float>& found,
                            const gma::Mixture<double>& expected, double bound = contract) {
  expect_accurate(name + " means", found.means, expected.means, bound);
  expect_accurate(name + " log_scales", found.log_scales, expected.log_scales, bound);
  expect_accurate(name + " weight_logits", found.weight_logits, expected.weight_logits, bound);
  gma::Mixture<double> all = expected;
  const double off = std::abs(static_cast<double>(found.log_temperature) - expected.log_temperature);
  if (runs_full()) {
    std::printf("  %-46s %.1e\n", (name + " log_temperature / |itself|").c_str(), off / std::abs(all.log_temperature));
    std::printf("  %-46s %.1e\n", (name + " log_temperature / |d logits|").c_str(),
                off / std::max(std::abs(all.log_temperature), all.weight_logits.norm()));
  }
  expect_figure(name + " log_temperature / |d mixture|", off / gradient_norm(all), bound);
}

/// Every gradient that both have.
inline void expect_accurate(const std::string& name, const gma::Gradients<gma::Mixture<float>>& found,
                            const gma::Gradients<gma::Mixture<double>>& expected, const Bounds& bounds = {}) {
  expect_accurate(name + " d_queries", found.queries, expected.queries);
  expect_accurate(name + " d_keys", found.keys, expected.keys);
  expect_accurate(name + " d_values", found.values, expected.values);
  expect_accurate(name + " d_key_weights", found.key_weights, expected.key_weights);
  expect_accurate(name + " d_log_forgetting", found.log_forgetting, expected.log_forgetting, bounds.forgetting);
  expect_accurate(name + " d_memory", found.memory, expected.memory);
  expect_accurate(name, found.mixture, expected.mixture, bounds.mixture);
}

}  // namespace gma_test
