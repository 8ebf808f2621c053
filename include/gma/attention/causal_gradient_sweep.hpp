// SPDX-License-Identifier: MIT
// What the outputs of a causal stream give to the gradient of the memory before it, in one sweep forward. With Lambda_t
// the decay since the stream began, and c_t and dc_t = M_t dy_t as in causal_backward_tile.hpp:
//   dM = sum_t Lambda_t c_t^T dy_t          dm = sum_t Lambda_t dm_t
// where dm_t is what the masses' part of dc_t gives. The tokens' own gradients are not computed: 2 D + 4 e of the 7 D +
// 7 e multiply-adds of a backward pass.
#pragma once

#include <vector>

#include "gma/attention/causal_backward_pass.hpp"

namespace gma::detail {

template <class FeatureMap, class S>
struct CausalGradientSweep {
  const FeatureMap& map;
  const TokenView<S>& queries;
  const TokenStream<S>& stream;
  const TokenView<S>& d_output;
  Normalization normalization;
  Index tile;
  LongMemory<S>& state;  // the memory before the tokens to come
  S tokens;              // in it
  // Of the gradient, what RunningGradient has: slots e x K without `common`, and mass; they are added to.
  LongMemory<S>& centred;
  std::vector<Wide<S>>& common;
  Workspace<S>& workspace;
  Wide<S> log_decay{0};  // of the tokens that are done

  /// The whole stream; the memories on the way go into `checkpoints` (null: nowhere).
  void run(CausalCheckpoints<S>* checkpoints) {
    for (Index begin = 0; begin < stream.size(); begin += tile) {
      if (checkpoints != nullptr && begin % checkpoints->interval == 0) {
        const Index i = begin / checkpoints->interval;
        (*checkpoints)[i].copy(state.memory);
        checkpoints->tokens(0, i) = tokens;
      }
      one_tile(begin, (std::min)(tile, stream.size() - begin));
    }
  }

 private:
  void one_tile(Index begin, Index count) {
    typename Workspace<S>::Frame frame(workspace);
    const Index K = map.components();
    const CausalTile<S> opened = open_tile(map, queries, stream, begin, count, true, true, workspace);
    const ConstTile<S> dy = load_dense_tile(d_output, begin, count, workspace);
    const bool may_be_small = stream.forgets() || has_small_mass(state.memory);
    Tile<S> d_reads = workspace.take_spread(count, K);
    read_and_write(opened, dy, d_reads);
    const kernels::Decay<S> before = kernels::decay_of(S(log_decay));
    if (!before.restarts()) {
      MemoryTiles<S> part = take_transposed();
      slots_gradient(opened, dy, part.slots);
      mass_gradient(opened, dy, may_be_small, d_reads, part.mass.data());
      part.decay(before);
      centred.settle({}, part);
    }
    tokens = tokens_after(stream, begin, opened.decay, tokens);
    log_decay += opened.decay.all;
  }

  MemoryTiles<S> take_transposed() const {
    const Index K = map.components();
    MemoryTiles<S> result{workspace.take(d_output.cols(), K), Eigen::Map<RowVector<S>>(workspace.take(1, K).data(), K)};
    result.set_zero();
    return result;
  }

  /// dc_t = M_t dy_t, in the units of the scan, and the masses after every token; `state` moves on. As in the forward
  /// pass, a memory with a remainder is read through one product more, and what the tile writes is summed from zero.
  void read_and_write(const CausalTile<S>& opened, const ConstTile<S>& dy, Tile<S> d_reads) {
    typename Workspace<S>::Frame frame(workspace);
    const bool is_long = state.has_remainder;
    MemoryTiles<S> transposed = take_transposed();
    transposed.slots = state.memory.slots.transpose();
    if (is_long) {
      product(dy, transposed.slots, d_reads);
      scale_like_scan(opened.decay, opened.decay.kept_of_tile, d_reads, workspace);
      transposed.slots.setConstant(S(0));
    }
    fill_masses<S>(opened, normalization, true, transposed.mass.data(), state.memory.mass.data());
    scan_forward<S>(opened.decay, {opened.count,
                                   dy.cols(),
                                   map.components(),
                                   read_pointer(opened.v),
                                   read_pointer(opened.writes),
                                   read_pointer(dy),
                                   pointer(d_reads),
                                   transposed.slots.data(),
                                   {},
                                   {},
                                   is_long});
    if (is_long) {
      MemoryTiles<S> written = take_memory(map.components(), dy.cols(), workspace);
      written.slots = transposed.slots.transpose();
      written.mass = transposed.mass;
      state.settle(opened.decay.whole(), written);
    } else {
      state.memory.slots = transposed.slots.transpose();
      kernels::decay_all(opened.decay.whole(), state.memory.mass.data(), state.memory.mass.size());
      state.memory.mass += transposed.mass;
    }
  }

  /// Of the tile's outputs to the slots before it; what is common to all slots goes into `common`. Tokens that nothing
  /// of the tile's first memory reaches are left out, NaN included.
  void slots_gradient(const CausalTile<S>& opened, const ConstTile<S>& dy, Tile<S> d_slots) {
    typename Workspace<S>::Frame frame(workspace);
    const Index K = map.components();
    const TileDecay<S>& decay = opened.decay;
    Index live = 0;
    while (live < opened.count && !(decay.forgets && decay.kept_of_tile(0, live) == S(0))) ++live;
    const ConstTile<S> live_dy = rows(dy, 0, live);
    if (!centres<FeatureMap, S> || normalization != Normalization::slot) {
      Tile<S> reads = rows(opened.reads, 0, live);
      scale_like_scan(decay, decay.kept_of_tile, opened.reads, workspace);
      return add_transposed_product(live_dy, reads, d_slots);
    }
    Tile<S> less = workspace.take_spread(live, K), shares = workspace.take(1, live);
    for (Index t = 0; t < live; ++t) {
      const S share = S(1) / divisor(S(opened.masses.row(t).sum()));
      const S left = decay.forgets ? S(decay.kept_of_tile(0, t) / decay.kept(0, t)) : S(1);
      shares(0, t) = decay.forgets ? S(share * decay.kept_of_tile(0, t)) : share;
      less.row(t) = opened.reads.row(t).array() * left - shares(0, t);
    }
    add_transposed_product(live_dy, less, d_slots);
    const kernels::Decay<Wide<S>> before = kernels::decay_of(log_decay);
    for (Index j = 0; j < dy.cols(); ++j) {
      S sum(0);
      for (Index t = 0; t < live; ++t) sum += shares(0, t) * live_dy(t, j);
      common[static_cast<std::size_t>(j)] += before.of(Wide<S>(sum));
    }
  }

  /// Of the tile's outputs to the mass before it, which is added to.
  void mass_gradient(const CausalTile<S>& opened, const ConstTile<S>& dy, bool may_be_small, Tile<S> d_reads,
                     S* d_mass) {
    if (normalization == Normalization::none) return;
    typename Workspace<S>::Frame frame(workspace);
    const TileDecay<S>& decay = opened.decay;
    const S* shift = may_be_small ? shifts(stream.centre, dy, workspace) : nullptr;
    Tile<S> unused = opened.r_k;
    for_each_run_backward(decay, [&](Index i, Index end) {
      kernels::masses_backward<S>({normalization, end - i, map.components(), decay.kept_from(i), nullptr, nullptr,
                                   shift == nullptr ? nullptr : shift + i, from(read_pointer(opened.r_q), i),
                                   from(read_pointer(opened.masses), i), from(pointer(d_reads), i),
                                   from(pointer(unused), i), d_mass, decay.after(end), decay.before(i), nullptr});
    });
  }
};

}  // namespace gma::detail
