// SPDX-License-Identifier: MIT
// Backward of a causal stream in segments (causal_segments.hpp). The gradient of the memory before a segment is that of
// the memory after it times its decay, and what its own outputs give:
//
//   1. the memories before all segments, as in the forward pass
//   2. each segment but the first: what its outputs give to the gradient of the memory before it, and its checkpoints;
//      all at the same time
//   3. the gradients of the memories after all segments, one after another, last first
//   4. the gradients of the tokens of all segments: at the same time
//   5. the gradients of the mixture are added up, and those of the forgetting from token to token, last first
#pragma once

#include <vector>

#include "gma/attention/causal_gradient_sweep.hpp"
#include "gma/attention/causal_segments.hpp"

namespace gma::detail {

/// A segment on the way back.
template <class S>
struct BackwardSegment {
  CausalSegment<S> forward;  // its memory is that before the segment, and from the second way on that after it
  CausalCheckpoints<S> checkpoints;
  LongMemory<S> centred;  // of the gradient of the memory after it, as RunningGradient has it
  S later_tokens = S(0);
};

/// What a segment keeps from call to call.
template <class FeatureMap, class S>
struct SegmentScratch {
  std::vector<Wide<S>> common;  // of the gradient of the memory after it
  FeatureMap high, low;         // the gradient of the natural parameters in two numbers
};

/// The inner part of causal_backward() for a stream of more than one segment.
template <class FeatureMap, class S>
class CausalBackwardSegments {
 public:
  using Scratch = SegmentScratch<FeatureMap, S>;

  CausalBackwardSegments(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream,
                         const TokenView<S>& d_output, const Options& options, bool may_be_long,
                         const TokenGradients<S>& out, Workspace<S>& workspace)
      : map_(map),
        queries_(queries),
        stream_(stream),
        d_output_(d_output),
        options_(options),
        cut_(options, stream.size()),
        tile_(tile_size(options, causal_backward_tile(map.components()), cut_.length)),
        tiles_((cut_.length + tile_ - 1) / tile_),
        may_be_long_(may_be_long),
        out_(out),
        workspace_(workspace),
        kept_(workspace.template keep<Kept>()) {
    workspace.prepare_workers(workers(options.executor));
    if (static_cast<Index>(kept_.scratch.size()) < cut_.count()) {
      kept_.scratch.resize(static_cast<std::size_t>(cut_.count()));
    }
    const std::size_t forgetting = stream.forgets() && out.log_forgetting != nullptr ? 1 : 0;
    kept_.tokens.resize(forgetting * static_cast<std::size_t>(stream.size()));
    kept_.tiles.resize(forgetting * static_cast<std::size_t>(cut_.count() * tiles_));
  }

  void run(const LongMemory<S>& initial, const S& initial_tokens, GradientSum<FeatureMap, S>& sum) {
    open(initial, initial_tokens);
    write_all();
    sweep_all();
    const bool forgets = stream_.forgets();
    const RunningGradient<S> after_last = final_gradient(
        map_, out_.memory, forgets ? last().forward.memory.memory.mass.data() : nullptr, may_be_long_, workspace_);
    merge_gradients(after_last);
    parallel_for(options_.executor, cut_.count(), [&](Index i, Index worker) {
      pass(i, i + 1 == cut_.count() ? &after_last : nullptr, sum.is_wanted(), workspace_.worker(worker));
    });
    for (Index i = cut_.count() - 1; i >= 0; --i) {
      sum.add(map_, scratch(i).high);
      sum.add(map_, scratch(i).low);
    }
    if (!kept_.tokens.empty()) forgetting_gradient();
  }

 private:
  struct Kept {
    std::vector<BackwardSegment<S>> segments;
    std::vector<Scratch> scratch;
    std::vector<ForgettingToken<S>> tokens;
    std::vector<typename ForgettingEnergy<S>::Measured> tiles;
  };

  BackwardSegment<S>& at(Index i) { return kept_.segments[static_cast<std::size_t>(i)]; }
  BackwardSegment<S>& last() { return at(cut_.count() - 1); }
  Scratch& scratch(Index i) { return kept_.scratch[static_cast<std::size_t>(i)]; }
  TokenStream<S> stream_of(Index i) const { return stream_.part(cut_.begin(i), cut_.size(i)); }

  LongMemory<S> take_zeros(Index rows, Index cols) {
    const Index K = map_.components(), low = keeps_remainder<S> ? 1 : 0;
    const auto take = [&](Index one) -> MemoryTiles<S> {
      return {workspace_.take(one * rows, cols), Eigen::Map<RowVector<S>>(workspace_.take(1, K).data(), one * K)};
    };
    LongMemory<S> result{take(1), take(low), keeps_remainder<S>};
    result.memory.set_zero();
    result.remainder.set_zero();
    return result;
  }

  void open(const LongMemory<S>& initial, const S& initial_tokens) {
    const Index K = map_.components(), width = stream_.values.cols();
    kept_.segments.clear();
    for (Index i = 0; i < cut_.count(); ++i) {
      kept_.segments.push_back({{0, i, cut_.count(), cut_.begin(i), cut_.size(i), take_zeros(K, width)},
                                CausalCheckpoints<S>(options_, tile_, cut_.size(i), K, width, workspace_),
                                take_zeros(width, K)});
      scratch(i).common.assign(static_cast<std::size_t>(width), Wide<S>(0));
    }
    LongMemory<S>& first = at(1).forward.memory;  // the first segment runs on it
    first.memory.copy(initial.memory);
    first.has_remainder = initial.has_remainder;
    if (first.has_remainder) first.remainder.copy(initial.remainder);
    at(1).forward.tokens = initial_tokens;
  }

  void write_all() {
    parallel_for(options_.executor, cut_.count() - 1, [&](Index i, Index worker) {
      Workspace<S>& own = workspace_.worker(worker);
      CausalSegment<S>&segment = at(i).forward, &next = at(i + 1).forward;
      if (i == 0) {
        CausalCheckpoints<S>& checkpoints = at(0).checkpoints;
        checkpoints.write(map_, stream_of(0), S(next.tokens), true, next.memory, own);
        next.tokens = checkpoints.tokens(0, checkpoints.count);
      } else {
        segment.written = write_tiles(map_, stream_, segment.begin, segment.begin + segment.size, default_tile,
                                      next.memory, S(0), own);
      }
    });
    for (Index i = 1; i + 1 < cut_.count(); ++i) {
      merge_into_next(map_, at(i).forward, stream_.forgets(), at(i + 1).forward, workspace_);
    }
  }

  void sweep_all() {
    at(0).forward.memory.memory.copy(at(1).forward.memory.memory);
    parallel_for(options_.executor, cut_.count() - 1, [&](Index before, Index worker) {
      const Index i = before + 1;
      CausalSegment<S>& segment = at(i).forward;
      const TokenView<S> queries = queries_.part(segment.begin, segment.size),
                         d_output = d_output_.part(segment.begin, segment.size);
      const TokenStream<S> stream = stream_of(i);
      CausalGradientSweep<FeatureMap, S> sweep{map_,
                                               queries,
                                               stream,
                                               d_output,
                                               options_.normalization,
                                               tile_,
                                               segment.memory,
                                               segment.tokens,
                                               at(before).centred,
                                               scratch(before).common,
                                               workspace_.worker(worker)};
      sweep.run(&at(i).checkpoints);
      segment.written.log_decay = sweep.log_decay;
    });
  }

  /// From what every segment's own outputs give to the gradients of the memories after all segments.
  void merge_gradients(const RunningGradient<S>& after_last) {
    last().centred.memory.copy(after_last.centred.memory);
    scratch(cut_.count() - 1).common = after_last.common;
    for (Index i = cut_.count() - 1; i > 0; --i) {
      BackwardSegment<S>&later = at(i), &segment = at(i - 1);
      const Wide<S> log_decay = later.forward.written.log_decay;
      const kernels::Decay<S> decay = kernels::decay_of(S(log_decay));
      put_before(later.centred, decay, false, segment.centred, workspace_);
      const kernels::Decay<Wide<S>> wide = kernels::decay_of(log_decay);
      for (std::size_t j = 0; j < scratch(i).common.size(); ++j) {
        scratch(i - 1).common[j] += wide.of(scratch(i).common[j]);
      }
      segment.later_tokens = decay.of(later.later_tokens) + S(static_cast<double>(later.forward.size));
    }
  }

  /// The gradient of the memory after segment i, which is not the last one, in the parts in which it runs.
  RunningGradient<S> gradient_after(Index i, Workspace<S>& own) {
    const Index K = map_.components(), width = stream_.values.cols();
    BackwardSegment<S>& segment = at(i);
    const bool is_long_now = is_long(segment.later_tokens, stream_.forgets());
    const MemoryTiles<S>&high = segment.centred.memory, &low = segment.centred.remainder;
    LongMemory<S> d_memory{take_memory(K, width, own), take_memory(may_be_long_ ? K : Index(0), width, own),
                           is_long_now};
    for (Index k = 0; k < K; ++k) {
      for (Index j = 0; j < width; ++j) {
        Wide<S> slot = Wide<S>(high.slots(j, k)) + scratch(i).common[static_cast<std::size_t>(j)];
        if (segment.centred.has_remainder) slot += Wide<S>(low.slots(j, k));
        d_memory.memory.slots(k, j) = S(slot);
        if (is_long_now) d_memory.remainder.slots(k, j) = S(slot - Wide<S>(S(slot)));
      }
    }
    d_memory.memory.mass = high.mass;
    if (is_long_now) d_memory.remainder.mass = low.mass;
    Tile<S> mass_remainder = own.take(1, K);
    mass_remainder.setConstant(S(0));
    if (segment.centred.has_remainder) mass_remainder = low.mass;
    LongMemory<S> centred{
        high, {low.slots, Eigen::Map<RowVector<S>>(mass_remainder.data(), low.mass.size())}, is_long_now};
    return {d_memory, centred, mass_remainder, scratch(i).common, segment.later_tokens};
  }

  /// The gradients of the tokens of segment i. `after_last`: of the memory after it, if it is the last one; else null.
  void pass(Index i, const RunningGradient<S>* after_last, bool wants_mixture, Workspace<S>& own) {
    typename Workspace<S>::Frame frame(own);
    const Index begin = cut_.begin(i), count = cut_.size(i), K = map_.components(), width = stream_.values.cols();
    const TokenView<S> queries = queries_.part(begin, count), d_output = d_output_.part(begin, count);
    const TokenStream<S> stream = stream_of(i);
    const TokenGradients<S> out{out_.queries.part(begin, count),
                                out_.keys.part(begin, count),
                                out_.values.part(begin, count),
                                out_.key_weights == nullptr ? nullptr : out_.key_weights + begin,
                                out_.log_forgetting == nullptr ? nullptr : out_.log_forgetting + begin,
                                out_.memory,
                                i == 0 && out_.wants_memory};
    GradientSum<FeatureMap, S> sum(map_, wants_mixture, scratch(i).high, scratch(i).low, own);
    ForgettingEnergy<S> unused;
    ForgettingTape<S> tape{nullptr, nullptr};
    if (!kept_.tokens.empty()) tape = {kept_.tokens.data() + begin, kept_.tiles.data() + i * tiles_};
    CausalBackward<FeatureMap, S> backward{after_last != nullptr ? *after_last : gradient_after(i, own),
                                           map_,
                                           queries,
                                           stream,
                                           d_output,
                                           options_.normalization,
                                           tile_,
                                           out,
                                           sum,
                                           sum.part(map_),
                                           unused,
                                           kept_.tokens.empty() ? nullptr : &tape,
                                           own};
    LongMemory<S> state{take_memory(K, width, own), take_memory(keeps_remainder<S> ? K : Index(0), width, own),
                        keeps_remainder<S>};
    run_intervals(backward, at(i).checkpoints, state, at(i).forward.memory.memory);
    if (i > 0) return;
    out_.memory.slots = backward.d_memory.memory.slots;
    out_.memory.mass = backward.d_memory.memory.mass.transpose();
  }

  void forgetting_gradient() {
    ForgettingEnergy<S> energy;
    for (Index i = cut_.count() - 1; i >= 0; --i) {
      for (Index t = (cut_.size(i) + tile_ - 1) / tile_ - 1; t >= 0; --t) {
        energy.restart(kept_.tiles[static_cast<std::size_t>(i * tiles_ + t)]);
        const Index begin = cut_.begin(i) + t * tile_, end = cut_.begin(i) + (std::min)((t + 1) * tile_, cut_.size(i));
        for (Index j = end - 1; j >= begin; --j) {
          energy.token(stream_, j, kept_.tokens[static_cast<std::size_t>(j)], out_);
        }
      }
    }
  }

  const FeatureMap& map_;
  const TokenView<S>& queries_;
  const TokenStream<S>& stream_;
  const TokenView<S>& d_output_;
  const Options& options_;
  Segments cut_;
  Index tile_, tiles_;  // tokens in a tile, tiles in a segment
  bool may_be_long_;
  const TokenGradients<S>& out_;
  Workspace<S>& workspace_;
  Kept& kept_;
};

}  // namespace gma::detail
