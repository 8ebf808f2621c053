// SPDX-License-Identifier: MIT
// One job of a multi-head call: one sequence and key head, or a segment of it.
#pragma once

#include "gma/attention/bidirectional.hpp"
#include "gma/attention/causal.hpp"
#include "gma/heads/heads_common.hpp"

namespace gma::detail {

/// One sequence and key head of a call, or some tokens of it: which rows it reads.
template <class S, class LikeQueries>
struct HeadJob {
  const HeadCall& call;
  const HeadOperands<S, LikeQueries>& operands;
  Index sequence, head;
  Workspace<S>& workspace;
  Index begin = 0, size = -1;  // causal: a part of the sequence; -1: all of it

  HeadJob(const HeadCall& c, const HeadOperands<S, LikeQueries>& o, Index job, Workspace<S>& own)
      : call(c), operands(o), sequence(job / c.key_heads), head(job % c.key_heads), workspace(own) {}
  HeadJob(const HeadCall& c, const HeadOperands<S, LikeQueries>& o, const CausalSegment<S>& segment, Workspace<S>& own)
      : HeadJob(c, o, segment.sequence, own) {
    begin = segment.begin;
    size = segment.size;
  }

  Placement::Span query_span() const { return part_of(call.queries[sequence]); }
  Placement::Span key_span() const { return part_of(call.keys[sequence]); }
  Placement::Span part_of(const Placement::Span& span) const {
    return size < 0 ? span : Placement::Span{span.begin + begin, size};
  }
  Index query_head(Index g) const { return head * call.group() + g; }

  // Rows of masked sequences lie in the workspace until the caller's frame ends.
  TokenView<S> queries(Index g) const {
    return rows_of(operands.queries, call.queries, query_span(), query_head(g), workspace);
  }
  TokenView<S> keys() const { return rows_of(operands.keys, call.keys, key_span(), head, workspace); }
  TokenView<S> values() const { return rows_of(operands.values, call.keys, key_span(), head, workspace); }
  /// Backward: the gradient of the outputs of query head g of the group.
  TokenView<S> d_output(Index g) const {
    return rows_of(operands.like_queries, call.queries, query_span(), query_head(g), workspace);
  }
};

/// The forward pass of one job.
template <class S>
struct ForwardJob : HeadJob<S, HeadsSink<S>> {
  using Base = HeadJob<S, HeadsSink<S>>;
  using Base::Base, Base::call, Base::operands, Base::workspace;

  /// fill(sink) for the outputs of query head g of the group.
  template <class Fill>
  void output(Index g, const Fill& fill) const {
    const HeadsSink<S>& out = operands.like_queries;
    const Index h = this->query_head(g);
    const Placement::Span span = this->query_span();
    if (!call.queries.is_masked) return fill(out.head(h, span.begin, span.count));
    Tile<S> packed = workspace.take(span.count, out.layout.width);
    fill(TokenSink<S>(packed));
    for (Index i = 0; i < span.count; ++i) {
      out.head(h, call.queries.row(span.begin + i), 1).put(rows(packed, i, 1));
    }
  }

  /// The keys are written once for the whole group.
  template <class Map>
  void bidirectional(const Map& mixture, const Options& options, const TokenInputs<S>& tokens) const {
    typename Workspace<S>::Frame frame(workspace);
    const TokenStream<S> stream{this->keys(), this->values(), tokens};
    const MemoryTiles<S> memory = written_memory(mixture, stream, options, workspace);
    for (Index g = 0; g < call.group(); ++g) {
      typename Workspace<S>::Frame head_frame(workspace);
      const TokenView<S> q = this->queries(g);
      output(g, [&](const TokenSink<S>& y) { read_written(mixture, q, memory, options, y, workspace); });
    }
  }

  /// All queries of the group read `memory` (null: zeros), which is advanced once.
  template <class Map>
  void causal(const Map& mixture, Memory<S>* memory, const Options& options, const TokenInputs<S>& tokens) const {
    typename Workspace<S>::Frame frame(workspace);
    const TokenStream<S> stream{this->keys(), this->values(), tokens};
    Memory<S>* const copy = memory == nullptr ? nullptr : &workspace.template keep<JobScratch<S>>().memory;
    for (Index g = call.group() - 1; g >= 0; --g) {
      typename Workspace<S>::Frame head_frame(workspace);
      const TokenView<S> q = this->queries(g);
      if (g > 0 && memory != nullptr) copy_memory(*memory, *copy);
      output(g,
             [&](const TokenSink<S>& y) { advance(mixture, q, stream, options, g > 0 ? copy : memory, y, workspace); });
    }
  }

  /// What the keys of a segment write.
  template <class Map>
  Written<S> total(const Map& mixture, const Options& options, const TokenInputsView<S>& inputs,
                   LongMemory<S>& from_zero) const {
    typename Workspace<S>::Frame frame(workspace);
    const TokenStream<S> stream{this->keys(), this->values(), inputs};
    return write_tiles(mixture, stream, 0, stream.size(), tile_size(options, default_tile, stream.size()), from_zero,
                       S(0), workspace);
  }

  /// The outputs of a segment from the memory before it, which all queries of the group read, and which is advanced
  /// once.
  template <class Map>
  Wide<S> pass(const Map& mixture, const Options& options, const TokenInputsView<S>& inputs, LongMemory<S>& memory,
               S& count) const {
    typename Workspace<S>::Frame frame(workspace);
    const TokenStream<S> stream{this->keys(), this->values(), inputs};
    for (Index g = call.group() - 1; g >= 0; --g) {
      typename Workspace<S>::Frame head_frame(workspace);
      const TokenView<S> q = this->queries(g);
      LongMemory<S> state = g > 0 ? take_copy(memory, workspace) : memory;
      S state_count = count;
      output(g, [&](const TokenSink<S>& y) {
        causal_tokens(mixture, q, stream, options.normalization, tile_size(options, default_tile, stream.size()), state,
                      state_count, y, workspace);
      });
      if (g > 0) continue;
      memory.has_remainder = state.has_remainder;
      count = state_count;
    }
    return stream.total_log_forgetting();
  }
};

}  // namespace gma::detail
