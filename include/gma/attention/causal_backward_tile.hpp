// SPDX-License-Identifier: MIT
// Backward of one interval of a causal stream, from checkpoint to checkpoint: its tiles are replayed forward, for the
// memory before each, and then run last first.
#pragma once

#include <vector>

#include "gma/attention/causal_tile.hpp"
#include "gma/attention/centre.hpp"
#include "gma/attention/forgetting_energy.hpp"
#include "gma/attention/gradients.hpp"
#include "gma/attention/read_backward.hpp"
#include "gma/attention/write.hpp"

namespace gma::detail {

/// The gradient of the memory after the tokens that remain, as it runs through a pass.
template <class S>
struct RunningGradient {
  LongMemory<S> d_memory;
  LongMemory<S> centred;  // the same for the keys' sake: its slots are e x K and lack `common`, the same for every slot
  Tile<S> mass_remainder;        // of its mass, 1 x K
  std::vector<Wide<S>>& common;  // e
  S later_tokens = S(0);         // in the tokens that are done, each counted as what forgetting leaves until it
};

/// The pass itself: everything a tile needs to know, and where its gradients go.
template <class FeatureMap, class S>
struct CausalBackward : RunningGradient<S> {
  using RunningGradient<S>::d_memory, RunningGradient<S>::centred, RunningGradient<S>::mass_remainder,
      RunningGradient<S>::common, RunningGradient<S>::later_tokens;

  const FeatureMap& map;
  const TokenView<S>& queries;
  const TokenStream<S>& stream;
  const TokenView<S>& d_output;
  Normalization normalization;
  Index tile;
  const TokenGradients<S> out;
  GradientSum<FeatureMap, S>& total;  // of the gradient of the natural parameters
  FeatureMap& part;                   // its part of a few tiles
  ForgettingEnergy<S>& energy;
  ForgettingTape<S>* tape;  // where what `energy` takes is kept for later; null: it takes it
  Workspace<S>& workspace;
  int tiles_in_part = 0;

  /// What was gathered since the last time goes into the total. To be called at the end, too.
  void end_part() {
    total.add(map, part);
    tiles_in_part = 0;
  }

  /// Tiles [begin, end) of one interval, from the memory before it, `state`, which is used up, and which `tokens` are
  /// in. `after`: the memory after it; becomes the one before, where something is forgotten.
  void interval(Index begin, Index end, LongMemory<S>& state, S tokens, MemoryTiles<S> after) {
    typename Workspace<S>::Frame frame(workspace);
    const Index tiles = (end - begin + tile - 1) / tile, K = map.components();
    const Tile<S> slots = workspace.take(tiles * K, stream.values.cols()), masses = workspace.take(tiles, K);
    Tile<S> counts = workspace.take(1, tiles);
    for (Index i = 0; i < tiles; ++i) {
      memory_at(slots, masses, i).copy(state.memory);
      counts(0, i) = tokens;
      if (i + 1 == tiles) break;
      const Index at = begin + i * tile;
      const Written<S> written = write_tiles(map, stream, at, at + tile, tile, state, tokens, workspace);
      tokens = kernels::decay_of(S(written.log_decay)).of(tokens) + written.tokens;
    }
    for (Index i = tiles - 1; i >= 0; --i) {
      const MemoryTiles<S> before = memory_at(slots, masses, i);
      one_tile(begin + i * tile, (std::min)(tile, end - begin - i * tile), before,
               is_long(S(counts(0, i)), stream.forgets()), after);
      if (stream.forgets()) after.copy(before);
    }
  }

  /// `before` and `after`: the memory before and after the tile. `is_long`: the scan does not carry what was before.
  void one_tile(Index begin, Index count, const MemoryTiles<S>& before, bool is_long, const MemoryTiles<S>& after) {
    typename Workspace<S>::Frame frame(workspace);
    const Index K = map.components();
    const CausalTile<S> opened = open_tile(map, queries, stream, begin, count, true, true, workspace);
    const Tile<S> to_end = decay_to_end(stream, begin, count, workspace);
    const ConstTile<S> dy = load_dense_tile(d_output, begin, count, workspace);
    Tile<S> d_r_q = workspace.take_spread(count, K), d_weighted = workspace.take_spread(count, K);
    Tile<S> read_energy = workspace.take(1, count), left_out = workspace.take(1, count);
    if (stream.forgets()) measure_energy(begin, after);
    d_memory.prepare(later_tokens, stream.forgets());
    centred.prepare(later_tokens, stream.forgets());
    reads_backward(opened, before, is_long, dy, d_r_q);
    Tile<S> factors = workspace.take(1, opened.count);  // from the units of D at the end of the tile to the scan's
    factors.setConstant(S(1));
    if (opened.decay.forgets) factors = to_end.cwiseProduct(opened.decay.kept);
    writes_backward(opened, dy, factors, d_weighted, left_out);
    values_backward(begin, opened, dy, factors);
    const bool may_be_small = stream.forgets() || has_small_mass(before);
    mass_backward(opened, dy, factors, may_be_small, d_r_q, d_weighted, read_energy);
    token_inputs(begin, opened, d_weighted, left_out, read_energy);
    if (stream.weighted()) kernels::scale_rows(d_weighted, stream.weights(begin));  // from w r_k to r_k
    responsibilities_backward(opened.q, opened.r_q, d_r_q, out.queries, begin);
    responsibilities_backward(opened.k, opened.r_k, d_weighted, out.keys, begin);
    later_tokens = opened.decay.whole().of(later_tokens) + S(static_cast<double>(count));
    if (++tiles_in_part == 4) end_part();
  }

  void measure_energy(Index begin, const MemoryTiles<S>& after) {
    if (tape == nullptr) return energy.restart(ForgettingEnergy<S>::measured(after, d_memory));
    tape->tiles[begin / tile] = ForgettingEnergy<S>::measured(after, d_memory);
  }

  void responsibilities_backward(const ConstTile<S>& x, const Tile<S>& r, const Tile<S>& d_r, const TokenSink<S>& d_x,
                                 Index begin) {
    typename Workspace<S>::Frame frame(workspace);
    Tile<S> rows = gradient_rows(d_x, begin, x.rows(), x.cols(), workspace);
    backward(map, x, r, d_r, rows, part, workspace);
    d_x.store(begin, rows);
  }

  // The gradients of one tile: d_r_q and d_weighted (of w r_k), T x K, read_energy (1 x T) are
  // assigned, and the rows of the values' gradient; d_memory becomes that of the memory before. With D_t the gradient
  // of the slots after token t, its read included:
  //   dc_t = M_t dy_t          D_t = lambda_{t+1} D_{t+1} + c_t^T dy_t
  //   d(w r)_t = D_t v_t + the masses' part          dv_t = w_t r_t D_t
  // Where the memory, or its gradient, is that of a long stream, the scans run from zero and the rest comes through
  // products.

  /// dc_t = M_t dy_t, in the units of the scan, and the masses after every token.
  void reads_backward(const CausalTile<S>& opened, const MemoryTiles<S>& before, bool is_long, const ConstTile<S>& dy,
                      Tile<S> d_r_q) {
    typename Workspace<S>::Frame frame(workspace);
    const Index K = map.components(), e = dy.cols();
    Tile<S> transposed = workspace.take(e, K), mass = workspace.take(1, K);
    transposed = before.slots.transpose();
    if (is_long) {
      product(dy, transposed, d_r_q);
      scale_like_scan(opened.decay, opened.decay.kept_of_tile, d_r_q, workspace);
      transposed.setConstant(S(0));
    }
    mass.setConstant(S(0));
    fill_masses<S>(opened, normalization, true, mass.data(), before.mass.data());
    scan_forward<S>(opened.decay, {opened.count,
                                   e,
                                   K,
                                   read_pointer(opened.v),
                                   read_pointer(opened.writes),
                                   read_pointer(dy),
                                   pointer(d_r_q),
                                   transposed.data(),
                                   {},
                                   {},
                                   is_long});
  }

  /// D_t v_t. Under slot normalisation the coefficients of a query are about 1 / sum m for every slot where
  /// queries and keys are alike. That much is left out of them here, since the softmax behind ignores it, and of D with
  /// it: left_out is what d_weighted lacks, for every slot.
  void writes_backward(const CausalTile<S>& opened, const ConstTile<S>& dy, const Tile<S>& factors, Tile<S> d_weighted,
                       Tile<S> left_out) {
    typename Workspace<S>::Frame frame(workspace);
    const Index K = map.components(), e = dy.cols(), count = opened.count;
    const bool is_long = centred.has_remainder;
    Tile<S> shares = workspace.take(1, count), added = workspace.take(is_long ? e : Index(0), K);
    shares.setConstant(S(0));
    if (centres<FeatureMap, S> && normalization == Normalization::slot) {
      Tile<S> less = workspace.take_spread(count, K);
      for (Index t = 0; t < count; ++t) {
        shares(0, t) = S(1) / divisor(S(opened.masses.row(t).sum()));
        const S kept = opened.decay.forgets ? S(opened.decay.kept(0, t)) : S(1);
        less.row(t) = opened.reads.row(t).array() - shares(0, t) * kept;
      }
      scan_writes(opened, less, dy, factors, d_weighted, added);
    } else {
      scan_writes(opened, opened.reads, dy, factors, d_weighted, added);
    }
    if (stream.forgets() || stream.weighted()) fill_left_out(opened, dy, shares, factors, left_out);
  }

  /// v_t . h_t, where h_t = lambda_{t+1} h_{t+1} + share_t dy_t, e, is what is left out of D_t; `common` is h, and
  /// runs.
  void fill_left_out(const CausalTile<S>& opened, const ConstTile<S>& dy, Tile<S> shares, const Tile<S>& factors,
                     Tile<S> left_out) {
    typename Workspace<S>::Frame frame(workspace);
    const Index e = dy.cols(), count = opened.count;
    Tile<S> added = workspace.take(1, e), later = workspace.take(1, e);
    added.setConstant(S(0));
    for (Index j = 0; j < e; ++j) later(0, j) = S(common[static_cast<std::size_t>(j)]);
    if (opened.decay.forgets) shares = shares.cwiseProduct(opened.decay.kept);
    scan_backward<S>(opened.decay, {count,
                                    e,
                                    1,
                                    read_pointer(dy),
                                    {shares.data(), 1},
                                    read_pointer(opened.v),
                                    {left_out.data(), 1},
                                    added.data()});
    for (Index t = 0; t < count; ++t) {
      const S* value = opened.v.data() + t * opened.v.outerStride();
      left_out(0, t) += factors(0, t) * kernels::dot(value, later.data(), e);
      if (opened.decay.forgets) left_out(0, t) /= opened.decay.kept(0, t);
    }
    const kernels::Decay<Wide<S>> whole = kernels::decay_of(opened.decay.all);
    for (Index j = 0; j < e; ++j) {
      Wide<S>& h = common[static_cast<std::size_t>(j)];
      h = (opened.decay.forgets ? whole.of(h) : h) + Wide<S>(added(0, j));
    }
  }

  void scan_writes(const CausalTile<S>& opened, const Tile<S>& reads, const ConstTile<S>& dy, const Tile<S>& factors,
                   Tile<S> d_weighted, Tile<S> added) {
    const Index K = map.components(), e = dy.cols();
    const bool is_long = centred.has_remainder;
    if (is_long) {
      added.setConstant(S(0));
      product(opened.v, centred.memory.slots, d_weighted);
      if (opened.decay.forgets) scale_or_drop(factors, d_weighted);
    }
    S* const state = is_long ? added.data() : centred.memory.slots.data();
    scan_backward<S>(opened.decay, {opened.count,
                                    e,
                                    K,
                                    read_pointer(dy),
                                    read_pointer(reads),
                                    read_pointer(opened.v),
                                    pointer(d_weighted),
                                    state,
                                    {},
                                    {},
                                    is_long});
    if (is_long) {
      kernels::settle<S>(opened.decay.whole(), added.data(), added.size(), centred.memory.slots.data(),
                         centred.remainder.slots.data());
    }
  }

  /// dv_t = w_t r_t D_t, and D before the tile.
  void values_backward(Index begin, const CausalTile<S>& opened, const ConstTile<S>& dy, const Tile<S>& factors) {
    if (!out.values.is_wanted() && !out.wants_memory && !stream.forgets()) return;
    typename Workspace<S>::Frame frame(workspace);
    const Index K = map.components(), e = dy.cols();
    const bool is_long = d_memory.has_remainder;
    Tile<S> d_values = workspace.take(opened.count, e), added = workspace.take(is_long ? K : Index(0), e);
    if (is_long) {
      added.setConstant(S(0));
      product(opened.writes, d_memory.memory.slots, d_values);
      if (opened.decay.forgets) scale_or_drop(factors, d_values);
    }
    S* const state = is_long ? added.data() : d_memory.memory.slots.data();
    scan_backward<S>(opened.decay, {opened.count,
                                    K,
                                    e,
                                    read_pointer(opened.reads),
                                    read_pointer(dy),
                                    read_pointer(opened.writes),
                                    pointer(d_values),
                                    state,
                                    {},
                                    {},
                                    is_long});
    fill_rows(out.values, begin, opened.count, workspace, [&](Tile<S> rows) {
      for (Index t = 0; t < opened.count; ++t) {
        if (stream.present(begin + t)) {
          rows.row(t) = d_values.row(t);
        } else {
          rows.row(t).setConstant(S(0));
        }
      }
    });
    if (is_long) {
      kernels::settle<S>(opened.decay.whole(), added.data(), added.size(), d_memory.memory.slots.data(),
                         d_memory.remainder.slots.data());
    }
  }

  /// The masses' part of all gradients. The gradient of the mass always runs in two parts: it is small, and every key
  /// of the past gets it.
  /// `may_be_small`: a mass may be below tiny_mass.
  void mass_backward(const CausalTile<S>& opened, const ConstTile<S>& dy, const Tile<S>& factors, bool may_be_small,
                     Tile<S> d_r_q, Tile<S> d_weighted, Tile<S> read_energy) {
    typename Workspace<S>::Frame frame(workspace);
    const Index K = map.components();
    const TileDecay<S>& decay = opened.decay;
    const S* shift = may_be_small ? shifts(stream.centre, dy, workspace) : nullptr;
    Tile<S> added = workspace.take(1, K);
    added.setConstant(S(0));
    for_each_run_backward(decay, [&](Index i, Index end) {
      kernels::masses_backward<S>(
          {normalization, end - i, K, decay.kept_from(i), centred.memory.mass.data(), factors.data() + i,
           shift == nullptr ? nullptr : shift + i, from(read_pointer(opened.r_q), i),
           from(read_pointer(opened.masses), i), from(pointer(d_r_q), i), from(pointer(d_weighted), i), added.data(),
           decay.after(end), decay.before(i), decay.forgets ? read_energy.data() + i : nullptr});
    });
    kernels::settle<S>(decay.whole(), added.data(), K, centred.memory.mass.data(), mass_remainder.data());
    d_memory.memory.mass = centred.memory.mass;
    if (d_memory.has_remainder) {
      for (Index k = 0; k < K; ++k) d_memory.remainder.mass(k) = mass_remainder(0, k);
    }
  }

  /// dw_t = r_t . dP_t with P = w r_k, and the gradient of the forgetting.
  void token_inputs(Index begin, const CausalTile<S>& opened, const Tile<S>& d_weighted, const Tile<S>& left_out,
                    const Tile<S>& read_energy) {
    for (Index t = opened.count - 1; t >= 0 && (stream.weighted() || stream.forgets()); --t) {
      const Index j = begin + t;
      const S pull = kernels::dot(opened.r_k.row(t).data(), d_weighted.row(t).data(), opened.r_k.cols()) +
                     left_out(0, t) * opened.r_k.row(t).sum();
      if (out.key_weights != nullptr) out.key_weights[j] = stream.present(j) ? pull : S(0);
      if (out.log_forgetting == nullptr) continue;
      const S weight = stream.weighted() ? S(stream.tokens.key_weights(j)) : S(1);
      const bool is_restart = opened.decay.begins_run(t) && opened.decay.before(t).restarts();
      if (tape != nullptr) {
        tape->tokens[j] = {read_energy(0, t), S(weight * pull), is_restart};
      } else {
        energy.token(stream, j, {read_energy(0, t), S(weight * pull), is_restart}, out);
      }
    }
  }
};

}  // namespace gma::detail
