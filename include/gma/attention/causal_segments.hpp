// SPDX-License-Identifier: MIT
// A causal pass over segments at the same time. The memory before a segment is the merge of what all segments before it
// hold (DERIVATION.md, Segments on threads), so that a call goes three ways over its segments:
//
//   1. the first segment's outputs, and what each other one but the last writes, from zero: at the same time
//   2. the memories before all segments: one after another
//   3. the outputs of all segments but the first: at the same time
//
// Whoever runs a segment, it does the same: results have the same bits for any number of threads.
#pragma once

#include <vector>

#include "gma/attention/causal_pass.hpp"

namespace gma::detail {

/// A segment of one of the sequences of a call.
template <class S>
struct CausalSegment {
  Index sequence, index, count;  // of the call; of the sequence, of so many
  Index begin, size;             // tokens of the sequence
  LongMemory<S> memory;          // before the segment; on the way what the one before it writes; at last that after it
  S tokens = S(0);               // in it
  Written<S> written{Wide<S>(0), S(0)};  // what is left of the memory before, and the tokens added

  bool is_last() const { return index + 1 == count; }
};

/// The segments of all sequences of a call, sequence by sequence. They keep their place in the workspace.
template <class S>
struct CausalSegments {
  std::vector<CausalSegment<S>> all;

  CausalSegment<S>& operator[](Index i) { return all[static_cast<std::size_t>(i)]; }
  Index size() const { return static_cast<Index>(all.size()); }
};

/// Appends a sequence that goes on from `initial` (empty: zeros).
template <class S>
void append(CausalSegments<S>& segments, Index sequence, const Segments& cut, const Memory<S>& initial,
            Index components, Index width, bool forgets, Workspace<S>& workspace) {
  const S before = tokens_in(initial);
  const bool may_be_long = is_long(S(before + S(static_cast<double>(cut.tokens))), forgets) || has_remainder(initial);
  const Memory<S> none;
  for (Index i = 0; i < cut.count(); ++i) {
    // The first one runs on the memory of the second.
    const bool has_room = i > 0 || cut.count() == 1;
    segments.all.push_back({sequence, i, cut.count(), cut.begin(i), cut.size(i),
                            take_copy(i == 1 || cut.count() == 1 ? initial : none, has_room ? components : Index(0),
                                      width, may_be_long && has_room, workspace)});
  }
  segments[segments.size() - cut.count() + (cut.count() > 1 ? 1 : 0)].tokens = before;
}

/// next.memory, what `segment` writes, becomes the memory after it.
template <class FeatureMap, class S>
void merge_into_next(const FeatureMap& map, const CausalSegment<S>& segment, bool forgets, CausalSegment<S>& next,
                     Workspace<S>& workspace) {
  const kernels::Decay<S> decay = kernels::decay_of(S(segment.written.log_decay));
  next.tokens = decay.of(segment.tokens) + segment.written.tokens;
  put_before(segment.memory, decay, is_long(next.tokens, forgets), next.memory, workspace);
  if (forgets) drop_vanished(map, next.memory);
}

/// All three ways. total(segment, from zero, workspace) returns what a segment writes; pass(segment, memory, tokens,
/// workspace) gives its outputs, from the memory before it and the tokens in that, which become those after it, and
/// returns its log-forgetting.
template <class S, class Maps, class Total, class Pass>
void run_segments(CausalSegments<S>& segments, const Executor* executor, bool forgets, const Maps& map_of,
                  const Total& total, const Pass& pass, Workspace<S>& workspace) {
  workspace.prepare_workers(workers(executor));
  parallel_for(executor, segments.size(), [&](Index i, Index worker) {
    CausalSegment<S>& segment = segments[i];
    if (segment.index == 0) {
      CausalSegment<S>& holder = segment.is_last() ? segment : segments[i + 1];
      segment.written.log_decay = pass(segment, holder.memory, holder.tokens, workspace.worker(worker));
    } else if (!segment.is_last()) {
      CausalSegment<S>& holder = segments[i + 1];
      segment.written = total(segment, holder.memory, workspace.worker(worker));
    }
  });
  for (Index i = 0; i < segments.size(); ++i) {
    const CausalSegment<S>& segment = segments[i];
    if (segment.index == 0 || segment.is_last()) continue;
    merge_into_next(map_of(segment.sequence), segment, forgets, segments[i + 1], workspace);
  }
  parallel_for(executor, segments.size(), [&](Index i, Index worker) {
    CausalSegment<S>& segment = segments[i];
    if (segment.index == 0) return;
    segment.written.log_decay = pass(segment, segment.memory, segment.tokens, workspace.worker(worker));
  });
}

/// The memory after a sequence, whose last segment is number `last` of the call, into `memory`, which has its size.
template <class S>
void finish_segments(CausalSegments<S>& segments, Index last, bool has_signed_mass, Memory<S>& memory) {
  const CausalSegment<S>& segment = segments[last];
  if (segment.memory.has_remainder) ensure_remainder(memory);
  store(segment.memory, memory);
  memory.tokens = segment.tokens;
  Wide<S> log_forgetting(0);
  for (Index i = last - segment.index; i <= last; ++i) log_forgetting += segments[i].written.log_decay;
  memory.log_forgetting += S(log_forgetting);
  memory.has_signed_mass = memory.has_signed_mass || has_signed_mass;
}

/// advance() of a stream of more than one segment.
template <class FeatureMap, class S>
void advance_in_segments(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream,
                         const Options& options, Memory<S>* memory, const TokenSink<S>& out, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const Index tile = tile_size(options, default_tile, stream.size());
  CausalSegments<S>& segments = workspace.template keep<CausalSegments<S>>();
  segments.all.clear();
  const Memory<S> none;
  append(segments, Index(0), Segments(options, stream.size()), memory == nullptr ? none : *memory, map.components(),
         out.cols(), stream.forgets(), workspace);
  run_segments(
      segments, options.executor, stream.forgets(), [&](Index) -> const FeatureMap& { return map; },
      [&](const CausalSegment<S>& segment, LongMemory<S>& from_zero, Workspace<S>& own) {
        return write_tiles(map, stream, segment.begin, segment.begin + segment.size, tile, from_zero, S(0), own);
      },
      [&](const CausalSegment<S>& segment, LongMemory<S>& state, S& tokens, Workspace<S>& own) {
        const TokenStream<S> part = stream.part(segment.begin, segment.size);
        causal_tokens(map, queries.part(segment.begin, segment.size), part, options.normalization, tile, state, tokens,
                      out.part(segment.begin, segment.size), own);
        return part.total_log_forgetting();
      },
      workspace);
  if (memory == nullptr) return;
  finish_segments(segments, segments.size() - 1, has_signed_features<FeatureMap>, *memory);
}

}  // namespace gma::detail
