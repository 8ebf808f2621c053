// SPDX-License-Identifier: MIT
// Gradients of reading, a tile of tokens at a time.
#pragma once

#include <algorithm>

#include "gma/attention/centre.hpp"
#include "gma/attention/gradients.hpp"
#include "gma/attention/read.hpp"

namespace gma {

/// Gradients of read(): queries, memory and mixture. d_output is Nq x e. Cost about 2.5 reads.
template <class M>
Gradients<M> read_backward(const M& mixture, const In<Scalar<M>>& queries, const Memory<Scalar<M>>& memory,
                           const In<Scalar<M>>& d_output, const Options& options = {},
                           const OptionalWorkspace<Scalar<M>>& workspace = {});
/// The same into `gradients`, whose matrices are reused, or to where the targets say. Inputs may lie there.
template <class M>
void read_backward_into(Gradients<M>& gradients, const M& mixture, const In<Scalar<M>>& queries,
                        const Memory<Scalar<M>>& memory, const In<Scalar<M>>& d_output, const Options& options = {},
                        const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void read_backward_into(const GradientTargets<M>& targets, const M& mixture, const In<Scalar<M>>& queries,
                        const Memory<Scalar<M>>& memory, const In<Scalar<M>>& d_output, const Options& options = {},
                        const OptionalWorkspace<Scalar<M>>& workspace = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// One chunk of read_tokens_backward(): what it adds to.
template <class FeatureMap, class S>
struct ReadBackward {
  const FeatureMap& map;
  const TokenView<S>&queries, &d_output;
  Normalization normalization;
  Index tile;
  const MemoryTiles<S>& memory;  // M / m for slot normalisation
  Tile<S> transposed_slots;      // of it, e x K
  const S* centre;               // what was taken off the values, null: nothing
  Tile<S> output_centre;         // slot: what is taken off the outputs' gradients before they are summed, 1 x e
  bool some_are_small;           // of the masses, or, for a row, of what it may read: below tiny_mass
  const TokenSink<S>& d_queries;

  /// Queries [begin, end): d_queries is assigned, d_memory and gradient are added to. Slot: d_memory.mass gets the sums
  /// of the queries' responsibilities.
  void tiles(Index begin, Index end, LongMemory<S>& part, FeatureMap& gradient, Workspace<S>& workspace) const {
    MemoryTiles<S>& d_memory = part.memory;
    const Index K = map.components();
    for (; begin < end; begin += tile) {
      typename Workspace<S>::Frame frame(workspace);
      const Index count = (std::min)(tile, end - begin);
      Tile<S> q = workspace.take(count, K), a = workspace.take(count, K);
      const ConstTile<S> x = load_tile(queries, begin, count, workspace);
      const ConstTile<S> dy = load_tile(d_output, begin, count, workspace);
      const S* shift = some_are_small ? shifts(centre, dy, workspace) : nullptr;
      evaluate(map, x, q, workspace);
      product(dy, transposed_slots, a);
      if (normalization == Normalization::row) {
        Tile<S> c = workspace.take(count, K);
        row_backward(q, c, a, shift, d_memory);
        add_transposed_product(c, dy, d_memory.slots);
      } else {
        if (shift != nullptr) add_shift_of_small_masses(shift, a);
        add_transposed_product(q, less_centre(dy, workspace), d_memory.slots);
        if (normalization == Normalization::slot) add_mass<S>({}, q, part, workspace);
      }
      Tile<S> d_x = gradient_rows(d_queries, begin, count, x.cols(), workspace);
      backward(map, x, q, a, d_x, gradient, workspace);
      d_queries.store(begin, d_x);
    }
  }

  ConstTile<S> less_centre(const ConstTile<S>& dy, Workspace<S>& workspace) const {
    if (centre == nullptr) return dy;
    Tile<S> result = workspace.take(dy.rows(), dy.cols());
    result = dy.rowwise() - output_centre.row(0);
    return ConstTile<S>(result.data(), dy.rows(), dy.cols(), Eigen::OuterStride<>(result.outerStride()));
  }

  /// Slot: what a mass below tiny_mass adds where a constant was taken off the values (kernels::MassesBackward).
  void add_shift_of_small_masses(const S* shift, Tile<S> a) const {
    for (Index k = 0; k < memory.mass.size(); ++k) {
      if (memory.mass(k) > S(tiny_mass)) continue;
      const S part = memory.mass(k) / S(tiny_mass) - S(1);
      for (Index t = 0; t < a.rows(); ++t) a(t, k) += shift[t] * part;
    }
  }

  /// With z = q . m and s = (a . q) / z: c = q / z, a becomes dq = a / z - s m / z, and dm -= s q / z. Below tiny_mass
  /// z has no gradient.
  void row_backward(const Tile<S>& q, Tile<S> c, Tile<S> a, const S* shift, MemoryTiles<S> d_memory) const {
    Eigen::Map<const RowVector<S>> mass(memory.mass.data(), memory.mass.size());
    for (Index t = 0; t < q.rows(); ++t) {
      const S z = kernels::dot(q.row(t).data(), mass.data(), q.cols()), scale = S(1) / divisor(z);
      const S inner = kernels::dot(q.row(t).data(), a.row(t).data(), q.cols());
      const S share = z > S(tiny_mass) ? S(inner * scale * scale) : shift == nullptr ? S(0) : S(-shift[t] * scale);
      c.row(t) = q.row(t) * scale;
      a.row(t) = a.row(t) * scale - mass * share;
      d_memory.mass -= q.row(t) * share;
    }
  }
};

/// Whether a slot, or a row that reads slots of its size, may be below tiny_mass.
template <class S>
bool has_small_mass(const MemoryTiles<S>& memory) {
  return memory.mass.size() == 0 || !(memory.mass.minCoeff() > S(tiny_mass));
}

/// From the sums of a slot read, dM^ = sum q (dy - y0) and Q = sum q, to the gradient of the memory, which is added to:
///   dM = (dM^ + Q y0) / m          dm = -dM . M / m
/// The sums of the queries' responsibilities and the masses are nearly the same where queries and keys are alike, and
/// the differences between the slots are what matters: hence the remainders.
template <class S>
void slot_gradient(const LongMemory<S>& memory, const Tile<S>& quotients, const LongMemory<S>& d_read,
                   const Tile<S>& output_centre, const S* centre, LongMemory<S>& d_memory) {
  using W = Wide<S>;
  for (Index k = 0; k < quotients.rows(); ++k) {
    const auto number = [&](const LongMemory<S>& m) {
      return W(m.memory.mass(k)) + (m.has_remainder ? W(m.remainder.mass(k)) : W(0));
    };
    const bool has_mass = memory.memory.mass(k) > S(tiny_mass);
    const W over = W(1) / (has_mass ? number(memory) : W(tiny_mass)), queries = number(d_read);
    W d_mass(0);
    for (Index j = 0; j < quotients.cols(); ++j) {
      W sum = W(d_read.memory.slots(k, j)) + queries * W(output_centre(0, j));
      if (d_read.has_remainder) sum += W(d_read.remainder.slots(k, j));
      const W d = sum * over + W(d_memory.memory.slots(k, j));
      d_memory.memory.slots(k, j) = S(d);
      if (d_memory.has_remainder) d_memory.remainder.slots(k, j) = S(d - W(d_memory.memory.slots(k, j)));
      if (has_mass) {
        d_mass -= sum * W(quotients(k, j)) * over;
      } else if (centre != nullptr) {
        d_mass += sum * W(centre[j]) * over;
      }
    }
    d_mass += W(d_memory.memory.mass(k));
    d_memory.memory.mass(k) = S(d_mass);
    if (d_memory.has_remainder) d_memory.remainder.mass(k) = S(d_mass - W(d_memory.memory.mass(k)));
  }
}

/// d_memory is added to; d_queries is assigned; the gradient of the natural parameters is added to `gradient`.
/// `centre`: what was taken off the values before they were written, null: nothing; d_memory is then for values so
/// centred, and its remainder, if it has one, is assigned.
template <class FeatureMap, class S>
void read_tokens_backward(const FeatureMap& map, const TokenView<S>& queries, const LongMemory<S>& long_memory,
                          const TokenView<S>& d_output, Normalization normalization, Index tile,
                          const Executor* executor, const S* centre, const TokenSink<S>& d_queries,
                          LongMemory<S>& d_memory, GradientSum<FeatureMap, S>& gradient, Workspace<S>& workspace) {
  const MemoryTiles<S>& memory = long_memory.memory;
  typename Workspace<S>::Frame frame(workspace);
  const Index K = map.components(), e = d_output.cols();
  const bool by_slot = normalization == Normalization::slot;
  Tile<S> quotients = workspace.take(K, e);
  if (by_slot) divide_slots(memory, quotients);
  const MemoryTiles<S> read{by_slot ? quotients : memory.slots, memory.mass};
  ReadBackward<FeatureMap, S> pass{map,
                                   queries,
                                   d_output,
                                   normalization,
                                   tile,
                                   read,
                                   workspace.take(e, K),
                                   centre,
                                   output_centre(map, d_output, by_slot && centre != nullptr, workspace),
                                   has_small_mass(memory),
                                   d_queries};
  pass.transposed_slots = read.slots.transpose();

  const Chunks chunks(queries.rows(), tile);
  PartialGradients<FeatureMap, S> partial(map, gradient.is_wanted(), chunks.count(), executor, workspace);
  const Tile<S> slots = workspace.take(partial.buffers() * K, e), masses = workspace.take(partial.buffers(), K);
  const Tile<S> low = workspace.take(partial.buffers(), keeps_remainder<S> && by_slot ? K : Index(0));
  LongMemory<S> d_read{take_memory(K, e, workspace), take_memory(keeps_remainder<S> ? K : Index(0), e, workspace),
                       keeps_remainder<S>};
  d_read.memory.set_zero();
  if (d_read.has_remainder) d_read.remainder.set_zero();
  in_waves(
      executor, chunks.count(), partial.buffers(),
      [&](Index i, Index buffer, Index worker) {
        LongMemory<S> part = zeros_with_mass_remainder(slots, masses, low, buffer);
        pass.tiles(chunks.begin(i), chunks.end(i), part, partial.start(buffer), workspace.worker(worker));
      },
      [&](Index, Index buffer) {
        settle_part<S>({}, long_memory_at(slots, masses, low, buffer), d_read);
        gradient.add(map, partial[buffer]);
      });
  if (by_slot) {
    slot_gradient(long_memory, read.slots, d_read, pass.output_centre, centre, d_memory);
  } else {
    d_memory.memory.add(d_read.memory);
  }
}

}  // namespace detail

namespace detail {

template <class M>
void read_backward_to(GradientDestination<M> gradients, const M& mixture, const In<Scalar<M>>& queries,
                      const Memory<Scalar<M>>& memory, const In<Scalar<M>>& d_output, const Options& options,
                      Workspace<Scalar<M>>& workspace) {
  using S = Scalar<M>;
  constexpr const char* function = "read_backward";
  check_has_parameters<M>();
  const FeatureMapOf<M>& natural = compiled(function, mixture, workspace);
  check_options(function, options);
  check_token_width(function, "queries", queries.cols(), natural.dim());
  check_readable(function, memory, natural);
  const Index e = memory.slots.cols();
  check_shape(function, "d_output", d_output.rows(), d_output.cols(), queries.rows(), e, "queries x value width");
  const GradientShapes shapes{function, queries.rows(), 0, queries.cols(), e, false, false};
  gradients.check(shapes);
  typename Workspace<S>::Frame frame(workspace);
  const TokenView<S> query_view = gradients.apart(queries, workspace), dy = gradients.apart(d_output, workspace);
  GradientSum<FeatureMapOf<M>, S> sum(natural, gradients.mixture() != nullptr, workspace);
  LongMemory<S> read = take_copy(memory, natural.components(), e, keeps_remainder<S>, workspace);
  if (keeps_remainder<S> && !read.has_remainder) {  // for what centring rounds away
    read.remainder.set_zero();
    read.has_remainder = true;
  }
  const S* const centre = memory_centre(natural, read, options.normalization, workspace);
  centre_memory(centre, read);
  const TokenGradients<S> out = gradients.open(shapes, workspace);
  set_zero(out.memory, natural.components(), e);
  LongMemory<S> d_memory = without_remainder(view(out.memory));
  read_tokens_backward(natural, query_view, read, dy, options.normalization,
                       tile_size(options, default_tile, queries.rows()), options.executor, centre, out.queries,
                       d_memory, sum, workspace);
  uncentre_gradient(centre, view(out.memory));
  if (gradients.mixture() != nullptr) pull_back(mixture, natural, sum.total(), *gradients.mixture());
}

}  // namespace detail

template <class M>
void read_backward_into(Gradients<M>& gradients, const M& mixture, const In<Scalar<M>>& queries,
                        const Memory<Scalar<M>>& memory, const In<Scalar<M>>& d_output, const Options& options,
                        const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::read_backward_to<M>(gradients, mixture, queries, memory, d_output, options, workspace.get());
}

template <class M>
void read_backward_into(const GradientTargets<M>& targets, const M& mixture, const In<Scalar<M>>& queries,
                        const Memory<Scalar<M>>& memory, const In<Scalar<M>>& d_output, const Options& options,
                        const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::read_backward_to<M>(targets, mixture, queries, memory, d_output, options, workspace.get());
}

template <class M>
Gradients<M> read_backward(const M& mixture, const In<Scalar<M>>& queries, const Memory<Scalar<M>>& memory,
                           const In<Scalar<M>>& d_output, const Options& options,
                           const OptionalWorkspace<Scalar<M>>& workspace) {
  Gradients<M> gradients;
  read_backward_into(gradients, mixture, queries, memory, d_output, options, workspace);
  return gradients;
}

}  // namespace gma
