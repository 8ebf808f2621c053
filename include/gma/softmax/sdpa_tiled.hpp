// SPDX-License-Identifier: MIT
// Softmax attention over tiles of queries and keys (gma/softmax/tiles.hpp). No Nq x Nk matrix is stored, and causal
// tiles above the diagonal are skipped. Speeds are compared with this form; its backward is sdpa_backward.hpp.
#pragma once

#include "gma/core/workspace.hpp"
#include "gma/softmax/sdpa_options.hpp"

namespace gma::baselines {

/// y_i = sum_j exp(s_ij) v_j / sum_j exp(s_ij) with s_ij = scale queries_i . keys_j. Causal: query i belongs to the
/// token of key o = Nk - Nq + i and attends to keys j <= o (with a window: o - window < j <= o). The first Nk - Nq keys
/// are then a past, such as a cache's. queries Nq x d, keys Nk x d, values Nk x e; returns Nq x e, zeros if there are
/// no keys. Cost O(Nq Nk (d + e)), half of it where causal, O(Nq (window + key_tile) (d + e)) with a window; extra
/// memory O(query_tile (d + key_tile)). Throws std::invalid_argument if shapes disagree or an option is out of range.
template <class Queries, class Keys, class Values>
Matrix<typename Queries::Scalar> sdpa(const Eigen::MatrixBase<Queries>& queries, const Eigen::MatrixBase<Keys>& keys,
                                      const Eigen::MatrixBase<Values>& values, const SdpaOptions& options = {});
/// The same into the caller's Nq x e matrix, block or map, with the caller's scratch memory.
template <class Out, class Queries, class Keys, class Values>
void sdpa_into(const Eigen::MatrixBase<Out>& out, const Eigen::MatrixBase<Queries>& queries,
               const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values, const SdpaOptions& options,
               Workspace<typename Queries::Scalar>& workspace);

/// The same; also keeps the log-sum-exp, from which sdpa_backward() recomputes the weights.
template <class Queries, class Keys, class Values>
SdpaForward<typename Queries::Scalar> sdpa_forward(const Eigen::MatrixBase<Queries>& queries,
                                                   const Eigen::MatrixBase<Keys>& keys,
                                                   const Eigen::MatrixBase<Values>& values,
                                                   const SdpaOptions& options = {});
/// The same into `forward`, whose matrices are reused, with the caller's scratch memory.
template <class Queries, class Keys, class Values>
void sdpa_forward_into(SdpaForward<typename Queries::Scalar>& forward, const Eigen::MatrixBase<Queries>& queries,
                       const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values,
                       const SdpaOptions& options, Workspace<typename Queries::Scalar>& workspace);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// The same after its arguments have been checked; log_sum_exp may be null.
template <class Out, class Queries, class Keys, class Values>
void sdpa_into(const Eigen::MatrixBase<Out>& out, const Eigen::MatrixBase<Queries>& queries,
               const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values, const SdpaOptions& options,
               typename Queries::Scalar* log_sum_exp, Workspace<typename Queries::Scalar>& workspace) {
  using S = typename Queries::Scalar;
  Evaluated<Queries> q = queries.derived();
  Evaluated<Keys> k = keys.derived();
  Evaluated<Values> v = values.derived();
  gma::detail::softmax_tiles(TokenView<S>(q), TokenView<S>(k), TokenView<S>(v), band_of(options, queries, keys),
                             TokenSink<S>(writable(out)), log_sum_exp, workspace);
}

}  // namespace detail

template <class Out, class Queries, class Keys, class Values>
void sdpa_into(const Eigen::MatrixBase<Out>& out, const Eigen::MatrixBase<Queries>& queries,
               const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values, const SdpaOptions& options,
               Workspace<typename Queries::Scalar>& workspace) {
  constexpr const char* function = "baselines::sdpa";
  detail::check_sdpa(function, queries, keys, values, options);
  detail::check_shape(function, "out", out.rows(), out.cols(), queries.rows(), values.cols(), "queries x value width");
  detail::sdpa_into<Out>(out, queries, keys, values, options, nullptr, workspace);
}

template <class Queries, class Keys, class Values>
Matrix<typename Queries::Scalar> sdpa(const Eigen::MatrixBase<Queries>& queries, const Eigen::MatrixBase<Keys>& keys,
                                      const Eigen::MatrixBase<Values>& values, const SdpaOptions& options) {
  Workspace<typename Queries::Scalar> workspace;
  Matrix<typename Queries::Scalar> out(queries.rows(), values.cols());
  sdpa_into(out, queries, keys, values, options, workspace);
  return out;
}

template <class Queries, class Keys, class Values>
void sdpa_forward_into(SdpaForward<typename Queries::Scalar>& forward, const Eigen::MatrixBase<Queries>& queries,
                       const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values,
                       const SdpaOptions& options, Workspace<typename Queries::Scalar>& workspace) {
  detail::check_sdpa("baselines::sdpa_forward", queries, keys, values, options);
  forward.output.resize(queries.rows(), values.cols());
  forward.log_sum_exp.resize(queries.rows());
  detail::sdpa_into(forward.output, queries, keys, values, options, forward.log_sum_exp.data(), workspace);
}

template <class Queries, class Keys, class Values>
SdpaForward<typename Queries::Scalar> sdpa_forward(const Eigen::MatrixBase<Queries>& queries,
                                                   const Eigen::MatrixBase<Keys>& keys,
                                                   const Eigen::MatrixBase<Values>& values,
                                                   const SdpaOptions& options) {
  Workspace<typename Queries::Scalar> workspace;
  SdpaForward<typename Queries::Scalar> forward;
  sdpa_forward_into(forward, queries, keys, values, options, workspace);
  return forward;
}

}  // namespace gma::baselines
