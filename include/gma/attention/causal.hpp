// SPDX-License-Identifier: MIT
// Causal attention: token i reads the memory after it was written, (8). The memory before the first token may be given
// and is left advanced, so that one pass, any split of it, a prefill and single decoding steps give the same, within
// rounding, at any number of tokens (DERIVATION.md, Accuracy).
#pragma once

#include "gma/attention/causal_tile.hpp"
#include "gma/attention/write.hpp"
#include "gma/core/operands.hpp"

namespace gma {

/// y_t from (4), (5) or (6) with the memory after token t: queries and keys N x d, values N x e; returns N x e. lambda
/// = 1 everywhere unless tokens.log_forgetting is given. Output i depends on tokens 0..i of the call alone: later
/// tokens change no bit of it. Cost O(N K (D + e)), 2 N K (2 D + 2 e) operations in products; extra memory O(tile (K +
/// D) + K e) (kernels/COSTS.md). Throws std::invalid_argument on shapes or token inputs that do not fit.
template <class M>
Matrix<Scalar<M>> causal(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                         const In<Scalar<M>>& values, const Options& options = {},
                         const TokenInputsView<Scalar<M>>& tokens = {},
                         const OptionalWorkspace<Scalar<M>>& workspace = {});

/// The same, continuing from `memory` (K x e, or empty: sized here) and leaving it advanced. N = 1 decodes a step, N >
/// 1 prefills. An exception leaves the memory unchanged, except that an empty one may have been sized, with zeros.
template <class M>
Matrix<Scalar<M>> causal(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                         const In<Scalar<M>>& values, Memory<Scalar<M>>& memory, const Options& options = {},
                         const TokenInputsView<Scalar<M>>& tokens = {},
                         const OptionalWorkspace<Scalar<M>>& workspace = {});

/// Both into a caller's N x e matrix, block or map. `out` may share memory with queries, keys and values, which are
/// copied where that is needed, but not with `memory`. With a compiled mixture, a workspace and the same shapes nothing
/// is allocated from the second call on, except where `memory` begins to keep a remainder.
template <class M>
void causal_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                 const In<Scalar<M>>& values, const Options& options = {},
                 const TokenInputsView<Scalar<M>>& tokens = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void causal_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                 const In<Scalar<M>>& values, Memory<Scalar<M>>& memory, const Options& options = {},
                 const TokenInputsView<Scalar<M>>& tokens = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

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

/// `state` and the number of its tokens become those after the stream. Tokens of one stream follow each other: threads
/// are for heads and sequences.
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

/// The same from `memory` (null: zeros), which is advanced. A single tile advances it in place, and everything that may
/// fail comes first; several run on a copy that replaces it at the end.
template <class FeatureMap, class S>
void advance(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream, const Options& options,
             Memory<S>* memory, const TokenSink<S>& out, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const Index tile = tile_size(options, default_tile, stream.size());
  S tokens = memory == nullptr ? S(0) : tokens_in(*memory);
  const bool in_place =
      memory != nullptr && stream.size() <= tile && stream.values.overlap(TokenView<S>(memory->slots)) == Overlap::none;
  if (in_place) {
    if (is_long(tokens, stream.forgets())) ensure_remainder(*memory);
    LongMemory<S> state = view_long(*memory);
    causal_tokens(map, queries, stream, options.normalization, tile, state, tokens, out, workspace);
  } else {
    const Memory<S> none;
    const S most = tokens + S(static_cast<double>(stream.size()));
    LongMemory<S> state = take_copy(memory == nullptr ? none : *memory, map.components(), out.cols(),
                                    is_long(most, stream.forgets()), workspace);
    causal_tokens(map, queries, stream, options.normalization, tile, state, tokens, out, workspace);
    if (memory == nullptr) return;
    if (state.has_remainder) ensure_remainder(*memory);
    store(state, *memory);
  }
  memory->tokens = tokens;
  memory->log_forgetting += S(stream.total_log_forgetting());
  memory->has_signed_mass = memory->has_signed_mass || has_signed_features<FeatureMap>;
}

/// The same for operands as they were given: checked, but they may share memory with `out`.
template <class FeatureMap, class S>
void causal_tokens_into(const TokenSink<S>& out, const FeatureMap& map, const TokenView<S>& queries,
                        const TokenView<S>& keys, const TokenView<S>& values, Memory<S>* memory, const Options& options,
                        const TokenInputsView<S>& tokens, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const TokenView<S> view = apart(queries, out, true, workspace);
  const TokenStream<S> stream{apart(keys, out, true, workspace), apart(values, out, false, workspace), tokens};
  advance(map, view, stream, options, memory, out, workspace);
}

template <class Map, class S>
void check_causal(const char* function, const Map& natural, const TokenView<S>& queries, const TokenView<S>& keys,
                  const TokenView<S>& values, const Options& options, const TokenInputsView<S>& tokens) {
  check_options(function, options);
  check_token_width(function, "queries", queries.cols(), natural.dim());
  check_stream(function, natural, keys, values, tokens);
  check_size(function, "queries", "rows", queries.rows(), keys.rows(), "one per key");
}

/// Both causal_into(); `memory` may be null: zeros, and nothing is left.
template <class M, class S>
void causal_from(const TokenSink<S>& out, const M& mixture, const TokenView<S>& queries, const TokenView<S>& keys,
                 const TokenView<S>& values, Memory<S>* memory, const Options& options,
                 const TokenInputsView<S>& tokens, Workspace<S>& workspace) {
  const FeatureMapOf<M>& natural = compiled("causal", mixture, workspace);
  check_causal("causal", natural, queries, keys, values, options, tokens);
  check_shape("causal", "out", out.rows(), out.cols(), queries.rows(), values.cols(), "queries x value width");
  if (memory != nullptr) {
    if (!memory->empty()) check_memory("causal", "memory", *memory, natural.components(), values.cols());
    size_if_empty(*memory, natural.components(), values.cols());
  }
  causal_tokens_into(out, natural, queries, keys, values, memory, options, tokens, workspace);
}

}  // namespace detail

template <class M>
void causal_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                 const In<Scalar<M>>& values, Memory<Scalar<M>>& memory, const Options& options,
                 const TokenInputsView<Scalar<M>>& tokens, const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::causal_from<M, Scalar<M>>(out, mixture, queries, keys, values, &memory, options, tokens, workspace.get());
}

template <class M>
void causal_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                 const In<Scalar<M>>& values, const Options& options, const TokenInputsView<Scalar<M>>& tokens,
                 const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::causal_from<M, Scalar<M>>(out, mixture, queries, keys, values, nullptr, options, tokens, workspace.get());
}

template <class M>
Matrix<Scalar<M>> causal(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                         const In<Scalar<M>>& values, const Options& options, const TokenInputsView<Scalar<M>>& tokens,
                         const OptionalWorkspace<Scalar<M>>& workspace) {
  Matrix<Scalar<M>> out(queries.rows(), values.cols());
  causal_into(out, mixture, queries, keys, values, options, tokens, workspace);
  return out;
}

template <class M>
Matrix<Scalar<M>> causal(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                         const In<Scalar<M>>& values, Memory<Scalar<M>>& memory, const Options& options,
                         const TokenInputsView<Scalar<M>>& tokens, const OptionalWorkspace<Scalar<M>>& workspace) {
  Matrix<Scalar<M>> out(queries.rows(), values.cols());
  causal_into(out, mixture, queries, keys, values, memory, options, tokens, workspace);
  return out;
}

}  // namespace gma
