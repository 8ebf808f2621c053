// SPDX-License-Identifier: MIT
// Backward of a causal stream from its checkpoints: the memories on the way forward, the gradient of the memory after
// it, and the intervals, last first.
#pragma once

#include <vector>

#include "gma/attention/causal_backward_tile.hpp"

namespace gma::detail {

/// Tokens in a tile of the backward pass: as many as checkpoints are apart, fewer where rows of K numbers would leave
/// the cache.
inline Index causal_backward_tile(Index components) {
  return (std::clamp)(Index(32768) / components / default_tile * default_tile, default_tile, Index(256));
}

/// The memories at the beginning of every interval of tokens, and how many tokens are in each.
template <class S>
struct CausalCheckpoints {
  Index interval, count;  // tokens in an interval; intervals
  Tile<S> slots, masses, tokens;

  CausalCheckpoints(const Options& options, Index tile, Index size, Index components, Index width,
                    Workspace<S>& workspace)
      : interval((checkpoint_interval(options, size) + tile - 1) / tile * tile),
        count((size + interval - 1) / interval),
        slots(workspace.take(count * components, width)),
        masses(workspace.take(count, components)),
        tokens(workspace.take(1, count + 1)) {}

  MemoryTiles<S> operator[](Index i) const { return memory_at(slots, masses, i); }

  /// `state` holds `tokens_before` and becomes the memory after the stream if `to_end`, else that before the last
  /// interval.
  template <class FeatureMap>
  void write(const FeatureMap& map, const TokenStream<S>& stream, const S& tokens_before, bool to_end,
             LongMemory<S>& state, Workspace<S>& workspace) {
    tokens(0, 0) = tokens_before;
    for (Index i = 0; i < count; ++i) {
      (*this)[i].copy(state.memory);
      if (i + 1 == count && !to_end) break;
      const Index end = (std::min)(stream.size(), (i + 1) * interval);
      const Written<S> written =
          write_tiles(map, stream, i * interval, end, default_tile, state, S(tokens(0, i)), workspace);
      tokens(0, i + 1) = kernels::decay_of(S(written.log_decay)).of(S(tokens(0, i))) + written.tokens;
    }
  }
};

/// What the gradients of all slots have in common, e numbers: kept in the workspace from call to call.
template <class S>
struct CommonSlotGradient {
  std::vector<Wide<S>> numbers;
};

/// The gradient of the memory after a whole stream, `d_final`, in its parts. `final_mass`: of that memory; null:
/// nothing is forgotten. `may_be_long`: the stream may become long.
template <class FeatureMap, class S>
RunningGradient<S> final_gradient(const FeatureMap& map, const Memory<S>& d_final, const S* final_mass,
                                  bool may_be_long, Workspace<S>& workspace) {
  const Index components = d_final.slots.rows(), width = d_final.slots.cols();
  const LongMemory<S> d_memory = take_copy(d_final, components, width, may_be_long, workspace);
  CommonGradient<S> over = common_gradient(map, d_memory, final_mass, workspace);
  over.mass = d_memory.memory.mass;
  Tile<S> mass_remainder = workspace.take(1, components);
  mass_remainder.setConstant(S(0));
  const LongMemory<S> centred{{over.transposed_slots, Eigen::Map<RowVector<S>>(over.mass.data(), components)},
                              {workspace.take(may_be_long ? width : Index(0), components),
                               Eigen::Map<RowVector<S>>(mass_remainder.data(), may_be_long ? components : Index(0))},
                              false};
  std::vector<Wide<S>>& common = workspace.template keep<CommonSlotGradient<S>>().numbers;
  common.assign(over.slots.data(), over.slots.data() + width);
  return {d_memory, centred, mass_remainder, common};
}

/// All intervals. `state` is scratch, which has a remainder where S keeps one. `after` is the memory after the stream,
/// where something is forgotten, and is overwritten.
template <class FeatureMap, class S>
void run_intervals(CausalBackward<FeatureMap, S>& pass, const CausalCheckpoints<S>& checkpoints, LongMemory<S>& state,
                   const MemoryTiles<S>& after) {
  for (Index i = checkpoints.count - 1; i >= 0; --i) {
    state.memory.copy(checkpoints[i]);
    state.remainder.set_zero();
    pass.interval(i * checkpoints.interval, (std::min)(pass.stream.size(), (i + 1) * checkpoints.interval), state,
                  S(checkpoints.tokens(0, i)), after);
  }
  pass.end_part();
}

}  // namespace gma::detail
