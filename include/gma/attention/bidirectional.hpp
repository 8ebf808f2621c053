// SPDX-License-Identifier: MIT
// Bidirectional attention is write, then read; its backward is the two backward passes in the opposite order.
#pragma once

#include "gma/attention/read_backward.hpp"
#include "gma/attention/write_backward.hpp"

namespace gma {

/// Every query reads the memory that all keys were written to (equations 3 to 6): queries Nq x d, keys Nk x d, values
/// Nk x e; returns Nq x e. Nq and Nk may differ. Equal to the dense affinity (7) times the values. With forgetting it
/// is the memory after the last key that is read: keys near the end weigh most. Cost O((Nq + Nk) K (D + e)), extra
/// memory O(tile (K + D + e) + K e). Throws std::invalid_argument on shapes or token inputs that do not fit.
template <class M>
Matrix<Scalar<M>> bidirectional(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                                const In<Scalar<M>>& values, const Options& options = {},
                                const TokenInputsView<Scalar<M>>& tokens = {},
                                const OptionalWorkspace<Scalar<M>>& workspace = {});
/// The same into a caller's Nq x e matrix, block or map. `out` may share memory with the inputs.
template <class M>
void bidirectional_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries,
                        const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const Options& options = {},
                        const TokenInputsView<Scalar<M>>& tokens = {},
                        const OptionalWorkspace<Scalar<M>>& workspace = {});

/// Gradients of bidirectional(): everything that was given. d_output is Nq x e. Cost about 3 forward passes; the same
/// extra memory.
template <class M>
Gradients<M> bidirectional_backward(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                                    const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                    const Options& options = {}, const TokenInputsView<Scalar<M>>& tokens = {},
                                    const OptionalWorkspace<Scalar<M>>& workspace = {});
/// The same into `gradients`, whose matrices are reused, or to where the targets say. Inputs may lie there.
template <class M>
void bidirectional_backward_into(Gradients<M>& gradients, const M& mixture, const In<Scalar<M>>& queries,
                                 const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                 const Options& options = {}, const TokenInputsView<Scalar<M>>& tokens = {},
                                 const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void bidirectional_backward_into(const GradientTargets<M>& targets, const M& mixture, const In<Scalar<M>>& queries,
                                 const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                 const Options& options = {}, const TokenInputsView<Scalar<M>>& tokens = {},
                                 const OptionalWorkspace<Scalar<M>>& workspace = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// The memory of the whole stream, as read_written() wants it: M / m for slot normalisation.
template <class FeatureMap, class S>
MemoryTiles<S> written_memory(const FeatureMap& map, const TokenStream<S>& stream, const Options& options,
                              Workspace<S>& workspace) {
  const Index tile = tile_size(options, default_tile, stream.size());
  const MemoryTiles<S> memory = write_all(map, stream, tile, options.executor, false, workspace).memory;
  if (options.normalization == Normalization::slot) divide_slots(memory, memory.slots);
  return memory;
}

template <class FeatureMap, class S>
void read_written(const FeatureMap& map, const TokenView<S>& queries, const MemoryTiles<S>& memory,
                  const Options& options, const TokenSink<S>& out, Workspace<S>& workspace) {
  read_tokens(map, queries, memory, options.normalization, tile_size(options, default_tile, queries.rows()),
              options.executor, out, workspace);
}

template <class Map, class S>
void check_bidirectional(const char* function, const Map& natural, const TokenView<S>& queries,
                         const TokenView<S>& keys, const TokenView<S>& values, const Options& options,
                         const TokenInputsView<S>& tokens) {
  check_options(function, options);
  check_token_width(function, "queries", queries.cols(), natural.dim());
  check_stream(function, natural, keys, values, tokens);
}

}  // namespace detail

template <class M>
void bidirectional_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries,
                        const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const Options& options,
                        const TokenInputsView<Scalar<M>>& tokens,
                        const OptionalWorkspace<Scalar<M>>& optional_workspace) {
  using S = Scalar<M>;
  constexpr const char* function = "bidirectional";
  Workspace<S>& workspace = optional_workspace.get();
  const detail::FeatureMapOf<M>& natural = detail::compiled(function, mixture, workspace);
  detail::check_bidirectional<detail::FeatureMapOf<M>, S>(function, natural, queries, keys, values, options, tokens);
  detail::check_shape(function, "out", out.rows(), out.cols(), queries.rows(), values.cols(), "queries x value width");
  typename Workspace<S>::Frame frame(workspace);
  const detail::TokenView<S> view = detail::apart(queries, out, true, workspace);
  const detail::TokenStream<S> stream{keys, values, tokens};
  const detail::MemoryTiles<S> memory = detail::written_memory(natural, stream, options, workspace);
  detail::read_written<detail::FeatureMapOf<M>, S>(natural, view, memory, options, out, workspace);
}

template <class M>
Matrix<Scalar<M>> bidirectional(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                                const In<Scalar<M>>& values, const Options& options,
                                const TokenInputsView<Scalar<M>>& tokens,
                                const OptionalWorkspace<Scalar<M>>& workspace) {
  Matrix<Scalar<M>> out(queries.rows(), values.cols());
  bidirectional_into(out, mixture, queries, keys, values, options, tokens, workspace);
  return out;
}

namespace detail {

template <class M>
void bidirectional_backward_to(GradientDestination<M> gradients, const M& mixture, const TokenView<Scalar<M>>& queries,
                               const TokenView<Scalar<M>>& keys, const TokenView<Scalar<M>>& values,
                               const TokenView<Scalar<M>>& d_output, const Options& options,
                               const TokenInputsView<Scalar<M>>& tokens, Workspace<Scalar<M>>& workspace) {
  using S = Scalar<M>;
  constexpr const char* function = "bidirectional_backward";
  check_has_parameters<M>();
  const FeatureMapOf<M>& natural = compiled(function, mixture, workspace);
  check_bidirectional(function, natural, queries, keys, values, options, tokens);
  const Index components = natural.components(), e = values.cols();
  check_shape(function, "d_output", d_output.rows(), d_output.cols(), queries.rows(), e, "queries x value width");
  TokenStream<S> stream{keys, values, tokens};
  const GradientShapes shapes{function, queries.rows(),    keys.rows(),     queries.cols(),
                              e,        stream.weighted(), stream.forgets()};
  gradients.check(shapes);
  typename Workspace<S>::Frame frame(workspace);
  const TokenView<S> query_view = gradients.apart(queries, workspace), dy = gradients.apart(d_output, workspace);
  stream.keys = gradients.apart(keys, workspace);
  stream.values = gradients.apart(values, workspace);
  const Memory<S>* const from_zeros = nullptr;
  stream.centre = value_centre(natural, stream, options.normalization, from_zeros, workspace);
  const Index write_tile = tile_size(options, default_tile, stream.size());
  const Index read_tile = tile_size(options, default_tile, query_view.rows());
  GradientSum<FeatureMapOf<M>, S> sum(natural, gradients.mixture() != nullptr, workspace);
  constexpr bool in_two_parts = keeps_remainder<S>;
  const LongMemory<S> memory = write_all(natural, stream, write_tile, options.executor, in_two_parts, workspace);
  const TokenGradients<S> out = gradients.open(shapes, workspace);
  set_zero(out.memory, components, e);
  LongMemory<S> d_memory{view(out.memory), take_memory(in_two_parts ? components : Index(0), e, workspace),
                         in_two_parts};
  d_memory.remainder.set_zero();
  read_tokens_backward(natural, query_view, memory, dy, options.normalization, read_tile, options.executor,
                       stream.centre, out.queries, d_memory, sum, workspace);
  write_tokens_backward(natural, stream, from_zeros, write_tile, options.executor,
                        static_cast<const S*>(memory.memory.mass.data()), d_memory, out, sum, workspace);
  gradients.close();
  if (gradients.mixture() != nullptr) pull_back(mixture, natural, sum.total(), *gradients.mixture());
}

}  // namespace detail

template <class M>
void bidirectional_backward_into(Gradients<M>& gradients, const M& mixture, const In<Scalar<M>>& queries,
                                 const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                 const Options& options, const TokenInputsView<Scalar<M>>& tokens,
                                 const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::bidirectional_backward_to<M>(gradients, mixture, queries, keys, values, d_output, options, tokens,
                                       workspace.get());
}

template <class M>
void bidirectional_backward_into(const GradientTargets<M>& targets, const M& mixture, const In<Scalar<M>>& queries,
                                 const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                 const Options& options, const TokenInputsView<Scalar<M>>& tokens,
                                 const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::bidirectional_backward_to<M>(targets, mixture, queries, keys, values, d_output, options, tokens,
                                       workspace.get());
}

template <class M>
Gradients<M> bidirectional_backward(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                                    const In<Scalar<M>>& values, const In<Scalar<M>>& d_output, const Options& options,
                                    const TokenInputsView<Scalar<M>>& tokens,
                                    const OptionalWorkspace<Scalar<M>>& workspace) {
  Gradients<M> gradients;
  bidirectional_backward_into(gradients, mixture, queries, keys, values, d_output, options, tokens, workspace);
  return gradients;
}

}  // namespace gma
