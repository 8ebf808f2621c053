// SPDX-License-Identifier: MIT
// One tile of T tokens of a causal stream, forward and backward, in plain Eigen expressions for every scalar.
//
// With B, m_B the memory before the tile, Lambda_i = lambda_1 ... lambda_i the decay since, L_ij = lambda_{j+1} ...
// lambda_i for j <= i (0 above the diagonal), P = w R_K the weighted key responsibilities and C the coefficients of the
// queries:
//   m_i = Lambda_i m_B + sum_j L_ij P_j        S = C P^T        Y = Lambda C B + (L o S) V
// The memory itself changes once a tile, which keeps rounding errors from piling up over long streams. Row i uses rows
// j <= i only, to the bit: nothing that comes later, NaN included, reaches it, and a restart (lambda = 0) cuts off all
// that came before.
#pragma once

#include "gma/attention/memory.hpp"
#include "gma/attention/normalization.hpp"
#include "gma/attention/token_stream.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma::detail {

/// What forward and backward share. All views live in the workspace, but q, k and v, which may be the caller's.
template <class S>
struct CausalTile {
  Index count;
  ConstTile<S> q, k, v;  // T x d, T x d, T x e
  Tile<S> r_q, r_k;      // responsibilities, T x K
  Tile<S> weighted;      // P; r_k itself where there are no weights
  Tile<S> mass;          // m_i after token i, T x K
  Tile<S> coefficient;   // C, T x K
  Tile<S> decay;         // lambda, 1 x T
  Tile<S> kept;          // Lambda, 1 x T
  bool forgets;
};

/// m_i, row by row; a restart takes nothing over.
template <class S>
void running_mass(const CausalTile<S>& tile, const Vector<S>& before, Tile<S> local, Tile<S> mass) {
  local.setConstant(S(0));
  for (Index i = 0; i < tile.count; ++i) {
    const S lambda = tile.decay(0, i);
    if (tile.forgets && lambda == S(0)) {
      local.row(0) = tile.weighted.row(i);
    } else {
      local.row(0) = local.row(0) * lambda + tile.weighted.row(i);
    }
    mass.row(i) = local.row(0);
    const S kept = tile.kept(0, i);
    if (!(kept == S(0))) mass.row(i) += before.transpose() * kept;
  }
}

/// Tokens [begin, begin + count) with their responsibilities, masses and coefficients. `before` is m_B.
template <class FeatureMap, class S>
CausalTile<S> open_tile(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream, Index begin,
                        Index count, const Vector<S>& before, Normalization normalization, Workspace<S>& workspace) {
  const Index K = map.components();
  const S* weights = stream.weights(begin);
  Tile<S> r_k = workspace.take(count, K);
  Tile<S> weighted = stream.weighted() ? workspace.take(count, K) : r_k;
  CausalTile<S> tile{count,
                     load_tile(queries, begin, count, workspace),
                     drop_absent(load_tile(stream.keys, begin, count, workspace), weights, workspace),
                     drop_absent(load_tile(stream.values, begin, count, workspace), weights, workspace),
                     workspace.take(count, K),
                     r_k,
                     weighted,
                     workspace.take(count, K),
                     workspace.take(count, K),
                     workspace.take(1, count),
                     workspace.take(1, count),
                     stream.forgets()};
  evaluate(map, tile.q, tile.r_q, workspace);
  evaluate(map, tile.k, tile.r_k, workspace);
  if (stream.weighted()) {
    tile.weighted = tile.r_k.array().colwise() * stream.tokens.key_weights.segment(begin, count).array();
  }
  S kept(1);
  for (Index i = 0; i < count; ++i) {
    tile.decay(0, i) = stream.decay(begin + i);
    kept *= tile.decay(0, i);
    tile.kept(0, i) = kept;
  }
  running_mass(tile, before, workspace.take(1, K), tile.mass);
  tile.coefficient = tile.r_q;
  coefficients(normalization, tile.mass, tile.coefficient);
  return tile;
}

/// From L_{i-1, .} to L_{i, .} in place, in the first i + 1 entries of `row`.
template <class S>
void next_decay_row(const CausalTile<S>& tile, Index i, S* row) {
  if (tile.forgets) Eigen::Map<RowVector<S>>(row, i) *= tile.decay(0, i);
  row[i] = S(1);
}

/// Y of the tile; then the memory moves to the end of the tile.
template <class S>
void forward_tile(const CausalTile<S>& tile, Memory<S>& memory, Tile<S> y, Workspace<S>& workspace) {
  const Index count = tile.count;
  Tile<S> scores = workspace.take(count, count), left = workspace.take(1, count);
  product_transposed(tile.coefficient, tile.weighted, scores);
  product(tile.coefficient, memory.slots, y);
  Index first = 0;  // tokens before it are forgotten
  for (Index i = 0; i < count; ++i) {
    next_decay_row(tile, i, left.data());
    if (tile.forgets) {
      if (tile.decay(0, i) == S(0)) first = i;
      if (tile.kept(0, i) == S(0)) {
        y.row(i).setConstant(S(0));
      } else {
        y.row(i) *= tile.kept(0, i);
      }
      scores.row(i).head(i + 1).array() *= left.row(0).head(i + 1).array();
    }
    const Index length = i + 1 - first;
    add_row_product(scores.row(i).data() + first, rows(tile.v, first, length), y.row(i).data());
  }
  decay(memory, tile.kept(0, count - 1));
  const Index length = count - first;
  Tile<S> written = workspace.take(length, tile.weighted.cols());
  written = tile.weighted.bottomRows(length);
  if (tile.forgets) written.array().colwise() *= left.row(0).tail(length).transpose().array();
  add_transposed_product(written, rows(tile.v, first, length), as_tile(memory.slots));
  memory.mass = tile.mass.row(count - 1).transpose();
}

/// Gradients of one tile. Inputs: the memory before it (B) and d_memory, the gradient of the memory after it, which
/// becomes that of B. Outputs, T x K or T: d_r_q, d_weighted (of P), read_energy (<M_i, dread_i> and its mass part).
/// d_v (T x e) is assigned.
///   G = L o (dY V^T)          dC = Lambda dY B^T + G P      (= M_i dy_i)
///   dP = G^T C + L_T. (V D^T) + the masses' part            dV = (L o S)^T dY + L_T. (P D)
///   dB = Lambda_T D + (Lambda C)^T dY
template <class S>
void backward_tile(const CausalTile<S>& tile, const Memory<S>& before, const ConstTile<S>& dy,
                   Normalization normalization, Memory<S>& d_memory, Tile<S> d_r_q, Tile<S> d_weighted, Tile<S> d_v,
                   Tile<S> read_energy, Workspace<S>& workspace) {
  const Index count = tile.count, K = tile.r_q.cols();
  Tile<S> decays = workspace.take(count, count), scores = workspace.take(count, count);
  Tile<S> g = workspace.take(count, count), d_mass = workspace.take(count, K), kept_c = workspace.take(count, K);
  decays.setConstant(S(0));
  for (Index i = 0; i < count; ++i) {
    if (i > 0) decays.row(i).head(i) = decays.row(i - 1).head(i);
    next_decay_row(tile, i, decays.row(i).data());
  }
  const auto kept = tile.kept.row(0).transpose().array();
  const auto until_end = decays.row(count - 1).transpose().array();

  product_transposed(dy, tile.v, g);
  g = g.cwiseProduct(decays);
  product_transposed(tile.coefficient, tile.weighted, scores);
  scores = scores.cwiseProduct(decays);

  product_transposed(dy, before.slots, d_r_q);  // becomes dC, then the gradient of the query's responsibilities
  d_r_q.array().colwise() *= kept;
  add_product(g, tile.weighted, d_r_q);
  read_energy.col(0) = d_r_q.cwiseProduct(tile.coefficient).rowwise().sum();
  coefficients_backward(normalization, tile.mass, tile.r_q, d_r_q, d_mass);
  read_energy.col(0) += d_mass.cwiseProduct(tile.mass).rowwise().sum();

  product_transposed(tile.v, d_memory.slots, d_weighted);
  d_weighted.array().colwise() *= until_end;
  add_transposed_product(g, tile.coefficient, d_weighted);

  product(tile.weighted, d_memory.slots, d_v);
  d_v.array().colwise() *= until_end;
  add_transposed_product(scores, dy, d_v);

  kept_c = tile.coefficient.array().colwise() * kept;
  d_memory.slots *= tile.kept(0, count - 1);
  add_transposed_product(kept_c, dy, as_tile(d_memory.slots));
  for (Index i = count - 1; i >= 0; --i) {  // the masses are a linear recurrence of their own
    d_memory.mass += d_mass.row(i).transpose();
    d_weighted.row(i) += d_memory.mass.transpose();
    d_memory.mass *= tile.decay(0, i);
  }
}

}  // namespace gma::detail
