// SPDX-License-Identifier: MIT
// One tile of T tokens of a causal stream, forward and backward, as passes of kernels::masses and kernels::scan.
//
// Forgetting multiplies the state by lambda_t = exp(g_t) before every token. Instead the scan carries s~ = s /
// Lambda_t, where Lambda_t is the decay since the run began, and everything it writes and reads with is scaled: w r /
// Lambda_t and c Lambda_t. A new run begins, with the state rescaled, at the first token of a tile, before Lambda falls
// below smallest_kept, and exactly where lambda_t = 0 restarts the memory. Decays are summed as logarithms. Which token
// begins a run depends on the tokens before it alone. Row i uses rows j <= i only: nothing that comes later, NaN
// included, changes one bit of it, and a restart cuts off all that came before.
#pragma once

#include "gma/attention/memory_tiles.hpp"
#include "gma/attention/token_stream.hpp"
#include "gma/core/elementwise.hpp"
#include "gma/kernels/mass.hpp"
#include "gma/kernels/scan.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma::detail {

/// log of the smallest Lambda, 2^-20: its inverse times a responsibility, and a coefficient times it, are far from the
/// ends of float.
inline constexpr double smallest_log_kept = -13.862943611198906;

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
template <class S>
kernels::TokenPointer<S> from(const kernels::TokenPointer<S>& tokens, Index first) {
  return {tokens.data + first * tokens.stride, tokens.stride};
}

/// What forgetting leaves within a tile.
template <class S>
struct TileDecay {
  bool forgets;
  Index count;
  Tile<S> kept;              // Lambda, the decay since the run began, 1 x T
  Tile<S> kept_of_tile;      // that since the tile began, its first token's included, 1 x T
  Tile<S> due;               // where a run begins, the log of what the state is due before; else 1. 1 x T
  kernels::Decay<S> first;   // what the state is due before the tile's first token
  kernels::Decay<S> at_end;  // Lambda of the last token
  Wide<S> all = Wide<S>(0);  // log of the decay of the whole tile

  bool begins_run(Index i) const { return i == 0 || !(due(0, i) > S(0)); }
  /// The token after the run that begins with token i.
  Index run_end(Index i) const {
    if (!forgets) return count;
    for (++i; i < count && !begins_run(i); ++i) {
    }
    return i;
  }
  kernels::Decay<S> before(Index i) const { return i == 0 ? first : kernels::decay_of(S(due(0, i))); }
  kernels::Decay<S> after(Index end) const { return end == count ? at_end : kernels::Decay<S>(); }
  kernels::Decay<S> whole() const { return forgets ? kernels::decay_of(S(all)) : kernels::Decay<S>(); }
  const S* kept_from(Index i) const { return forgets ? kept.data() + i : nullptr; }
};

/// `has_base`: kept_of_tile is wanted.
template <class S>
TileDecay<S> tile_decay(const TokenStream<S>& stream, Index begin, Index count, bool has_base,
                        Workspace<S>& workspace) {
  TileDecay<S> tile{
      stream.forgets(), count, workspace.take(1, count), workspace.take(1, count), workspace.take(1, count), {}, {}};
  if (!tile.forgets) return tile;
  Wide<S> of_run(0);
  for (Index i = 0; i < count; ++i) {
    const Wide<S> g = stream.log_decay(begin + i), next = of_run + g;
    const bool begins = i == 0 || next < Wide<S>(smallest_log_kept);
    tile.due(0, i) = begins ? S(next) : S(1);
    of_run = begins ? Wide<S>(0) : next;
    tile.all += g;
    tile.kept(0, i) = S(of_run);
    tile.kept_of_tile(0, i) = S(tile.all);
  }
  tile.first = kernels::decay_of(S(tile.due(0, 0)));
  if (count > 1) {
    tile.at_end = kernels::decay_of(S(of_run));
    exponentials(tile.kept.data(), count);
  } else {
    tile.kept(0, 0) = S(1);
  }
  if (has_base) exponentials(tile.kept_of_tile.data(), count);
  return tile;
}

/// The decay from every token to the end of the tile, its own not included, 1 x T.
template <class S>
Tile<S> decay_to_end(const TokenStream<S>& stream, Index begin, Index count, Workspace<S>& workspace) {
  Tile<S> result = workspace.take(1, count);
  Wide<S> later(0);
  for (Index i = count - 1; i >= 0; --i) {
    result(0, i) = S(later);
    later += stream.log_decay(begin + i);
  }
  exponentials(result.data(), count);
  return result;
}

/// The tokens in the memory after the tile, from those before it: each counts as what forgetting has left of it.
template <class S>
S tokens_after(const TokenStream<S>& stream, Index begin, const TileDecay<S>& decay, S tokens) {
  for (Index i = 0; i < decay.count; ++i) {
    if (decay.forgets && decay.begins_run(i)) tokens = decay.before(i).of(tokens);
    if (stream.present(begin + i)) tokens += decay.forgets ? S(S(1) / decay.kept(0, i)) : S(1);
  }
  return decay.after(decay.count).of(tokens);
}

/// Per-tile data of both passes. All views are workspace memory, except q, k and v, which may be the caller's matrices.
template <class S>
struct CausalTile {
  Index count;
  ConstTile<S> q, k, v;   // T x d, T x d, T x e
  Tile<S> r_q, r_k;       // responsibilities, T x K; forward, what the scan reads and writes with takes their place
  Tile<S> reads, writes;  // c Lambda and w r / Lambda, T x K
  Tile<S> masses;         // after every token, T x K; backward only
  TileDecay<S> decay;
  const S* weights;  // of the tile's tokens, null: ones
};

/// Tokens [begin, begin + count) with their responsibilities. `keeps`: they stay beside what the scan needs.
/// `has_base`: a part of the memory is not in the scan's state.
template <class FeatureMap, class S>
CausalTile<S> open_tile(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream, Index begin,
                        Index count, bool keeps, bool has_base, Workspace<S>& workspace) {
  const Index K = map.components();
  const S* weights = stream.weights(begin);
  const Tile<S> both = workspace.take_spread(2 * count, K);
  Tile<S> r_q = rows(both, 0, count), r_k = rows(both, count, count);
  CausalTile<S> tile{count,
                     load_tile(queries, begin, count, workspace),
                     load_keys(stream, begin, count, workspace),
                     load_values(stream, begin, count, workspace),
                     r_q,
                     r_k,
                     keeps ? workspace.take_spread(count, K) : r_q,
                     keeps ? workspace.take_spread(count, K) : r_k,
                     keeps ? workspace.take_spread(count, K) : r_q,
                     tile_decay(stream, begin, count, has_base, workspace),
                     weights};
  if (count <= few_tokens) {  // as one tile: the natural parameters come through the cache once
    Tile<S> x = workspace.take(2 * count, tile.q.cols());
    x.topRows(count) = tile.q;
    x.bottomRows(count) = tile.k;
    evaluate(map, ConstTile<S>(x.data(), x.rows(), x.cols(), x.stride()), both, workspace);
  } else {
    evaluate(map, tile.q, tile.r_q, workspace);
    evaluate(map, tile.k, tile.r_k, workspace);
  }
  return tile;
}

/// What the scan reads and writes with. `mass` is that before the tile and becomes that after it; `base`, the mass of a
/// part of the memory that the scan does not carry, may be null. Allocates nothing.
template <class S>
void fill_masses(const CausalTile<S>& tile, Normalization normalization, bool keeps, S* mass, const S* base) {
  for (Index i = 0; i < tile.count;) {
    const Index end = tile.decay.run_end(i);
    kernels::masses<S>({normalization, end - i, tile.r_q.cols(), tile.weights == nullptr ? nullptr : tile.weights + i,
                        tile.decay.kept_from(i), base,
                        tile.decay.forgets ? tile.decay.kept_of_tile.data() + i : nullptr,
                        from(read_pointer(tile.r_q), i), from(read_pointer(tile.r_k), i), from(pointer(tile.reads), i),
                        from(pointer(tile.writes), i), mass, tile.decay.before(i), tile.decay.after(end),
                        keeps ? from(pointer(tile.masses), i) : kernels::TokenPointer<S>{nullptr, 0}});
    i = end;
  }
}

/// The scan over a tile from the state before it (rows x cols, without gaps), which it advances: writes and values in,
/// reads and out as kernels::Scan has them.
template <class S>
void scan_forward(const TileDecay<S>& decay, const kernels::Scan<S>& whole) {
  kernels::Scan<S> scan = whole;
  for (Index i = 0; i < decay.count;) {
    const Index end = decay.run_end(i);
    scan.tokens = end - i;
    scan.before = decay.before(i);
    scan.after = decay.after(end);
    scan.writes = from(whole.writes, i);
    scan.values = from(whole.values, i);
    scan.reads = from(whole.reads, i);
    scan.out = from(whole.out, i);
    kernels::scan(scan);
    i = end;
  }
}

/// f(i, end) for every run [i, end) of a tile, last first.
template <class S, class F>
void for_each_run_backward(const TileDecay<S>& decay, const F& f) {
  for (Index end = decay.count; end > 0;) {
    Index i = decay.forgets ? end - 1 : 0;
    while (!decay.begins_run(i)) --i;
    f(i, end);
    end = i;
  }
}

/// scan_forward() from the last token to the first: the state is a gradient, that after the tile, and becomes that
/// before it.
template <class S>
void scan_backward(const TileDecay<S>& decay, const kernels::Scan<S>& whole) {
  const auto last_first = [](const auto& tokens, Index last) {
    auto result = from(tokens, last);
    result.stride = -tokens.stride;
    return result;
  };
  kernels::Scan<S> scan = whole;
  for_each_run_backward(decay, [&](Index i, Index end) {
    scan.tokens = end - i;
    scan.before = decay.after(end);
    scan.after = decay.before(i);
    scan.writes = last_first(whole.writes, end - 1);
    scan.values = last_first(whole.values, end - 1);
    scan.reads = last_first(whole.reads, end - 1);
    scan.out = last_first(whole.out, end - 1);
    kernels::scan(scan);
  });
}

/// Row t of `rows` times factors(t), and zero where that is 0, NaN included.
template <class S>
void scale_or_drop(const Tile<S>& factors, Tile<S> rows) {
  kernels::scale_rows(rows, factors.data());
  for (Index t = 0; t < rows.rows(); ++t) {
    if (factors(0, t) == S(0)) rows.row(t).setConstant(S(0));
  }
}

/// Row t of `rows` times factors(t) / kept(t): from the units of a part of the memory that the scan does not carry to
/// the scan's own.
template <class S>
void scale_like_scan(const TileDecay<S>& decay, const Tile<S>& factors, Tile<S> rows, Workspace<S>& workspace) {
  if (!decay.forgets) return;
  typename Workspace<S>::Frame frame(workspace);
  Tile<S> over = workspace.take(1, decay.count);
  over = factors.cwiseQuotient(decay.kept);
  scale_or_drop(over, rows);
}

/// Y of the tile, T x e, and the slots after it: y_t = c_t M_t. `base`: the slots of a part of the memory that the scan
/// does not carry (null: nothing), read through one product.
template <class S>
void forward_tile(const CausalTile<S>& tile, Tile<S> slots, const Tile<S>* base, Tile<S> y, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  Tile<S> of_base = workspace.take(base == nullptr ? Index(0) : tile.count, y.cols());
  if (base != nullptr) {
    product(tile.reads, *base, of_base);
    scale_like_scan(tile.decay, tile.decay.kept_of_tile, of_base, workspace);
  }
  scan_forward<S>(tile.decay, {tile.count, slots.rows(), slots.cols(), read_pointer(tile.writes), read_pointer(tile.v),
                               read_pointer(tile.reads), pointer(y), slots.data()});
  if (base != nullptr) y += of_base;
}

}  // namespace gma::detail
