// SPDX-License-Identifier: MIT
// Causal attention: token i reads the memory after it was written, (8). The memory before the first token may be given
// and is left advanced, so that one pass, any split of it, a prefill and single decoding steps give the same, within
// rounding, at any number of tokens (DERIVATION.md, Accuracy).
#pragma once

#include "gma/attention/causal_segments.hpp"
#include "gma/core/operands.hpp"

namespace gma {

/// y_t from (4), (5) or (6) with the memory after token t: queries and keys N x d, values N x e; returns N x e. lambda
/// = 1 everywhere unless tokens.log_forgetting, or, slot by slot (10), tokens.slot_log_forgetting is given. Output i
/// depends on tokens 0..i of the call alone: later tokens change no bit of it. Cost O(N K (D + e)), 2 N K (2 D + 2 e)
/// operations in products; extra memory O(tile (K + D) + K e) (kernels/COSTS.md). Throws std::invalid_argument on
/// shapes or token inputs that do not fit.
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

/// The outputs of a stream from `memory` (null: zeros), which is advanced. A single tile advances it in place, and
/// everything that may fail comes first; several run on a copy that replaces it at the end.
template <class FeatureMap, class S>
void advance(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream, const Options& options,
             Memory<S>* memory, const TokenSink<S>& out, Workspace<S>& workspace) {
  if (stream.forgets_by_slot()) return advance_by_slot(map, queries, stream, options, memory, out, workspace);
  if (Segments(options, stream.size()).count() > 1) {
    return advance_in_segments(map, queries, stream, options, memory, out, workspace);
  }
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
                  const TokenView<S>& values, const Options& options, const TokenInputsView<S>& tokens,
                  bool takes_slot_forgetting = false) {
  check_options(function, options);
  check_token_width(function, "queries", queries.cols(), natural.dim());
  check_stream(function, natural, keys, values, tokens, takes_slot_forgetting);
  check_size(function, "queries", "rows", queries.rows(), keys.rows(), "one per key");
}

/// Both causal_into(); `memory` may be null: zeros, and nothing is left.
template <class M, class S>
void causal_from(const TokenSink<S>& out, const M& mixture, const TokenView<S>& queries, const TokenView<S>& keys,
                 const TokenView<S>& values, Memory<S>* memory, const Options& options,
                 const TokenInputsView<S>& tokens, Workspace<S>& workspace) {
  const FeatureMapOf<M>& natural = compiled("causal", mixture, workspace);
  check_causal("causal", natural, queries, keys, values, options, tokens, true);
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
