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

#include "gma/heads/heads_memories.hpp"
#include "gma/heads/heads_segments.hpp"

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
