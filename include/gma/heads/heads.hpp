// SPDX-License-Identifier: MIT
// Attention of many heads and sequences at once, where they lie: queries N x (Hq d), keys N x (H d), values N x (H e),
// outputs N x (Hq e), row by row the heads side by side, or tensors of any strides (HeadTensor). A mixture for each of
// the H key heads; Hq is a multiple of H, and queries of Hq / H heads in order share a key head, its mixture and its
// memory (grouped queries). Every sequence has its memories.
//
// Rows that belong to no sequence give outputs of exactly zero, and what they contain has no effect. Results have the
// same bits as those of the single-head verbs, head by head and sequence by sequence, for any number of threads. Rows
// of masked sequences are gathered first, and outputs that share memory with an input are stored once all are there;
// nothing else is copied.
#pragma once

#include <vector>

#include "gma/attention/bidirectional.hpp"
#include "gma/attention/causal.hpp"
#include "gma/heads/heads_common.hpp"
#include "gma/heads/heads_memories.hpp"

namespace gma {

/// bidirectional() of every head and sequence; keys and values may have other rows than queries (cross attention, with
/// inputs.key_sequences where sequences differ). Returns Nq x (Hq e). Cost Hq reads and H writes. Throws
/// std::invalid_argument on shapes, sequences or token inputs that do not fit.
template <class M>
Matrix<Scalar<M>> bidirectional(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                                const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                                const Options& options = {}, const HeadInputs<Scalar<M>>& inputs = {},
                                const OptionalWorkspace<Scalar<M>>& workspace = {});

/// causal() of every head and sequence. Returns N x (Hq e).
template <class M>
Matrix<Scalar<M>> causal(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                         const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values, const Options& options = {},
                         const HeadInputs<Scalar<M>>& inputs = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});

/// The same, every sequence continuing from its memories and leaving them advanced: memory of sequence i and key
/// head h is memories[i H + h]. An empty vector is sized here. An exception of any kind leaves all memories unchanged:
/// a call works on copies in the workspace, unless it is one of a few tokens per sequence, without an executor, like
/// another that has finished with the same workspace, so that nothing is left that could fail.
template <class M>
Matrix<Scalar<M>> causal(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                         const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                         std::vector<Memory<Scalar<M>>>& memories, const Options& options = {},
                         const HeadInputs<Scalar<M>>& inputs = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});

/// All of them into a caller's tensor, matrix, block or map. `out` may overlap an input: the workspace then holds the
/// outputs until all are there.
template <class M>
void bidirectional_into(const HeadsOut<Scalar<M>>& out, const std::vector<M>& mixtures,
                        const HeadsIn<Scalar<M>>& queries, const HeadsIn<Scalar<M>>& keys,
                        const HeadsIn<Scalar<M>>& values, const Options& options = {},
                        const HeadInputs<Scalar<M>>& inputs = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void causal_into(const HeadsOut<Scalar<M>>& out, const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                 const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values, const Options& options = {},
                 const HeadInputs<Scalar<M>>& inputs = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void causal_into(const HeadsOut<Scalar<M>>& out, const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                 const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                 std::vector<Memory<Scalar<M>>>& memories, const Options& options = {},
                 const HeadInputs<Scalar<M>>& inputs = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

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

/// run(job, its token inputs, its number) for all jobs of a call.
template <class S, class Run>
void run_heads(const HeadCall& call, const HeadOperands<S, HeadsSink<S>>& operands, const Options& options,
               const HeadInputs<S>& inputs, Workspace<S>& workspace, const Run& run) {
  if (call.queries.has_padding) set_zero(operands.like_queries, workspace);
  const Executor* executor = job_executor(call, options);
  workspace.prepare_workers(workers(executor));
  const std::vector<TokenInputs<S>>& tokens = gather_tokens(call, inputs, workspace);
  parallel_for(executor, call.jobs(), [&](Index i, Index worker) {
    run(ForwardJob<S>(call, operands, i, workspace.worker(worker)), tokens[static_cast<std::size_t>(i)], i);
  });
}

/// Whether the outputs may overlap an input.
template <class S>
bool is_apart(const HeadOperands<S, HeadsSink<S>>& operands) {
  const HeadsSink<S>& out = operands.like_queries;
  return !out.may_overlap(operands.queries) && !out.may_overlap(operands.keys) && !out.may_overlap(operands.values);
}

/// write() with operands.like_queries as the outputs, or, where those may overlap an input, with scratch in their
/// place, which is stored when all of it is there.
template <class S, class Write>
void write_apart(HeadOperands<S, HeadsSink<S>>& operands, Workspace<S>& workspace, const Write& write) {
  if (is_apart(operands)) return write();
  typename Workspace<S>::Frame frame(workspace);
  const HeadsSink<S> out = operands.like_queries;
  const HeadLayout& layout = out.layout;
  Tile<S> scratch = workspace.take(layout.rows(), layout.heads * layout.width);
  const HeadsView<S> results(
      batch_tokens_heads(scratch.data(), layout.batch, layout.tokens, layout.heads, layout.width));
  operands.like_queries =
      HeadsSink<S>(batch_tokens_heads(scratch.data(), layout.batch, layout.tokens, layout.heads, layout.width));
  write();
  Tile<S> packed = workspace.take(layout.tokens, layout.width);
  for (Index b = 0; b < layout.batch; ++b) {
    for (Index h = 0; h < layout.heads; ++h) {
      packed = results.head(h, b * layout.tokens, layout.tokens).tile(0, layout.tokens, packed);
      out.head(h, b * layout.tokens, layout.tokens).put(packed);
    }
  }
}

}  // namespace detail

template <class M>
void bidirectional_into(const HeadsOut<Scalar<M>>& out, const std::vector<M>& mixtures,
                        const HeadsIn<Scalar<M>>& queries, const HeadsIn<Scalar<M>>& keys,
                        const HeadsIn<Scalar<M>>& values, const Options& options, const HeadInputs<Scalar<M>>& inputs,
                        const OptionalWorkspace<Scalar<M>>& optional_workspace) {
  using S = Scalar<M>;
  Workspace<S>& workspace = optional_workspace.get();
  detail::HeadCall& call = workspace.template keep<detail::HeadCall>();
  call.function = "bidirectional";
  detail::HeadOperands<S, detail::HeadsSink<S>> operands(call.function, mixtures, queries, keys, values, "out", out);
  detail::open_heads(call, mixtures, operands, "out", false, options, inputs);
  const auto& compiled = detail::compiled_heads(call.function, mixtures, workspace);
  const Options each = detail::job_options(call, options);
  detail::write_apart(operands, workspace, [&] {
    detail::run_heads(call, operands, options, inputs, workspace,
                      [&](const detail::ForwardJob<S>& job, const TokenInputs<S>& tokens, Index) {
                        job.bidirectional(compiled[static_cast<std::size_t>(job.head)], each, tokens);
                      });
  });
}

namespace detail {

/// Whether a causal call has a sequence of more than one segment.
inline bool has_segments(const HeadCall& call, const Options& options) {
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

/// `prepare(call, compiled, operands)` is called once everything is checked and nothing has changed; returns the
/// memories to run on, one of every job, or null: zeros, and nothing is left.
template <class M, class Prepare>
void causal_heads(const HeadsSink<Scalar<M>>& out, const std::vector<M>& mixtures, const HeadsView<Scalar<M>>& queries,
                  const HeadsView<Scalar<M>>& keys, const HeadsView<Scalar<M>>& values, const Options& options,
                  const HeadInputs<Scalar<M>>& inputs, Workspace<Scalar<M>>& workspace, const Prepare& prepare) {
  using S = Scalar<M>;
  HeadCall& call = workspace.template keep<HeadCall>();
  call.function = "causal";
  HeadOperands<S, HeadsSink<S>> operands(call.function, mixtures, queries, keys, values, "out", out);
  open_heads(call, mixtures, operands, "out", true, options, inputs);
  const std::vector<FeatureMapOf<M>>& compiled = compiled_heads(call.function, mixtures, workspace);
  std::vector<Memory<S>>* const memories = prepare(call, compiled, operands);
  if (has_segments(call, options)) {
    const Index width = operands.values.layout.width;
    for (std::size_t i = 0; memories != nullptr && i < memories->size(); ++i) {
      size_if_empty((*memories)[i], compiled[i % compiled.size()].components(), width);
    }
    return write_apart(operands, workspace,
                       [&] { run_heads_in_segments(call, operands, compiled, options, inputs, memories, workspace); });
  }
  const Options each = job_options(call, options);
  write_apart(operands, workspace, [&] {
    run_heads(call, operands, options, inputs, workspace,
              [&](const ForwardJob<S>& job, const TokenInputs<S>& tokens, Index i) {
                const FeatureMapOf<M>& mixture = compiled[static_cast<std::size_t>(job.head)];
                Memory<S>* const memory = memories == nullptr ? nullptr : &(*memories)[static_cast<std::size_t>(i)];
                if (memory != nullptr) size_if_empty(*memory, mixture.components(), operands.values.layout.width);
                job.causal(mixture, memory, each, tokens);
              });
  });
}

}  // namespace detail

template <class M>
void causal_into(const HeadsOut<Scalar<M>>& out, const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                 const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values, const Options& options,
                 const HeadInputs<Scalar<M>>& inputs, const OptionalWorkspace<Scalar<M>>& workspace) {
  std::vector<Memory<Scalar<M>>>* const none = nullptr;
  detail::causal_heads(out, mixtures, queries, keys, values, options, inputs, workspace.get(),
                       [&](const detail::HeadCall&, const auto&, const auto&) { return none; });
}

template <class M>
void causal_into(const HeadsOut<Scalar<M>>& out, const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                 const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                 std::vector<Memory<Scalar<M>>>& memories, const Options& options, const HeadInputs<Scalar<M>>& inputs,
                 const OptionalWorkspace<Scalar<M>>& workspace) {
  using Advance = detail::MemoryAdvance<Scalar<M>, M>;
  Advance& advance = workspace.get().template keep<Advance>();
  detail::causal_heads(out, mixtures, queries, keys, values, options, inputs, workspace.get(),
                       [&](const detail::HeadCall& call, const auto& compiled, const auto& operands) {
                         const Index width = operands.values.layout.width;
                         detail::check_memories(call.function, "memories", memories, call, compiled, width);
                         return advance.begin(memories, call, compiled, options, inputs, operands.queries.layout, width,
                                              detail::is_apart(operands));
                       });
  advance.finish(memories);
}

namespace detail {

/// The output of a verb on `queries` and `values`: rows, or batch * tokens rows, x (query heads e).
template <class M>
Matrix<Scalar<M>> output_for(const char* function, const std::vector<M>& mixtures, const HeadRows& queries,
                             const HeadRows& values) {
  const Index query_heads = query_heads_of(function, mixtures, queries);
  HeadRows split_values = values;
  split_values.split(function, "values", (std::max)(Index(1), static_cast<Index>(mixtures.size())));
  return Matrix<Scalar<M>>(queries.rows(), query_heads * split_values.layout.width);
}

/// A matrix as the output for those queries: as many entries of a batch, and its columns as the heads in order.
template <class S>
HeadsOut<S> as_output(Matrix<S>& matrix, const HeadRows& queries) {
  if (queries.layout.heads == 0) return HeadsOut<S>(matrix);
  const HeadLayout& l = queries.layout;
  return HeadsOut<S>(batch_tokens_heads(matrix.data(), l.batch, l.tokens, l.heads, matrix.cols() / l.heads));
}

}  // namespace detail

template <class M>
Matrix<Scalar<M>> bidirectional(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                                const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                                const Options& options, const HeadInputs<Scalar<M>>& inputs,
                                const OptionalWorkspace<Scalar<M>>& workspace) {
  Matrix<Scalar<M>> out = detail::output_for("bidirectional", mixtures, queries, values);
  bidirectional_into(detail::as_output(out, queries), mixtures, queries, keys, values, options, inputs, workspace);
  return out;
}

template <class M>
Matrix<Scalar<M>> causal(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                         const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values, const Options& options,
                         const HeadInputs<Scalar<M>>& inputs, const OptionalWorkspace<Scalar<M>>& workspace) {
  Matrix<Scalar<M>> out = detail::output_for("causal", mixtures, queries, values);
  causal_into(detail::as_output(out, queries), mixtures, queries, keys, values, options, inputs, workspace);
  return out;
}

template <class M>
Matrix<Scalar<M>> causal(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                         const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                         std::vector<Memory<Scalar<M>>>& memories, const Options& options,
                         const HeadInputs<Scalar<M>>& inputs, const OptionalWorkspace<Scalar<M>>& workspace) {
  Matrix<Scalar<M>> out = detail::output_for("causal", mixtures, queries, values);
  causal_into(detail::as_output(out, queries), mixtures, queries, keys, values, memories, options, inputs, workspace);
  return out;
}

}  // namespace gma
