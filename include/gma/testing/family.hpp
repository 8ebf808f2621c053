// SPDX-License-Identifier: MIT
// A test for a covariance family of your own, on GoogleTest. One line checks what family.hpp asks for:
//
//   TEST(MyFamily, KeepsTheContract) { GMA_EXPECT_FAMILY(MyFamily); }
//
// - log_scales of zeros mean the unit covariance, with all variances 1;
// - responsibilities and log densities, alone and in a product mixture, in float and double, also far from the origin,
//   equal gma::reference, which goes by the family's reference_log_density();
// - gradients of tokens and parameters equal difference quotients of fourth order;
// - parameters at the ends of their range give responsibilities that are finite and sum to 1;
// - where the family has a fit and its header is included (family_fit.hpp): standardize() and displace() belong to the
//   same covariance, no step lowers the likelihood, scales are at the maximum, and no variance is below the floor.
//
// Compiles for some seconds, with gma/mixture/fit.hpp. Files of layers have a test of their own,
// GMA_EXPECT_FAMILY_FILES in family_safetensors.hpp.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gma/attention/reference.hpp"
#include "gma/core/random.hpp"
#include "gma/mixture/family.hpp"
#include "gma/mixture/fit.hpp"
#include "gma/mixture/responsibilities.hpp"
#include "gma/mixture/variances.hpp"
#include "gma/testing/comparisons.hpp"

/// Expects that `Family`, a type, keeps the contract of a covariance family.
#define GMA_EXPECT_FAMILY(...) ::gma::testing::expect_family<__VA_ARGS__>()

namespace gma::testing {

/// What GMA_EXPECT_FAMILY calls.
template <class Family>
void expect_family();

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

using gma::Random;

inline void fill(Random& random, double scale, Matrix<double>& matrix) {
  random.fill_normal(matrix);
  matrix *= scale;
}

/// No two components alike, and a temperature that is not 1.
template <class Family>
Mixture<double, Family> some_mixture(Index components, Index dim, Random& random) {
  Mixture<double, Family> mixture(components, dim);
  fill(random, 1, mixture.means);
  fill(random, 0.3, mixture.log_scales);
  for (Index k = 0; k < components; ++k) mixture.weight_logits(k) = 0.5 * random.normal();
  mixture.log_temperature = 0.3;
  return mixture;
}

inline Matrix<double> some_tokens(Index count, Index dim, Random& random) {
  Matrix<double> tokens(count, dim);
  random.fill_normal(tokens);
  return tokens;
}

template <class Family>
void expect_shapes() {
  EXPECT_FALSE(std::string(Family::name).empty());
  for (const Index dim : {1, 2, 5}) {
    const Mixture<double, Family> mixture(3, dim);
    EXPECT_EQ(mixture.log_scales.rows(), Family::shares_scales ? 1 : 3);
    EXPECT_EQ(mixture.log_scales.cols(), Family::scale_cols(dim));
    Random random(1);
    const Matrix<double> tokens = some_tokens(4, dim, random);
    const Vector<double> expected =
        -0.5 * tokens.rowwise().squaredNorm().array() - 0.9189385332046727 * static_cast<double>(dim);
    EXPECT_TRUE(close(log_density(mixture, tokens), expected, 1e-13)) << "log_scales of zeros are unit covariances";
    const VarianceRange<double> range = variance_range(mixture);
    EXPECT_GT(range.count, 0);
    EXPECT_NEAR(range.smallest, 1, 1e-12);
    EXPECT_NEAR(range.largest, 1, 1e-12);
  }
}

/// One scalar: everything is rounded to it first, so that both sides see the same numbers.
template <class S, class M>
void expect_reference(const M& exact, const Matrix<double>& exact_tokens) {
  const auto mixture = exact.template cast<S>();
  const Matrix<S> tokens = exact_tokens.template cast<S>();
  const auto wide = mixture.template cast<double>();
  const Matrix<double> wide_tokens = tokens.template cast<double>();
  const Matrix<double> joint = reference::joint_log_density(wide, wide_tokens);
  const double tolerance = forward_tolerance<S>();
  EXPECT_TRUE(close(responsibilities(mixture, tokens), reference::responsibilities(wide, wide_tokens), tolerance));
  const Vector<double> expected = joint.array().exp().rowwise().sum().log().matrix();
  EXPECT_TRUE(close(log_density(mixture, tokens), expected, tolerance)) << "log density";
}

template <class Family>
void expect_values() {
  for (const Index dim : {1, 2, 3, 6}) {
    for (const Index components : {1, 5}) {
      for (const double offset : {0.0, 1000.0}) {
        SCOPED_TRACE("d = " + std::to_string(dim) + ", K = " + std::to_string(components) + ", means at " +
                     std::to_string(offset));
        Random random(2);
        Mixture<double, Family> mixture = some_mixture<Family>(components, dim, random);
        Matrix<double> tokens = some_tokens(101, dim, random);
        mixture.means.array() += offset;
        tokens.array() += offset;
        expect_reference<double>(mixture, tokens);
        expect_reference<float>(mixture, tokens);
      }
    }
  }
  Random random(3);
  ProductMixture<double, Family> product;
  product.factors = {some_mixture<Family>(4, 2, random), some_mixture<Family>(3, 3, random)};
  const Matrix<double> tokens = some_tokens(50, 5, random);
  expect_reference<double>(product, tokens);
  expect_reference<float>(product, tokens);
}

/// Gradients of sum(r o d_r) for any d_r.
template <class M, class ForEach>
void expect_gradients_of(M& mixture, Matrix<double>& tokens, Random& random, const ForEach& for_each) {
  const Matrix<double> d_r = some_tokens(tokens.rows(), mixture.components(), random);
  const auto gradients = responsibilities_backward(mixture, tokens, d_r);
  const auto loss = [&]() -> double { return responsibilities(mixture, tokens).cwiseProduct(d_r).sum(); };
  constexpr double step = 1e-3;
  const Matrix<double> slopes = difference_quotients(tokens, step, loss);
  EXPECT_TRUE(close(gradients.tokens, slopes, difference_tolerance)) << "gradient of the tokens";
  for_each(mixture, gradients.mixture, [&](auto& given, const auto& gradient) {
    const auto expect = [&](auto& numbers, const auto& actual, const char* name) {
      const Matrix<double> expected = difference_quotients(numbers, step, loss);
      ASSERT_EQ(actual.rows(), expected.rows()) << name;
      ASSERT_EQ(actual.cols(), expected.cols()) << name;
      // A gradient that vanishes is held to the size of the tokens'.
      const double scale = (std::max)(expected.norm(), 1e-3 * slopes.norm());
      EXPECT_LE((actual - expected).norm(), difference_tolerance * scale) << "gradient of " << name;
    };
    expect(given.weight_logits, gradient.weight_logits, "weight_logits");
    expect(given.means, gradient.means, "means");
    expect(given.log_scales, gradient.log_scales, "log_scales");
    const double slope = difference_quotient(given.log_temperature, step, loss);
    EXPECT_LE(std::abs(gradient.log_temperature - slope), difference_tolerance * slopes.norm()) << "log_temperature";
  });
}

template <class Family>
void expect_gradients() {
  for (const Index dim : {1, 2, 3, 6}) {
    SCOPED_TRACE("d = " + std::to_string(dim));
    for (const double offset : {0.0, 30.0}) {
      Random random(4);
      Mixture<double, Family> mixture = some_mixture<Family>(4, dim, random);
      Matrix<double> tokens = some_tokens(9, dim, random);
      mixture.means.array() += offset;  // with a centre that is not 0
      tokens.array() += offset;
      expect_gradients_of(mixture, tokens, random,
                          [](auto& given, const auto& gradient, const auto& f) { f(given, gradient); });
    }
  }
  Random random(5);
  ProductMixture<double, Family> product;
  product.factors = {some_mixture<Family>(3, 2, random), some_mixture<Family>(2, 3, random)};
  Matrix<double> tokens = some_tokens(7, 5, random);
  expect_gradients_of(product, tokens, random, [](auto& given, const auto& gradient, const auto& f) {
    for (std::size_t m = 0; m < given.factors.size(); ++m) f(given.factors[m], gradient.factors[m]);
  });
}

/// Whatever an optimiser makes of a parameter, responsibilities are finite and sum to 1.
template <class Family>
void expect_finite_at_the_ends() {
  Random random(6);
  const Mixture<double, Family> mixture = some_mixture<Family>(4, 2, random);
  const Matrix<float> tokens = some_tokens(7, 2, random).cast<float>();
  for (const double log_scale : {-1e30, -1e4, -40.0, 0.0, 40.0, 1e4, 1e30}) {
    for (const double log_temperature : {-1e30, -20.0, 0.0, 20.0, 1e30}) {
      SCOPED_TRACE("log_scales of " + std::to_string(log_scale) + ", log_temperature of " +
                   std::to_string(log_temperature));
      Mixture<float, Family> extreme = mixture.template cast<float>();
      extreme.log_scales.setConstant(static_cast<float>(log_scale));
      extreme.log_temperature = static_cast<float>(log_temperature);
      const Matrix<float> r = responsibilities(extreme, tokens);
      EXPECT_LE((r.rowwise().sum().array() - 1).abs().maxCoeff(), 1e-5f);
      const auto gradients = responsibilities_backward(extreme, tokens, Matrix<float>(2 * r));
      EXPECT_TRUE(gradients.tokens.array().isFinite().all());
      EXPECT_TRUE(gradients.mixture.log_scales.array().isFinite().all());
    }
  }
}

/// standardize() and displace() are of the covariance that the density has.
template <class Family>
void expect_square_roots() {
  Random random(7);
  for (const Index dim : {1, 2, 3, 6}) {
    const Mixture<double, Family> mixture = some_mixture<Family>(3, dim, random);
    for (Index k = 0; k < mixture.components(); ++k) {
      const Matrix<double> noise = some_tokens(1, dim, random);
      Matrix<double> row = noise;
      FamilyFit<Family>::displace(mixture, k, row);
      const RowVector<double> token = mixture.means.row(k) + row;
      const double log_det = FamilyFit<Family>::standardize(mixture, k, row);
      EXPECT_NEAR(row.norm(), noise.norm(), 1e-12 * noise.norm()) << "displace() is the inverse of standardize()";
      EXPECT_NEAR(log_det - 0.5 * row.squaredNorm() - 0.9189385332046727 * static_cast<double>(dim),
                  reference::component_log_density(mixture, token, k, 0.0), 1e-11)
          << "standardize() gives the density";
    }
  }
}

/// Four clouds of different widths.
inline Matrix<double> clouds(Index count, Index dim, Random& random) {
  Matrix<double> tokens = some_tokens(count, dim, random);
  for (Index t = 0; t < count; ++t) {
    for (Index i = 0; i < dim; ++i) tokens(t, i) *= 1.0 / static_cast<double>(1 + i + t % 2);
    tokens.row(t).array() += 4 * static_cast<double>(t % 4);
  }
  return tokens;
}

template <class Family>
void expect_fit() {
  expect_square_roots<Family>();
  Random random(8);
  for (const Index dim : {1, 2, 3}) {
    SCOPED_TRACE("fit, d = " + std::to_string(dim));
    const Matrix<double> tokens = clouds(240, dim, random);
    InitializationOptions options;
    options.temperature = 1;
    double before = -std::numeric_limits<double>::infinity();
    for (const Index steps : {0, 1, 2, 3, 5, 8}) {
      options.em_iterations = steps;
      const double likelihood = log_density(fit_mixture<double, Family>(4, tokens, options), tokens).sum();
      EXPECT_GE(likelihood, before - 1e-9 * std::abs(before)) << "after " << steps << " steps";
      before = likelihood;
    }
    // One component: the scales are where the likelihood has no slope.
    Mixture<double, Family> one = fit_mixture<double, Family>(1, tokens, options);
    const Matrix<double> slopes =
        difference_quotients(one.log_scales, 1e-3, [&]() -> double { return log_density(one, tokens).mean(); });
    EXPECT_LE(slopes.norm(), 1e-8) << "scales of the greatest likelihood";
    // Under a floor that all variances are below, all are at it.
    options.variance_floor = 1e6;
    const VarianceRange<double> range = variance_range(fit_mixture<double, Family>(4, tokens, options));
    EXPECT_NEAR(range.smallest, 1e6, 1);
    EXPECT_NEAR(range.largest, 1e6, 1);
    options.variance_floor = 0.3;
    EXPECT_GE(variance_range(fit_mixture<double, Family>(4, tokens, options)).smallest, 0.3 * (1 - 1e-9));
  }
}

}  // namespace detail

template <class Family>
void expect_family() {
  static_assert(gma::detail::check_family<Family>());
  SCOPED_TRACE(std::string("covariance family ") + Family::name);
  detail::expect_shapes<Family>();
  detail::expect_values<Family>();
  detail::expect_gradients<Family>();
  detail::expect_finite_at_the_ends<Family>();
  if constexpr (has_family_fit<Family>) detail::expect_fit<Family>();
}

}  // namespace gma::testing
