// SPDX-License-Identifier: MIT
// Backward of the tiled softmax attention. The weights are recomputed tile by tile from the log-sum-exp of the forward
// pass, so no Nq x Nk matrix is stored here either.
#pragma once

#include <utility>

#include "gma/softmax/sdpa_tiled.hpp"

namespace gma::baselines {

/// Gradients of sdpa_forward().output. d_output, Nq x e, is the gradient of the output. With A_ij = exp(s_ij -
/// log_sum_exp_i):
///   dV = A^T dY    dA = dY V^T    dS = A * (dA - rowsum(dY * Y))    dQ = scale dS K    dK = scale dS^T Q
/// queries Nq x d, keys Nk x d, values Nk x e; forward is the result of sdpa_forward() for the same arguments. Cost 2.5
/// times the products of the forward pass; extra memory O(Nq + query_tile key_tile). Throws std::invalid_argument if
/// shapes disagree or an option is out of range.
template <class Queries, class Keys, class Values, class DOutput>
SdpaGradients<typename Queries::Scalar> sdpa_backward(const Eigen::MatrixBase<Queries>& queries,
                                                      const Eigen::MatrixBase<Keys>& keys,
                                                      const Eigen::MatrixBase<Values>& values,
                                                      const Eigen::MatrixBase<DOutput>& d_output,
                                                      const SdpaForward<typename Queries::Scalar>& forward,
                                                      const SdpaOptions& options = {});
/// The same without the result of a forward pass: runs it first.
template <class Queries, class Keys, class Values, class DOutput>
SdpaGradients<typename Queries::Scalar> sdpa_backward(const Eigen::MatrixBase<Queries>& queries,
                                                      const Eigen::MatrixBase<Keys>& keys,
                                                      const Eigen::MatrixBase<Values>& values,
                                                      const Eigen::MatrixBase<DOutput>& d_output,
                                                      const SdpaOptions& options = {});
/// The same into `gradients`, whose matrices are reused, with the caller's scratch memory.
template <class Queries, class Keys, class Values, class DOutput>
void sdpa_backward_into(SdpaGradients<typename Queries::Scalar>& gradients, const Eigen::MatrixBase<Queries>& queries,
                        const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values,
                        const Eigen::MatrixBase<DOutput>& d_output,
                        const SdpaForward<typename Queries::Scalar>& forward, const SdpaOptions& options,
                        Workspace<typename Queries::Scalar>& workspace);

// Implementation -----------------------------------------------------------------------------------------------------

template <class Queries, class Keys, class Values, class DOutput>
void sdpa_backward_into(SdpaGradients<typename Queries::Scalar>& gradients, const Eigen::MatrixBase<Queries>& queries,
                        const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values,
                        const Eigen::MatrixBase<DOutput>& d_output,
                        const SdpaForward<typename Queries::Scalar>& forward, const SdpaOptions& options,
                        Workspace<typename Queries::Scalar>& workspace) {
  using S = typename Queries::Scalar;
  constexpr const char* function = "baselines::sdpa_backward";
  detail::check_sdpa(function, queries, keys, values, options);
  detail::check_shape(function, "d_output", d_output.rows(), d_output.cols(), queries.rows(), values.cols(),
                      "queries x value width");
  detail::check_shape(function, "forward.output", forward.output.rows(), forward.output.cols(), queries.rows(),
                      values.cols(), "queries x value width");
  detail::check_size(function, "forward.log_sum_exp", "coefficients", forward.log_sum_exp.size(), queries.rows(),
                     "one per query");
  detail::Evaluated<Queries> q = queries.derived();
  detail::Evaluated<Keys> k = keys.derived();
  detail::Evaluated<Values> v = values.derived();
  detail::Evaluated<DOutput> dy = d_output.derived();
  gradients.queries.setZero(queries.rows(), queries.cols());
  gradients.keys.setZero(keys.rows(), keys.cols());
  gradients.values.setZero(values.rows(), values.cols());
  using gma::detail::as_tile;
  gma::detail::softmax_tiles_backward<S>(
      detail::TokenView<S>(q), detail::TokenView<S>(k), detail::TokenView<S>(v), as_tile(std::as_const(forward.output)),
      forward.log_sum_exp.data(), detail::TokenView<S>(dy), detail::band_of(options, queries, keys),
      as_tile(gradients.queries), as_tile(gradients.keys), as_tile(gradients.values), workspace);
}

template <class Queries, class Keys, class Values, class DOutput>
SdpaGradients<typename Queries::Scalar> sdpa_backward(const Eigen::MatrixBase<Queries>& queries,
                                                      const Eigen::MatrixBase<Keys>& keys,
                                                      const Eigen::MatrixBase<Values>& values,
                                                      const Eigen::MatrixBase<DOutput>& d_output,
                                                      const SdpaForward<typename Queries::Scalar>& forward,
                                                      const SdpaOptions& options) {
  Workspace<typename Queries::Scalar> workspace;
  SdpaGradients<typename Queries::Scalar> gradients;
  sdpa_backward_into(gradients, queries, keys, values, d_output, forward, options, workspace);
  return gradients;
}

template <class Queries, class Keys, class Values, class DOutput>
SdpaGradients<typename Queries::Scalar> sdpa_backward(const Eigen::MatrixBase<Queries>& queries,
                                                      const Eigen::MatrixBase<Keys>& keys,
                                                      const Eigen::MatrixBase<Values>& values,
                                                      const Eigen::MatrixBase<DOutput>& d_output,
                                                      const SdpaOptions& options) {
  return sdpa_backward(queries, keys, values, d_output, sdpa_forward(queries, keys, values, options), options);
}

}  // namespace gma::baselines
