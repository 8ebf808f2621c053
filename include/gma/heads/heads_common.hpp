// SPDX-License-Identifier: MIT
// Inputs, checks and jobs of the multi-head verbs. A job is one sequence and key head; threads may process jobs at the
// same time.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "gma/attention/memory.hpp"
#include "gma/attention/options.hpp"
#include "gma/heads/head_tensor.hpp"
#include "gma/heads/sequences.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma {

/// What may be given with the tokens of a multi-head verb; empty parts stand for their defaults.
template <class S>
struct HeadInputs {
  Sequences sequences;                     ///< of the queries, and of the keys unless:
  std::optional<Sequences> key_sequences;  ///< bidirectional only: as many sequences, of other lengths
  Vector<S> key_weights;                   ///< one a key row, for all heads; as in TokenInputs
  Matrix<S> log_forgetting;                ///< key rows x key heads; as in TokenInputs
  Matrix<S> slot_log_forgetting = {};      ///< causal only: key rows x (key heads K), as in TokenInputs
};

namespace detail {

/// One multi-head call, checked: shapes, and which rows are whose.
struct HeadCall {
  const char* function;
  Index query_heads = 0, key_heads = 0;
  Placement queries, keys;
  bool forgets_by_slot = false;  // the tokens of a sequence then follow each other, whatever options.segment says

  Index group() const { return query_heads / key_heads; }
  Index jobs() const { return queries.count() * key_heads; }
};

/// to = from, into storage that is there where the sizes are the same, and safe where memory runs out.
template <class S>
void copy_memory(const Memory<S>& from, Memory<S>& to) {
  const bool is_of_same_size = from.slots.rows() == to.slots.rows() && from.slots.cols() == to.slots.cols() &&
                               from.mass.size() == to.mass.size() && bytes(from) == bytes(to);
  if (is_of_same_size) {
    to = from;
  } else {
    to = Memory<S>(from);
  }
}

/// A memory for a worker's jobs to run on.
template <class S>
struct JobScratch {
  Memory<S> memory;
};

/// Every job's share of the token inputs.
template <class S>
struct JobTokens {
  std::vector<TokenInputs<S>> jobs;
};

template <class Map>
struct CompiledHeads {
  std::vector<Map> mixtures;
};

/// The mixtures ready for use: compiled once a call, not once a sequence.
template <class M, class S>
const std::vector<FeatureMapOf<M>>& compiled_heads(const char* function, const std::vector<M>& mixtures,
                                                   Workspace<S>& workspace) {
  if constexpr (std::is_same_v<FeatureMapOf<M>, M>) {
    for (const M& mixture : mixtures) compiled(function, mixture, workspace);  // checks it
    return mixtures;
  } else {
    std::vector<FeatureMapOf<M>>& compiled = workspace.template keep<CompiledHeads<FeatureMapOf<M>>>().mixtures;
    compiled.resize(mixtures.size());
    for (std::size_t h = 0; h < mixtures.size(); ++h) {
      check_parameters(function, mixtures[h]);
      compile_into(compiled[h], mixtures[h]);
    }
    return compiled;
  }
}

template <class S>
void check_head_weights(const char* function, const Placement& keys, const HeadInputs<S>& inputs, Index rows,
                        Index heads) {
  const Vector<S>& w = inputs.key_weights;
  const Matrix<S>& g = inputs.log_forgetting;
  if (w.size() != 0) check_size(function, "inputs.key_weights", "coefficients", w.size(), rows, "one per key row");
  if (g.size() != 0) {
    check_shape(function, "inputs.log_forgetting", g.rows(), g.cols(), rows, heads, "key rows x key heads");
  }
  if (w.size() == 0 && g.size() == 0) return;
  for (const Placement::Span& span : keys.spans) {
    for (Index i = span.begin; i < span.begin + span.count; ++i) {
      const Index row = keys.row(i);
      if (w.size() != 0 && !(is_finite(w(row)) && w(row) >= S(0))) {
        invalid_argument(function, "inputs.key_weights is ", w(row), " at row ", row,
                         ", expected a finite number >= 0");
      }
      for (Index h = 0; h < g.cols() && (w.size() == 0 || w(row) > S(0)); ++h) {
        if (!(g(row, h) <= S(0))) {
          invalid_argument(function, "inputs.log_forgetting is ", g(row, h), " at row ", row, ", head ", h,
                           ", expected a number <= 0 or -inf");
        }
      }
    }
  }
}

template <class M, class S>
void check_head_slots(const char* function, const Placement& keys, const std::vector<M>& mixtures, bool is_causal,
                      const HeadInputs<S>& inputs, Index rows) {
  const Matrix<S>& s = inputs.slot_log_forgetting;
  if (s.size() == 0) return;
  if (!is_causal) {
    invalid_argument(function, "inputs.slot_log_forgetting is ", s.rows(), " x ", s.cols(),
                     ", expected none: only causal attention forgets by slot");
  }
  const Index components = mixtures.front().components(), heads = static_cast<Index>(mixtures.size());
  for (const M& mixture : mixtures) {
    check_size(function, "mixtures", "components", mixture.components(), components,
               "the same in all heads where inputs.slot_log_forgetting is given");
  }
  check_shape(function, "inputs.slot_log_forgetting", s.rows(), s.cols(), rows, heads * components,
              "key rows x (key heads x components)");
  const Vector<S>& w = inputs.key_weights;
  for (const Placement::Span& span : keys.spans) {
    for (Index i = span.begin; i < span.begin + span.count; ++i) {
      const Index row = keys.row(i);
      for (Index c = 0; c < s.cols() && (w.size() == 0 || w(row) > S(0)); ++c) {
        if (s(row, c) <= S(0)) continue;
        invalid_argument(function, "inputs.slot_log_forgetting is ", s(row, c), " at row ", row, ", head ",
                         c / components, ", slot ", c % components, ", expected a number <= 0 or -inf");
      }
    }
  }
}

/// How many heads of the mixtures' dim the queries' columns hold.
template <class M>
Index query_heads_of(const char* function, const std::vector<M>& mixtures, Index columns) {
  if (mixtures.empty()) invalid_argument(function, "mixtures is empty, expected one per key head");
  const Index dim = mixtures.front().dim();
  if (dim < 1 || columns < dim || columns % dim != 0) {
    invalid_argument(function, "queries has ", columns, " columns, expected a positive multiple of ", dim,
                     " (the mixtures' dim)");
  }
  return columns / dim;
}

/// The query heads of a call: those of a tensor, or what the columns of a matrix hold.
template <class M>
Index query_heads_of(const char* function, const std::vector<M>& mixtures, const HeadRows& queries) {
  return queries.layout.heads != 0 ? queries.layout.heads : query_heads_of(function, mixtures, queries.layout.width);
}

/// The operands of a call: matrices are split into heads. `like_queries` is the output, or its gradient.
template <class S, class LikeQueries>
struct HeadOperands {
  HeadsView<S> queries, keys, values;
  LikeQueries like_queries;

  template <class M>
  HeadOperands(const char* function, const std::vector<M>& mixtures, const HeadsView<S>& q, const HeadsView<S>& k,
               const HeadsView<S>& v, const char* like_name, const LikeQueries& like)
      : queries(q), keys(k), values(v), like_queries(like) {
    const Index query_heads = query_heads_of(function, mixtures, queries);
    const Index key_heads = (std::max)(Index(1), static_cast<Index>(mixtures.size()));
    queries.split(function, "queries", query_heads);
    keys.split(function, "keys", key_heads);
    values.split(function, "values", key_heads);
    like_queries.split(function, like_name, query_heads);
  }
};

/// Checks a call and places its rows. On an error nothing of the caller's has changed. `like_name` is the name of
/// operands.like_queries.
template <class M, class LikeQueries, class S>
void open_heads(HeadCall& call, const std::vector<M>& mixtures, const HeadOperands<S, LikeQueries>& operands,
                const char* like_name, bool is_causal, const Options& options, const HeadInputs<S>& inputs) {
  const char* function = call.function;
  check_options(function, options);
  if (mixtures.empty()) invalid_argument(function, "mixtures is empty, expected one per key head");
  check_head_tensor(function, "queries", operands.queries);
  check_head_tensor(function, "keys", operands.keys);
  check_head_tensor(function, "values", operands.values);
  check_head_tensor(function, like_name, operands.like_queries);
  const HeadLayout &queries = operands.queries.layout, &keys = operands.keys.layout, &values = operands.values.layout,
                   &like_queries = operands.like_queries.layout;
  call.query_heads = queries.heads;
  call.key_heads = static_cast<Index>(mixtures.size());
  check_size(function, "keys", "heads", keys.heads, call.key_heads, "one per mixture");
  check_size(function, "values", "heads", values.heads, call.key_heads, "one per mixture");
  if (queries.heads % call.key_heads != 0) {
    invalid_argument(function, "queries has ", queries.heads, " heads, expected a multiple of ", call.key_heads,
                     " (the key heads)");
  }
  for (const M& mixture : mixtures) {
    check_size(function, "queries", "columns a head", queries.width, mixture.dim(), "the mixtures' dim");
    check_size(function, "keys", "columns a head", keys.width, mixture.dim(), "the mixtures' dim");
  }
  check_size(function, "values", "entries", values.batch, keys.batch, "as many as keys");
  check_size(function, "values", "tokens an entry", values.tokens, keys.tokens, "as many as keys");
  if (is_causal) {
    check_size(function, "keys", "rows", keys.rows(), queries.rows(), "one per query");
    if (inputs.key_sequences) {
      invalid_argument(function, "inputs.key_sequences is given, expected none: causal attention has one key a query");
    }
  }
  check_size(function, "keys", "entries", keys.batch, queries.batch, "as many as queries");
  check_size(function, like_name, "heads", like_queries.heads, queries.heads, "as many as queries");
  check_size(function, like_name, "entries", like_queries.batch, queries.batch, "as many as queries");
  check_size(function, like_name, "tokens an entry", like_queries.tokens, queries.tokens, "as many as queries");
  check_size(function, like_name, "columns a head", like_queries.width, values.width, "the values' width");
  place(function, "inputs.sequences", inputs.sequences, queries.batch, queries.rows(), call.queries);
  place(function, inputs.key_sequences ? "inputs.key_sequences" : "inputs.sequences",
        inputs.key_sequences ? *inputs.key_sequences : inputs.sequences, keys.batch, keys.rows(), call.keys);
  check_size(function, "inputs.key_sequences", "sequences", call.keys.count(), call.queries.count(),
             "as many as inputs.sequences");
  check_head_weights(function, call.keys, inputs, keys.rows(), call.key_heads);
  call.forgets_by_slot = inputs.slot_log_forgetting.size() != 0;
  check_head_slots(function, call.keys, mixtures, is_causal, inputs, keys.rows());
}

/// The rows of one sequence and head: viewed where they lie, or, of a masked sequence, those that belong to it, copied
/// into the workspace.
template <class S>
TokenView<S> rows_of(const HeadsView<S>& tensor, const Placement& placement, const Placement::Span& span, Index head,
                     Workspace<S>& workspace) {
  if (!placement.is_masked) return tensor.head(head, span.begin, span.count);
  Tile<S> gathered = workspace.take(span.count, tensor.layout.width);
  for (Index i = 0; i < span.count; ++i) {
    tensor.head(head, placement.row(span.begin + i), 1).copy_to(0, rows(gathered, i, 1));
  }
  return TokenView<S>(gathered);
}

template <class S>
const std::vector<TokenInputs<S>>& gather_tokens(const HeadCall& call, const HeadInputs<S>& inputs,
                                                 Workspace<S>& workspace) {
  std::vector<TokenInputs<S>>& jobs = workspace.template keep<JobTokens<S>>().jobs;
  jobs.resize(static_cast<std::size_t>(call.jobs()));
  for (Index job = 0; job < call.jobs(); ++job) {
    const Placement::Span& span = call.keys[job / call.key_heads];
    TokenInputs<S>& tokens = jobs[static_cast<std::size_t>(job)];
    resize(tokens.key_weights, inputs.key_weights.size() == 0 ? 0 : span.count);
    resize(tokens.log_forgetting, inputs.log_forgetting.size() == 0 ? 0 : span.count);
    const Index slots = inputs.slot_log_forgetting.cols() / call.key_heads;
    resize(tokens.slot_log_forgetting, slots == 0 ? 0 : span.count, slots);
    for (Index i = 0; i < tokens.slot_log_forgetting.rows(); ++i) {
      tokens.slot_log_forgetting.row(i) =
          inputs.slot_log_forgetting.row(call.keys.row(span.begin + i)).segment(job % call.key_heads * slots, slots);
    }
    for (Index i = 0; i < tokens.key_weights.size(); ++i) {
      tokens.key_weights(i) = inputs.key_weights(call.keys.row(span.begin + i));
    }
    for (Index i = 0; i < tokens.log_forgetting.size(); ++i) {
      tokens.log_forgetting(i) = inputs.log_forgetting(call.keys.row(span.begin + i), job % call.key_heads);
    }
  }
  return jobs;
}

template <class S>
void set_zero(const HeadsSink<S>& tensor, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  Tile<S> zeros = workspace.take(1, tensor.layout.width);
  zeros.setConstant(S(0));
  for (Index h = 0; h < tensor.layout.heads; ++h) {
    for (Index row = 0; row < tensor.rows(); ++row) {
      tensor.head(h, row, 1).put(zeros);
    }
  }
}

/// Whether threads take whole jobs, rather than what may run at the same time of one job after another: segments.
/// Whatever leaves fewer tokens for the thread that has most. It changes no bit.
inline bool takes_jobs(const HeadCall& call, const Options& options) {
  if (call.jobs() <= 1) return false;
  const Index threads = workers(options.executor);
  Index tokens = 0, longest = 0, by_segments = 0;
  for (const Placement::Span& span : call.keys.spans) {
    const Segments cut(call.forgets_by_slot ? Options() : options, span.count);
    tokens += span.count * call.key_heads;
    longest = (std::max)(longest, span.count);
    by_segments += (cut.count() + threads - 1) / threads * cut.size(0) * call.key_heads;
  }
  return (std::max)(longest, tokens / threads) <= by_segments;
}

/// The executor runs the jobs where there are several, each then on one thread, else the chunks of one job.
inline Options job_options(const HeadCall& call, const Options& options) {
  Options result = options;
  if (takes_jobs(call, options)) result.executor = nullptr;
  return result;
}
inline const Executor* job_executor(const HeadCall& call, const Options& options) {
  return takes_jobs(call, options) ? options.executor : nullptr;
}

}  // namespace detail
}  // namespace gma
