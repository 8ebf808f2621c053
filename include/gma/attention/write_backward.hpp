// SPDX-License-Identifier: MIT
// Gradients of writing, a tile of tokens at a time, last first.
#pragma once

#include <vector>

#include "gma/attention/centre.hpp"
#include "gma/attention/gradients.hpp"
#include "gma/attention/slot_forgetting_backward.hpp"
#include "gma/attention/write.hpp"

namespace gma {

/// Gradients of write() to a memory of zeros, from the gradient of the memory afterwards (K x e; K): keys, values,
/// token inputs, mixture, and the memory before. Cost about 2.5 writes.
template <class M>
Gradients<M> write_backward(const M& mixture, const In<Scalar<M>>& keys, const In<Scalar<M>>& values,
                            const Memory<Scalar<M>>& d_memory, const TokenInputsView<Scalar<M>>& tokens = {});
/// The same after a write to `initial_memory`, which only the gradient of the forgetting depends on.
template <class M>
Gradients<M> write_backward(const M& mixture, const In<Scalar<M>>& keys, const In<Scalar<M>>& values,
                            const Memory<Scalar<M>>& d_memory, const TokenInputsView<Scalar<M>>& tokens,
                            const Memory<Scalar<M>>& initial_memory);
/// The same into `gradients`, whose matrices are reused, or to where the targets say. Inputs may lie there. An empty
/// `initial_memory` stands for zeros.
template <class M>
void write_backward_into(Gradients<M>& gradients, const M& mixture, const In<Scalar<M>>& keys,
                         const In<Scalar<M>>& values, const Memory<Scalar<M>>& initial_memory,
                         const Memory<Scalar<M>>& d_memory, const Options& options = {},
                         const TokenInputsView<Scalar<M>>& tokens = {},
                         const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void write_backward_into(const GradientTargets<M>& targets, const M& mixture, const In<Scalar<M>>& keys,
                         const In<Scalar<M>>& values, const Memory<Scalar<M>>& initial_memory,
                         const Memory<Scalar<M>>& d_memory, const Options& options = {},
                         const TokenInputsView<Scalar<M>>& tokens = {},
                         const OptionalWorkspace<Scalar<M>>& workspace = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Turns contributions e_t (in d_g) into the gradient of the forgetting: dg_s = energy + sum_{t<s} e_t.
template <class S>
void forgetting_gradient(const TokenStream<S>& stream, Wide<S> energy, const S& d_log_forgetting, S* d_g) {
  for (Index j = 0; j < stream.size(); ++j) {
    const S contribution = d_g[j];
    const bool learns = stream.present(j) && is_finite(stream.tokens.log_forgetting(j));
    d_g[j] = learns ? S(energy + Wide<S>(d_log_forgetting)) : S(0);
    energy += Wide<S>(contribution);
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
  TokenGradients<S> out;
  MemoryTiles<S> d_memory;  // the gradient of the memory afterwards, for values less the stream's centre
  CommonGradient<S> over;   // of d_memory

  /// Tokens [begin, end); `later` is the log of the decay of all tokens after them.
  void tiles(Index begin, Index end, Wide<S> later, FeatureMap& gradient, Workspace<S>& workspace) const {
    const Index K = map.components();
    for (Index at = begin + (end - begin - 1) / tile * tile; at >= begin; at -= tile) {
      typename Workspace<S>::Frame frame(workspace);
      const Index count = (std::min)(tile, end - at);
      Tile<S> r = workspace.take(count, K), b = workspace.take(count, K);
      const Influences<S> kept = influences(stream, at, count, later, workspace);
      const ConstTile<S> x = kept.drop_forgotten(load_keys(stream, at, count, workspace), workspace);
      const ConstTile<S> v = kept.drop_forgotten(load_values(stream, at, count, workspace), workspace);
      evaluate(map, x, r, workspace);
      product_plus(v, over.transposed_slots, over.mass.data(), b);
      fill_rows(out.values, at, count, workspace, [&](Tile<S> d_values) {
        product(r, d_memory.slots, d_values);
        if (!kept.all_ones) kernels::scale_rows(d_values, kept.u.data());
      });
      if (!kept.all_ones) {
        token_inputs(at, kept.u, r, b, v);
        kernels::scale_rows(b, kept.u.data());
      }
      Tile<S> d_x = gradient_rows(out.keys, at, count, x.cols(), workspace);
      backward(map, x, r, b, d_x, gradient, workspace);
      out.keys.store(at, d_x);
      later = kept.before;
    }
  }

  /// The pull u_t r_t . B_t of every token, divided by w_t for its weight; out.log_forgetting collects the parts.
  void token_inputs(Index begin, const Tile<S>& u, const Tile<S>& r, const Tile<S>& b, const ConstTile<S>& v) const {
    for (Index t = 0; t < r.rows(); ++t) {
      const S pull =
          u(0, t) * (kernels::dot(r.row(t).data(), b.row(t).data(), r.cols()) + over.of(v, t) * r.row(t).sum());
      const S w = stream.weighted() ? stream.tokens.key_weights(begin + t) : S(1);
      if (out.key_weights != nullptr) out.key_weights[begin + t] = w > S(0) ? S(pull / w) : S(0);
      if (out.log_forgetting != nullptr) out.log_forgetting[begin + t] = pull;
    }
  }
};

/// Logs of the decay of all chunks from number i on: kept in the workspace from call to call.
template <class S>
struct ChunkDecays {
  std::vector<Wide<S>> logs;
};

/// `mass`: of the memory afterwards, null where it is not known. `d_memory` is the gradient of that memory, for values
/// less the stream's centre; its first part lies in out.memory, which becomes the gradient of the memory before,
/// `initial` (null: zeros), for values as they are. The gradient of the natural parameters is added to `gradient`.
template <class FeatureMap, class S>
void write_tokens_backward(const FeatureMap& map, const TokenStream<S>& stream, const Memory<S>* initial, Index tile,
                           const Executor* executor, const S* mass, const LongMemory<S>& d_memory,
                           TokenGradients<S> out, GradientSum<FeatureMap, S>& gradient, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const Chunks chunks(stream.size(), tile);
  std::vector<Wide<S>>& later = workspace.template keep<ChunkDecays<S>>().logs;
  later.assign(static_cast<std::size_t>(chunks.count() + 1), Wide<S>(0));
  for (Index i = chunks.count() - 1; i >= 0; --i) {
    Wide<S>& log = later[static_cast<std::size_t>(i)] = later[static_cast<std::size_t>(i + 1)];
    for (Index j = chunks.begin(i); stream.forgets() && j < chunks.end(i); ++j) log += stream.log_decay(j);
  }
  PartialGradients<FeatureMap, S> partial(map, gradient.is_wanted(), chunks.count(), executor, workspace);
  const WriteBackward<FeatureMap, S> pass{map, stream,          tile,
                                          out, d_memory.memory, common_gradient(map, d_memory, mass, workspace)};
  in_waves(
      executor, chunks.count(), partial.buffers(),
      [&](Index i, Index buffer, Index worker) {
        pass.tiles(chunks.begin(i), chunks.end(i), later[static_cast<std::size_t>(i + 1)], partial.start(buffer),
                   workspace.worker(worker));
      },
      [&](Index, Index buffer) { gradient.add(map, partial[buffer]); });
  uncentre_gradient(stream.centre, view(out.memory));
  const kernels::Decay<S> left = kernels::decay_of(S(later.front()));
  view(out.memory).decay(left);
  if (out.log_forgetting != nullptr) {
    Wide<S> energy(0);
    if (initial != nullptr && !left.restarts()) energy = inner_product(*initial, out.memory);
    forgetting_gradient(stream, energy, out.memory.log_forgetting, out.log_forgetting);
  }
}

}  // namespace detail

namespace detail {

template <class M>
void write_backward_to(GradientDestination<M> gradients, const M& mixture, const In<Scalar<M>>& keys,
                       const In<Scalar<M>>& values, const Memory<Scalar<M>>& initial_memory,
                       const Memory<Scalar<M>>& d_memory, const Options& options,
                       const TokenInputsView<Scalar<M>>& tokens, Workspace<Scalar<M>>& workspace) {
  using S = Scalar<M>;
  constexpr const char* function = "write_backward";
  check_has_parameters<M>();
  const FeatureMapOf<M>& natural = compiled(function, mixture, workspace);
  const Index components = natural.components(), e = values.cols();
  check_options(function, options);
  check_stream<FeatureMapOf<M>, S>(function, natural, keys, values, tokens, true);
  check_memory(function, "d_memory", d_memory, components, e);
  if (!initial_memory.empty()) check_memory(function, "initial_memory", initial_memory, components, e);
  TokenStream<S> stream{keys, values, tokens};
  const GradientShapes shapes{
      function, 0, keys.rows(), keys.cols(), e, stream.weighted(), stream.forgets(), stream.forgetting_slots()};
  gradients.check(shapes);
  typename Workspace<S>::Frame frame(workspace);
  stream.keys = gradients.apart(keys, workspace);
  stream.values = gradients.apart(values, workspace);
  const Memory<S> initial = initial_memory;  // which may be the gradient's
  stream.centre = value_centre(natural, stream, Normalization::row, &initial, workspace);
  const TokenGradients<S> out = gradients.open(shapes, workspace);
  GradientSum<FeatureMapOf<M>, S> sum(natural, gradients.mixture() != nullptr, workspace);
  start_gradient(d_memory, components, e, out.memory);
  centre_gradient(stream.centre, view(out.memory));
  if (stream.forgets_by_slot()) {
    const TokenView<S>* const nothing = nullptr;
    LongMemory<S> state = take_copy(initial, components, e, keeps_remainder<S>, workspace);
    start_remainder(state);
    centre_memory(stream.centre, state);
    slot_backward_tokens(natural, nothing, stream, nothing, options, state, tokens_in(initial), out, sum, workspace);
    uncentre_gradient(stream.centre, view(out.memory));
  } else {
    const LongMemory<S> after = without_remainder(view(out.memory));
    const S* const unknown_mass = nullptr;
    write_tokens_backward(natural, stream, initial.empty() ? nullptr : &initial,
                          tile_size(options, default_tile, stream.size()), options.executor, unknown_mass, after, out,
                          sum, workspace);
  }
  gradients.close();
  if (gradients.mixture() != nullptr) pull_back(mixture, natural, sum.total(), *gradients.mixture());
}

}  // namespace detail

template <class M>
void write_backward_into(Gradients<M>& gradients, const M& mixture, const In<Scalar<M>>& keys,
                         const In<Scalar<M>>& values, const Memory<Scalar<M>>& initial_memory,
                         const Memory<Scalar<M>>& d_memory, const Options& options,
                         const TokenInputsView<Scalar<M>>& tokens, const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::write_backward_to<M>(gradients, mixture, keys, values, initial_memory, d_memory, options, tokens,
                               workspace.get());
}

template <class M>
void write_backward_into(const GradientTargets<M>& targets, const M& mixture, const In<Scalar<M>>& keys,
                         const In<Scalar<M>>& values, const Memory<Scalar<M>>& initial_memory,
                         const Memory<Scalar<M>>& d_memory, const Options& options,
                         const TokenInputsView<Scalar<M>>& tokens, const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::write_backward_to<M>(targets, mixture, keys, values, initial_memory, d_memory, options, tokens,
                               workspace.get());
}

template <class M>
Gradients<M> write_backward(const M& mixture, const In<Scalar<M>>& keys, const In<Scalar<M>>& values,
                            const Memory<Scalar<M>>& d_memory, const TokenInputsView<Scalar<M>>& tokens,
                            const Memory<Scalar<M>>& initial_memory) {
  Gradients<M> gradients;
  write_backward_into(gradients, mixture, keys, values, initial_memory, d_memory, Options(), tokens);
  return gradients;
}

template <class M>
Gradients<M> write_backward(const M& mixture, const In<Scalar<M>>& keys, const In<Scalar<M>>& values,
                            const Memory<Scalar<M>>& d_memory, const TokenInputsView<Scalar<M>>& tokens) {
  return write_backward(mixture, keys, values, d_memory, tokens, Memory<Scalar<M>>());
}

}  // namespace gma
