// SPDX-License-Identifier: MIT
// Backward of causal streams in which every slot forgets at its own rate, (10). On the way forward the memory is kept
// at every checkpoint_interval tokens; on the way back each interval is replayed tile by tile, and within a tile a
// block of tokens at a time, whose memories are all kept. So the gradient of a decay is the inner product of what it
// multiplies with the gradient of the slot, and nothing cancels.
#pragma once

#include "gma/attention/centre.hpp"
#include "gma/attention/gradients.hpp"
#include "gma/attention/read_backward.hpp"
#include "gma/attention/slot_forgetting.hpp"
#include "gma/kernels/slot_forgetting_backward.hpp"

namespace gma::detail {

/// Tokens in a tile: as many as checkpoints are apart, fewer where rows of K numbers would leave the cache.
inline Index slot_backward_tile(Index components) {
  return (std::clamp)(Index(32768) / components / default_tile * default_tile, default_tile, Index(256));
}
/// Tokens whose memories, of `size` numbers each, are kept at a time.
inline Index slot_backward_block(Index size) {
  return (std::clamp)(Index(65536) / (std::max)(size, Index(1)), Index(4), Index(32));
}

template <class FeatureMap, class S>
struct SlotBackward {
  const FeatureMap& map;
  const TokenView<S>* queries;  // null: nothing was read
  const TokenStream<S>& stream;
  const TokenView<S>* d_output;  // null with the queries
  Normalization normalization;
  Index tile;
  const TokenGradients<S>& out;
  Tile<S> d_slots, d_mass;      // e x K, 1 x K, run: the gradients as the token after left them
  Tile<S> slots_low, mass_low;  // their remainders, without rows for scalars that need none
  Tile<S> next_codes;           // 1 x K: what that token forgets, which is not in the gradients yet
  GradientSum<FeatureMap, S>& total;
  FeatureMap& part;  // of the total, of a few tiles
  Workspace<S>& workspace;
  bool next_is_near = true;

  /// Tokens [begin, end) from the memory before them, `state`, which holds `tokens` and is used up.
  void interval(Index begin, Index end, LongMemory<S>& state, S tokens) {
    typename Workspace<S>::Frame frame(workspace);
    const Index tiles = (end - begin + tile - 1) / tile, K = map.components();
    const Tile<S> slots = workspace.take(tiles * K, stream.values.cols()), masses = workspace.take(tiles, K);
    const TokenView<S>* const no_queries = nullptr;
    const TokenSink<S>* const no_output = nullptr;
    for (Index i = 0; i < tiles; ++i) {
      memory_at(slots, masses, i).copy(state.memory);
      if (i + 1 == tiles) break;
      const Index at = begin + i * tile;
      slot_tokens(map, no_queries, stream, at, at + tile, normalization, tile, state, tokens, no_output, workspace);
    }
    for (Index i = tiles - 1; i >= 0; --i) {
      const Index at = begin + i * tile;
      one_tile(at, (std::min)(tile, end - at), memory_at(slots, masses, i));
    }
    total.add(map, part);
  }

  void one_tile(Index begin, Index count, const MemoryTiles<S>& before) {
    typename Workspace<S>::Frame frame(workspace);
    const Index K = map.components(), e = stream.values.cols();
    const SlotTile<S> opened = open_slot_tile(map, queries, stream, begin, count, true, workspace);
    LongMemory<S> scratch = without_remainder(take_memory(K, Index(0), workspace));
    scratch.memory.mass = before.mass;
    slot_tile_masses(map, opened, 0, count, normalization, scratch);
    const Tile<S> none = workspace.take(1, (std::max)(K, e));  // reads and outputs' gradients where nothing is read
    Tile<S>(none).setConstant(S(0));
    const ConstTile<S> dy = d_output == nullptr ? ConstTile<S>(none.data(), 1, e, Eigen::OuterStride<>(0))
                                                : load_dense_tile(*d_output, begin, count, workspace);
    const S* shift = d_output == nullptr ? nullptr : shifts(stream.centre, dy, workspace);
    Tile<S> d_reads = workspace.take_spread(count, K), d_writes = workspace.take_spread(count, K);
    Tile<S> d_decays = workspace.take_spread(count, K), d_values = workspace.take(count, e);
    const auto one_block = [&](Index first, Index end, const Tile<S>& states) {
      replay(opened, first, end, states, true);
      for (Index t = end - 1; t >= first; --t) {
        const bool reads = queries != nullptr;
        kernels::slot_token_backward<S>(
            {e, K, states.data() + (t - first) * e * K, states.data() + (t - first + 1) * e * K,
             reads ? opened.reads.row(t).data() : none.data(), opened.writes.row(t).data(), next_codes.data(),
             opened.v.data() + t * opened.v.outerStride(), dy.data() + t * dy.outerStride(), d_slots.data(),
             slots_low.rows() == 0 ? nullptr : slots_low.data(), d_reads.row(t).data(), d_writes.row(t).data(),
             d_decays.row(t).data(), d_values.row(t).data()},
            next_is_near);
        masses_of_token(opened, t, t == 0 ? before.mass.data() : opened.masses.row(t - 1).data(),
                        shift == nullptr ? nullptr : shift + t, d_reads, d_writes, d_decays);
        next_codes.row(0) = opened.codes.row(t);
        next_is_near = opened.is_far(0, t) == S(0);
      }
    };
    blocks_backward(opened, before, one_block);
    fill_rows(out.values, begin, count, workspace, [&](Tile<S> rows) {
      for (Index t = 0; t < count; ++t) {
        if (stream.present(begin + t)) {
          rows.row(t) = d_values.row(t);
        } else {
          rows.row(t).setConstant(S(0));
        }
      }
    });
    token_inputs(opened, d_writes, d_decays);
    if (stream.weighted()) kernels::scale_rows(d_writes, stream.weights(begin));  // from w r_k to r_k
    if (queries != nullptr) responsibilities_backward(opened.q, opened.r_q, d_reads, out.queries, begin);
    responsibilities_backward(opened.k, opened.r_k, d_writes, out.keys, begin);
  }

  /// f(first, end, states) for blocks of tokens, last first; the first of the states is the memory before the block,
  /// e x K.
  template <class F>
  void blocks_backward(const SlotTile<S>& opened, const MemoryTiles<S>& before, const F& f) {
    const Index K = map.components(), e = stream.values.cols();
    const Index block = (std::min)(slot_backward_block(K * e), opened.count);
    const Index blocks = (opened.count + block - 1) / block;
    const Tile<S> starts = workspace.take(blocks * e, K), states = workspace.take((block + 1) * e, K);
    const auto start = [&](Index i) { return rows(starts, i * e, e); };
    start(0) = before.slots.transpose();
    for (Index i = 0; i + 1 < blocks; ++i) {
      start(i + 1) = start(i);
      replay(opened, i * block, (i + 1) * block, start(i + 1), false);
    }
    for (Index i = blocks - 1; i >= 0; --i) {
      rows(states, 0, e) = start(i);
      f(i * block, (std::min)(opened.count, (i + 1) * block), states);
    }
  }

  void replay(const SlotTile<S>& opened, Index first, Index end, const Tile<S>& states, bool keeps) {
    kernels::slot_replay<S>({end - first, stream.values.cols(), map.components(),
                             from(read_pointer(opened.writes), first), from(read_pointer(opened.v), first),
                             from(read_pointer(opened.codes), first), opened.is_far.data() + first,
                             const_cast<S*>(states.data()), keeps});
  }

  /// From the slots' part of the gradients of a token to the whole; `mass` is that before it. d_decays becomes the
  /// gradient of the log-forgetting.
  void masses_of_token(const SlotTile<S>& opened, Index t, const S* mass, const S* shift, Tile<S>& d_reads,
                       Tile<S>& d_writes, Tile<S>& d_decays) {
    typename Workspace<S>::Frame frame(workspace);
    const Index K = map.components();
    Tile<S> added = workspace.take(1, K);  // to the gradient of the mass, by what the token reads
    added.setConstant(S(0));
    if (queries != nullptr) {
      kernels::masses_backward<S>({normalization,
                                   1,
                                   K,
                                   nullptr,
                                   nullptr,
                                   nullptr,
                                   shift,
                                   from(read_pointer(opened.r_q), t),
                                   from(read_pointer(opened.masses), t),
                                   from(pointer(d_reads), t),
                                   from(pointer(d_writes), t),
                                   added.data(),
                                   {},
                                   {},
                                   nullptr});
    }
    kernels::slot_mass_backward<S>({K, next_codes.data(), opened.codes.row(t).data(), added.data(), mass, d_mass.data(),
                                    mass_low.rows() == 0 ? nullptr : mass_low.data(), d_writes.row(t).data(),
                                    d_decays.row(t).data()});
  }

  /// dw_t = r_t . dP_t with P = w r_k, and the gradients of the forgetting.
  void token_inputs(const SlotTile<S>& opened, const Tile<S>& d_writes, const Tile<S>& d_decays) {
    const Index K = map.components();
    for (Index t = 0; t < opened.count; ++t) {
      const Index j = opened.begin + t;
      const bool is_present = stream.present(j);
      if (out.key_weights != nullptr) {
        out.key_weights[j] = is_present ? S(kernels::dot(opened.r_k.row(t).data(), d_writes.row(t).data(), K)) : S(0);
      }
      if (out.log_forgetting == nullptr) continue;
      const bool learns = is_present && is_finite(stream.tokens.log_forgetting(j));
      out.log_forgetting[j] = learns ? S(d_decays.row(t).sum() + out.memory.log_forgetting) : S(0);
    }
    fill_rows(out.slot_log_forgetting, opened.begin, opened.count, workspace, [&](Tile<S> rows) {
      for (Index t = 0; t < opened.count; ++t) {
        for (Index k = 0; k < K; ++k) {
          const Index j = opened.begin + t;
          const bool learns = stream.present(j) && is_finite(stream.tokens.slot_log_forgetting(j, k));
          rows(t, k) = learns ? d_decays(t, k) : S(0);
        }
      }
    });
  }

  void responsibilities_backward(const ConstTile<S>& x, const Tile<S>& r, const Tile<S>& d_r, const TokenSink<S>& d_x,
                                 Index begin) {
    typename Workspace<S>::Frame frame(workspace);
    Tile<S> rows = gradient_rows(d_x, begin, x.rows(), x.cols(), workspace);
    backward(map, x, r, d_r, rows, part, workspace);
    d_x.store(begin, rows);
  }
};

/// As causal_backward_tokens(); `queries` and `d_output` may be null: nothing was read, as in write().
template <class FeatureMap, class S>
void slot_backward_tokens(const FeatureMap& map, const TokenView<S>* queries, const TokenStream<S>& stream,
                          const TokenView<S>* d_output, const Options& options, LongMemory<S>& state, S tokens,
                          const TokenGradients<S>& out, GradientSum<FeatureMap, S>& sum, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const Index n = stream.size(), K = map.components(), e = stream.values.cols();
  const Index tile = tile_size(options, slot_backward_tile(K), n);
  const Index interval = (checkpoint_interval(options, n) + tile - 1) / tile * tile;
  const Index intervals = (n + interval - 1) / interval;
  const Tile<S> slots = workspace.take(intervals * K, e), masses = workspace.take(intervals, K);
  Tile<S> counts = workspace.take(1, intervals);
  const TokenView<S>* const no_queries = nullptr;
  const TokenSink<S>* const no_output = nullptr;
  state.has_remainder = state.has_remainder && is_long_by_slot(tokens);
  for (Index i = 0; i < intervals; ++i) {
    memory_at(slots, masses, i).copy(state.memory);
    counts(0, i) = tokens;
    if (i + 1 == intervals) break;
    slot_tokens(map, no_queries, stream, i * interval, (i + 1) * interval, options.normalization, tile, state, tokens,
                no_output, workspace);
  }
  const Index low = keeps_remainder<S> ? 1 : 0;
  Tile<S> d_slots = workspace.take(e, K), d_mass = workspace.take(1, K), next_codes = workspace.take(1, K);
  Tile<S> slots_low = workspace.take(low * e, K), mass_low = workspace.take(low, K);
  for (Tile<S>* zeros : {&slots_low, &mass_low, &next_codes}) zeros->setConstant(S(0));
  d_slots = out.memory.slots.transpose();
  d_mass = out.memory.mass.transpose();
  SlotBackward<FeatureMap, S> pass{map,      queries,    stream,  d_output,      options.normalization,
                                   tile,     out,        d_slots, d_mass,        slots_low,
                                   mass_low, next_codes, sum,     sum.part(map), workspace};
  for (Index i = intervals - 1; i >= 0; --i) {
    state.memory.copy(memory_at(slots, masses, i));
    state.has_remainder = false;
    pass.interval(i * interval, (std::min)(n, (i + 1) * interval), state, S(counts(0, i)));
  }
  for (Index k = 0; k < K; ++k) {
    const S code = next_codes(0, k);
    for (Index j = 0; j < e; ++j) out.memory.slots(k, j) = kernels::slot_decayed(code, S(d_slots(j, k)));
    out.memory.mass(k) = kernels::slot_decayed(code, S(d_mass(0, k)));
  }
}

}  // namespace gma::detail
