// SPDX-License-Identifier: MIT
// Causal attention with a memory that corrects itself: the gated delta rule (9) over unit features. What token t writes
// is the difference between its value and what the memory already answers to its key; a repeated key replaces its old
// value instead of adding to it. S. Yang, J. Kautz and A. Hatamizadeh, Gated Delta Networks, 2025, with the features of
// any map in place of keys and queries: IdentityFeatures are theirs, a mixture's are its responsibilities.
#pragma once

#include "gma/attention/causal.hpp"
#include "gma/baselines/delta_tile.hpp"

namespace gma::baselines {

/// Options of the delta rule. `normalization` has no meaning here: there is no mass to divide by.
struct DeltaOptions : Options {
  /// Features less their mean 1/K before they get unit length: those of a mixture then have both signs.
  bool is_centred = false;
};

/// With k_t and q_t the features of key and query at unit length, b_t the key weight (the write strength, at most 2;
/// all ones if none are given) and lambda_t = exp(g_t) the forgetting:
///
///   u_t = b_t (v_t - lambda_t M(t-1)^T k_t)     M(t) = lambda_t M(t-1) + k_t u_t^T     y_t = M(t)^T q_t   (9)
///
/// Shapes, token inputs and errors as causal(): queries and keys N x d, values N x e; returns N x e. A weight of 0
/// means that the token is absent. Output i depends on tokens 0..i alone. Cost, in products, 2 N (2 K D + 3 K e + T (2
/// K + e)) operations with tiles of T = 32 tokens; extra memory O(T (K + e) + K e). Errors do not add up, because every
/// write corrects the memory: outputs in float are within 1e-5 of double after 200,000 tokens of which nothing is
/// forgotten. Slots have the same accuracy, except what they all have in common where features are centred: that is
/// neither read nor corrected.
template <class M>
Matrix<Scalar<M>> causal_delta(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                               const In<Scalar<M>>& values, const DeltaOptions& options = {},
                               const TokenInputsView<Scalar<M>>& tokens = {},
                               const OptionalWorkspace<Scalar<M>>& workspace = {});

/// The same, continuing from `memory` (K x e, or empty: sized here) and leaving it advanced: its slots are M, its mass
/// is zero. merge() does not apply to such memories: what a segment does to a memory depends on the memory. An
/// exception leaves the memory unchanged, except that an empty one may have been sized, with zeros.
template <class M>
Matrix<Scalar<M>> causal_delta(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                               const In<Scalar<M>>& values, Memory<Scalar<M>>& memory, const DeltaOptions& options = {},
                               const TokenInputsView<Scalar<M>>& tokens = {},
                               const OptionalWorkspace<Scalar<M>>& workspace = {});

/// Both into a caller's N x e matrix, block or map, as causal_into(): nothing is allocated from the second call on with
/// a compiled mixture, a workspace and the same shapes.
template <class M>
void causal_delta_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries,
                       const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const DeltaOptions& options = {},
                       const TokenInputsView<Scalar<M>>& tokens = {},
                       const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void causal_delta_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries,
                       const In<Scalar<M>>& keys, const In<Scalar<M>>& values, Memory<Scalar<M>>& memory,
                       const DeltaOptions& options = {}, const TokenInputsView<Scalar<M>>& tokens = {},
                       const OptionalWorkspace<Scalar<M>>& workspace = {});

}  // namespace gma::baselines

// Implementation -----------------------------------------------------------------------------------------------------

namespace gma::detail {

template <class Map, class S>
void check_delta(const char* function, const Map& natural, const TokenView<S>& queries, const TokenView<S>& keys,
                 const TokenView<S>& values, const Options& options, const TokenInputsView<S>& tokens) {
  check_causal(function, natural, queries, keys, values, options, tokens);
  for (Index j = 0; j < tokens.key_weights.size(); ++j) {
    if (!(tokens.key_weights(j) <= S(2))) {
      invalid_argument(function, "tokens.key_weights is ", tokens.key_weights(j), " at token ", j,
                       ", expected a write strength of at most 2");
    }
  }
}

/// Tokens of the stream, from `memory` (K x e), which is advanced; a single tile advances it when nothing can fail any
/// more.
template <class FeatureMap, class S>
void delta_tokens(const FeatureMap& map, bool is_centred, const TokenView<S>& queries, const TokenStream<S>& stream,
                  Index tile, Tile<S> memory, const TokenSink<S>& out, Workspace<S>& workspace) {
  for (Index begin = 0; begin < stream.size(); begin += tile) {
    typename Workspace<S>::Frame frame(workspace);
    const Index count = (std::min)(tile, stream.size() - begin);
    DeltaTile<S> opened = open_delta_tile(map, is_centred, &queries, stream, begin, count, workspace);
    Tile<S> y = out.tile(begin, count, workspace.take(count, out.cols()), true);
    const Tile<S> scaled = workspace.take(count, map.components());
    if (count == 1) {
      delta_step(opened, memory, y);
    } else {
      delta_forward(opened, memory, y);
      delta_advance(opened, memory, scaled);
    }
    out.store(begin, y);
  }
}

/// `memory` may be null: zeros, and nothing is left.
template <class M, class S>
void delta_from(const TokenSink<S>& out, const M& mixture, const TokenView<S>& queries, const TokenView<S>& keys,
                const TokenView<S>& values, Memory<S>* memory, const baselines::DeltaOptions& options,
                const TokenInputsView<S>& tokens, Workspace<S>& workspace) {
  constexpr const char* function = "causal_delta";
  const FeatureMapOf<M>& natural = compiled(function, mixture, workspace);
  check_delta(function, natural, queries, keys, values, options, tokens);
  check_shape(function, "out", out.rows(), out.cols(), queries.rows(), values.cols(), "queries x value width");
  const Index components = natural.components(), width = values.cols();
  if (memory != nullptr) {
    if (!memory->empty()) check_memory(function, "memory", *memory, components, width);
    size_if_empty(*memory, components, width);
  }
  typename Workspace<S>::Frame frame(workspace);
  const TokenView<S> view = apart(queries, out, true, workspace);
  TokenStream<S> stream{apart(keys, out, true, workspace), apart(values, out, false, workspace), tokens};
  if (memory != nullptr && stream.values.overlap(TokenView<S>(memory->slots)) != Overlap::none) {
    stream.values = copied(stream.values, workspace);
  }
  const Index tile = tile_size(options, default_delta_tile, stream.size());
  const bool in_place = memory != nullptr && stream.size() <= tile;
  Tile<S> state = in_place ? as_tile(memory->slots) : workspace.take(components, width);
  if (!in_place) {
    if (memory == nullptr) {
      state.setConstant(S(0));
    } else {
      state = memory->slots;
    }
  }
  delta_tokens(natural, options.is_centred, view, stream, tile, state, out, workspace);
  if (memory == nullptr) return;
  if (!in_place) memory->slots = state;
  memory->log_forgetting += S(stream.total_log_forgetting());
  memory->has_signed_mass = memory->has_signed_mass || has_signed_features<FeatureMapOf<M>>;
}

}  // namespace gma::detail

namespace gma::baselines {

template <class M>
void causal_delta_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries,
                       const In<Scalar<M>>& keys, const In<Scalar<M>>& values, Memory<Scalar<M>>& memory,
                       const DeltaOptions& options, const TokenInputsView<Scalar<M>>& tokens,
                       const OptionalWorkspace<Scalar<M>>& workspace) {
  gma::detail::delta_from<M, Scalar<M>>(out, mixture, queries, keys, values, &memory, options, tokens, workspace.get());
}

template <class M>
void causal_delta_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries,
                       const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const DeltaOptions& options,
                       const TokenInputsView<Scalar<M>>& tokens, const OptionalWorkspace<Scalar<M>>& workspace) {
  gma::detail::delta_from<M, Scalar<M>>(out, mixture, queries, keys, values, nullptr, options, tokens, workspace.get());
}

template <class M>
Matrix<Scalar<M>> causal_delta(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                               const In<Scalar<M>>& values, const DeltaOptions& options,
                               const TokenInputsView<Scalar<M>>& tokens,
                               const OptionalWorkspace<Scalar<M>>& workspace) {
  Matrix<Scalar<M>> out(queries.rows(), values.cols());
  causal_delta_into(out, mixture, queries, keys, values, options, tokens, workspace);
  return out;
}

template <class M>
Matrix<Scalar<M>> causal_delta(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                               const In<Scalar<M>>& values, Memory<Scalar<M>>& memory, const DeltaOptions& options,
                               const TokenInputsView<Scalar<M>>& tokens,
                               const OptionalWorkspace<Scalar<M>>& workspace) {
  Matrix<Scalar<M>> out(queries.rows(), values.cols());
  causal_delta_into(out, mixture, queries, keys, values, memory, options, tokens, workspace);
  return out;
}

}  // namespace gma::baselines
