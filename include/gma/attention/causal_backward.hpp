// SPDX-License-Identifier: MIT
// Backward of causal attention. On the way forward the memory is kept at every checkpoint_interval tokens; on the way
// back each interval is replayed from its checkpoint, tile by tile, and the tiles are run last first. Responsibilities
// are recomputed: nothing of size N x K exists.
#pragma once

#include "gma/attention/causal.hpp"

namespace gma {

/// Gradients of causal(): everything that was given; d_output is N x e. Cost about 3.5 forward passes; extra memory
/// (N / checkpoint_interval + checkpoint_interval / tile) (K e + K) numbers and a few tiles. Throws
/// std::invalid_argument on shapes or token inputs that do not fit.
template <class M, class Q, class K, class V, class D, class TS = typename M::Scalar>
Gradients<M> causal_backward(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Eigen::MatrixBase<K>& keys,
                             const Eigen::MatrixBase<V>& values, const Eigen::MatrixBase<D>& d_output,
                             const Options& options = {}, const TokenInputs<TS>& tokens = {});

/// Gradients of causal() that continued from `initial_memory` (empty: zeros), also through the memory it left behind:
/// d_final_memory is the gradient of that (empty: zeros).
template <class M, class Q, class K, class V, class D, class MS, class TS = typename M::Scalar>
Gradients<M> causal_backward(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Eigen::MatrixBase<K>& keys,
                             const Eigen::MatrixBase<V>& values, const Eigen::MatrixBase<D>& d_output,
                             const Memory<MS>& initial_memory, const Memory<MS>& d_final_memory,
                             const Options& options = {}, const TokenInputs<TS>& tokens = {});

/// The same into `gradients`, whose matrices are reused, with a caller's scratch memory.
template <class M, class Q, class K, class V, class D, class MS = typename M::Scalar, class TS = typename M::Scalar>
void causal_backward_into(Gradients<M>& gradients, const M& mixture, const Eigen::MatrixBase<Q>& queries,
                          const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                          const Eigen::MatrixBase<D>& d_output, const Memory<MS>& initial_memory,
                          const Memory<MS>& d_final_memory, const Options& options, const TokenInputs<TS>& tokens,
                          Workspace<typename M::Scalar>& workspace);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Tokens in a tile of the backward pass: as many as checkpoints are apart, fewer where rows of K numbers would leave
/// the cache.
inline Index causal_backward_tile(Index components) {
  return (std::clamp)(Index(32768) / components / default_tile * default_tile, default_tile, Index(256));
}

/// The pass itself: everything a tile needs to know, and where its gradients go.
template <class FeatureMap, class S>
struct CausalBackward {
  const FeatureMap& map;
  const TokenView<S>& queries;
  const TokenStream<S>& stream;
  const TokenView<S>& d_output;
  Normalization normalization;
  Index tile;
  TokenGradients<S> out;  // out.memory runs: the gradient of the memory after the tokens that remain
  FeatureMap& gradient;   // of the natural parameters
  Workspace<S>& workspace;

  /// Tiles [begin, end) of one interval, from the memory before it, `state`, which is used up. `after`: the memory
  /// after it; becomes the one before, where something is forgotten.
  void interval(Index begin, Index end, MemoryView<S> state, MemoryView<S> after) {
    typename Workspace<S>::Frame frame(workspace);
    const Index tiles = (end - begin + tile - 1) / tile, K = map.components();
    const Tile<S> slots = workspace.take(tiles * K, stream.values.cols()), masses = workspace.take(tiles, K);
    for (Index i = 0; i < tiles; ++i) {
      place_of(slots, masses, i).copy(state);
      if (i + 1 < tiles) write_tiles(map, stream, begin + i * tile, begin + (i + 1) * tile, tile, state, workspace);
    }
    for (Index i = tiles - 1; i >= 0; --i) {
      if (stream.forgets()) state.copy(place_of(slots, masses, i));
      one_tile(begin + i * tile, (std::min)(tile, end - begin - i * tile), place_of(slots, masses, i), after);
      if (stream.forgets()) after.copy(state);
    }
  }

  /// `before`: the memory before the tile; its mass is used up.
  void one_tile(Index begin, Index count, MemoryView<S> before, const MemoryView<S>& after) {
    typename Workspace<S>::Frame frame(workspace);
    const Index K = map.components();
    const CausalTile<S> opened = open_tile(map, queries, stream, begin, count, normalization, true, before.mass.data(),
                                           static_cast<const S*>(nullptr), workspace);
    const ConstTile<S> dy = load_dense_tile(d_output, begin, count, workspace);
    Tile<S> d_r_q = workspace.take_spread(count, K), d_weighted = workspace.take_spread(count, K);
    Tile<S> read_energy = workspace.take(1, count);
    S energy(0);
    if (stream.forgets()) energy = inner_product(after, view(out.memory));
    backward_tile(opened, before.slots, dy, normalization, view(out.memory), d_r_q, d_weighted,
                  rows(out.values, begin, count), stream.forgets() ? read_energy.data() : nullptr, workspace);
    token_inputs(begin, opened, d_weighted, read_energy, energy);
    if (stream.weighted()) {  // from w r_k to r_k; absent tokens get zeros
      kernels::scale_rows(d_weighted, stream.weights(begin));
      for (Index t = 0; t < count; ++t) {
        if (!stream.present(begin + t)) out.values.row(begin + t).setConstant(S(0));
      }
    }
    backward(map, opened.q, opened.r_q, d_r_q, rows(out.queries, begin, count), gradient, workspace);
    backward(map, opened.k, opened.r_k, d_weighted, rows(out.keys, begin, count), gradient, workspace);
  }

  /// dw_t = r_t . dP_t with P = w r_k, and the gradient of the forgetting from the balance of energies, E_t = <M_t,
  /// dM_t>:
  ///   dg_t = E_t - P_t . dP_t = dg_{t+1} + <M_t, dread_t> - P_t . dP_t.
  /// `energy` is E after the tile, which restarts the sum at every tile and keeps it exact.
  void token_inputs(Index begin, const CausalTile<S>& opened, const Tile<S>& d_weighted, const Tile<S>& read_energy,
                    S energy) {
    for (Index t = opened.count - 1; t >= 0 && (stream.weighted() || stream.forgets()); --t) {
      const Index j = begin + t;
      const S pull = kernels::dot(opened.r_k.row(t).data(), d_weighted.row(t).data(), opened.r_k.cols());
      if (stream.weighted()) out.key_weights(j) = stream.present(j) ? pull : S(0);
      if (!stream.forgets()) continue;
      const S weight = stream.weighted() ? S(stream.tokens.key_weights(j)) : S(1);
      energy += read_energy(0, t) - weight * pull;
      if (opened.decay(0, t) == S(0)) energy = S(0);
      const bool learns = stream.present(j) && is_finite(stream.tokens.log_forgetting(j));
      out.log_forgetting(j) = learns ? S(energy + out.memory.log_forgetting) : S(0);
    }
  }
};

}  // namespace detail

template <class M, class Q, class K, class V, class D, class MS, class TS>
void causal_backward_into(Gradients<M>& gradients, const M& mixture, const Eigen::MatrixBase<Q>& queries,
                          const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                          const Eigen::MatrixBase<D>& d_output, const Memory<MS>& initial_memory,
                          const Memory<MS>& d_final_memory, const Options& options, const TokenInputs<TS>& tokens,
                          Workspace<typename M::Scalar>& workspace) {
  using S = typename M::Scalar;
  constexpr const char* function = "causal_backward";
  detail::check_scalar<S, MS>();
  detail::check_scalar<S, TS>();
  detail::check_has_parameters<M>();
  const detail::FeatureMapOf<M>& natural = detail::compiled(function, mixture, workspace);
  const Index components = natural.components(), width = values.cols();
  detail::check_causal(function, natural, queries, keys, values, options, tokens);
  detail::check_shape(function, "d_output", d_output.rows(), d_output.cols(), queries.rows(), width,
                      "queries x value width");
  if (!initial_memory.empty()) detail::check_memory(function, "initial_memory", initial_memory, components, width);
  if (!d_final_memory.empty()) detail::check_memory(function, "d_final_memory", d_final_memory, components, width);
  detail::Evaluated<Q> q = queries.derived();
  detail::Evaluated<K> k = keys.derived();
  detail::Evaluated<V> v = values.derived();
  detail::Evaluated<D> dy = d_output.derived();
  const detail::TokenView<S> query_view(q), d_output_view(dy);
  const detail::TokenStream<S> stream{detail::TokenView<S>(k), detail::TokenView<S>(v), tokens};

  const Index n = stream.size();
  detail::resize(gradients.queries, n, queries.cols());
  detail::resize(gradients.keys, n, keys.cols());
  detail::resize(gradients.values, n, width);
  detail::resize(gradients.key_weights, stream.weighted() ? n : 0);
  detail::resize(gradients.log_forgetting, stream.forgets() ? n : 0);
  if (&gradients.memory != &d_final_memory) detail::set_zero(gradients.memory, components, width);
  if (d_final_memory.empty()) {
    gradients.memory.log_forgetting = d_final_memory.log_forgetting;
  } else {
    gradients.memory = d_final_memory;
  }

  const Index tile = detail::tile_size(options, detail::causal_backward_tile(components), n);
  const Index interval = (options.checkpoint_interval + tile - 1) / tile * tile;
  const Index intervals = (n + interval - 1) / interval;
  detail::FeatureMapOf<M>& gradient = detail::zero_gradient(natural, workspace);
  typename Workspace<S>::Frame frame(workspace);
  detail::MemoryView<S> state = detail::take_memory(components, width, workspace);
  if (initial_memory.empty()) {
    state.set_zero();
  } else {
    state.slots = initial_memory.slots;
    state.mass = initial_memory.mass.transpose();
  }
  const Tile<S> slots = workspace.take(intervals * components, width), masses = workspace.take(intervals, components);
  for (Index i = 0; i < intervals; ++i) {
    detail::place_of(slots, masses, i).copy(state);
    const bool needed = i + 1 < intervals || stream.forgets();
    if (needed) {
      detail::write_tiles(natural, stream, i * interval, (std::min)(n, (i + 1) * interval), detail::default_tile, state,
                          workspace);
    }
  }
  detail::MemoryView<S> after = detail::take_memory(components, width, workspace);
  after.copy(state);
  detail::CausalBackward<detail::FeatureMapOf<M>, S> pass{
      natural,  query_view, stream, d_output_view, options.normalization, tile, detail::token_gradients(gradients),
      gradient, workspace};
  for (Index i = intervals - 1; i >= 0; --i) {
    state.copy(detail::place_of(slots, masses, i));
    pass.interval(i * interval, (std::min)(n, (i + 1) * interval), state, after);
  }
  detail::pull_back(mixture, natural, gradient, gradients.mixture);
}

template <class M, class Q, class K, class V, class D, class MS, class TS>
Gradients<M> causal_backward(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Eigen::MatrixBase<K>& keys,
                             const Eigen::MatrixBase<V>& values, const Eigen::MatrixBase<D>& d_output,
                             const Memory<MS>& initial_memory, const Memory<MS>& d_final_memory, const Options& options,
                             const TokenInputs<TS>& tokens) {
  Workspace<typename M::Scalar> workspace;
  Gradients<M> gradients;
  causal_backward_into(gradients, mixture, queries, keys, values, d_output, initial_memory, d_final_memory, options,
                       tokens, workspace);
  return gradients;
}

template <class M, class Q, class K, class V, class D, class TS>
Gradients<M> causal_backward(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Eigen::MatrixBase<K>& keys,
                             const Eigen::MatrixBase<V>& values, const Eigen::MatrixBase<D>& d_output,
                             const Options& options, const TokenInputs<TS>& tokens) {
  const Memory<typename M::Scalar> none;
  return causal_backward(mixture, queries, keys, values, d_output, none, none, options, tokens);
}

}  // namespace gma
