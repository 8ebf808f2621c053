// SPDX-License-Identifier: MIT
// A test for a feature map of your own, on GoogleTest. One line checks what feature_map.hpp asks for:
//
//   TEST(MyFeatures, KeepTheContract) { GMA_EXPECT_FEATURE_MAP(MyFeatures<double>(5)); }
//
// - a map made without arguments is refused, the given one is not;
// - features are finite, and not negative unless the map is_signed; a token's features have the same bits whatever
//   tokens are around it;
// - backward() equals difference quotients of fourth order;
// - causal() and its gradients equal the recurrence (8) of gma/attention/DERIVATION.md in plain loops, and its
//   difference quotients.
//
// Tokens are of unit spread. A map with a kink in it is looked at with short steps.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "gma/attention/causal.hpp"
#include "gma/attention/causal_backward.hpp"
#include "gma/core/random.hpp"
#include "gma/mixture/feature_map.hpp"
#include "gma/testing/comparisons.hpp"

/// Expects that a map, of Scalar double, keeps the contract of a feature map.
#define GMA_EXPECT_FEATURE_MAP(...) ::gma::testing::expect_feature_map(__VA_ARGS__)

namespace gma::testing {

/// What GMA_EXPECT_FEATURE_MAP calls.
template <class Map>
void expect_feature_map(const Map& map);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

inline constexpr double map_step = 1e-5;

inline Matrix<double> normal_matrix(Index rows, Index cols, gma::Random& random) {
  Matrix<double> result(rows, cols);
  random.fill_normal(result);
  return result;
}

template <class Map>
Matrix<double> features_of(const Map& map, const Matrix<double>& tokens) {
  Matrix<double> features(tokens.rows(), map.components());
  map.evaluate(gma::detail::as_tile(tokens), gma::detail::as_tile(features));
  return features;
}

template <class Map>
void expect_features(const Map& map, const Matrix<double>& tokens) {
  const Matrix<double> features = features_of(map, tokens);
  EXPECT_TRUE(features.array().isFinite().all());
  if (!gma::detail::has_signed_features<Map>) {
    EXPECT_GE(features.minCoeff(), 0) << "is_signed is not set";
  }
  for (Index t = 0; t < tokens.rows(); ++t) {
    EXPECT_TRUE(same_bits(features_of(map, tokens.middleRows(t, 1)), features.row(t)))
        << "features of token " << t << " depend on the other tokens";
  }
}

template <class Map>
void expect_map_backward(const Map& map, Matrix<double> tokens, gma::Random& random) {
  const Matrix<double> d_features = normal_matrix(tokens.rows(), map.components(), random);
  const Matrix<double> features = features_of(map, tokens);
  Matrix<double> used_up = d_features, kept = features,
                 d_tokens = Matrix<double>::Constant(tokens.rows(), map.dim(), 7);
  map.backward(gma::detail::as_tile(std::as_const(tokens)), gma::detail::as_tile(kept), gma::detail::as_tile(used_up),
               gma::detail::as_tile(d_tokens));
  const auto loss = [&]() -> double { return features_of(map, tokens).cwiseProduct(d_features).sum(); };
  EXPECT_TRUE(close(d_tokens, difference_quotients(tokens, map_step, loss), difference_tolerance));
  EXPECT_TRUE(same_bits(kept, features)) << "backward() changed the features";
}

/// (8) with the reads (4) and (6), one token at a time.
template <class Map>
Matrix<double> recurrence(const Map& map, const Matrix<double>& queries, const Matrix<double>& keys,
                          const Matrix<double>& values, const TokenInputs<double>& inputs, bool by_row) {
  const Matrix<double> q = features_of(map, queries), r = features_of(map, keys);
  Matrix<double> slots = Matrix<double>::Zero(r.cols(), values.cols()), y(q.rows(), values.cols());
  Vector<double> mass = Vector<double>::Zero(r.cols());
  for (Index t = 0; t < keys.rows(); ++t) {
    const double lambda = std::exp(inputs.log_forgetting(t)), weight = inputs.key_weights(t);
    slots = (lambda * slots + weight * r.row(t).transpose() * values.row(t)).eval();
    mass = (lambda * mass + weight * r.row(t).transpose()).eval();
    y.row(t) = q.row(t) * slots / (by_row ? (std::max)(q.row(t).dot(mass), static_cast<double>(tiny_mass)) : 1.0);
  }
  return y;
}

template <class Map>
void expect_causal(const Map& map, Matrix<double> queries, Matrix<double> keys, gma::Random& random) {
  constexpr bool by_row = !gma::detail::has_signed_features<Map>;
  const Index count = keys.rows();
  Matrix<double> values = normal_matrix(count, 3, random), d_output = normal_matrix(count, 3, random);
  TokenInputs<double> inputs{Vector<double>(count), Vector<double>(count)};
  for (Index t = 0; t < count; ++t) {
    inputs.key_weights(t) = 0.5 + random.uniform();
    inputs.log_forgetting(t) = -0.1 * random.uniform();
  }
  Options options;
  options.normalization = by_row ? Normalization::row : Normalization::none;
  EXPECT_TRUE(close(causal(map, queries, keys, values, options, inputs),
                    recurrence(map, queries, keys, values, inputs, by_row), forward_tolerance<double>()));
  const auto gradients = causal_backward(map, queries, keys, values, d_output, options, inputs);
  const auto loss = [&]() -> double {
    return recurrence(map, queries, keys, values, inputs, by_row).cwiseProduct(d_output).sum();
  };
  EXPECT_TRUE(close(gradients.queries, difference_quotients(queries, map_step, loss), difference_tolerance));
  EXPECT_TRUE(close(gradients.keys, difference_quotients(keys, map_step, loss), difference_tolerance));
}

}  // namespace detail

template <class Map>
void expect_feature_map(const Map& map) {
  static_assert(gma::detail::is_feature_map<Map>, "gma: a feature map derives from gma::FeatureMap<itself>");
  static_assert(gma::detail::check_feature_map<Map>());
  static_assert(std::is_same_v<typename Map::Scalar, double>, "gma: GMA_EXPECT_FEATURE_MAP takes a map of double");
  EXPECT_ANY_THROW(Map().check("expect_feature_map")) << "a map made without arguments is not ready for use";
  EXPECT_NO_THROW(map.check("expect_feature_map"));
  gma::Random random(1);
  const Matrix<double> queries = detail::normal_matrix(23, map.dim(), random);
  const Matrix<double> keys = detail::normal_matrix(23, map.dim(), random);
  detail::expect_features(map, queries);
  detail::expect_map_backward(map, queries, random);
  detail::expect_causal(map, queries, keys, random);
}

}  // namespace gma::testing
