// SPDX-License-Identifier: MIT
// Backward of causal_delta(). On the way forward the memory is kept at every checkpoint_interval tokens; on the way
// back each interval is replayed, its tiles' memories kept, and the tiles are run last first.
#pragma once

#include "gma/attention/gradients.hpp"
#include "gma/baselines/delta.hpp"
#include "gma/baselines/delta_tile_backward.hpp"

namespace gma::baselines {

/// Gradients of causal_delta(): everything that was given; d_output is N x e. The gradient of the key weights is that
/// of the write strengths, of the memory that of its slots. Cost about 4.5 forward passes; extra memory (N /
/// checkpoint_interval + checkpoint_interval / tile) K e numbers and a few tiles. Errors as causal_backward().
template <class M>
Gradients<M> causal_delta_backward(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                                   const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                   const DeltaOptions& options = {}, const TokenInputsView<Scalar<M>>& tokens = {});

/// The same from `initial_memory` (empty: zeros) and through the memory left behind, whose gradient is d_final_memory
/// (empty: zeros).
template <class M>
Gradients<M> causal_delta_backward(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                                   const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                   const Memory<Scalar<M>>& initial_memory, const Memory<Scalar<M>>& d_final_memory,
                                   const DeltaOptions& options = {}, const TokenInputsView<Scalar<M>>& tokens = {},
                                   const OptionalWorkspace<Scalar<M>>& workspace = {});

/// The same into `gradients`, whose matrices are reused, or to where the targets say. Inputs may lie there.
template <class M>
void causal_delta_backward_into(Gradients<M>& gradients, const M& mixture, const In<Scalar<M>>& queries,
                                const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                const Memory<Scalar<M>>& initial_memory = {},
                                const Memory<Scalar<M>>& d_final_memory = {}, const DeltaOptions& options = {},
                                const TokenInputsView<Scalar<M>>& tokens = {},
                                const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void causal_delta_backward_into(const GradientTargets<M>& targets, const M& mixture, const In<Scalar<M>>& queries,
                                const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                const Memory<Scalar<M>>& initial_memory = {},
                                const Memory<Scalar<M>>& d_final_memory = {}, const DeltaOptions& options = {},
                                const TokenInputsView<Scalar<M>>& tokens = {},
                                const OptionalWorkspace<Scalar<M>>& workspace = {});

}  // namespace gma::baselines

// Implementation -----------------------------------------------------------------------------------------------------

namespace gma::detail {

template <class FeatureMap, class S>
struct DeltaBackward {
  const FeatureMap& map;
  const baselines::DeltaOptions& options;
  const TokenView<S>& queries;
  const TokenStream<S>& stream;
  const TokenView<S>& d_output;
  const TokenGradients<S>& out;
  Tile<S> d_memory;  // K x e, runs
  Wide<S> energy;    // <M', dM'> of the tile that comes next, plus what the tokens since have added
  GradientSum<FeatureMap, S>& sum;
  FeatureMap& part;  // of it, summed from zero
  Workspace<S>& workspace;

  /// The memory before the tokens [begin, end) becomes that after them.
  void advance(Index begin, Index end, Tile<S> memory) {
    typename Workspace<S>::Frame frame(workspace);
    DeltaTile<S> tile =
        open_delta_tile<FeatureMap, S>(map, options.is_centred, nullptr, stream, begin, end - begin, workspace);
    const Tile<S> y = workspace.take(tile.count, memory.cols());
    delta_forward(tile, memory, y);
    delta_advance(tile, memory, workspace.take(tile.count, memory.rows()));
  }

  void tile(Index begin, Index end, const Tile<S>& memory) {
    typename Workspace<S>::Frame frame(workspace);
    const Index count = end - begin, K = memory.rows(), e = memory.cols();
    DeltaTile<S> opened = open_delta_tile(map, options.is_centred, &queries, stream, begin, count, workspace);
    const Tile<S> y = workspace.take(count, e);
    delta_forward(opened, memory, y);
    const ConstTile<S> dy = load_tile(d_output, begin, count, workspace);
    const DeltaTileGradients<S> d = take_delta_gradients(count, K, e, workspace);
    delta_backward(opened, memory, dy, d_memory, d, workspace);
    fill_rows(out.values, begin, count, workspace, [&](Tile<S> rows) {
      rows = d.values;
      drop_absent_rows(begin, rows);
    });
    token_inputs(opened, d);
    features(opened, d);
  }

  void drop_absent_rows(Index begin, Tile<S> rows) {
    for (Index t = 0; t < rows.rows(); ++t) {
      if (!stream.present(begin + t)) rows.row(t).setConstant(S(0));
    }
  }

  /// From the gradient of unit features to those of the tokens and of the map; queries and keys as one tile.
  void features(const DeltaTile<S>& tile, const DeltaTileGradients<S>& d) {
    if (!out.queries.is_wanted() && !out.keys.is_wanted() && !sum.is_wanted()) return;
    typename Workspace<S>::Frame frame(workspace);
    const Index count = tile.count, dim = tile.x_k.cols();
    make_unit_backward(tile.q, tile.q_lengths, d.q);
    make_unit_backward(tile.k, tile.k_lengths, d.k);
    drop_absent_rows(tile.begin, d.k);
    undo_unit(options.is_centred, tile.q_lengths, tile.q);
    undo_unit(options.is_centred, tile.k_lengths, tile.k);
    Tile<S> x = workspace.take(2 * count, dim);
    x.topRows(count) = tile.x_q;
    x.bottomRows(count) = tile.x_k;
    const bool wants_tokens = out.queries.is_wanted() || out.keys.is_wanted();
    Tile<S> d_x = workspace.take(2 * count, wants_tokens ? dim : Index(0));
    backward(map, ConstTile<S>(x.data(), 2 * count, dim, Eigen::OuterStride<>(dim)), tile.both, d.both, d_x, part,
             workspace);
    fill_rows(out.queries, tile.begin, count, workspace, [&](Tile<S> to) { to = rows(d_x, 0, count); });
    fill_rows(out.keys, tile.begin, count, workspace, [&](Tile<S> to) {
      to = rows(d_x, count, count);
      drop_absent_rows(tile.begin, to);
    });
  }

  void token_inputs(const DeltaTile<S>& tile, const DeltaTileGradients<S>& d) {
    for (Index t = tile.count - 1; t >= 0; --t) {
      const Index j = tile.begin + t;
      const bool is_present = stream.present(j);
      if (out.key_weights != nullptr) out.key_weights[j] = is_present ? d.strengths(0, t) : S(0);
      if (out.log_forgetting == nullptr) continue;
      energy += Wide<S>(d.balance(0, t));
      const bool is_restart = is_present && !is_finite(stream.tokens.log_forgetting(j));
      out.log_forgetting[j] = is_present && !is_restart ? S(energy + Wide<S>(out.memory.log_forgetting)) : S(0);
      if (is_restart) energy = Wide<S>(0);
    }
  }
};

/// <a, b>.
template <class S>
Wide<S> delta_energy(const Tile<S>& a, const Tile<S>& b) {
  Wide<S> sum(0);
  for (Index k = 0; k < a.rows(); ++k) sum += Wide<S>(kernels::dot(a.row(k).data(), b.row(k).data(), a.cols()));
  return sum;
}

template <class M>
void delta_backward_to(GradientDestination<M> gradients, const M& mixture, const TokenView<Scalar<M>>& queries,
                       const TokenView<Scalar<M>>& keys, const TokenView<Scalar<M>>& values,
                       const TokenView<Scalar<M>>& d_output, const Memory<Scalar<M>>& initial_memory,
                       const Memory<Scalar<M>>& d_final_memory, const baselines::DeltaOptions& options,
                       const TokenInputsView<Scalar<M>>& tokens, Workspace<Scalar<M>>& workspace) {
  using S = Scalar<M>;
  constexpr const char* function = "causal_delta_backward";
  check_has_parameters<M>();
  const FeatureMapOf<M>& natural = compiled(function, mixture, workspace);
  const Index components = natural.components(), width = values.cols(), n = keys.rows();
  check_delta(function, natural, queries, keys, values, options, tokens);
  check_shape(function, "d_output", d_output.rows(), d_output.cols(), queries.rows(), width, "queries x value width");
  if (!initial_memory.empty()) check_memory(function, "initial_memory", initial_memory, components, width);
  if (!d_final_memory.empty()) check_memory(function, "d_final_memory", d_final_memory, components, width);
  TokenStream<S> stream{keys, values, tokens};
  const GradientShapes shapes{function, queries.rows(), n, queries.cols(), width, stream.weighted(), stream.forgets()};
  gradients.check(shapes);
  typename Workspace<S>::Frame frame(workspace);
  const TokenView<S> query_view = gradients.apart(queries, workspace), dy = gradients.apart(d_output, workspace);
  stream.keys = gradients.apart(keys, workspace);
  stream.values = gradients.apart(values, workspace);
  const Index tile = tile_size(options, default_delta_tile, n);
  const Index interval = (checkpoint_interval(options, n) + tile - 1) / tile * tile;
  const Index intervals = (n + interval - 1) / interval;
  const Tile<S> kept = workspace.take((intervals + 1) * components, width);
  const Tile<S> tiles = workspace.take((interval / tile + 1) * components, width);
  const auto at = [&](const Tile<S>& all, Index i) { return rows(all, i * components, components); };
  if (initial_memory.empty()) {
    at(kept, 0).setConstant(S(0));
  } else {
    at(kept, 0) = initial_memory.slots;
  }
  const TokenGradients<S> out = gradients.open(shapes, workspace);
  start_gradient(d_final_memory, components, width, out.memory);
  out.memory.mass.setConstant(S(0));
  GradientSum<FeatureMapOf<M>, S> sum(natural, gradients.mixture() != nullptr, workspace);
  DeltaBackward<FeatureMapOf<M>, S> pass{
      natural,    options, query_view,        stream,   dy, out, workspace.take(components, width),
      Wide<S>(0), sum,     sum.part(natural), workspace};
  pass.d_memory = out.memory.slots;
  for (Index i = 0; i < intervals; ++i) {
    at(kept, i + 1) = at(kept, i);
    for (Index t = i * interval; t < (std::min)(n, (i + 1) * interval); t += tile) {
      pass.advance(t, (std::min)(n, t + tile), at(kept, i + 1));
    }
  }
  pass.energy = delta_energy(at(kept, intervals), pass.d_memory);
  for (Index i = intervals - 1; i >= 0; --i) {
    const Index end = (std::min)(n, (i + 1) * interval), count = (end - i * interval + tile - 1) / tile;
    at(tiles, 0) = at(kept, i);
    for (Index t = 0; t + 1 < count; ++t) {
      at(tiles, t + 1) = at(tiles, t);
      pass.advance(i * interval + t * tile, i * interval + (t + 1) * tile, at(tiles, t + 1));
    }
    for (Index t = count - 1; t >= 0; --t) {
      pass.tile(i * interval + t * tile, (std::min)(end, i * interval + (t + 1) * tile), at(tiles, t));
      if (stream.forgets()) pass.energy = delta_energy(at(tiles, t), pass.d_memory);
    }
    sum.add(natural, pass.part);
  }
  out.memory.slots = pass.d_memory;
  gradients.close();
  if (gradients.mixture() != nullptr) pull_back(mixture, natural, sum.total(), *gradients.mixture());
}

}  // namespace gma::detail

namespace gma::baselines {

template <class M>
void causal_delta_backward_into(Gradients<M>& gradients, const M& mixture, const In<Scalar<M>>& queries,
                                const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                const Memory<Scalar<M>>& initial_memory, const Memory<Scalar<M>>& d_final_memory,
                                const DeltaOptions& options, const TokenInputsView<Scalar<M>>& tokens,
                                const OptionalWorkspace<Scalar<M>>& workspace) {
  gma::detail::delta_backward_to<M>(gradients, mixture, queries, keys, values, d_output, initial_memory, d_final_memory,
                                    options, tokens, workspace.get());
}

template <class M>
void causal_delta_backward_into(const GradientTargets<M>& targets, const M& mixture, const In<Scalar<M>>& queries,
                                const In<Scalar<M>>& keys, const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                const Memory<Scalar<M>>& initial_memory, const Memory<Scalar<M>>& d_final_memory,
                                const DeltaOptions& options, const TokenInputsView<Scalar<M>>& tokens,
                                const OptionalWorkspace<Scalar<M>>& workspace) {
  gma::detail::delta_backward_to<M>(targets, mixture, queries, keys, values, d_output, initial_memory, d_final_memory,
                                    options, tokens, workspace.get());
}

template <class M>
Gradients<M> causal_delta_backward(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                                   const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                   const Memory<Scalar<M>>& initial_memory, const Memory<Scalar<M>>& d_final_memory,
                                   const DeltaOptions& options, const TokenInputsView<Scalar<M>>& tokens,
                                   const OptionalWorkspace<Scalar<M>>& workspace) {
  Gradients<M> gradients;
  causal_delta_backward_into(gradients, mixture, queries, keys, values, d_output, initial_memory, d_final_memory,
                             options, tokens, workspace);
  return gradients;
}

template <class M>
Gradients<M> causal_delta_backward(const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                                   const In<Scalar<M>>& values, const In<Scalar<M>>& d_output,
                                   const DeltaOptions& options, const TokenInputsView<Scalar<M>>& tokens) {
  return causal_delta_backward(mixture, queries, keys, values, d_output, Memory<Scalar<M>>(), Memory<Scalar<M>>(),
                               options, tokens);
}

}  // namespace gma::baselines
