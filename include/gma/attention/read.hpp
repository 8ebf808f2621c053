// SPDX-License-Identifier: MIT
// Reading: queries turn a memory into outputs, a tile of tokens at a time. The backward pass follows the forward.
#pragma once

#include <algorithm>

#include "gma/attention/gradients.hpp"
#include "gma/attention/memory.hpp"
#include "gma/attention/options.hpp"
#include "gma/attention/token_stream.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma {

/// (4)-(6): queries Nq x d read the memory; returns Nq x e. A slot or row without mass reads as zero. Cost
/// O(Nq K (D + e)). Throws std::invalid_argument on shapes that do not fit and on an empty memory.
template <class M, class Q, class MS>
Matrix<typename M::Scalar> read(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Memory<MS>& memory,
                                const Options& options = {});
/// The same into a caller's Nq x e matrix, block or map, with a caller's scratch memory.
template <class Out, class M, class Q, class MS>
void read_into(const Eigen::MatrixBase<Out>& out, const M& mixture, const Eigen::MatrixBase<Q>& queries,
               const Memory<MS>& memory, const Options& options, Workspace<typename M::Scalar>& workspace);

/// Gradients of read(): queries, memory and mixture. d_output is Nq x e. Cost about 2.5 reads.
template <class M, class Q, class MS, class D>
Gradients<M> read_backward(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Memory<MS>& memory,
                           const Eigen::MatrixBase<D>& d_output, const Options& options = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// M / m for slot normalisation, row by row, once a call: K x e.
template <class S>
void divide_slots(const MemoryView<S>& memory, Tile<S> quotients) {
  quotients = reciprocal_mass(memory.mass.transpose()).asDiagonal() * memory.slots;
}

/// Outputs of all queries; tiles are independent. For slot normalisation `memory` holds M / m.
template <class FeatureMap, class S>
void read_tokens(const FeatureMap& map, const TokenView<S>& queries, const MemoryView<S>& memory,
                 Normalization normalization, Index tile, const Executor* executor, const TokenSink<S>& out,
                 Workspace<S>& workspace) {
  const Stretches stretches(queries.rows(), tile);
  workspace.prepare_workers(workers(executor));
  parallel_for(executor, stretches.count(), [&](Index i, Index worker) {
    Workspace<S>& scratch = workspace.worker(worker);
    for (Index begin = stretches.begin(i); begin < stretches.end(i); begin += tile) {
      typename Workspace<S>::Frame frame(scratch);
      const Index count = (std::min)(tile, stretches.end(i) - begin);
      Tile<S> q = scratch.take(count, map.components());
      evaluate(map, load_tile(queries, begin, count, scratch), q, scratch);
      Tile<S> y = out.tile(begin, count, scratch.take(count, out.cols()));
      product(q, memory.slots, y);
      if (normalization == Normalization::row) {
        Tile<S> factors = scratch.take(1, count);
        for (Index t = 0; t < count; ++t) {
          factors(0, t) = S(1) / divisor(kernels::dot(q.row(t).data(), memory.mass.data(), q.cols()));
        }
        kernels::scale_rows(y, factors.data());
      }
      out.store(begin, y);
    }
  });
}

/// One stretch of read_tokens_backward(): what it adds to.
template <class FeatureMap, class S>
struct ReadBackward {
  const FeatureMap& map;
  const TokenView<S>&queries, &d_output;
  Normalization normalization;
  Index tile;
  const MemoryView<S>& memory;  // M / m for slot normalisation
  Tile<S> transposed_slots;     // of it, e x K
  Matrix<S>& d_queries;

  /// Queries [begin, end): d_queries is assigned, d_memory and gradient are added to.
  void tiles(Index begin, Index end, MemoryView<S> d_memory, FeatureMap& gradient, Workspace<S>& workspace) const {
    const Index K = map.components();
    for (; begin < end; begin += tile) {
      typename Workspace<S>::Frame frame(workspace);
      const Index count = (std::min)(tile, end - begin);
      Tile<S> q = workspace.take(count, K), a = workspace.take(count, K);
      const ConstTile<S> x = load_tile(queries, begin, count, workspace);
      const ConstTile<S> dy = load_tile(d_output, begin, count, workspace);
      evaluate(map, x, q, workspace);
      product(dy, transposed_slots, a);
      if (normalization == Normalization::row) {
        Tile<S> c = workspace.take(count, K);
        row_backward(q, c, a, d_memory);
        add_transposed_product(c, dy, d_memory.slots);
      } else {
        add_transposed_product(q, dy, d_memory.slots);
      }
      backward(map, x, q, a, rows(d_queries, begin, count), gradient, workspace);
    }
  }

  /// With z = q . m and s = (a . q) / z: c = q / z, a becomes dq = a / z - s m / z, and dm -= s q / z. Below tiny_mass
  /// z has no gradient.
  void row_backward(const Tile<S>& q, Tile<S> c, Tile<S> a, MemoryView<S> d_memory) const {
    Eigen::Map<const RowVector<S>> mass(memory.mass.data(), memory.mass.size());
    for (Index t = 0; t < q.rows(); ++t) {
      const S z = kernels::dot(q.row(t).data(), mass.data(), q.cols()), scale = S(1) / divisor(z);
      const S inner = kernels::dot(q.row(t).data(), a.row(t).data(), q.cols());
      const S share = z > S(tiny_mass) ? S(inner * scale * scale) : S(0);
      c.row(t) = q.row(t) * scale;
      a.row(t) = a.row(t) * scale - mass * share;
      d_memory.mass -= q.row(t) * share;
    }
  }
};

/// d_memory is added to; d_queries is assigned; the gradient of the natural parameters is added to `gradient`.
template <class FeatureMap, class S>
void read_tokens_backward(const FeatureMap& map, const TokenView<S>& queries, const MemoryView<S>& memory,
                          const TokenView<S>& d_output, Normalization normalization, Index tile,
                          const Executor* executor, Matrix<S>& d_queries, MemoryView<S> d_memory, FeatureMap& gradient,
                          Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const Index K = map.components(), e = d_output.cols();
  const bool by_slot = normalization == Normalization::slot;
  Tile<S> quotients = workspace.take(K, e);
  if (by_slot) divide_slots(memory, quotients);
  const MemoryView<S> read{by_slot ? quotients : memory.slots, memory.mass};
  ReadBackward<FeatureMap, S> pass{map, queries, d_output, normalization, tile, read, workspace.take(e, K), d_queries};
  pass.transposed_slots = read.slots.transpose();

  const Stretches stretches(queries.rows(), tile);
  PartialGradients<FeatureMap, S> partial(map, stretches.count(), executor, workspace);
  const Tile<S> slots = workspace.take(partial.places() * K, e), masses = workspace.take(partial.places(), K);
  MemoryView<S> d_read = take_memory(K, e, workspace);
  d_read.set_zero();
  in_waves(
      executor, stretches.count(), partial.places(),
      [&](Index i, Index place, Index worker) {
        MemoryView<S> part = place_of(slots, masses, place);
        part.set_zero();
        pass.tiles(stretches.begin(i), stretches.end(i), part, partial.start(place), workspace.worker(worker));
      },
      [&](Index, Index place) {
        d_read.add(place_of(slots, masses, place));
        add_gradient(gradient, partial[place]);
      });

  if (by_slot) {  // from M^ = M / m: dM = dM^ / m, dm = -dM^ . M^ / m
    for (Index k = 0; k < K; ++k) {
      const S m = memory.mass(k), over = S(1) / divisor(m);
      if (m > S(tiny_mass)) d_memory.mass(k) -= d_read.slots.row(k).dot(read.slots.row(k)) * over;
      d_memory.slots.row(k) += d_read.slots.row(k) * over;
    }
  } else {
    d_memory.add(d_read);
  }
}

template <class Map, class S>
void check_readable(const char* function, const Memory<S>& memory, const Map& natural) {
  if (memory.empty()) {
    invalid_argument(function, "memory is empty, expected ", natural.components(),
                     " slots: write to it first, or start from gma::empty_memory");
  }
  check_memory(function, "memory", memory, natural.components(), memory.slots.cols());
}

}  // namespace detail

template <class Out, class M, class Q, class MS>
void read_into(const Eigen::MatrixBase<Out>& out, const M& mixture, const Eigen::MatrixBase<Q>& queries,
               const Memory<MS>& memory, const Options& options, Workspace<typename M::Scalar>& workspace) {
  using S = typename M::Scalar;
  detail::check_scalar<S, MS>();
  const detail::FeatureMapOf<M>& natural = detail::compiled("read", mixture, workspace);
  detail::check_options("read", options);
  detail::check_token_width("read", "queries", queries.cols(), natural.dim());
  detail::check_readable("read", memory, natural);
  detail::check_shape("read", "out", out.rows(), out.cols(), queries.rows(), memory.slots.cols(),
                      "queries x value width");
  detail::Evaluated<Q> q = queries.derived();
  typename Workspace<S>::Frame frame(workspace);
  detail::MemoryView<S> scratch = detail::take_memory(natural.components(), memory.slots.cols(), workspace);
  scratch.mass = memory.mass.transpose();
  scratch.slots = memory.slots;
  if (options.normalization == Normalization::slot) detail::divide_slots(scratch, scratch.slots);
  const detail::TokenView<S> view(q);
  detail::read_tokens(natural, view, scratch, options.normalization,
                      detail::tile_size(options, detail::default_tile, view.rows()), options.executor,
                      detail::TokenSink<S>(detail::writable(out)), workspace);
}

template <class M, class Q, class MS>
Matrix<typename M::Scalar> read(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Memory<MS>& memory,
                                const Options& options) {
  Workspace<typename M::Scalar> workspace;
  Matrix<typename M::Scalar> out(queries.rows(), memory.slots.cols());
  read_into(out, mixture, queries, memory, options, workspace);
  return out;
}

template <class M, class Q, class MS, class D>
Gradients<M> read_backward(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Memory<MS>& memory,
                           const Eigen::MatrixBase<D>& d_output, const Options& options) {
  using S = typename M::Scalar;
  detail::check_scalar<S, MS>();
  detail::check_has_parameters<M>();
  Workspace<S> workspace;
  const detail::FeatureMapOf<M>& natural = detail::compiled("read_backward", mixture, workspace);
  detail::check_options("read_backward", options);
  detail::check_token_width("read_backward", "queries", queries.cols(), natural.dim());
  detail::check_readable("read_backward", memory, natural);
  detail::check_shape("read_backward", "d_output", d_output.rows(), d_output.cols(), queries.rows(),
                      memory.slots.cols(), "queries x value width");
  detail::Evaluated<Q> q = queries.derived();
  detail::Evaluated<D> dy = d_output.derived();
  Gradients<M> out;
  detail::FeatureMapOf<M>& gradient = detail::zero_gradient(natural, workspace);
  detail::resize(out.queries, queries.rows(), queries.cols());
  detail::set_zero(out.memory, natural.components(), memory.slots.cols());
  Memory<S> copy = memory;
  detail::read_tokens_backward(natural, detail::TokenView<S>(q), detail::view(copy), detail::TokenView<S>(dy),
                               options.normalization, detail::tile_size(options, detail::default_tile, queries.rows()),
                               options.executor, out.queries, detail::view(out.memory), gradient, workspace);
  detail::pull_back(mixture, natural, gradient, out.mixture);
  return out;
}

}  // namespace gma
