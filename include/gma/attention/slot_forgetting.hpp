// SPDX-License-Identifier: MIT
// Causal streams in which every slot forgets at its own rate, (10): the memory goes from token to token, as kernels in
// kernels/slot_forgetting.hpp. A token does the same operations wherever a call or a tile begins, so that one pass, any
// split of it and single steps give the same bits.
#pragma once

#include "gma/attention/causal_tile.hpp"
#include "gma/attention/memory_tiles.hpp"
#include "gma/attention/token_stream.hpp"
#include "gma/kernels/slot_forgetting.hpp"

namespace gma::detail {

/// From so many tokens on, each counted as what the slot that forgets least has left of it, a float memory keeps a
/// remainder: fewer than where tiles are summed from zero, since here every token rounds the whole memory.
inline constexpr double long_slot_stream = 0x1p9;
template <class S>
bool is_long_by_slot(const S& tokens) {
  return keeps_remainder<S> && tokens > S(long_slot_stream);
}

/// A tile of tokens. All views are workspace memory, except q, k and v, which may be the caller's matrices.
template <class S>
struct SlotTile {
  Index begin, count;
  ConstTile<S> q, k, v;          // T x d, T x d, T x e; q has no rows where nothing is read
  Tile<S> r_q, r_k;              // responsibilities, T x K; unless they are kept, reads and writes take their place
  Tile<S> reads, writes, codes;  // c, w r and what is forgotten (kernels::slot_decay_of), T x K
  Tile<S> masses;                // after every token, T x K, where they are kept
  Tile<S> is_far, largest;       // kernels::SlotDecays, 1 x T
  const S* weights;              // of the tile's tokens, null: ones
};

template <class FeatureMap, class S>
void evaluate_slot_tile(const FeatureMap& map, const SlotTile<S>& tile, const Tile<S>& both, Workspace<S>& workspace) {
  const Index rows = both.rows();
  if (tile.count > few_tokens || rows == tile.count) {
    if (rows > tile.count) evaluate(map, tile.q, tile.r_q, workspace);
    evaluate(map, tile.k, tile.r_k, workspace);
    return;
  }
  Tile<S> x = workspace.take(rows, tile.k.cols());  // the natural parameters come through the cache once
  x.topRows(tile.count) = tile.q;
  x.bottomRows(tile.count) = tile.k;
  evaluate(map, ConstTile<S>(x.data(), x.rows(), x.cols(), x.stride()), both, workspace);
}

/// Tokens [begin, begin + count) with their responsibilities and decays. `queries` may be null: nothing is read.
/// `keeps`: responsibilities and masses stay.
template <class FeatureMap, class S>
SlotTile<S> open_slot_tile(const FeatureMap& map, const TokenView<S>* queries, const TokenStream<S>& stream,
                           Index begin, Index count, bool keeps, Workspace<S>& workspace) {
  const Index K = map.components(), reading = queries == nullptr ? Index(0) : count;
  const Tile<S> both = workspace.take_spread(reading + count, K);
  const Tile<S> r_q = rows(both, 0, reading), r_k = rows(both, reading, count);
  const ConstTile<S> k = load_keys(stream, begin, count, workspace);
  SlotTile<S> tile{begin,
                   count,
                   queries == nullptr ? rows(k, 0, 0) : load_tile(*queries, begin, count, workspace),
                   k,
                   load_values(stream, begin, count, workspace),
                   r_q,
                   r_k,
                   keeps ? workspace.take_spread(reading, K) : r_q,
                   keeps ? workspace.take_spread(count, K) : r_k,
                   workspace.take_spread(count, K),
                   workspace.take_spread(keeps ? count : Index(0), K),
                   workspace.take(1, count),
                   workspace.take(1, count),
                   stream.weights(begin)};
  evaluate_slot_tile(map, tile, both, workspace);
  const auto& by_slot = stream.tokens.slot_log_forgetting;
  kernels::slot_decays<S>({count,
                           K,
                           tile.weights,
                           stream.forgets() ? stream.tokens.log_forgetting.data() + begin : nullptr,
                           {by_slot.data() + begin * by_slot.outerStride(), by_slot.outerStride()},
                           pointer(tile.codes),
                           tile.is_far.data(),
                           tile.largest.data()});
  return tile;
}

/// Masses and coefficients of tokens [i, end) of the tile. Allocates nothing.
template <class FeatureMap, class S>
void slot_tile_masses(const FeatureMap&, const SlotTile<S>& tile, Index i, Index end, Normalization normalization,
                      LongMemory<S>& state) {
  constexpr bool may_vanish = is_compiled<FeatureMap> && std::is_floating_point_v<S>;
  const kernels::TokenPointer<S> none{nullptr, 0};
  const auto at = [&](const Tile<S>& t) { return t.rows() == 0 ? none : from(pointer(t), i); };
  const kernels::TokenPointer<S> q = at(tile.r_q), k = at(tile.r_k);
  kernels::slot_masses<S>({normalization,
                           end - i,
                           tile.r_k.cols(),
                           tile.weights == nullptr ? nullptr : tile.weights + i,
                           at(tile.codes),
                           pointer(tile.is_far).data + i,
                           {q.data, q.stride},
                           {k.data, k.stride},
                           at(tile.reads),
                           at(tile.writes),
                           state.memory.mass.data(),
                           state.has_remainder ? state.remainder.mass.data() : nullptr,
                           at(tile.masses),
                           may_vanish ? vanished_mass : 0});
}

/// The slots over tokens [i, end) of the tile; `y`, T x e, is assigned unless nothing is read. Allocates nothing.
template <class S>
void slot_tile_scan(const SlotTile<S>& tile, Index i, Index end, LongMemory<S>& state, const Tile<S>& y) {
  const bool reads = tile.r_q.rows() != 0;
  const kernels::TokenPointer<const S> none{nullptr, 0};
  kernels::slot_scan<S>({end - i, state.memory.slots.rows(), state.memory.slots.cols(),
                         from(read_pointer(tile.writes), i), from(read_pointer(tile.v), i),
                         reads ? from(read_pointer(tile.reads), i) : none, from(read_pointer(tile.codes), i),
                         tile.is_far.data() + i, reads ? from(pointer(y), i) : kernels::TokenPointer<S>{nullptr, 0},
                         state.memory.slots.data(), state.has_remainder ? state.remainder.slots.data() : nullptr});
}

/// A whole tile, from `state` and its `tokens`, which it advances. The remainder begins at the token that makes the
/// stream long.
template <class FeatureMap, class S>
void advance_slot_tile(const FeatureMap& map, const SlotTile<S>& tile, Normalization normalization,
                       LongMemory<S>& state, S& tokens, const Tile<S>& y) {
  for (Index i = 0; i < tile.count;) {
    if (!state.has_remainder && state.remainder.mass.size() != 0 && is_long_by_slot(tokens)) start_remainder(state);
    Index end = i;
    do {
      const bool is_present = tile.weights == nullptr || tile.weights[end] > S(0);
      if (is_present) tokens = kernels::decay_of(S(tile.largest(0, end))).of(tokens) + S(1);
      ++end;
    } while (end < tile.count && (state.has_remainder || !is_long_by_slot(tokens)));
    slot_tile_masses(map, tile, i, end, normalization, state);
    slot_tile_scan(tile, i, end, state, y);
    i = end;
  }
}

/// Tokens [begin, end) of the stream. `queries` and `out` may be null: nothing is read.
template <class FeatureMap, class S>
void slot_tokens(const FeatureMap& map, const TokenView<S>* queries, const TokenStream<S>& stream, Index begin,
                 Index end, Normalization normalization, Index tile, LongMemory<S>& state, S& tokens,
                 const TokenSink<S>* out, Workspace<S>& workspace) {
  for (; begin < end; begin += tile) {
    typename Workspace<S>::Frame frame(workspace);
    const Index count = (std::min)(tile, end - begin);
    const SlotTile<S> opened = open_slot_tile(map, queries, stream, begin, count, false, workspace);
    const Tile<S> scratch = workspace.take(out == nullptr ? Index(0) : count, stream.values.cols());
    const Tile<S> y = out == nullptr ? scratch : out->tile(begin, count, scratch, true);
    advance_slot_tile(map, opened, normalization, state, tokens, y);
    if (out != nullptr) out->store(begin, y);
  }
}

/// The stream from `memory` (null: zeros), which is advanced. A single token advances it in place, and everything that
/// may fail comes first; more run on a copy that replaces it at the end.
template <class FeatureMap, class S>
void run_by_slot(const FeatureMap& map, const TokenView<S>* queries, const TokenStream<S>& stream,
                 const Options& options, Memory<S>* memory, const TokenSink<S>* out, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const Index n = stream.size(), tile = tile_size(options, default_tile, n);
  S tokens = memory == nullptr ? S(0) : tokens_in(*memory);
  if (memory != nullptr && n == 1 && stream.values.overlap(TokenView<S>(memory->slots)) == Overlap::none) {
    if (is_long_by_slot(tokens)) ensure_remainder(*memory);
    LongMemory<S> state = view_long(*memory);
    slot_tokens(map, queries, stream, 0, n, options.normalization, tile, state, tokens, out, workspace);
  } else {
    const Memory<S> none;
    const S most = tokens + S(static_cast<double>(n));
    LongMemory<S> state = take_copy(memory == nullptr ? none : *memory, map.components(), stream.values.cols(),
                                    is_long_by_slot(most), workspace);
    slot_tokens(map, queries, stream, 0, n, options.normalization, tile, state, tokens, out, workspace);
    if (memory == nullptr) return;
    if (state.has_remainder) ensure_remainder(*memory);
    store(state, *memory);
  }
  memory->tokens = tokens;
  memory->log_forgetting += S(stream.total_log_forgetting());
  memory->has_signed_mass = memory->has_signed_mass || has_signed_features<FeatureMap>;
}

template <class FeatureMap, class S>
void advance_by_slot(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream,
                     const Options& options, Memory<S>* memory, const TokenSink<S>& out, Workspace<S>& workspace) {
  run_by_slot(map, &queries, stream, options, memory, &out, workspace);
}

template <class FeatureMap, class S>
void write_by_slot(const FeatureMap& map, const TokenStream<S>& stream, const Options& options, Memory<S>& memory,
                   Workspace<S>& workspace) {
  const TokenView<S>* const no_queries = nullptr;
  const TokenSink<S>* const no_output = nullptr;
  run_by_slot(map, no_queries, stream, options, &memory, no_output, workspace);
}

}  // namespace gma::detail
