// SPDX-License-Identifier: MIT
// Softmax attention as its equation says, with the whole Nq x Nk matrix of weights. It is short and easy to check, and
// the tests compare the tiled form with it.
#pragma once

#include "gma/softmax/sdpa_options.hpp"

namespace gma::baselines {

/// A = softmax over j of (scale queries_i . keys_j), over the keys that query i sees: see sdpa(). queries Nq x d, keys
/// Nk x d; returns Nq x Nk. Cost O(Nq Nk d), memory O(Nq Nk). Throws std::invalid_argument if shapes disagree.
template <class Queries, class Keys>
Matrix<typename Queries::Scalar> sdpa_weights(const Eigen::MatrixBase<Queries>& queries,
                                              const Eigen::MatrixBase<Keys>& keys, const SdpaOptions& options = {});

/// Y = A V. queries Nq x d, keys Nk x d, values Nk x e; returns Nq x e, zeros if there are no keys. Cost O(Nq Nk (d +
/// e)), memory O(Nq Nk). Tile sizes are ignored. Throws std::invalid_argument if shapes disagree.
template <class Queries, class Keys, class Values>
Matrix<typename Queries::Scalar> sdpa_dense(const Eigen::MatrixBase<Queries>& queries,
                                            const Eigen::MatrixBase<Keys>& keys,
                                            const Eigen::MatrixBase<Values>& values, const SdpaOptions& options = {});

/// The gradients of sdpa_dense. d_output, Nq x e, is the gradient of its output:
///   dV = A^T dY    dA = dY V^T    dS = A * (dA - rowsum(A * dA))    dQ = scale dS K    dK = scale dS^T Q
/// Cost O(Nq Nk (d + e)), memory O(Nq Nk). Throws std::invalid_argument if shapes disagree.
template <class Queries, class Keys, class Values, class DOutput>
SdpaGradients<typename Queries::Scalar> sdpa_dense_backward(const Eigen::MatrixBase<Queries>& queries,
                                                            const Eigen::MatrixBase<Keys>& keys,
                                                            const Eigen::MatrixBase<Values>& values,
                                                            const Eigen::MatrixBase<DOutput>& d_output,
                                                            const SdpaOptions& options = {});

// Implementation -----------------------------------------------------------------------------------------------------

template <class Queries, class Keys>
Matrix<typename Queries::Scalar> sdpa_weights(const Eigen::MatrixBase<Queries>& queries,
                                              const Eigen::MatrixBase<Keys>& keys, const SdpaOptions& options) {
  using S = typename Queries::Scalar;
  detail::check_sdpa("baselines::sdpa_weights", queries, keys, keys, options);
  const gma::detail::SoftmaxBand band = detail::band_of(options, queries, keys);
  const S scale = static_cast<S>(band.scale);
  Matrix<S> weights(queries.rows(), keys.rows());
  weights.noalias() = (scale * queries) * keys.transpose();
  for (Index i = 0; i < weights.rows() && weights.cols() > 0; ++i) {
    const gma::detail::SeenKeys seen = gma::detail::seen_keys(band, i, weights.cols());
    auto row = weights.row(i).segment(seen.begin, seen.end - seen.begin).array();
    const S largest = row.maxCoeff();
    row = (row - largest).exp();
    row /= row.sum();
    weights.row(i).head(seen.begin).setZero();
    weights.row(i).tail(weights.cols() - seen.end).setZero();
  }
  return weights;
}

template <class Queries, class Keys, class Values>
Matrix<typename Queries::Scalar> sdpa_dense(const Eigen::MatrixBase<Queries>& queries,
                                            const Eigen::MatrixBase<Keys>& keys,
                                            const Eigen::MatrixBase<Values>& values, const SdpaOptions& options) {
  detail::check_sdpa("baselines::sdpa_dense", queries, keys, values, options);
  return sdpa_weights(queries, keys, options) * values;
}

template <class Queries, class Keys, class Values, class DOutput>
SdpaGradients<typename Queries::Scalar> sdpa_dense_backward(const Eigen::MatrixBase<Queries>& queries,
                                                            const Eigen::MatrixBase<Keys>& keys,
                                                            const Eigen::MatrixBase<Values>& values,
                                                            const Eigen::MatrixBase<DOutput>& d_output,
                                                            const SdpaOptions& options) {
  using S = typename Queries::Scalar;
  const char* const function = "baselines::sdpa_dense_backward";
  detail::check_sdpa(function, queries, keys, values, options);
  detail::check_shape(function, "d_output", d_output.rows(), d_output.cols(), queries.rows(), values.cols(),
                      "queries x value width");
  const S scale = static_cast<S>(detail::score_scale(options, queries.cols()));
  const Matrix<S> weights = sdpa_weights(queries, keys, options);
  const Matrix<S> d_weights = d_output * values.transpose();
  const Vector<S> inner = weights.cwiseProduct(d_weights).rowwise().sum();
  const Matrix<S> d_scores = weights.array() * (d_weights.colwise() - inner).array();
  SdpaGradients<S> gradients;
  gradients.queries = scale * (d_scores * keys);
  gradients.keys = scale * (d_scores.transpose() * queries);
  gradients.values = weights.transpose() * d_output;
  return gradients;
}

}  // namespace gma::baselines
