// SPDX-License-Identifier: MIT
// One tile of T tokens of a causal stream, forward and backward, as passes of kernels::masses and kernels::scan.
//
// Forgetting multiplies the state by lambda_t before every token. Instead the scan carries s~ = s / Lambda_t, where
// Lambda_t is the decay since the stretch began, and everything it writes and reads with is scaled: w r / Lambda_t and
// c Lambda_t. A new stretch begins, with the state rescaled, before Lambda falls below smallest_kept, or exactly where
// lambda_t = 0 restarts the memory. Which token begins one depends on the tokens before it alone. Row i uses rows j <=
// i only, to the bit: nothing that comes later, NaN included, reaches it, and a restart cuts off all that came before.
#pragma once

#include "gma/attention/memory.hpp"
#include "gma/attention/token_stream.hpp"
#include "gma/kernels/mass.hpp"
#include "gma/kernels/scan.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma::detail {

/// Lambda stays above this; its inverse times a responsibility, and a coefficient times it, are far from the ends of
/// float.
inline constexpr double smallest_kept = 0x1p-20;

/// Up to this many tokens the queries' and the keys' responsibilities are computed together.
inline constexpr Index few_tokens = 3;

template <class S>
kernels::TokenPointer<S> pointer(const Tile<S>& tile) {
  return {const_cast<S*>(tile.data()), tile.outerStride()};
}
template <class S>
kernels::TokenPointer<const S> read_pointer(const Tile<S>& tile) {
  return {tile.data(), tile.outerStride()};
}
template <class S>
kernels::TokenPointer<const S> read_pointer(const ConstTile<S>& tile) {
  return {tile.data(), tile.outerStride()};
}

/// What forward and backward share. All views live in the workspace, but q, k and v, which may be the caller's.
template <class S>
struct CausalTile {
  Index count;
  ConstTile<S> q, k, v;   // T x d, T x d, T x e
  Tile<S> r_q, r_k;       // responsibilities, T x K; forward, what the scan reads and writes with takes their place
  Tile<S> reads, writes;  // c Lambda and w r / Lambda, T x K
  Tile<S> masses;         // after every token, T x K; backward only
  Tile<S> decay, kept;    // lambda and Lambda, 1 x T
  Tile<S> kept_of_base;   // the decay since before the tile, 1 x T
  bool forgets;

  /// Before the scan comes to token i, which begins a stretch, the state is multiplied by this.
  S rescale(Index i) const { return !forgets ? S(1) : i == 0 ? S(decay(0, 0)) : S(kept(0, i - 1) * decay(0, i)); }
  S kept_at_end() const { return forgets ? S(kept(0, count - 1)) : S(1); }

  /// The token after the stretch that begins with token i.
  Index stretch_end(Index i) const {
    if (!forgets) return count;
    for (++i; i < count && !begins_stretch(i); ++i) {
    }
    return i;
  }
  bool begins_stretch(Index i) const { return kept(0, i - 1) * decay(0, i) < S(smallest_kept); }
};

/// lambda_t and Lambda_t of the tile's tokens.
template <class S>
void fill_decays(const TokenStream<S>& stream, Index begin, CausalTile<S>& tile) {
  for (Index i = 0; i < tile.count && tile.forgets; ++i) {
    tile.decay(0, i) = stream.decay(begin + i);
    const bool begins = i == 0 || tile.begins_stretch(i);
    tile.kept(0, i) = begins ? S(1) : S(tile.kept(0, i - 1) * tile.decay(0, i));
    tile.kept_of_base(0, i) = i == 0 ? tile.decay(0, 0) : S(tile.kept_of_base(0, i - 1) * tile.decay(0, i));
  }
}

/// Tokens [begin, begin + count) with their responsibilities and what the scan needs. `mass` is that before the tile
/// and becomes that after it; `base`, the mass of a part of the memory that the scan does not carry, may be null.
template <class FeatureMap, class S>
CausalTile<S> open_tile(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream, Index begin,
                        Index count, Normalization normalization, bool keeps, S* mass, const S* base,
                        Workspace<S>& workspace) {
  const Index K = map.components();
  const S* weights = stream.weights(begin);
  const Tile<S> both = workspace.take_spread(2 * count, K);
  Tile<S> r_q = rows(both, 0, count), r_k = rows(both, count, count);
  CausalTile<S> tile{count,
                     load_tile(queries, begin, count, workspace),
                     drop_absent(load_tile(stream.keys, begin, count, workspace), weights, workspace),
                     drop_absent(load_dense_tile(stream.values, begin, count, workspace), weights, workspace),
                     r_q,
                     r_k,
                     keeps ? workspace.take_spread(count, K) : r_q,
                     keeps ? workspace.take_spread(count, K) : r_k,
                     keeps ? workspace.take_spread(count, K) : r_q,
                     workspace.take(1, count),
                     workspace.take(1, count),
                     workspace.take(1, count),
                     stream.forgets()};
  if (count <= few_tokens) {  // as one tile: the natural parameters come through the cache once
    Tile<S> x = workspace.take(2 * count, tile.q.cols());
    x.topRows(count) = tile.q;
    x.bottomRows(count) = tile.k;
    evaluate(map, ConstTile<S>(x.data(), x.rows(), x.cols(), x.stride()), both, workspace);
  } else {
    evaluate(map, tile.q, tile.r_q, workspace);
    evaluate(map, tile.k, tile.r_k, workspace);
  }
  fill_decays(stream, begin, tile);
  kernels::masses<S>({normalization, count, K, weights, tile.forgets ? tile.decay.data() : nullptr, tile.kept.data(),
                      base, tile.kept_of_base.data(), read_pointer(r_q), read_pointer(r_k), pointer(tile.reads),
                      pointer(tile.writes), mass, keeps ? pointer(tile.masses) : kernels::TokenPointer<S>{nullptr, 0}});
  return tile;
}

/// The scan over a tile from the state before it (rows x cols, without gaps), which it advances: writes and values in,
/// reads and out as kernels::Scan has them.
template <class S>
void scan_forward(const CausalTile<S>& tile, kernels::Scan<S> scan) {
  const kernels::Scan<S> whole = scan;
  for (Index i = 0; i < tile.count;) {
    const Index end = tile.stretch_end(i);
    scan.tokens = end - i;
    scan.before = tile.rescale(i);
    scan.after = end == tile.count ? tile.kept_at_end() : S(1);
    scan.writes.data = whole.writes.data + i * whole.writes.stride;
    scan.values.data = whole.values.data + i * whole.values.stride;
    scan.reads.data = whole.reads.data + i * whole.reads.stride;
    scan.out.data = whole.out.data + i * whole.out.stride;
    kernels::scan(scan);
    i = end;
  }
}

/// The same from the last token to the first: the state is a gradient, that after the tile, and becomes that before it.
template <class S>
void scan_backward(const CausalTile<S>& tile, kernels::Scan<S> scan) {
  const auto last_first = [](auto& tokens, Index last) {
    tokens.data += last * tokens.stride;
    tokens.stride = -tokens.stride;
  };
  const kernels::Scan<S> whole = scan;
  for (Index end = tile.count; end > 0;) {
    Index i = end - 1;
    while (i > 0 && tile.forgets && !tile.begins_stretch(i)) --i;
    if (!tile.forgets) i = 0;
    scan = whole;
    scan.tokens = end - i;
    scan.before = end == tile.count ? tile.kept_at_end() : S(1);
    scan.after = tile.rescale(i);
    last_first(scan.writes, end - 1);
    last_first(scan.values, end - 1);
    last_first(scan.reads, end - 1);
    last_first(scan.out, end - 1);
    kernels::scan(scan);
    end = i;
  }
}

/// Y of the tile, T x e, and the slots after it: y_t = c_t M_t. `base`: a part of the memory that the scan does not
/// carry (null: nothing); it is read through one product and decays here.
template <class S>
void forward_tile(const CausalTile<S>& tile, Tile<S> slots, MemoryView<S>* base, Tile<S> y, Workspace<S>& workspace) {
  if (base != nullptr) {
    product(tile.reads, base->slots, y);
    if (tile.forgets) {  // from Lambda since the stretch began to the decay since before the tile
      Tile<S> factors = workspace.take(1, tile.count);
      factors = tile.kept_of_base.cwiseQuotient(tile.kept);
      kernels::scale_rows(y, factors.data());
      base->decay(tile.kept_of_base(0, tile.count - 1));
    }
  }
  scan_forward<S>(tile, {tile.count, slots.rows(), slots.cols(), read_pointer(tile.writes), read_pointer(tile.v),
                         read_pointer(tile.reads), pointer(y), slots.data(), S(1), S(1), base != nullptr});
}

/// Gradients of one tile. Inputs: the slots before it and d_memory, the gradient of the memory after it, which becomes
/// that of the memory before. Outputs, T x K or T: d_r_q, d_weighted (of w r_k), energy (null where nothing is
/// forgotten). d_v (T x e) is assigned. With D_t the gradient of the slots after token t, reads at t included:
///   dc_t = M_t dy_t          D_t = lambda_{t+1} D_{t+1} + c_t^T dy_t
///   d(w r)_t = D_t v_t + the masses' part          dv_t = w_t r_t D_t
template <class S>
void backward_tile(const CausalTile<S>& tile, const Tile<S>& slots, const ConstTile<S>& dy, Normalization normalization,
                   MemoryView<S> d_memory, Tile<S> d_r_q, Tile<S> d_weighted, Tile<S> d_v, S* energy,
                   Workspace<S>& workspace) {
  const Index K = slots.rows(), e = slots.cols();
  typename Workspace<S>::Frame frame(workspace);
  Tile<S> transposed = workspace.take(e, K);
  transposed = slots.transpose();
  scan_forward<S>(tile, {tile.count, e, K, read_pointer(tile.v), read_pointer(tile.writes), read_pointer(dy),
                         pointer(d_r_q), transposed.data()});
  if (tile.forgets) kernels::scale_rows(d_r_q, tile.kept.data());

  transposed = d_memory.slots.transpose();
  scan_backward<S>(tile, {tile.count, e, K, read_pointer(dy), read_pointer(tile.reads), read_pointer(tile.v),
                          pointer(d_weighted), transposed.data()});
  if (tile.forgets) {
    Tile<S> over = workspace.take(1, tile.count);
    over = tile.kept.cwiseInverse();
    kernels::scale_rows(d_weighted, over.data());
  }
  Tile<S> d_values = workspace.take(tile.count, e);
  scan_backward<S>(tile, {tile.count, K, e, read_pointer(tile.reads), read_pointer(dy), read_pointer(tile.writes),
                          pointer(d_values), d_memory.slots.data()});
  d_v = d_values;
  kernels::masses_backward<S>({normalization, tile.count, K, tile.forgets ? tile.decay.data() : nullptr,
                               read_pointer(tile.r_q), read_pointer(tile.masses), pointer(d_r_q), pointer(d_weighted),
                               d_memory.mass.data(), energy});
}

}  // namespace gma::detail
