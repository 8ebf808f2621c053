// SPDX-License-Identifier: MIT
// Reading: queries turn a memory into outputs, a tile of tokens at a time.
#pragma once

#include <algorithm>

#include "gma/attention/memory_tiles.hpp"
#include "gma/attention/options.hpp"
#include "gma/attention/token_stream.hpp"
#include "gma/core/operands.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma {

/// (4)-(6): queries Nq x d read the memory; returns Nq x e. A slot or row without mass reads as zero. Cost
/// O(Nq K (D + e)). Throws std::invalid_argument on shapes that do not fit and on an empty memory.
template <class M>
Matrix<Scalar<M>> read(const M& mixture, const In<Scalar<M>>& queries, const Memory<Scalar<M>>& memory,
                       const Options& options = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});
/// The same into a caller's Nq x e matrix, block or map. `out` may share memory with the queries.
template <class M>
void read_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries,
               const Memory<Scalar<M>>& memory, const Options& options = {},
               const OptionalWorkspace<Scalar<M>>& workspace = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// M / m for slot normalisation, row by row, once per call: K x e.
template <class S>
void divide_slots(const MemoryTiles<S>& memory, Tile<S> quotients) {
  quotients = reciprocal_mass(memory.mass.transpose()).asDiagonal() * memory.slots;
}

/// Outputs of all queries; tiles are independent. For slot normalisation `memory` holds M / m.
template <class FeatureMap, class S>
void read_tokens(const FeatureMap& map, const TokenView<S>& queries, const MemoryTiles<S>& memory,
                 Normalization normalization, Index tile, const Executor* executor, const TokenSink<S>& out,
                 Workspace<S>& workspace) {
  const Chunks chunks(queries.rows(), tile);
  workspace.prepare_workers(workers(executor));
  parallel_for(executor, chunks.count(), [&](Index i, Index worker) {
    Workspace<S>& scratch = workspace.worker(worker);
    for (Index begin = chunks.begin(i); begin < chunks.end(i); begin += tile) {
      typename Workspace<S>::Frame frame(scratch);
      const Index count = (std::min)(tile, chunks.end(i) - begin);
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

template <class Map, class S>
void check_readable(const char* function, const Memory<S>& memory, const Map& natural) {
  if (memory.empty()) {
    invalid_argument(function, "memory is empty, expected ", natural.components(),
                     " slots: write to it first, or start from gma::empty_memory");
  }
  check_memory(function, "memory", memory, natural.components(), memory.slots.cols());
}

}  // namespace detail

template <class M>
void read_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries,
               const Memory<Scalar<M>>& memory, const Options& options,
               const OptionalWorkspace<Scalar<M>>& optional_workspace) {
  using S = Scalar<M>;
  Workspace<S>& workspace = optional_workspace.get();
  const detail::FeatureMapOf<M>& natural = detail::compiled("read", mixture, workspace);
  detail::check_options("read", options);
  detail::check_token_width("read", "queries", queries.cols(), natural.dim());
  detail::check_readable("read", memory, natural);
  detail::check_shape("read", "out", out.rows(), out.cols(), queries.rows(), memory.slots.cols(),
                      "queries x value width");
  typename Workspace<S>::Frame frame(workspace);
  detail::MemoryTiles<S> scratch = detail::take_memory(natural.components(), memory.slots.cols(), workspace);
  scratch.mass = memory.mass.transpose();
  scratch.slots = memory.slots;
  if (options.normalization == Normalization::slot) detail::divide_slots(scratch, scratch.slots);
  const detail::TokenView<S> view = detail::apart(queries, out, true, workspace);
  detail::read_tokens(natural, view, scratch, options.normalization,
                      detail::tile_size(options, detail::default_tile, view.rows()), options.executor, out, workspace);
}

template <class M>
Matrix<Scalar<M>> read(const M& mixture, const In<Scalar<M>>& queries, const Memory<Scalar<M>>& memory,
                       const Options& options, const OptionalWorkspace<Scalar<M>>& workspace) {
  Matrix<Scalar<M>> out(queries.rows(), memory.slots.cols());
  read_into(out, mixture, queries, memory, options, workspace);
  return out;
}

}  // namespace gma
