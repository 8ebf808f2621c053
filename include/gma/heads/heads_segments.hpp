// SPDX-License-Identifier: MIT
// Causal calls of many heads in segments (attention/causal_segments.hpp): all segments of all jobs at the same time.
#pragma once

#include <algorithm>
#include <vector>

#include "gma/heads/head_job.hpp"

namespace gma::detail {

/// Whether a causal call has a sequence of more than one segment.
inline bool has_segments(const HeadCall& call, const Options& options) {
  if (call.forgets_by_slot) return false;
  return std::any_of(call.keys.spans.begin(), call.keys.spans.end(),
                     [&](const Placement::Span& span) { return Segments(options, span.count).count() > 1; });
}

/// The jobs of a causal call, segment by segment: threads may process all segments of all jobs at the same time.
template <class S, class Map>
void run_heads_in_segments(const HeadCall& call, const HeadOperands<S, HeadsSink<S>>& operands,
                           const std::vector<Map>& mixtures, const Options& options, const HeadInputs<S>& inputs,
                           std::vector<Memory<S>>* memories, Workspace<S>& workspace) {
  if (call.queries.has_padding) set_zero(operands.like_queries, workspace);
  typename Workspace<S>::Frame frame(workspace);
  const std::vector<TokenInputs<S>>& tokens = gather_tokens(call, inputs, workspace);
  const bool forgets = inputs.log_forgetting.size() != 0;
  const Index width = operands.values.layout.width;
  const auto map_of = [&](Index job) -> const Map& { return mixtures[static_cast<std::size_t>(job % call.key_heads)]; };
  const auto inputs_of = [&](const CausalSegment<S>& segment) {
    return TokenInputsView<S>(tokens[static_cast<std::size_t>(segment.sequence)]).part(segment.begin, segment.size);
  };
  const Memory<S> none;
  CausalSegments<S>& segments = workspace.template keep<CausalSegments<S>>();
  segments.all.clear();
  for (Index i = 0; i < call.jobs(); ++i) {
    append(segments, i, Segments(options, call.keys[i / call.key_heads].count),
           memories == nullptr ? none : (*memories)[static_cast<std::size_t>(i)], map_of(i).components(), width,
           forgets, workspace);
  }
  run_segments(
      segments, options.executor, forgets, map_of,
      [&](const CausalSegment<S>& segment, LongMemory<S>& from_zero, Workspace<S>& own) {
        const ForwardJob<S> job(call, operands, segment, own);
        return job.total(map_of(segment.sequence), options, inputs_of(segment), from_zero);
      },
      [&](const CausalSegment<S>& segment, LongMemory<S>& memory, S& count, Workspace<S>& own) {
        const ForwardJob<S> job(call, operands, segment, own);
        return job.pass(map_of(segment.sequence), options, inputs_of(segment), memory, count);
      },
      workspace);
  for (Index i = 0; i < segments.size(); ++i) {
    const CausalSegment<S>& segment = segments[i];
    if (memories == nullptr || !segment.is_last()) continue;
    finish_segments(segments, i, has_signed_features<Map>, (*memories)[static_cast<std::size_t>(segment.sequence)]);
  }
}

}  // namespace gma::detail
