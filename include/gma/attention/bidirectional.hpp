// SPDX-License-Identifier: MIT
// Bidirectional attention is write, then read; its backward is the two backward passes in the opposite order.
#pragma once

#include "gma/attention/read.hpp"
#include "gma/attention/write.hpp"

namespace gma {

/// Every query reads the memory that all keys were written to (equations 3 to 6): queries Nq x d, keys Nk x d, values
/// Nk x e; returns Nq x e. Nq and Nk may differ. Equal to the dense affinity (7) times the values. With forgetting it
/// is the memory after the last key that is read: keys near the end weigh most. Cost O((Nq + Nk) K (D + e)), extra
/// memory O(tile (K + D + e) + K e). Throws std::invalid_argument on shapes or token inputs that do not fit.
template <class M, class Q, class K, class V, class TS = typename M::Scalar>
Matrix<typename M::Scalar> bidirectional(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                         const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                         const Options& options = {}, const TokenInputs<TS>& tokens = {});
/// The same into a caller's Nq x e matrix, block or map, with a caller's scratch memory. `out` may share memory with
/// the inputs.
template <class Out, class M, class Q, class K, class V, class TS = typename M::Scalar>
void bidirectional_into(const Eigen::MatrixBase<Out>& out, const M& mixture, const Eigen::MatrixBase<Q>& queries,
                        const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values, const Options& options,
                        const TokenInputs<TS>& tokens, Workspace<typename M::Scalar>& workspace);

/// Gradients of bidirectional(): everything that was given. d_output is Nq x e. Cost about 3 forward passes; the same
/// extra memory.
template <class M, class Q, class K, class V, class D, class TS = typename M::Scalar>
Gradients<M> bidirectional_backward(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                    const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                    const Eigen::MatrixBase<D>& d_output, const Options& options = {},
                                    const TokenInputs<TS>& tokens = {});
/// The same into `gradients`, whose matrices are reused, with a caller's scratch memory. Inputs may lie in those
/// matrices.
template <class M, class Q, class K, class V, class D, class TS = typename M::Scalar>
void bidirectional_backward_into(Gradients<M>& gradients, const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                 const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                 const Eigen::MatrixBase<D>& d_output, const Options& options,
                                 const TokenInputs<TS>& tokens, Workspace<typename M::Scalar>& workspace);

// Implementation -----------------------------------------------------------------------------------------------------

template <class Out, class M, class Q, class K, class V, class TS>
void bidirectional_into(const Eigen::MatrixBase<Out>& out, const M& mixture, const Eigen::MatrixBase<Q>& queries,
                        const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values, const Options& options,
                        const TokenInputs<TS>& tokens, Workspace<typename M::Scalar>& workspace) {
  using S = typename M::Scalar;
  constexpr const char* function = "bidirectional";
  detail::check_scalar<S, TS>();
  const detail::FeatureMapOf<M>& natural = detail::compiled(function, mixture, workspace);
  detail::check_options(function, options);
  detail::check_token_width(function, "queries", queries.cols(), natural.dim());
  detail::check_stream(function, natural, keys, values, tokens);
  detail::check_shape(function, "out", out.rows(), out.cols(), queries.rows(), values.cols(), "queries x value width");
  detail::Evaluated<Q> q = queries.derived();
  detail::Evaluated<K> k = keys.derived();
  detail::Evaluated<V> v = values.derived();
  typename Workspace<S>::Frame frame(workspace);
  const detail::TokenSink<S> sink(detail::writable(out));
  const detail::TokenView<S> view = detail::apart(detail::TokenView<S>(q), sink, true, workspace);
  const detail::TokenStream<S> stream{detail::TokenView<S>(k), detail::TokenView<S>(v), tokens};
  const detail::MemoryView<S> memory =
      detail::write_all(natural, stream, detail::tile_size(options, detail::default_tile, stream.size()),
                        options.executor, false, workspace)
          .memory;
  if (options.normalization == Normalization::slot) detail::divide_slots(memory, memory.slots);
  detail::read_tokens(natural, view, memory, options.normalization,
                      detail::tile_size(options, detail::default_tile, view.rows()), options.executor, sink, workspace);
}

template <class M, class Q, class K, class V, class TS>
Matrix<typename M::Scalar> bidirectional(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                         const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                         const Options& options, const TokenInputs<TS>& tokens) {
  Workspace<typename M::Scalar> workspace;
  Matrix<typename M::Scalar> out(queries.rows(), values.cols());
  bidirectional_into(out, mixture, queries, keys, values, options, tokens, workspace);
  return out;
}

template <class M, class Q, class K, class V, class D, class TS>
void bidirectional_backward_into(Gradients<M>& gradients, const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                 const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                 const Eigen::MatrixBase<D>& d_output, const Options& options,
                                 const TokenInputs<TS>& tokens, Workspace<typename M::Scalar>& workspace) {
  using S = typename M::Scalar;
  constexpr const char* function = "bidirectional_backward";
  detail::check_scalar<S, TS>();
  detail::check_has_parameters<M>();
  const detail::FeatureMapOf<M>& natural = detail::compiled(function, mixture, workspace);
  detail::check_options(function, options);
  detail::check_token_width(function, "queries", queries.cols(), natural.dim());
  detail::check_stream(function, natural, keys, values, tokens);
  detail::check_shape(function, "d_output", d_output.rows(), d_output.cols(), queries.rows(), values.cols(),
                      "queries x value width");
  detail::Evaluated<Q> q = queries.derived();
  detail::Evaluated<K> k = keys.derived();
  detail::Evaluated<V> v = values.derived();
  detail::Evaluated<D> dy = d_output.derived();
  typename Workspace<S>::Frame frame(workspace);
  const auto apart = [&](const detail::TokenView<S>& input) {
    return detail::apart<S>(input, {&gradients.queries, &gradients.keys, &gradients.values, &gradients.memory.slots},
                            workspace);
  };
  const detail::TokenView<S> view = apart(detail::TokenView<S>(q)), d_output_view = apart(detail::TokenView<S>(dy));
  detail::TokenStream<S> stream{apart(detail::TokenView<S>(k)), apart(detail::TokenView<S>(v)), tokens};
  const Memory<S>* const from_zeros = nullptr;
  stream.centre = detail::value_centre(natural, stream, options.normalization, from_zeros, workspace);
  const Index write_tile = detail::tile_size(options, detail::default_tile, stream.size());
  const Index read_tile = detail::tile_size(options, detail::default_tile, view.rows());
  detail::GradientSum<detail::FeatureMapOf<M>, S> gradient(natural, workspace);
  const bool in_two_parts = detail::keeps_remainder<S>;
  const detail::LongMemory<S> memory =
      detail::write_all(natural, stream, write_tile, options.executor, in_two_parts, workspace);
  detail::resize(gradients.queries, queries.rows(), queries.cols());
  detail::set_zero(gradients.memory, natural.components(), values.cols());
  detail::LongMemory<S> d_memory{
      detail::view(gradients.memory),
      detail::take_memory(in_two_parts ? natural.components() : Index(0), values.cols(), workspace), in_two_parts};
  d_memory.remainder.set_zero();
  detail::read_tokens_backward(natural, view, memory, d_output_view, options.normalization, read_tile, options.executor,
                               stream.centre, gradients.queries, d_memory, gradient, workspace);
  detail::write_tokens_backward(natural, stream, from_zeros, write_tile, options.executor,
                                static_cast<const S*>(memory.memory.mass.data()), d_memory,
                                detail::token_gradients(gradients), gradient, workspace);
  detail::pull_back(mixture, natural, gradient.total(), gradients.mixture);
}

template <class M, class Q, class K, class V, class D, class TS>
Gradients<M> bidirectional_backward(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                    const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                    const Eigen::MatrixBase<D>& d_output, const Options& options,
                                    const TokenInputs<TS>& tokens) {
  Workspace<typename M::Scalar> workspace;
  Gradients<M> gradients;
  bidirectional_backward_into(gradients, mixture, queries, keys, values, d_output, options, tokens, workspace);
  return gradients;
}

}  // namespace gma
