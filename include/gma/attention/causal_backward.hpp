// SPDX-License-Identifier: MIT
// Backward of causal attention. On the way forward the memory is kept at every checkpoint_interval tokens; on the way
// back each interval is replayed from its checkpoint, tile by tile, and the tiles are run last first. Responsibilities
// are recomputed: nothing of size N x K exists.
#pragma once

#include "gma/attention/causal_backward_segments.hpp"
#include "gma/attention/slot_forgetting_backward.hpp"

namespace gma {

/// Gradients of causal(): everything that was given; d_output is N x e. Accuracy: DERIVATION.md. Cost about 3.5 forward
/// passes; extra memory (N / checkpoint_interval + checkpoint_interval / tile) (K e + K) numbers and a few tiles.
/// Throws std::invalid_argument on shapes or token inputs that do not fit.
template <class M>
Gradients<M> causal_backward(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                             const In<Scalar<M>>& values, const In<Scalar<M>>& d_output, const Options& options = {},
                             const TokenInputsView<Scalar<M>>& tokens = {});

/// Gradients of causal() that continued from `initial_memory` (empty: zeros), also through the memory it left behind:
/// d_final_memory is the gradient of that (empty: zeros).
template <class M>
Gradients<M> causal_backward(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                             const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                             const Memory<Scalar<M>>& initial_memory, const Memory<Scalar<M>>& d_final_memory,
                             const Options& options = {}, const TokenInputsView<Scalar<M>>& tokens = {},
                             const OptionalWorkspace<Scalar<M>>& workspace = {});

/// The same into `gradients`, whose matrices are reused, or to where the targets say. Inputs, the initial memory too,
/// may lie there.
template <class M>
void causal_backward_into(Gradients<M>& gradients, const M& mixture, const In<Scalar<M>>& queries,
                          const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                          const Memory<Scalar<M>>& initial_memory = {}, const Memory<Scalar<M>>& d_final_memory = {},
                          const Options& options = {}, const TokenInputsView<Scalar<M>>& tokens = {},
                          const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void causal_backward_into(const GradientTargets<M>& targets, const M& mixture, const In<Scalar<M>>& queries,
                          const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                          const Memory<Scalar<M>>& initial_memory = {}, const Memory<Scalar<M>>& d_final_memory = {},
                          const Options& options = {}, const TokenInputsView<Scalar<M>>& tokens = {},
                          const OptionalWorkspace<Scalar<M>>& workspace = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// The inner part of causal_backward(): from `state`, the memory before the stream, which holds `tokens_before` and is
/// overwritten. out.memory is the gradient of the memory after the stream and becomes that of the memory before it;
/// both are for values less the stream's centre. The gradient of the natural parameters is added to `sum`.
/// `may_be_long`: the stream may become long.
template <class FeatureMap, class S>
void causal_backward_tokens(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream,
                            const TokenView<S>& d_output, const Options& options, LongMemory<S>& state,
                            const S& tokens_before, bool may_be_long, const TokenGradients<S>& out,
                            GradientSum<FeatureMap, S>& sum, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const Index n = stream.size(), components = map.components(), width = stream.values.cols();
  if (Segments(options, n).count() > 1) {
    CausalBackwardSegments<FeatureMap, S> segments(map, queries, stream, d_output, options, may_be_long, out,
                                                   workspace);
    return segments.run(state, tokens_before, sum);
  }
  const Index tile = tile_size(options, causal_backward_tile(components), n);
  CausalCheckpoints<S> checkpoints(options, tile, n, components, width, workspace);
  checkpoints.write(map, stream, tokens_before, stream.forgets(), state, workspace);
  MemoryTiles<S> after = take_memory(components, width, workspace);
  after.copy(state.memory);
  ForgettingEnergy<S> energy;
  CausalBackward<FeatureMap, S> pass{
      final_gradient(map, out.memory, stream.forgets() ? after.mass.data() : nullptr, may_be_long, workspace),
      map,
      queries,
      stream,
      d_output,
      options.normalization,
      tile,
      out,
      sum,
      sum.part(map),
      energy,
      nullptr,
      workspace};
  run_intervals(pass, checkpoints, state, after);
  out.memory.slots = pass.d_memory.memory.slots;
  out.memory.mass = pass.d_memory.memory.mass.transpose();
}

template <class M>
void causal_backward_to(GradientDestination<M> gradients, const M& mixture, const TokenView<Scalar<M>>& queries,
                        const TokenView<Scalar<M>>& keys, const TokenView<Scalar<M>>& values,
                        const TokenView<Scalar<M>>& d_output, const Memory<Scalar<M>>& initial_memory,
                        const Memory<Scalar<M>>& d_final_memory, const Options& options,
                        const TokenInputsView<Scalar<M>>& tokens, Workspace<Scalar<M>>& workspace) {
  using S = Scalar<M>;
  constexpr const char* function = "causal_backward";
  check_has_parameters<M>();
  const FeatureMapOf<M>& natural = compiled(function, mixture, workspace);
  const Index components = natural.components(), width = values.cols();
  check_causal(function, natural, queries, keys, values, options, tokens, true);
  check_shape(function, "d_output", d_output.rows(), d_output.cols(), queries.rows(), width, "queries x value width");
  if (!initial_memory.empty()) check_memory(function, "initial_memory", initial_memory, components, width);
  if (!d_final_memory.empty()) check_memory(function, "d_final_memory", d_final_memory, components, width);
  TokenStream<S> stream{keys, values, tokens};
  const GradientShapes shapes{function, queries.rows(),    keys.rows(),      queries.cols(),
                              width,    stream.weighted(), stream.forgets(), stream.forgetting_slots()};
  gradients.check(shapes);
  typename Workspace<S>::Frame frame(workspace);
  const TokenView<S> query_view = gradients.apart(queries, workspace);
  const TokenView<S> d_output_view = gradients.apart(d_output, workspace);
  stream.keys = gradients.apart(keys, workspace);
  stream.values = gradients.apart(values, workspace);
  stream.centre = value_centre(natural, stream, options, &initial_memory, workspace);
  const Index n = stream.size();
  const S initial_tokens = tokens_in(initial_memory);
  const bool may_be_long =
      has_remainder(initial_memory) || is_long(S(initial_tokens + S(static_cast<double>(n))), stream.forgets());
  LongMemory<S> state =  // before anything is written: the initial memory may be the gradient's
      take_copy(initial_memory, components, width, keeps_remainder<S>, workspace);
  start_remainder(state);
  centre_memory(stream.centre, state);
  const TokenGradients<S> out = gradients.open(shapes, workspace);
  start_gradient(d_final_memory, components, width, out.memory);
  centre_gradient(stream.centre, view(out.memory));
  GradientSum<FeatureMapOf<M>, S> sum(natural, gradients.mixture() != nullptr, workspace);
  if (stream.forgets_by_slot()) {
    slot_backward_tokens(natural, &query_view, stream, &d_output_view, options, state, initial_tokens, out, sum,
                         workspace);
  } else {
    causal_backward_tokens(natural, query_view, stream, d_output_view, options, state, initial_tokens, may_be_long, out,
                           sum, workspace);
  }
  uncentre_gradient(stream.centre, view(out.memory));
  gradients.close();
  if (gradients.mixture() != nullptr) pull_back(mixture, natural, sum.total(), *gradients.mixture());
}

}  // namespace detail

template <class M>
void causal_backward_into(Gradients<M>& gradients, const M& mixture, const In<Scalar<M>>& queries,
                          const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                          const Memory<Scalar<M>>& initial_memory, const Memory<Scalar<M>>& d_final_memory,
                          const Options& options, const TokenInputsView<Scalar<M>>& tokens,
                          const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::causal_backward_to<M>(gradients, mixture, queries, keys, values, d_output, initial_memory, d_final_memory,
                                options, tokens, workspace.get());
}

template <class M>
void causal_backward_into(const GradientTargets<M>& targets, const M& mixture, const In<Scalar<M>>& queries,
                          const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                          const Memory<Scalar<M>>& initial_memory, const Memory<Scalar<M>>& d_final_memory,
                          const Options& options, const TokenInputsView<Scalar<M>>& tokens,
                          const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::causal_backward_to<M>(targets, mixture, queries, keys, values, d_output, initial_memory, d_final_memory,
                                options, tokens, workspace.get());
}

template <class M>
Gradients<M> causal_backward(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                             const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                             const Memory<Scalar<M>>& initial_memory, const Memory<Scalar<M>>& d_final_memory,
                             const Options& options, const TokenInputsView<Scalar<M>>& tokens,
                             const OptionalWorkspace<Scalar<M>>& workspace) {
  Gradients<M> gradients;
  causal_backward_into(gradients, mixture, queries, keys, values, d_output, initial_memory, d_final_memory, options,
                       tokens, workspace);
  return gradients;
}

template <class M>
Gradients<M> causal_backward(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                             const In<Scalar<M>>& values, const In<Scalar<M>>& d_output, const Options& options,
                             const TokenInputsView<Scalar<M>>& tokens) {
  Gradients<M> gradients;
  causal_backward_into(gradients, mixture, queries, keys, values, d_output, Memory<Scalar<M>>(), Memory<Scalar<M>>(),
                       options, tokens);
  return gradients;
}

}  // namespace gma
