// SPDX-License-Identifier: MIT
// The outputs of a causal stream from a memory, tile by tile.
#pragma once

#include "gma/attention/causal_tile.hpp"
#include "gma/attention/write.hpp"

namespace gma::detail {

/// A single token into a memory with a remainder. Nothing is allocated once a number of the memory has changed.
template <class S>
void compensated_token(const CausalTile<S>& tile, const MemoryTiles<S>& written, LongMemory<S>& state, Tile<S> y) {
  const kernels::Decay<S> decay = tile.decay.before(0);
  kernels::compensated_step<S>(
      {1, state.memory.slots.rows(), state.memory.slots.cols(), read_pointer(tile.writes), read_pointer(tile.v),
       read_pointer(tile.reads), pointer(y), state.memory.slots.data(), decay},
      state.remainder.slots.data(), tile.decay.forgets ? S(tile.decay.kept_of_tile(0, 0)) : S(1));
  kernels::settle<S>(decay, written.mass.data(), written.mass.size(), state.memory.mass.data(),
                     state.remainder.mass.data());
}

/// Tokens [begin, begin + count). A memory with a remainder is read through one product more, while the scan runs from
/// zero; what the tile has written is then added to it.
template <class FeatureMap, class S>
void causal_one_tile(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream, Index begin,
                     Index count, Normalization normalization, LongMemory<S>& state, S& tokens, const TokenSink<S>& out,
                     Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const bool is_long = state.has_remainder, is_step = stream.size() == 1;
  const CausalTile<S> tile = open_tile(map, queries, stream, begin, count, false, is_long, workspace);
  Tile<S> y = out.tile(begin, count, workspace.take(count, out.cols()), true);
  const S after = tokens_after(stream, begin, tile.decay, tokens);
  if (is_long) {
    MemoryTiles<S> written = take_memory(state.memory.slots.rows(), is_step ? Index(0) : out.cols(), workspace);
    written.set_zero();
    fill_masses<S>(tile, normalization, false, written.mass.data(), state.memory.mass.data());
    if (is_step) {
      compensated_token(tile, written, state, y);
    } else {
      forward_tile(tile, written.slots, &state.memory.slots, y, workspace);
      state.settle(tile.decay.whole(), written);
    }
  } else {
    fill_masses<S>(tile, normalization, false, state.memory.mass.data(), nullptr);
    forward_tile<S>(tile, state.memory.slots, nullptr, y, workspace);
  }
  if (tile.decay.forgets) drop_vanished(map, state);
  tokens = after;
  out.store(begin, y);
}

/// `state` and the number of its tokens become those after the stream, whose tokens follow each other.
template <class FeatureMap, class S>
void causal_tokens(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream,
                   Normalization normalization, Index tile, LongMemory<S>& state, S& tokens, const TokenSink<S>& out,
                   Workspace<S>& workspace) {
  for (Index begin = 0; begin < stream.size(); begin += tile) {
    const Index count = (std::min)(tile, stream.size() - begin);
    state.prepare(tokens, stream.forgets());
    causal_one_tile(map, queries, stream, begin, count, normalization, state, tokens, out, workspace);
  }
}

}  // namespace gma::detail
