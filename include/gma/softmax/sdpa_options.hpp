// SPDX-License-Identifier: MIT
// The options, results and argument checks that all forms of softmax attention (SDPA, scaled dot-product attention)
// share.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <type_traits>

#include "gma/core/checks.hpp"
#include "gma/core/tokens.hpp"
#include "gma/core/types.hpp"
#include "gma/softmax/tiles.hpp"

namespace gma::baselines {

/// What a caller may choose.
struct SdpaOptions {
  std::optional<double> scale;  ///< of the scores; 1 / sqrt(d) if it is not given
  bool is_causal = false;       ///< queries belong to the last Nq keys' tokens and see no later key; Nk >= Nq
  Index window = 0;             ///< causal only: the number of keys that a query sees, its own the last; 0: all
  Index query_tile = 96;        ///< queries per tile in the tiled forms, at least 1
  Index key_tile = 96;          ///< keys per tile in the tiled forms, at least 1
};

/// The results of the forward pass that the backward pass needs.
template <class S>
struct SdpaForward {
  Matrix<S> output;       ///< Nq x e
  Vector<S> log_sum_exp;  ///< Nq; log sum_j exp(score_ij), minus infinity without keys
};

/// Gradients of queries (Nq x d), keys (Nk x d) and values (Nk x e).
template <class S>
struct SdpaGradients {
  Matrix<S> queries, keys, values;  ///< each of the shape of its argument
};

namespace detail {

using gma::detail::check_shape;
using gma::detail::check_size;
using gma::detail::Evaluated;
using gma::detail::invalid_argument;
using gma::detail::TokenSink;
using gma::detail::TokenView;
using gma::detail::writable;

inline void check_options(const char* function, const SdpaOptions& options) {
  if (options.window < 0 || (options.window > 0 && !options.is_causal)) {
    invalid_argument(function, "options.window is ", options.window, " with is_causal ", options.is_causal,
                     ", expected 0, or a positive number with is_causal");
  }
  if (options.scale && !std::isfinite(*options.scale)) {
    invalid_argument(function, "options.scale is ", *options.scale, ", expected a finite number");
  }
  if (options.query_tile < 1 || options.key_tile < 1) {
    invalid_argument(function, "options.query_tile is ", options.query_tile, " and options.key_tile is ",
                     options.key_tile, ", expected at least 1");
  }
}

template <class Queries, class Keys, class Values>
void check_sdpa(const char* function, const Eigen::MatrixBase<Queries>& queries, const Eigen::MatrixBase<Keys>& keys,
                const Eigen::MatrixBase<Values>& values, const SdpaOptions& options) {
  using S = typename Queries::Scalar;
  static_assert(std::is_same_v<S, typename Keys::Scalar> && std::is_same_v<S, typename Values::Scalar>,
                "gma::baselines: queries, keys and values must have the same scalar");
  if (queries.cols() == 0) invalid_argument(function, "queries has 0 columns, expected at least 1");
  check_size(function, "keys", "columns", keys.cols(), queries.cols(), "as many as queries");
  check_size(function, "values", "rows", values.rows(), keys.rows(), "one per key");
  if (options.is_causal && keys.rows() < queries.rows()) {
    invalid_argument(function, "keys has ", keys.rows(), " rows, expected at least ", queries.rows(),
                     " (one per query, because is_causal is set)");
  }
  check_options(function, options);
}

inline double score_scale(const SdpaOptions& options, Index d) {
  return options.scale ? *options.scale : 1 / std::sqrt(static_cast<double>(d));
}

template <class Queries, class Keys>
gma::detail::SoftmaxBand band_of(const SdpaOptions& options, const Eigen::MatrixBase<Queries>& queries,
                                 const Eigen::MatrixBase<Keys>& keys) {
  const Index own = options.is_causal ? keys.rows() - queries.rows() : 0;
  const Index window = (std::min)(options.window, keys.rows());  // keys.rows() means all of them
  return {score_scale(options, queries.cols()), options.is_causal, window, own, options.query_tile, options.key_tile};
}

}  // namespace detail
}  // namespace gma::baselines
