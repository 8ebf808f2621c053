// SPDX-License-Identifier: MIT
// Softmax attention of one head over tiles of queries and keys, forward and backward, with a running softmax (the
// scheme known as flash attention). No Nq x Nk matrix is stored. gma/softmax/sdpa.hpp and the window of an attention
// layer run on it.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "gma/core/elementwise.hpp"
#include "gma/core/tokens.hpp"
#include "gma/core/workspace.hpp"
#include "gma/kernels/products.hpp"
#include "gma/kernels/rows.hpp"
#include "gma/softmax/running_softmax.hpp"

namespace gma::detail {

/// The keys that a query sees, and the sizes of the tiles.
struct SoftmaxBand {
  double scale = 1;        // of the scores
  bool is_causal = false;  // query i sees no key after its own token's, which is key own + i
  Index window = 0;  // causal only: the number of keys that it sees, its own the last; 0: all up to its own. It is
                     // added to numbers of tokens, so it must be far below the largest Index
  Index own = 0;
  Index query_tile = 96, key_tile = 96;
};

/// The keys that a query sees: [begin, end).
struct SeenKeys {
  Index begin, end;
};
inline SeenKeys seen_keys(const SoftmaxBand& band, Index query, Index keys) {
  if (!band.is_causal) return {0, keys};
  const Index end = band.own + query + 1;
  return {band.window > 0 ? (std::max)(Index(0), end - band.window) : 0, end};
}

/// out_i = sum_j exp(s_ij - log_sum_exp_i) values_j over the keys that query i sees, s_ij = scale queries_i . keys_j;
/// zeros if it sees none. queries Nq x d, keys Nk x d, values Nk x e, out Nq x e; log_sum_exp (Nq) may be null.
template <class S>
void softmax_tiles(const TokenView<S>& queries, const TokenView<S>& keys, const TokenView<S>& values,
                   const SoftmaxBand& band, const TokenSink<S>& out, S* log_sum_exp, Workspace<S>& workspace);

/// The same for one query, 1 x d, that sees all keys; there must be at least one. It works along a row. `scores` is
/// scratch, 1 x Nk.
template <class S>
void softmax_of_one(const ConstTile<S>& query, const ConstTile<S>& keys, const ConstTile<S>& values, double scale,
                    Tile<S> scores, Tile<S> out, S* log_sum_exp);

/// The gradients, from the output Nq x e, its log_sum_exp and its gradient. The gradients must be zeros before. With A
/// the weights exp(s_ij - log_sum_exp_i): dV = A^T dY, dS = A * (dY V^T - rowsum(dY * Y)), dQ = scale dS K, dK = scale
/// dS^T Q.
template <class S>
void softmax_tiles_backward(const TokenView<S>& queries, const TokenView<S>& keys, const TokenView<S>& values,
                            const ConstTile<S>& output, const S* log_sum_exp, const TokenView<S>& d_output,
                            const SoftmaxBand& band, Tile<S> d_queries, Tile<S> d_keys, Tile<S> d_values,
                            Workspace<S>& workspace);

// Implementation -----------------------------------------------------------------------------------------------------

/// The first rows x cols numbers of a buffer, as a matrix without gaps.
template <class S>
Tile<S> front(Tile<S> buffer, Index rows, Index cols) {
  return Tile<S>(buffer.data(), rows, cols, Eigen::OuterStride<>(cols));
}

/// The scores of keys that a query does not see become minus infinity. Rows are keys from key_begin on, columns are
/// queries from query_begin on.
template <class S>
void hide_keys(const SoftmaxBand& band, Tile<S> scores, Index query_begin, Index key_begin) {
  const S hidden = -std::numeric_limits<S>::infinity();
  for (Index j = 0; j < scores.rows(); ++j) {
    const Index first = key_begin + j - band.own - query_begin;  // the query of the key's own token
    const Index seen_from = (std::clamp)(first, Index(0), scores.cols());
    for (Index i = 0; i < seen_from; ++i) scores(j, i) = hidden;
    if (band.window == 0) continue;
    for (Index i = (std::max)(Index(0), first + band.window); i < scores.cols(); ++i) scores(j, i) = hidden;
  }
}

/// A tile of queries is transposed once. Scores then have keys as rows and queries as columns, keys and values are read
/// in place, and both products are those of the one kernel.
template <class S>
void softmax_tiles(const TokenView<S>& queries, const TokenView<S>& keys, const TokenView<S>& values,
                   const SoftmaxBand& band, const TokenSink<S>& out, S* log_sum_exp, Workspace<S>& workspace) {
  using std::log;
  const typename Workspace<S>::Frame frame(workspace);
  const Index key_tile = (std::min)(band.key_tile, keys.rows());
  // With a window, every query of a tile must see a key of the first key tile that is read for it.
  const Index query_tile =
      (std::min)(band.window > 0 ? (std::min)(band.query_tile, key_tile) : band.query_tile, queries.rows());
  const Tile<S> query_copy = workspace.take(query_tile, queries.cols());
  const Tile<S> key_copy = workspace.take(key_tile, keys.cols());
  const Tile<S> value_copy = workspace.take(key_tile, values.cols());
  const Tile<S> out_copy = workspace.take(query_tile, values.cols());
  const Tile<S> transposed_storage = workspace.take(queries.cols(), query_tile);
  const Tile<S> score_storage = workspace.take(key_tile, query_tile);
  Tile<S> largest = workspace.take(1, query_tile), sum = workspace.take(1, query_tile);
  Tile<S> correction = workspace.take(1, query_tile);
  const S scale = static_cast<S>(band.scale);

  for (Index i = 0; i < queries.rows(); i += query_tile) {
    const Index count = (std::min)(query_tile, queries.rows() - i);
    const Index key_begin = seen_keys(band, i, keys.rows()).begin;
    const Index key_end = seen_keys(band, i + count - 1, keys.rows()).end;
    Tile<S> transposed = front(transposed_storage, queries.cols(), count);
    transposed = scale * queries.tile(i, count, query_copy).transpose();
    Tile<S> y = out.tile(i, count, out_copy);
    y.setZero();
    largest.setConstant(-std::numeric_limits<S>::infinity());
    sum.setZero();
    for (Index j = key_begin; j < key_end; j += key_tile) {
      const Index seen = (std::min)(key_tile, key_end - j);
      Tile<S> scores = front(score_storage, seen, count);
      product<S>(keys.tile(j, seen, key_copy), transposed, scores);
      const bool hides = j + seen > i + band.own || seen_keys(band, i + count - 1, keys.rows()).begin > j;
      if (band.is_causal && hides) hide_keys(band, scores, i, j);
      kernels::running_softmax(scores, largest.data(), sum.data(), correction.data());
      if (j > key_begin) kernels::scale_rows(y, correction.data());
      add_transposed_product<S>(scores, values.tile(j, seen, value_copy), y);
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

template <class S>
void softmax_of_one(const ConstTile<S>& query, const ConstTile<S>& keys, const ConstTile<S>& values, double scale,
                    Tile<S> scores, Tile<S> out, S* log_sum_exp) {
  using std::log;
  S largest = -std::numeric_limits<S>::infinity();
  for (Index j = 0; j < keys.rows(); ++j) {
    scores(0, j) =
        static_cast<S>(scale) * kernels::dot(query.data(), keys.data() + j * keys.outerStride(), keys.cols());
    if (scores(0, j) > largest) largest = scores(0, j);
  }
  in_chunks(scores.data(), keys.rows(), [&](Chunk<S>& z) { z = (z - largest).exp(); });
  S total(0);
  for (Index j = 0; j < keys.rows(); ++j) total += scores(0, j);
  product<S>(scores, values, out);
  const S share = S(1) / total;
  kernels::scale_rows(out, &share);
  *log_sum_exp = largest + S(log(total));
}

/// scores = s_ij becomes A_ij, and d_weights = dA_ij becomes dS_ij. Both are 0 if the key is not seen.
template <class S>
void scores_backward(const SoftmaxBand& band, Tile<S> scores, Tile<S> d_weights, Index query_begin, Index key_begin,
                     const S* log_sum_exp, const S* inner) {
  for (Index i = 0; i < scores.rows(); ++i) {
    const SeenKeys seen = seen_keys(band, query_begin + i, key_begin + scores.cols());
    const Index begin = (std::clamp)(seen.begin - key_begin, Index(0), scores.cols());
    const Index end = (std::clamp)(seen.end - key_begin, begin, scores.cols());
    for (Tile<S>* tile : {&scores, &d_weights}) {
      tile->row(i).head(begin).setZero();
      tile->row(i).tail(scores.cols() - end).setZero();
    }
    auto weights = scores.row(i).segment(begin, end - begin).array();
    auto d_scores = d_weights.row(i).segment(begin, end - begin).array();
    weights =
        ((weights - log_sum_exp[i]).min)(S(0)).exp();  // only rounding makes it positive, by much if scores are large
    d_scores = weights * (d_scores - inner[i]);
  }
}

/// Keys outside, queries inside. A key tile's gradients are finished before the next tile begins; those of the queries
/// accumulate.
template <class S>
void softmax_tiles_backward(const TokenView<S>& queries, const TokenView<S>& keys, const TokenView<S>& values,
                            const ConstTile<S>& output, const S* log_sum_exp, const TokenView<S>& d_output,
                            const SoftmaxBand& band, Tile<S> d_queries, Tile<S> d_keys, Tile<S> d_values,
                            Workspace<S>& workspace) {
  const typename Workspace<S>::Frame frame(workspace);
  const Index query_tile = (std::min)(band.query_tile, queries.rows());
  const Index key_tile = (std::min)(band.key_tile, keys.rows());
  const Tile<S> query_copy = workspace.take(query_tile, queries.cols());
  const Tile<S> key_copy = workspace.take(key_tile, keys.cols());
  const Tile<S> value_copy = workspace.take(key_tile, values.cols());
  const Tile<S> d_output_copy = workspace.take(query_tile, values.cols());
  const Tile<S> scaled_storage = workspace.take(key_tile, keys.cols());
  const Tile<S> key_storage = workspace.take(keys.cols(), key_tile);
  const Tile<S> value_storage = workspace.take(values.cols(), key_tile);
  const Tile<S> score_storage = workspace.take(query_tile, key_tile);
  const Tile<S> d_score_storage = workspace.take(query_tile, key_tile);
  const S scale = static_cast<S>(band.scale);

  Tile<S> inner = workspace.take(queries.rows(), 1);
  for (Index i = 0; i < queries.rows(); i += query_tile) {
    const Index count = (std::min)(query_tile, queries.rows() - i);
    const ConstTile<S> dy = d_output.tile(i, count, d_output_copy);
    for (Index t = 0; t < count; ++t) {
      inner(i + t, 0) =
          kernels::dot(output.data() + (i + t) * output.outerStride(), dy.data() + t * dy.outerStride(), values.cols());
    }
  }
  for (Index j = 0; j < keys.rows(); j += key_tile) {
    const Index tile_keys = (std::min)(key_tile, keys.rows() - j);
    Tile<S> scaled = front(scaled_storage, tile_keys, keys.cols());
    scaled = scale * keys.tile(j, tile_keys, key_copy);
    Tile<S> transposed_keys = front(key_storage, keys.cols(), tile_keys);
    Tile<S> transposed_values = front(value_storage, values.cols(), tile_keys);
    transposed_keys = scaled.transpose();
    transposed_values = values.tile(j, tile_keys, value_copy).transpose();
    // The first query that sees a key of the tile, and the end of the queries that do.
    const Index query_begin = band.is_causal ? (std::max)(Index(0), j - band.own) : 0;
    const Index query_end =
        band.window > 0 ? (std::min)(queries.rows(), j + tile_keys + band.window - 1 - band.own) : queries.rows();
    for (Index i = query_begin; i < query_end; i += query_tile) {
      const Index count = (std::min)(query_tile, query_end - i);
      const Index cols = (std::min)(tile_keys, seen_keys(band, i + count - 1, keys.rows()).end - j);
      const ConstTile<S> q = queries.tile(i, count, query_copy), dy = d_output.tile(i, count, d_output_copy);
      Tile<S> scores = front(score_storage, count, cols), d_scores = front(d_score_storage, count, cols);
      product<S>(q, transposed_keys.leftCols(cols), scores);
      product<S>(dy, transposed_values.leftCols(cols), d_scores);
      scores_backward(band, scores, d_scores, i, j, log_sum_exp + i, &inner(i, 0));
      add_transposed_product<S>(scores, dy, rows(d_values, j, cols));
      add_transposed_product<S>(d_scores, q, rows(d_keys, j, cols));
      add_product<S>(d_scores, front(scaled, cols, keys.cols()), rows(d_queries, i, count));
    }
    rows(d_keys, j, tile_keys) *= scale;
  }
}

}  // namespace gma::detail
