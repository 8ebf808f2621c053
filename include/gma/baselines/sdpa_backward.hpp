// SPDX-License-Identifier: MIT
// Backward of the tiled softmax attention: the weights are recomputed tile by tile from the log-sum-exp that the
// forward pass kept, so that here, too, no Nq x Nk matrix is stored.
#pragma once

#include "gma/baselines/sdpa_tiled.hpp"

namespace gma::baselines {

/// Gradients of sdpa_forward().output, given that of the output, d_output Nq x e. With A_ij = exp(s_ij -
/// log_sum_exp_i):
///   dV = A^T dY    dA = dY V^T    dS = A * (dA - rowsum(dY * Y))    dQ = scale dS K    dK = scale dS^T Q
/// queries Nq x d, keys Nk x d, values Nk x e, forward as sdpa_forward() returned it for the same arguments.
/// Cost 2.5 times the products of the forward pass; extra memory O(Nq + query_tile key_tile).
/// Throws std::invalid_argument where shapes disagree or an option is out of range.
template <class Queries, class Keys, class Values, class DOutput>
SdpaGradients<typename Queries::Scalar> sdpa_backward(const Eigen::MatrixBase<Queries>& queries,
                                                      const Eigen::MatrixBase<Keys>& keys,
                                                      const Eigen::MatrixBase<Values>& values,
                                                      const Eigen::MatrixBase<DOutput>& d_output,
                                                      const SdpaForward<typename Queries::Scalar>& forward,
                                                      const SdpaOptions& options = {});
/// The same without a forward pass at hand: runs it first.
template <class Queries, class Keys, class Values, class DOutput>
SdpaGradients<typename Queries::Scalar> sdpa_backward(const Eigen::MatrixBase<Queries>& queries,
                                                      const Eigen::MatrixBase<Keys>& keys,
                                                      const Eigen::MatrixBase<Values>& values,
                                                      const Eigen::MatrixBase<DOutput>& d_output,
                                                      const SdpaOptions& options = {});
/// The same into `gradients`, whose matrices are reused, with a caller's scratch memory.
template <class Queries, class Keys, class Values, class DOutput>
void sdpa_backward_into(SdpaGradients<typename Queries::Scalar>& gradients, const Eigen::MatrixBase<Queries>& queries,
                        const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values,
                        const Eigen::MatrixBase<DOutput>& d_output,
                        const SdpaForward<typename Queries::Scalar>& forward, const SdpaOptions& options,
                        Workspace<typename Queries::Scalar>& workspace);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// scores = s_ij becomes A_ij; d_weights = dA_ij becomes dS_ij. Both are 0 where a key is not seen.
template <class S>
void scores_backward(const SdpaOptions& options, Tile<S> scores, Tile<S> d_weights, Index query_begin, Index key_begin,
                     const S* log_sum_exp, const S* inner) {
  for (Index i = 0; i < scores.rows(); ++i) {
    const SeenKeys seen = seen_keys(options, query_begin + i, key_begin + scores.cols());
    const Index begin = (std::clamp)(seen.begin - key_begin, Index(0), scores.cols());
    const Index end = (std::clamp)(seen.end - key_begin, begin, scores.cols());
    for (Tile<S>* tile : {&scores, &d_weights}) {
      tile->row(i).head(begin).setZero();
      tile->row(i).tail(scores.cols() - end).setZero();
    }
    auto weights = scores.row(i).segment(begin, end - begin).array();
    auto d_scores = d_weights.row(i).segment(begin, end - begin).array();
    weights = (weights - log_sum_exp[i]).exp();
    d_scores = weights * (d_scores - inner[i]);
  }
}

/// Keys outside, queries inside: a key tile's gradients are finished before the next begins, those of the queries grow.
template <class S>
void sdpa_tiles_backward(const TokenView<S>& queries, const TokenView<S>& keys, const TokenView<S>& values,
                         const TokenView<S>& d_output, const SdpaForward<S>& forward, const SdpaOptions& options,
                         SdpaGradients<S>& gradients, Workspace<S>& workspace) {
  const typename Workspace<S>::Frame frame(workspace);
  const Index query_tile = (std::min)(options.query_tile, queries.rows());
  const Index key_tile = (std::min)(options.key_tile, keys.rows());
  const Tile<S> query_copy = workspace.take(query_tile, queries.cols());
  const Tile<S> key_copy = workspace.take(key_tile, keys.cols());
  const Tile<S> value_copy = workspace.take(key_tile, values.cols());
  const Tile<S> d_output_copy = workspace.take(query_tile, values.cols());
  const Tile<S> scaled_storage = workspace.take(key_tile, keys.cols());
  const Tile<S> key_storage = workspace.take(keys.cols(), key_tile);
  const Tile<S> value_storage = workspace.take(values.cols(), key_tile);
  const Tile<S> score_storage = workspace.take(query_tile, key_tile);
  const Tile<S> d_score_storage = workspace.take(query_tile, key_tile);
  const S scale = score_scale<S>(options, queries.cols());

  Tile<S> inner = workspace.take(queries.rows(), 1);
  for (Index i = 0; i < queries.rows(); i += query_tile) {
    const Index rows = (std::min)(query_tile, queries.rows() - i);
    inner.middleRows(i, rows) =
        forward.output.middleRows(i, rows).cwiseProduct(d_output.tile(i, rows, d_output_copy)).rowwise().sum();
  }
  for (Index j = 0; j < keys.rows(); j += key_tile) {
    const Index tile_keys = (std::min)(key_tile, keys.rows() - j);
    Tile<S> scaled = front(scaled_storage, tile_keys, keys.cols());
    scaled = scale * keys.tile(j, tile_keys, key_copy);
    Tile<S> transposed_keys = front(key_storage, keys.cols(), tile_keys);
    Tile<S> transposed_values = front(value_storage, values.cols(), tile_keys);
    transposed_keys = scaled.transpose();
    transposed_values = values.tile(j, tile_keys, value_copy).transpose();
    Tile<S> d_keys = gma::detail::rows(gradients.keys, j, tile_keys);
    Tile<S> d_values = gma::detail::rows(gradients.values, j, tile_keys);
    const Index query_end =
        options.window > 0 ? (std::min)(queries.rows(), j + tile_keys + options.window - 1) : queries.rows();
    for (Index i = options.is_causal ? j : 0; i < query_end; i += query_tile) {
      const Index rows = (std::min)(query_tile, query_end - i);
      const Index cols = (std::min)(tile_keys, seen_keys(options, i + rows - 1, keys.rows()).end - j);
      const ConstTile<S> q = queries.tile(i, rows, query_copy), dy = d_output.tile(i, rows, d_output_copy);
      Tile<S> scores = front(score_storage, rows, cols), d_scores = front(d_score_storage, rows, cols);
      const Tile<S> scaled_seen = front(scaled, cols, keys.cols());
      gma::detail::product<S>(q, transposed_keys.leftCols(cols), scores);
      gma::detail::product<S>(dy, transposed_values.leftCols(cols), d_scores);
      scores_backward(options, scores, d_scores, i, j, forward.log_sum_exp.data() + i, &inner(i, 0));
      gma::detail::add_transposed_product<S>(scores, dy, front(d_values, cols, values.cols()));
      gma::detail::add_transposed_product<S>(d_scores, q, front(d_keys, cols, keys.cols()));
      gma::detail::add_product<S>(d_scores, scaled_seen, gma::detail::rows(gradients.queries, i, rows));
    }
    d_keys *= scale;
  }
}

}  // namespace detail

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
  detail::sdpa_tiles_backward(detail::TokenView<S>(q), detail::TokenView<S>(k), detail::TokenView<S>(v),
                              detail::TokenView<S>(dy), forward, options, gradients, workspace);
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
