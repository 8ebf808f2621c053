// SPDX-License-Identifier: MIT
// Writing: keys and values go into a memory, a tile of tokens at a time; no N x K matrix exists. The backward pass
// follows the forward.
#pragma once

#include <algorithm>

#include "gma/attention/gradients.hpp"
#include "gma/attention/memory.hpp"
#include "gma/attention/options.hpp"
#include "gma/attention/token_stream.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma {

/// (3), (8): adds every key's value to the memory, M_k = lambda M_k + w r_k(key) v and m_k likewise, in the order of
/// the tokens. keys N x d, values N x e, memory K x e (an empty one is sized here). Cost O(N K (D + e)). Throws
/// std::invalid_argument on shapes or token inputs that do not fit, and then leaves the memory as it was.
template <class M, class K, class V, class MS, class TS = typename M::Scalar>
void write(const M& mixture, const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values, Memory<MS>& memory,
           const TokenInputs<TS>& tokens = {});
template <class M, class K, class V, class MS, class TS = typename M::Scalar>
void write(const M& mixture, const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values, Memory<MS>& memory,
           const TokenInputs<TS>& tokens, Workspace<typename M::Scalar>& workspace);

/// Gradients of write() to a memory of zeros, from the gradient of the memory afterwards (K x e; K): keys, values,
/// token inputs, mixture, and the memory before. Cost about 2.5 writes.
template <class M, class K, class V, class MS, class TS = typename M::Scalar>
Gradients<M> write_backward(const M& mixture, const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                            const Memory<MS>& d_memory, const TokenInputs<TS>& tokens = {});
/// The same after a write to `initial_memory`, which only the gradient of the forgetting depends on.
template <class M, class K, class V, class MS, class TS = typename M::Scalar>
Gradients<M> write_backward(const M& mixture, const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                            const Memory<MS>& d_memory, const TokenInputs<TS>& tokens,
                            const Memory<MS>& initial_memory);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Influence on the memory after the tile: u_t = w_t lambda_{t+1} ... lambda_T. Returns lambda_1 ... lambda_T, what is
/// left of the memory before. `later` is the decay of the tokens after the tile.
template <class S>
S influences(const TokenStream<S>& stream, Index begin, Tile<S> u, const S& later) {
  S decay = later;
  for (Index t = u.cols() - 1; t >= 0; --t) {
    u(0, t) = stream.weighted() ? S(stream.tokens.key_weights(begin + t) * decay) : decay;
    decay *= stream.decay(begin + t);
  }
  return decay;
}

/// Tokens [begin, end) into the memory, but for its log_forgetting: returns what is left of the memory before. Each
/// tile is summed from zero and added once.
template <class FeatureMap, class S>
S write_tiles(const FeatureMap& map, const TokenStream<S>& stream, Index begin, Index end, Index tile,
              MemoryView<S> memory, Workspace<S>& workspace) {
  const bool plain = !stream.weighted() && !stream.forgets();
  S left(1);
  for (; begin < end; begin += tile) {
    typename Workspace<S>::Frame frame(workspace);
    const Index count = (std::min)(tile, end - begin);
    Tile<S> u = workspace.take(1, count), r = workspace.take(count, map.components());
    const S kept = influences(stream, begin, u, S(1));
    const S* weights = plain ? nullptr : u.data();
    const ConstTile<S> x = drop_absent(load_tile(stream.keys, begin, count, workspace), weights, workspace);
    const ConstTile<S> v = drop_absent(load_tile(stream.values, begin, count, workspace), weights, workspace);
    evaluate(map, x, r, workspace);
    if (!plain) kernels::scale_rows(r, u.data());
    memory.decay(kept);
    add_transposed_product(r, v, memory.slots);
    kernels::add_column_sums(r, memory.mass.data());
    left *= kept;
  }
  return left;
}

/// The whole stream into the memory, stretches side by side.
template <class FeatureMap, class S>
void write_tokens(const FeatureMap& map, const TokenStream<S>& stream, Index tile, const Executor* executor,
                  MemoryView<S> memory, Workspace<S>& workspace) {
  const Stretches stretches(stream.size(), tile);
  if (stretches.count() <= 1) {
    write_tiles(map, stream, 0, stream.size(), tile, memory, workspace);
    return;
  }
  typename Workspace<S>::Frame frame(workspace);
  const Index K = map.components(), places = (std::min)(workers(executor), stretches.count());
  workspace.prepare_workers(workers(executor));
  const Tile<S> slots = workspace.take(places * K, memory.slots.cols()), masses = workspace.take(places, K);
  Tile<S> left = workspace.take(1, places);
  in_waves(
      executor, stretches.count(), places,
      [&](Index i, Index place, Index worker) {
        MemoryView<S> part = place_of(slots, masses, place);
        part.set_zero();
        left(0, place) =
            write_tiles(map, stream, stretches.begin(i), stretches.end(i), tile, part, workspace.worker(worker));
      },
      [&](Index, Index place) {
        memory.decay(left(0, place));
        memory.add(place_of(slots, masses, place));
      });
}

/// Turns contributions e_t (in d_g) into the gradient of the forgetting: dg_s = energy + sum_{t<s} e_t.
template <class S>
void forgetting_gradient(const TokenStream<S>& stream, S energy, const S& d_log_forgetting, Vector<S>& d_g) {
  for (Index j = 0; j < d_g.size(); ++j) {
    const S contribution = d_g(j);
    const bool learns = stream.present(j) && is_finite(stream.tokens.log_forgetting(j));
    d_g(j) = learns ? S(energy + d_log_forgetting) : S(0);
    energy += contribution;
  }
}

/// Backward of write_tokens(): with B = V dM^T + dm^T and the influence u,
///   dR = u B,   dV = u R dM,   dw_t = (u_t / w_t) r_t . B_t,   dg_s = <M_in, dM_in> + <m_in, dm_in> + sum_{t<s} u_t
///   r_t . B_t.
template <class FeatureMap, class S>
struct WriteBackward {
  const FeatureMap& map;
  const TokenStream<S>& stream;
  Index tile;
  TokenGradients<S> out;     // out.memory is the gradient of the memory afterwards
  Tile<S> transposed_slots;  // of out.memory, e x K

  /// Tokens [begin, end); `later` is the decay of all tokens after them.
  void tiles(Index begin, Index end, S later, FeatureMap& gradient, Workspace<S>& workspace) const {
    const Index K = map.components();
    for (Index at = begin + (end - begin - 1) / tile * tile; at >= begin; at -= tile) {
      typename Workspace<S>::Frame frame(workspace);
      const Index count = (std::min)(tile, end - at);
      Tile<S> u = workspace.take(1, count), r = workspace.take(count, K), b = workspace.take(count, K);
      const S before = influences(stream, at, u, later);
      const bool plain = !stream.weighted() && !stream.forgets();
      const S* weights = plain ? nullptr : u.data();
      const ConstTile<S> x = drop_absent(load_tile(stream.keys, at, count, workspace), weights, workspace);
      const ConstTile<S> v = drop_absent(load_tile(stream.values, at, count, workspace), weights, workspace);
      evaluate(map, x, r, workspace);
      product_plus(v, transposed_slots, out.memory.mass.data(), b);
      Tile<S> d_values = rows(out.values, at, count);
      product(r, out.memory.slots, d_values);
      if (!plain) {
        token_inputs(at, u, r, b);
        kernels::scale_rows(d_values, u.data());
        kernels::scale_rows(b, u.data());
      }
      backward(map, x, r, b, rows(out.keys, at, count), gradient, workspace);
      later = before;
    }
  }

  /// The pull u_t r_t . B_t of every token, divided by w_t for its weight; out.log_forgetting collects the parts.
  void token_inputs(Index begin, const Tile<S>& u, const Tile<S>& r, const Tile<S>& b) const {
    for (Index t = 0; t < r.rows(); ++t) {
      const S pull = u(0, t) * kernels::dot(r.row(t).data(), b.row(t).data(), r.cols());
      const S w = stream.weighted() ? stream.tokens.key_weights(begin + t) : S(1);
      if (stream.weighted()) out.key_weights(begin + t) = w > S(0) ? S(pull / w) : S(0);
      if (stream.forgets()) out.log_forgetting(begin + t) = pull;
    }
  }
};

/// `out.memory` comes in as the gradient of the memory afterwards and becomes that of the memory before, `initial`
/// (null: zeros). The gradient of the natural parameters is added to `gradient`.
template <class FeatureMap, class S>
void write_tokens_backward(const FeatureMap& map, const TokenStream<S>& stream, const Memory<S>* initial, Index tile,
                           const Executor* executor, TokenGradients<S> out, FeatureMap& gradient,
                           Workspace<S>& workspace) {
  const Index n = stream.size(), K = map.components(), e = stream.values.cols();
  resize(out.keys, n, stream.keys.cols());
  resize(out.values, n, e);
  resize(out.key_weights, stream.weighted() ? n : 0);
  resize(out.log_forgetting, stream.forgets() ? n : 0);
  typename Workspace<S>::Frame frame(workspace);
  const Stretches stretches(n, tile);
  Tile<S> later = workspace.take(1, stretches.count() + 1);  // of the stretches from i on
  later(0, stretches.count()) = S(1);
  for (Index i = stretches.count() - 1; i >= 0; --i) {
    later(0, i) = later(0, i + 1);
    for (Index j = stretches.begin(i); stream.forgets() && j < stretches.end(i); ++j) later(0, i) *= stream.decay(j);
  }
  PartialGradients<FeatureMap, S> partial(map, stretches.count(), executor, workspace);
  WriteBackward<FeatureMap, S> pass{map, stream, tile, out, workspace.take(e, K)};
  pass.transposed_slots = out.memory.slots.transpose();
  in_waves(
      executor, stretches.count(), partial.places(),
      [&](Index i, Index place, Index worker) {
        pass.tiles(stretches.begin(i), stretches.end(i), later(0, i + 1), partial.start(place),
                   workspace.worker(worker));
      },
      [&](Index, Index place) { add_gradient(gradient, partial[place]); });
  view(out.memory).decay(later(0, 0));
  if (stream.forgets()) {
    S energy(0);
    if (initial != nullptr && !(later(0, 0) == S(0))) {
      energy = initial->slots.cwiseProduct(out.memory.slots).sum() + initial->mass.dot(out.memory.mass);
    }
    forgetting_gradient(stream, energy, out.memory.log_forgetting, out.log_forgetting);
  }
}

template <class Map, class S, class K, class V>
void check_stream(const char* function, const Map& natural, const Eigen::MatrixBase<K>& keys,
                  const Eigen::MatrixBase<V>& values, const TokenInputs<S>& tokens) {
  check_token_width(function, "keys", keys.cols(), natural.dim());
  check_size(function, "values", "rows", values.rows(), keys.rows(), "one per key");
  check_tokens(function, tokens, keys.rows());
}

}  // namespace detail

template <class M, class K, class V, class MS, class TS>
void write(const M& mixture, const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values, Memory<MS>& memory,
           const TokenInputs<TS>& tokens, Workspace<typename M::Scalar>& workspace) {
  using S = typename M::Scalar;
  detail::check_scalar<S, MS>();
  detail::check_scalar<S, TS>();
  const detail::FeatureMapOf<M>& natural = detail::compiled("write", mixture, workspace);
  detail::check_stream("write", natural, keys, values, tokens);
  if (!memory.empty()) detail::check_memory("write", "memory", memory, natural.components(), values.cols());
  detail::Evaluated<K> k = keys.derived();
  detail::Evaluated<V> v = values.derived();
  detail::size_if_empty(memory, natural.components(), values.cols());
  const detail::TokenStream<S> stream{detail::TokenView<S>(k), detail::TokenView<S>(v), tokens};
  const Index tile = detail::tile_size({}, detail::default_tile, stream.size());
  detail::write_tokens(natural, stream, tile, nullptr, detail::view(memory), workspace);
  memory.log_forgetting += stream.total_log_forgetting();
}

template <class M, class K, class V, class MS, class TS>
void write(const M& mixture, const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values, Memory<MS>& memory,
           const TokenInputs<TS>& tokens) {
  Workspace<typename M::Scalar> workspace;
  write(mixture, keys, values, memory, tokens, workspace);
}

namespace detail {

template <class M, class K, class V, class S>
Gradients<M> write_backward(const M& mixture, const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                            const Memory<S>* initial, const Memory<S>& d_memory, const TokenInputs<S>& tokens) {
  check_has_parameters<M>();
  Workspace<S> workspace;
  const FeatureMapOf<M>& natural = compiled("write_backward", mixture, workspace);
  check_stream("write_backward", natural, keys, values, tokens);
  check_memory("write_backward", "d_memory", d_memory, natural.components(), values.cols());
  if (initial != nullptr && initial->empty()) initial = nullptr;
  if (initial != nullptr)
    check_memory("write_backward", "initial_memory", *initial, natural.components(), values.cols());
  Evaluated<K> k = keys.derived();
  Evaluated<V> v = values.derived();
  const TokenStream<S> stream{TokenView<S>(k), TokenView<S>(v), tokens};
  Gradients<M> out;
  FeatureMapOf<M>& gradient = zero_gradient(natural, workspace);
  out.memory = d_memory;
  write_tokens_backward(natural, stream, initial, tile_size({}, default_tile, stream.size()), nullptr,
                        token_gradients(out), gradient, workspace);
  pull_back(mixture, natural, gradient, out.mixture);
  return out;
}

}  // namespace detail

template <class M, class K, class V, class MS, class TS>
Gradients<M> write_backward(const M& mixture, const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                            const Memory<MS>& d_memory, const TokenInputs<TS>& tokens) {
  detail::check_scalar<typename M::Scalar, MS>();
  detail::check_scalar<typename M::Scalar, TS>();
  return detail::write_backward<M, K, V, MS>(mixture, keys, values, nullptr, d_memory, tokens);
}

template <class M, class K, class V, class MS, class TS>
Gradients<M> write_backward(const M& mixture, const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                            const Memory<MS>& d_memory, const TokenInputs<TS>& tokens,
                            const Memory<MS>& initial_memory) {
  detail::check_scalar<typename M::Scalar, MS>();
  detail::check_scalar<typename M::Scalar, TS>();
  return detail::write_backward<M, K, V, MS>(mixture, keys, values, &initial_memory, d_memory, tokens);
}

}  // namespace gma
