// SPDX-License-Identifier: MIT
// One tile of the gated delta rule (9), backward: from the gradients of its outputs and of the memory after it to those
// of its features, values, write strengths and forgetting, and of the memory before it. Derived in
// gma/attention/DERIVATION.md.
#pragma once

#include "gma/baselines/delta_tile.hpp"

namespace gma::detail {

/// make_unit() undone.
template <class S>
void undo_unit(bool is_centred, const Tile<S>& lengths, Tile<S> unit) {
  const S mean = is_centred ? S(S(1) / S(static_cast<double>(unit.cols()))) : S(0);
  for (Index t = 0; t < unit.rows(); ++t) unit.row(t).array() = unit.row(t).array() * lengths(0, t) + mean;
}

/// `d`, the gradient of what make_unit() made, becomes that of what it was given.
template <class S>
void make_unit_backward(const Tile<S>& unit, const Tile<S>& lengths, Tile<S> d) {
  for (Index t = 0; t < d.rows(); ++t) {
    const S along = kernels::dot(unit.row(t).data(), d.row(t).data(), d.cols());
    d.row(t) = (d.row(t) - along * unit.row(t)) * S(S(1) / lengths(0, t));
  }
}

/// The gradients of a tile, T rows each. Those of q and k are of the features as the map made them.
template <class S>
struct DeltaTileGradients {
  Tile<S> both, q, k, values, strengths;  // both: q and k, one below the other
  Tile<S> balance;  // of token i and those after it: with <M', dM'> the sum is the gradient of g_i
};

template <class S>
DeltaTileGradients<S> take_delta_gradients(Index count, Index components, Index width, Workspace<S>& workspace) {
  const Tile<S> both = workspace.take_spread(2 * count, components);
  return {both,
          rows(both, 0, count),
          rows(both, count, count),
          workspace.take(count, width),
          workspace.take(1, count),
          workspace.take(1, count)};
}

/// sums = sum_j factors(i, j) rows(j) for j in [first, end), 1 x e.
template <class S>
void combine_rows(const Tile<S>& factors, Index i, Index first, Index end, const Tile<S>& from, Tile<S> sums) {
  const Index stride = factors.outerStride();
  product<S>(ConstTile<S>(factors.data() + i * stride + first, 1, end - first, Eigen::OuterStride<>(stride)),
             rows(from, first, end - first), sums);
}

/// `d_memory` is the gradient of the memory after the tile and becomes that before it; `memory` is the one before it.
/// With A = diag(b) tril(Gamma o K K^T, -1):
///
///   dU = tril(Gamma o Q K^T)^T dY + Gamma_T K dM'     Z = (I + A)^-T dU     dV = b Z     db = rowsum(Z o E)
///   dP = tril(Gamma o dY U^T)                         dB = -tril(Gamma o dV U^T, -1)
///   dQ = gamma dY M^T + dP K                          dM = gamma_T dM' + (gamma Q)^T dY - (gamma K)^T dV
///   dK = dP^T Q + (dB + dB^T) K + Gamma_T U dM'^T - gamma dV M^T
template <class S>
void delta_backward(const DeltaTile<S>& tile, const Tile<S>& memory, const ConstTile<S>& dy, Tile<S> d_memory,
                    DeltaTileGradients<S> d, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const Index T = tile.count, K = tile.k.cols(), e = tile.writes.cols();
  const DeltaGates<S>& gates = tile.gates;
  Tile<S> lower = workspace.take(T, T), to_end = workspace.take(T, K), memory_t = workspace.take(e, K);
  Tile<S> z = workspace.take(T, e), sums = workspace.take(1, e), writes_t = workspace.take(e, T);
  Tile<S> from_end = workspace.take(T, K), of_start = workspace.take(2 * T, K), upstream = workspace.take(2 * T, e);
  const Index at_end = gates.first_at_end();

  to_end = tile.k;
  if (gates.forgets) kernels::scale_rows(to_end, gates.to_end.data());
  for (Index t = 0; t < at_end; ++t) to_end.row(t).setConstant(S(0));
  product(to_end, d_memory, z);
  lower.setConstant(S(0));
  for (Index i = 0; i < T; ++i) {
    const Index first = gates.first[static_cast<std::size_t>(i)], seen = i + 1 - first;
    lower.row(i).segment(first, seen) = tile.reads.row(i).segment(first, seen);
  }
  add_transposed_product(lower, dy, z);

  // Z, from the last token: (I + A)^T is an upper triangle, whose rows are those of the transposed overlaps.
  lower.setConstant(S(0));
  for (Index i = 0; i < T; ++i) {
    for (Index j = gates.first[static_cast<std::size_t>(i)]; j < i; ++j) {
      lower(j, i) = tile.strengths(0, i) * tile.overlaps(i, j);
    }
  }
  for (Index i = T - 1; i >= 0; --i) {
    combine_rows(lower, i, i + 1, T, z, sums);
    z.row(i) -= sums.row(0);
    d.strengths(0, i) = kernels::dot(z.row(i).data(), tile.errors.row(i).data(), e);
  }
  for (Index i = 0; i < T; ++i) d.values.row(i) = tile.strengths(0, i) * z.row(i);

  // The parts through the memory before the tile and the one after it.
  memory_t = memory.transpose();
  upstream.topRows(T) = dy;
  upstream.bottomRows(T) = d.values;
  product(upstream, memory_t, d.both);
  scale_by_start(gates, d.q);
  scale_by_start(gates, d.k);
  memory_t = d_memory.transpose();
  product(tile.writes, memory_t, from_end);
  if (gates.forgets) kernels::scale_rows(from_end, gates.to_end.data());
  for (Index i = 0; i < T; ++i) {
    if (i < at_end) from_end.row(i).setConstant(S(0));
    d.balance(0, i) = kernels::dot(tile.kept_q.row(i).data(), dy.row(i).data(), e) -
                      kernels::dot(tile.kept_k.row(i).data(), d.values.row(i).data(), e) -
                      kernels::dot(tile.k.row(i).data(), from_end.row(i).data(), K);
    d.k.row(i) = from_end.row(i) - d.k.row(i);
  }
  kernels::decay_all(gates.whole, d_memory.data(), d_memory.size());
  of_start.topRows(T) = tile.q;
  of_start.bottomRows(T) = -tile.k;
  scale_by_start(gates, rows(of_start, 0, T));
  scale_by_start(gates, rows(of_start, T, T));
  add_transposed_product(of_start, upstream, d_memory);

  // The parts within the tile.
  writes_t = tile.writes.transpose();
  const auto pairs = [&](const auto& rows_of, const Tile<S>& gated, Index diagonal, const S& sign) {
    product(rows_of, writes_t, lower);
    for (Index i = 0; i < T; ++i) {
      const Index first = gates.first[static_cast<std::size_t>(i)], end = i + diagonal;
      for (Index j = 0; j < T; ++j) {
        if (j < first || j >= end) {
          lower(i, j) = S(0);
          continue;
        }
        lower(i, j) *= sign;
        if (!gates.forgets) continue;
        const S pull = lower(i, j) * gated(i, j);
        d.balance(0, i) += pull;
        d.balance(0, j) -= pull;
        lower(i, j) *= gates.between(i, j);
      }
    }
  };
  pairs(dy, tile.reads, 1, S(1));
  add_product(lower, tile.k, d.q);
  add_transposed_product(lower, tile.q, d.k);
  pairs(d.values, tile.overlaps, 0, S(-1));
  add_product(lower, tile.k, d.k);
  add_transposed_product(lower, tile.k, d.k);
}

}  // namespace gma::detail
