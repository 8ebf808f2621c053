// SPDX-License-Identifier: MIT
// One tile of T tokens under the gated delta rule (9); backward: delta_tile_backward.hpp. With M the memory before the
// tile, lambda_t the forgetting, Gamma_ij = lambda_{j+1} ... lambda_i and gamma_i = lambda_1 ... lambda_i:
//
//   E = V - gamma K M - tril(Gamma o K K^T, -1) U          U = b E, row by row from the first
//   Y = gamma Q M + tril(Gamma o Q K^T) U                  M' = gamma_T M + (Gamma_T K)^T U
//
// Row i uses rows j <= i only, from the last restart on: nothing that comes later, NaN included, changes one bit of it,
// and a restart cuts off all that came before.
#pragma once

#include <algorithm>
#include <vector>

#include "gma/attention/causal_tile.hpp"
#include "gma/attention/token_stream.hpp"
#include "gma/core/elementwise.hpp"
#include "gma/kernels/decay.hpp"
#include "gma/kernels/delta.hpp"
#include "gma/kernels/products.hpp"
#include "gma/kernels/scan.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma::detail {

/// Tokens in a tile: the work within a tile grows with them, that with the memory does not.
inline constexpr Index default_delta_tile = 32;

/// Added to the square of a length before its root is taken: what has no length stays without.
inline constexpr double unit_epsilon = 1e-6;

/// Features f of a tile become f / |f|; centred, (f - 1/K) / |f - 1/K|. `lengths` (1 x T) is assigned.
template <class S>
void make_unit(bool is_centred, Tile<S> f, Tile<S> lengths) {
  using std::sqrt;
  const S mean = S(1) / S(static_cast<double>(f.cols()));
  for (Index t = 0; t < f.rows(); ++t) {
    if (is_centred) f.row(t).array() -= mean;
    const S* const row = f.row(t).data();
    lengths(0, t) = sqrt(S(kernels::dot(row, row, f.cols()) + S(unit_epsilon)));
    f.row(t) *= S(S(1) / lengths(0, t));
  }
}

/// What forgetting leaves from token to token of a tile. Where nothing is forgotten the tiles are without rows.
template <class S>
struct DeltaGates {
  bool forgets;
  Tile<S> between;                  // Gamma, T x T; used are the lower triangle and what comes after restarts
  Tile<S> from_start, to_end;       // gamma_i, Gamma_Ti; 1 x T
  kernels::Decay<S> whole;          // gamma_T
  const std::vector<Index>& first;  // of every token, the first one since the last restart

  /// The first token that the tile's end still knows of.
  Index first_at_end() const { return first.back(); }
};

/// Both are kept from tile to tile.
struct DeltaRestarts {
  std::vector<Index> first;
};
template <class S>
struct DeltaSums {
  std::vector<Wide<S>> since_restart;
};

template <class S>
DeltaGates<S> delta_gates(const TokenStream<S>& stream, Index begin, Index count, Workspace<S>& workspace) {
  using W = Wide<S>;
  const Index there = stream.forgets() ? count : 0;
  std::vector<Index>& first = workspace.template keep<DeltaRestarts>().first;
  first.assign(static_cast<std::size_t>(count), 0);
  DeltaGates<S> gates{
      stream.forgets(), workspace.take(there, there), workspace.take(1, there), workspace.take(1, there), {}, first};
  if (!gates.forgets) return gates;
  std::vector<W>& since = workspace.template keep<DeltaSums<S>>().since_restart;
  since.resize(static_cast<std::size_t>(count));
  W of_tile(0), of_run(0);
  Index restart = 0;
  for (Index i = 0; i < count; ++i) {
    const W g = stream.log_decay(begin + i);
    const bool restarts = !is_finite(g);
    if (restarts) restart = i;
    of_run = restarts ? W(0) : W(of_run + g);
    of_tile += g;
    since[static_cast<std::size_t>(i)] = of_run;
    first[static_cast<std::size_t>(i)] = restart;
    gates.from_start(0, i) = S(of_tile);
    S* const row = gates.between.data() + i * count;
    for (Index j = 0; j < count; ++j)
      row[j] = j < restart || j > i ? S(0) : S(of_run - since[static_cast<std::size_t>(j)]);
  }
  exponentials(gates.between.data(), count * count);
  gates.to_end = gates.between.row(count - 1);
  gates.whole = kernels::decay_of(S(of_tile));
  exponentials(gates.from_start.data(), count);
  return gates;
}

/// A tile of a stream: unit features, and what the rule makes of them. All but `values` is workspace memory.
template <class S>
struct DeltaTile {
  Index begin, count;
  ConstTile<S> x_q, x_k, values;  // T x d, T x d, T x e
  Tile<S> both, q, k;             // unit features, T x K; both, one below the other
  Tile<S> q_lengths, k_lengths;   // 1 x T
  DeltaGates<S> gates;
  Tile<S> strengths;             // b, 1 x T
  Tile<S> errors, writes;        // E and U, T x e
  Tile<S> reads, overlaps;       // Gamma o Q K^T and Gamma o K K^T, T x T; above the diagonal they are not used
  Tile<S> kept, kept_q, kept_k;  // gamma Q M and gamma K M, T x e; both, one below the other
};

/// Times gamma, row by row; a row that knows nothing of the memory is zero, NaN included.
template <class S>
void scale_by_start(const DeltaGates<S>& gates, Tile<S> rows) {
  if (!gates.forgets) return;
  kernels::scale_rows(rows, gates.from_start.data());
  for (Index t = 0; t < rows.rows(); ++t) {
    if (gates.from_start(0, t) == S(0)) rows.row(t).setConstant(S(0));
  }
}

/// Everything that may fail, and the unit features. Without queries (null) the tile can only be written.
template <class FeatureMap, class S>
DeltaTile<S> open_delta_tile(const FeatureMap& map, bool is_centred, const TokenView<S>* queries,
                             const TokenStream<S>& stream, Index begin, Index count, Workspace<S>& workspace) {
  const Index K = map.components(), e = stream.values.cols(), reads = queries != nullptr ? count : 0;
  const Tile<S> both = workspace.take_spread(reads + count, K), kept = workspace.take(reads + count, e);
  const Tile<S> nothing = workspace.take(0, map.dim());
  DeltaTile<S> tile{begin,
                    count,
                    queries != nullptr
                        ? load_tile(*queries, begin, count, workspace)
                        : ConstTile<S>(nothing.data(), 0, nothing.cols(), Eigen::OuterStride<>(nothing.cols())),
                    load_keys(stream, begin, count, workspace),
                    load_values(stream, begin, count, workspace),
                    both,
                    rows(both, 0, reads),
                    rows(both, reads, count),
                    workspace.take(1, reads),
                    workspace.take(1, count),
                    delta_gates(stream, begin, count, workspace),
                    workspace.take(1, count),
                    workspace.take(count, e),
                    workspace.take(count, e),
                    workspace.take(reads, count),
                    workspace.take(count, count),
                    kept,
                    rows(kept, 0, reads),
                    rows(kept, reads, count)};
  if (reads > 0 && count <= few_tokens) {  // as one tile: the natural parameters come through the cache once
    Tile<S> x = workspace.take(2 * count, tile.x_k.cols());
    x.topRows(count) = tile.x_q;
    x.bottomRows(count) = tile.x_k;
    evaluate(map, ConstTile<S>(x.data(), x.rows(), x.cols(), x.stride()), tile.both, workspace);
  } else {
    if (reads > 0) evaluate(map, tile.x_q, tile.q, workspace);
    evaluate(map, tile.x_k, tile.k, workspace);
  }
  make_unit(is_centred, tile.q, tile.q_lengths);
  make_unit(is_centred, tile.k, tile.k_lengths);
  for (Index t = 0; t < count; ++t) {
    tile.strengths(0, t) = stream.weighted() ? S(stream.tokens.key_weights(begin + t)) : S(1);
  }
  if (count == 1) {
    if (reads > 0) tile.reads(0, 0) = kernels::dot(tile.q.data(), tile.k.data(), K);
    tile.overlaps(0, 0) = S(0);  // is not used
    return tile;
  }
  Tile<S> transposed = workspace.take(K, count);
  transposed = tile.k.transpose();
  product(tile.q, transposed, tile.reads);
  product(tile.k, transposed, tile.overlaps);
  if (tile.gates.forgets) {
    if (reads > 0) tile.reads = tile.reads.cwiseProduct(tile.gates.between);
    tile.overlaps = tile.overlaps.cwiseProduct(tile.gates.between);
  }
  return tile;
}

/// y = Y, and the errors and writes of the tile, from the memory before it. Without queries, y is scratch.
template <class S>
void delta_forward(DeltaTile<S>& tile, const Tile<S>& memory, Tile<S> y) {
  const bool reads = tile.q.rows() > 0;
  product(tile.both, memory, tile.kept);
  scale_by_start(tile.gates, tile.kept_q);
  scale_by_start(tile.gates, tile.kept_k);
  tile.errors = tile.values - tile.kept_k;
  kernels::delta_rows<S>({tile.count, tile.errors.cols(), tile.overlaps.data(),
                          reads ? tile.reads.data() : tile.overlaps.data(), tile.strengths.data(),
                          tile.gates.first.data(), reads ? tile.kept_q.data() : tile.kept_k.data(), tile.errors.data(),
                          tile.writes.data(), y.data(), y.outerStride()});
}

/// The memory before the tile becomes that after it. `scaled` is scratch, T x K.
template <class S>
void delta_advance(const DeltaTile<S>& tile, Tile<S> memory, Tile<S> scaled) {
  const Index first = tile.gates.first_at_end(), known = tile.count - first;
  kernels::decay_all(tile.gates.whole, memory.data(), memory.size());
  scaled = tile.k;
  if (tile.gates.forgets) kernels::scale_rows(scaled, tile.gates.to_end.data());
  add_transposed_product(rows(scaled, first, known), rows(tile.writes, first, known), memory);
}

/// Both for a single token: the memory is read once for its errors, and once to write and to answer.
template <class S>
void delta_step(DeltaTile<S>& tile, Tile<S> memory, Tile<S> y) {
  product(tile.k, memory, tile.kept_k);
  scale_by_start(tile.gates, tile.kept_k);
  tile.errors = tile.values - tile.kept_k;
  tile.writes = tile.strengths(0, 0) * tile.errors;
  kernels::scan<S>({1,
                    memory.rows(),
                    memory.cols(),
                    {tile.k.data(), tile.k.outerStride()},
                    {tile.writes.data(), tile.writes.outerStride()},
                    {tile.q.data(), tile.q.outerStride()},
                    {y.data(), y.outerStride()},
                    memory.data(),
                    tile.gates.whole});
}

}  // namespace gma::detail
