// SPDX-License-Identifier: MIT
// Softmax attention over tiles of queries and keys with a running softmax (the scheme known as flash attention): no
// Nq x Nk matrix is stored, and causal tiles above the diagonal are skipped. The form to compare speeds with; its
// backward is sdpa_backward.hpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "gma/baselines/sdpa_options.hpp"
#include "gma/core/workspace.hpp"
#include "gma/kernels/columns.hpp"
#include "gma/kernels/products.hpp"
#include "gma/kernels/rows.hpp"

namespace gma::baselines {

/// y_i = sum_j exp(s_ij) v_j / sum_j exp(s_ij) with s_ij = scale queries_i . keys_j, over j <= i only where is_causal,
/// and i - window < j where there is a window.
/// queries Nq x d, keys Nk x d, values Nk x e; returns Nq x e, zeros where there are no keys.
/// Cost O(Nq Nk (d + e)), half of it where causal, O(N (window + key_tile) (d + e)) with a window; extra memory
/// O(query_tile (d + key_tile)). Throws std::invalid_argument where shapes disagree or an option is out of range.
template <class Queries, class Keys, class Values>
Matrix<typename Queries::Scalar> sdpa(const Eigen::MatrixBase<Queries>& queries, const Eigen::MatrixBase<Keys>& keys,
                                      const Eigen::MatrixBase<Values>& values, const SdpaOptions& options = {});
/// The same into a caller's Nq x e matrix, block or map, with a caller's scratch memory.
template <class Out, class Queries, class Keys, class Values>
void sdpa_into(const Eigen::MatrixBase<Out>& out, const Eigen::MatrixBase<Queries>& queries,
               const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values, const SdpaOptions& options,
               Workspace<typename Queries::Scalar>& workspace);

/// The same, keeping also what sdpa_backward() recomputes the weights from.
template <class Queries, class Keys, class Values>
SdpaForward<typename Queries::Scalar> sdpa_forward(const Eigen::MatrixBase<Queries>& queries,
                                                   const Eigen::MatrixBase<Keys>& keys,
                                                   const Eigen::MatrixBase<Values>& values,
                                                   const SdpaOptions& options = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// The scores of keys that a query does not see (rows are keys from key_begin on, columns queries from query_begin on)
/// become minus infinity.
template <class S>
void hide_keys(const SdpaOptions& options, Tile<S> scores, Index query_begin, Index key_begin) {
  const S hidden = -std::numeric_limits<S>::infinity();
  for (Index j = 0; j < scores.rows(); ++j) {
    const Index first = key_begin + j - query_begin;  // the query of the key's own token
    const Index seen_from = (std::clamp)(first, Index(0), scores.cols());
    for (Index i = 0; i < seen_from; ++i) scores(j, i) = hidden;
    if (options.window == 0) continue;
    for (Index i = (std::max)(Index(0), first + options.window); i < scores.cols(); ++i) scores(j, i) = hidden;
  }
}

/// One head. `log_sum_exp` (Nq) may be null. A tile of queries is transposed once: scores then have keys as rows and
/// queries as columns, keys and values are read where they lie, and both products are those of the one kernel.
template <class S>
void sdpa_tiles(const TokenView<S>& queries, const TokenView<S>& keys, const TokenView<S>& values,
                const SdpaOptions& options, const TokenSink<S>& out, S* log_sum_exp, Workspace<S>& workspace) {
  using std::log;
  const typename Workspace<S>::Frame frame(workspace);
  const Index key_tile = (std::min)(options.key_tile, keys.rows());
  // With a window, every query of a tile has to see a key of the first key tile that is read for it.
  const Index query_tile =
      (std::min)(options.window > 0 ? (std::min)(options.query_tile, key_tile) : options.query_tile, queries.rows());
  const Tile<S> query_copy = workspace.take(query_tile, queries.cols());
  const Tile<S> key_copy = workspace.take(key_tile, keys.cols());
  const Tile<S> value_copy = workspace.take(key_tile, values.cols());
  const Tile<S> out_copy = workspace.take(query_tile, values.cols());
  const Tile<S> transposed_storage = workspace.take(queries.cols(), query_tile);
  const Tile<S> score_storage = workspace.take(key_tile, query_tile);
  Tile<S> largest = workspace.take(1, query_tile), sum = workspace.take(1, query_tile);
  Tile<S> correction = workspace.take(1, query_tile);
  const S scale = score_scale<S>(options, queries.cols());

  for (Index i = 0; i < queries.rows(); i += query_tile) {
    const Index count = (std::min)(query_tile, queries.rows() - i);
    const Index key_begin = seen_keys(options, i, keys.rows()).begin;
    const Index key_end = seen_keys(options, i + count - 1, keys.rows()).end;
    Tile<S> transposed = front(transposed_storage, queries.cols(), count);
    transposed = scale * queries.tile(i, count, query_copy).transpose();
    Tile<S> y = out.tile(i, count, out_copy);
    y.setZero();
    largest.setConstant(-std::numeric_limits<S>::infinity());
    sum.setZero();
    for (Index j = key_begin; j < key_end; j += key_tile) {
      const Index seen = (std::min)(key_tile, key_end - j);
      Tile<S> scores = front(score_storage, seen, count);
      gma::detail::product<S>(keys.tile(j, seen, key_copy), transposed, scores);
      const bool hides = j + seen > i || seen_keys(options, i + count - 1, keys.rows()).begin > j;
      if (options.is_causal && hides) hide_keys(options, scores, i, j);
      kernels::running_softmax(scores, largest.data(), sum.data(), correction.data());
      if (j > key_begin) kernels::scale_rows(y, correction.data());
      gma::detail::add_transposed_product<S>(scores, values.tile(j, seen, value_copy), y);
    }
    for (Index t = 0; t < count; ++t) {
      const S total = sum(0, t);
      if (log_sum_exp != nullptr) log_sum_exp[i + t] = largest(0, t) + (key_end > 0 ? S(log(total)) : S(0));
      sum(0, t) = key_end > 0 ? S(S(1) / total) : S(1);
    }
    kernels::scale_rows(y, sum.data());
    out.store(i, y);
  }
}

template <class Out, class Queries, class Keys, class Values>
void sdpa_into(const char* function, const Eigen::MatrixBase<Out>& out, const Eigen::MatrixBase<Queries>& queries,
               const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values, const SdpaOptions& options,
               typename Queries::Scalar* log_sum_exp, Workspace<typename Queries::Scalar>& workspace) {
  using S = typename Queries::Scalar;
  check_sdpa(function, queries, keys, values, options);
  check_shape(function, "out", out.rows(), out.cols(), queries.rows(), values.cols(), "queries x value width");
  Evaluated<Queries> q = queries.derived();
  Evaluated<Keys> k = keys.derived();
  Evaluated<Values> v = values.derived();
  sdpa_tiles(TokenView<S>(q), TokenView<S>(k), TokenView<S>(v), options, TokenSink<S>(writable(out)), log_sum_exp,
             workspace);
}

}  // namespace detail

template <class Out, class Queries, class Keys, class Values>
void sdpa_into(const Eigen::MatrixBase<Out>& out, const Eigen::MatrixBase<Queries>& queries,
               const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values, const SdpaOptions& options,
               Workspace<typename Queries::Scalar>& workspace) {
  detail::sdpa_into<Out>("baselines::sdpa", out, queries, keys, values, options, nullptr, workspace);
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
SdpaForward<typename Queries::Scalar> sdpa_forward(const Eigen::MatrixBase<Queries>& queries,
                                                   const Eigen::MatrixBase<Keys>& keys,
                                                   const Eigen::MatrixBase<Values>& values,
                                                   const SdpaOptions& options) {
  using S = typename Queries::Scalar;
  Workspace<S> workspace;
  SdpaForward<S> forward{Matrix<S>(queries.rows(), values.cols()), Vector<S>(queries.rows())};
  detail::sdpa_into("baselines::sdpa_forward", forward.output, queries, keys, values, options,
                    forward.log_sum_exp.data(), workspace);
  return forward;
}

}  // namespace gma::baselines
