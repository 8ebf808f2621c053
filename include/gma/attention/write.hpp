// SPDX-License-Identifier: MIT
// Writing: keys and values go into a memory, a tile of tokens at a time; no N x K matrix exists.
#pragma once

#include <algorithm>
#include <vector>

#include "gma/attention/memory_tiles.hpp"
#include "gma/attention/options.hpp"
#include "gma/attention/slot_forgetting.hpp"
#include "gma/attention/token_stream.hpp"
#include "gma/core/elementwise.hpp"
#include "gma/core/operands.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma {

/// (3), (8): adds every key's value to the memory, M_k = lambda M_k + w r_k(key) v and m_k likewise, in the order of
/// the tokens; (10) where slots forget at their own rates. keys N x d, values N x e, memory K x e (an empty one is
/// sized here). The tokens are summed from zero and added to the memory at the end, so that keys and values may be the
/// memory's own slots. Cost O(N K (D + e)). Of the options, tile and executor count. Throws std::invalid_argument on
/// shapes or token inputs that do not fit. An exception leaves the memory unchanged, except that an empty one may have
/// been sized, with zeros.
template <class M>
void write(const M& mixture, const In<Scalar<M>>& keys, const In<Scalar<M>>& values, Memory<Scalar<M>>& memory,
           const TokenInputsView<Scalar<M>>& tokens = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void write(const M& mixture, const In<Scalar<M>>& keys, const In<Scalar<M>>& values, Memory<Scalar<M>>& memory,
           const Options& options, const TokenInputsView<Scalar<M>>& tokens = {},
           const OptionalWorkspace<Scalar<M>>& workspace = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Influence on the memory after the tile: u_t = w_t lambda_{t+1} ... lambda_T, with the decay of the tokens after the
/// tile, exp(later), in it.
template <class S>
struct Influences {
  Tile<S> u;       // 1 x T
  Wide<S> before;  // log of lambda_1 ... lambda_T and the later decay: what is left of the memory before
  S tokens;        // how many there are, each counted as what the later ones have left of it
  bool all_ones;   // nothing is weighted or forgotten

  /// Rows of which nothing is left become zero, so that NaN in them reaches nothing.
  ConstTile<S> drop_forgotten(const ConstTile<S>& rows, Workspace<S>& workspace) const {
    return all_ones ? rows : drop_absent(rows, u.data(), workspace);
  }
};

template <class S>
Influences<S> influences(const TokenStream<S>& stream, Index begin, Index count, const Wide<S>& later,
                         Workspace<S>& workspace) {
  Influences<S> result{workspace.take(1, count), later, S(0), !stream.weighted() && !stream.forgets()};
  for (Index t = count - 1; t >= 0; --t) {
    result.u(0, t) = S(result.before);
    result.before += stream.log_decay(begin + t);
  }
  if (stream.forgets()) {
    exponentials(result.u.data(), count);
  } else {
    result.u.setConstant(S(1));
  }
  for (Index t = 0; t < count; ++t) {
    if (stream.present(begin + t)) result.tokens += result.u(0, t);
    if (stream.weighted()) result.u(0, t) *= stream.tokens.key_weights(begin + t);
  }
  return result;
}

/// What write_tiles() has done to a memory: log of what is left of it, and the tokens added, as they count at the end.
template <class S>
struct Written {
  Wide<S> log_decay;
  S tokens;
};

/// Tokens [begin, end) into the memory, slots and mass, of which `tokens` are in it before. Each tile is summed from
/// zero and added once.
template <class FeatureMap, class S>
Written<S> write_tiles(const FeatureMap& map, const TokenStream<S>& stream, Index begin, Index end, Index tile,
                       LongMemory<S>& memory, const S& tokens, Workspace<S>& workspace) {
  Written<S> written{Wide<S>(0), S(0)};
  for (; begin < end; begin += tile) {
    typename Workspace<S>::Frame frame(workspace);
    const Index count = (std::min)(tile, end - begin);
    Tile<S> r = workspace.take(count, map.components());
    const Influences<S> kept = influences(stream, begin, count, Wide<S>(0), workspace);
    const ConstTile<S> x = kept.drop_forgotten(load_keys(stream, begin, count, workspace), workspace);
    const ConstTile<S> v = kept.drop_forgotten(load_values(stream, begin, count, workspace), workspace);
    evaluate(map, x, r, workspace);
    if (!kept.all_ones) kernels::scale_rows(r, kept.u.data());
    const kernels::Decay<S> decay = kernels::decay_of(S(kept.before));
    written.log_decay += kept.before;
    written.tokens = decay.of(written.tokens) + kept.tokens;
    memory.prepare(S(tokens + written.tokens), stream.forgets());
    if (!memory.has_remainder) {
      kernels::decay_all(decay, memory.memory.slots.data(), memory.memory.slots.size());
      add_transposed_product(r, v, memory.memory.slots);
      add_mass(decay, r, memory, workspace);
      continue;
    }
    MemoryTiles<S> change = take_memory(map.components(), v.cols(), workspace);
    change.set_zero();
    add_transposed_product(r, v, change.slots);
    kernels::add_column_sums(r, change.mass.data());
    memory.settle(decay, change);
  }
  return written;
}

/// The whole stream into the memory, by chunks that threads may process at the same time.
template <class FeatureMap, class S>
Written<S> write_tokens(const FeatureMap& map, const TokenStream<S>& stream, Index tile, const Executor* executor,
                        LongMemory<S>& memory, Workspace<S>& workspace) {
  const Chunks chunks(stream.size(), tile);
  if (chunks.count() <= 1) return write_tiles(map, stream, 0, stream.size(), tile, memory, S(0), workspace);
  typename Workspace<S>::Frame frame(workspace);
  const Index K = map.components(), buffers = (std::min)(workers(executor), chunks.count());
  workspace.prepare_workers(workers(executor));
  const Tile<S> slots = workspace.take(buffers * K, memory.memory.slots.cols()), masses = workspace.take(buffers, K);
  const Tile<S> low = workspace.take(buffers, memory.has_remainder ? K : Index(0));
  std::vector<Written<S>>& parts = workspace.template keep<std::vector<Written<S>>>();
  parts.resize(static_cast<std::size_t>(buffers));
  Written<S> written{Wide<S>(0), S(0)};
  in_waves(
      executor, chunks.count(), buffers,
      [&](Index i, Index buffer, Index worker) {
        LongMemory<S> from_zero = zeros_with_mass_remainder(slots, masses, low, buffer);
        parts[static_cast<std::size_t>(buffer)] =
            write_tiles(map, stream, chunks.begin(i), chunks.end(i), tile, from_zero, S(0), workspace.worker(worker));
      },
      [&](Index, Index buffer) {
        const Written<S>& part = parts[static_cast<std::size_t>(buffer)];
        const kernels::Decay<S> decay = kernels::decay_of(S(part.log_decay));
        written = {written.log_decay + part.log_decay, S(decay.of(written.tokens) + part.tokens)};
        memory.prepare(written.tokens, stream.forgets());
        settle_part(decay, long_memory_at(slots, masses, low, buffer), memory);
      });
  return written;
}

/// The memory of the whole stream alone, in the workspace. `wants_remainder`: however short the stream is.
template <class FeatureMap, class S>
LongMemory<S> write_all(const FeatureMap& map, const TokenStream<S>& stream, Index tile, const Executor* executor,
                        bool wants_remainder, Workspace<S>& workspace) {
  const Memory<S> none;
  const bool is_long_stream = is_long(S(static_cast<double>(stream.size())), stream.forgets());
  LongMemory<S> sum =
      take_copy(none, map.components(), stream.values.cols(), wants_remainder || is_long_stream, workspace);
  if (wants_remainder) {
    sum.remainder.set_zero();
    sum.has_remainder = true;
  }
  write_tokens(map, stream, tile, executor, sum, workspace);
  return sum;
}

template <class FeatureMap, class S>
void drop_vanished(const FeatureMap&, LongMemory<S>& state) {
  if constexpr (is_compiled<FeatureMap> && std::is_floating_point_v<S>) {
    MemoryTiles<S>& memory = state.memory;
    if (!kernels::any_between_zero_and(S(vanished_mass), memory.mass.data(), memory.mass.size())) return;
    for (Index k = 0; k < memory.mass.size(); ++k) {
      if (!(memory.mass(k) < S(vanished_mass))) continue;
      memory.mass(k) = S(0);
      memory.slots.row(k).setConstant(S(0));
      if (!state.has_remainder) continue;
      state.remainder.mass(k) = S(0);
      state.remainder.slots.row(k).setConstant(S(0));
    }
  }
}

/// The stream, summed from zero, into `memory`: nothing fails once a number of it has changed.
template <class FeatureMap, class S>
void write_into(const FeatureMap& map, const TokenStream<S>& stream, const Options& options, Memory<S>& memory,
                Workspace<S>& workspace) {
  if (stream.forgets_by_slot()) return write_by_slot(map, stream, options, memory, workspace);
  typename Workspace<S>::Frame frame(workspace);
  const S count = S(static_cast<double>(stream.size())), before = tokens_in(memory);
  const Memory<S> none;
  LongMemory<S> sum =
      take_copy(none, map.components(), stream.values.cols(), is_long(count, stream.forgets()), workspace);
  const Written<S> written =
      write_tokens(map, stream, tile_size(options, default_tile, stream.size()), options.executor, sum, workspace);
  const kernels::Decay<S> decay = kernels::decay_of(S(written.log_decay));
  const S after = decay.of(before) + written.tokens;
  if (sum.has_remainder || is_long(after, stream.forgets())) ensure_remainder(memory);
  LongMemory<S> target = view_long(memory);
  target.settle(decay, sum.memory);
  if (sum.has_remainder) target.remainder.add(sum.remainder);
  if (stream.forgets()) drop_vanished(map, target);
  memory.tokens = after;
  memory.log_forgetting += S(written.log_decay);
  memory.has_signed_mass = memory.has_signed_mass || has_signed_features<FeatureMap>;
}

template <class Map, class S>
void check_stream(const char* function, const Map& natural, const TokenView<S>& keys, const TokenView<S>& values,
                  const TokenInputsView<S>& tokens, bool takes_slot_forgetting = false) {
  check_token_width(function, "keys", keys.cols(), natural.dim());
  check_size(function, "values", "rows", values.rows(), keys.rows(), "one per key");
  check_tokens(function, tokens, keys.rows(), takes_slot_forgetting ? natural.components() : Index(0));
}

}  // namespace detail

template <class M>
void write(const M& mixture, const In<Scalar<M>>& keys, const In<Scalar<M>>& values, Memory<Scalar<M>>& memory,
           const Options& options, const TokenInputsView<Scalar<M>>& tokens,
           const OptionalWorkspace<Scalar<M>>& optional_workspace) {
  using S = Scalar<M>;
  constexpr const char* function = "write";
  Workspace<S>& workspace = optional_workspace.get();
  const detail::FeatureMapOf<M>& natural = detail::compiled(function, mixture, workspace);
  detail::check_options(function, options);
  detail::check_stream<detail::FeatureMapOf<M>, S>(function, natural, keys, values, tokens, true);
  if (!memory.empty()) detail::check_memory(function, "memory", memory, natural.components(), values.cols());
  detail::size_if_empty(memory, natural.components(), values.cols());
  detail::write_into(natural, detail::TokenStream<S>{keys, values, tokens}, options, memory, workspace);
}

template <class M>
void write(const M& mixture, const In<Scalar<M>>& keys, const In<Scalar<M>>& values, Memory<Scalar<M>>& memory,
           const TokenInputsView<Scalar<M>>& tokens, const OptionalWorkspace<Scalar<M>>& workspace) {
  write(mixture, keys, values, memory, Options(), tokens, workspace);
}

}  // namespace gma
