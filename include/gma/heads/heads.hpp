// SPDX-License-Identifier: MIT
// Attention of many heads and sequences at once, where they lie: queries N x (Hq d), keys N x (H d), values N x (H e),
// outputs N x (Hq e), row by row the heads side by side, or tensors of any strides (HeadTensor). A mixture for each of
// the H key heads; Hq is a multiple of H, and queries of Hq / H heads in order share a key head, its mixture and its
// memory (grouped queries). Every sequence has its memories.
//
// Rows that belong to no sequence give outputs of exactly zero, and what they contain reaches nothing. Results are
// those of the single-head verbs, head by head and sequence by sequence, to the bit, for any number of threads.
// Masked sequences are gathered first, and outputs that share memory with an input are stored once all are there;
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
template <class M, class Q, class K, class V, class TS = typename M::Scalar>
Matrix<typename M::Scalar> bidirectional(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                         const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                         const Options& options = {}, const HeadInputs<TS>& inputs = {});

/// causal() of every head and sequence. Returns N x (Hq e).
template <class M, class Q, class K, class V, class TS = typename M::Scalar>
Matrix<typename M::Scalar> causal(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  const Options& options = {}, const HeadInputs<TS>& inputs = {});

/// The same, every sequence continuing from its memories and leaving them advanced: memory of sequence i and key
/// head h is memories[i H + h]. An empty vector is sized here. On an exception, whatever throws it, all memories are as
/// they were: a call works on copies in the workspace, unless it is one of a few tokens per sequence, without an
/// executor, like another that came to its end with the same workspace, so that nothing is left that could fail.
template <class M, class Q, class K, class V, class MS, class TS = typename M::Scalar>
Matrix<typename M::Scalar> causal(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  std::vector<Memory<MS>>& memories, const Options& options = {},
                                  const HeadInputs<TS>& inputs = {});

/// All of them between tensors wherever they lie, with a caller's scratch memory. `out` may overlap an input: the
/// workspace then holds the outputs until all are there.
template <class Out, class M, class Q, class K, class V, class S>
void bidirectional_into(const HeadTensor<Out>& out, const std::vector<M>& mixtures, const HeadTensor<Q>& queries,
                        const HeadTensor<K>& keys, const HeadTensor<V>& values, const Options& options,
                        const HeadInputs<S>& inputs, Workspace<S>& workspace);
template <class Out, class M, class Q, class K, class V, class S>
void causal_into(const HeadTensor<Out>& out, const std::vector<M>& mixtures, const HeadTensor<Q>& queries,
                 const HeadTensor<K>& keys, const HeadTensor<V>& values, const Options& options,
                 const HeadInputs<S>& inputs, Workspace<S>& workspace);
template <class Out, class M, class Q, class K, class V, class S>
void causal_into(const HeadTensor<Out>& out, const std::vector<M>& mixtures, const HeadTensor<Q>& queries,
                 const HeadTensor<K>& keys, const HeadTensor<V>& values, std::vector<Memory<S>>& memories,
                 const Options& options, const HeadInputs<S>& inputs, Workspace<S>& workspace);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// One sequence and key head of a call: where its rows are read from and written to.
template <class Out, class Q, class K, class V, class S>
struct HeadJob {
  const HeadCall& call;
  const HeadTensor<Out>& out;
  const HeadTensor<const Q>& query_tensor;
  const HeadTensor<const K>& key_tensor;
  const HeadTensor<const V>& value_tensor;
  Index sequence, head;
  Workspace<S>& workspace;

  const Placement::Span& query_span() const { return call.queries[sequence]; }
  const Placement::Span& key_span() const { return call.keys[sequence]; }
  Index query_head(Index g) const { return head * call.group() + g; }

  typename HeadTensor<const Q>::Rows queries(Index g) const {
    return rows_of(query_tensor, call.queries, query_span(), query_head(g), 0, workspace);
  }
  typename HeadTensor<const K>::Rows keys() const {
    return rows_of(key_tensor, call.keys, key_span(), head, 1, workspace);
  }
  typename HeadTensor<const V>::Rows values() const {
    return rows_of(value_tensor, call.keys, key_span(), head, 2, workspace);
  }

  /// Where the outputs of query head g of the group go; store() once they are there.
  typename HeadTensor<Out>::Rows output(Index g) const {
    if (!call.queries.is_masked) return out.head(query_head(g), query_span().begin, query_span().count);
    return workspace.template keep<GatheredRows<Out>>(3).take(query_span().count, out.width);
  }
  /// The rows of `out` where it is an input: the gradient of the outputs.
  typename HeadTensor<Out>::Rows gathered_output(Index g) const {
    return rows_of(out, call.queries, query_span(), query_head(g), 3, workspace);
  }
  void store(const typename HeadTensor<Out>::Rows& rows, Index g) const {
    for (Index i = 0; call.queries.is_masked && i < rows.rows(); ++i) {
      typename HeadTensor<Out>::Rows row = out.head(query_head(g), call.queries.row(query_span().begin + i), 1);
      row.row(0) = rows.row(i);
    }
  }

  template <class Map>
  void bidirectional(const Map& mixture, const Options& options, const TokenInputs<S>& tokens) const {
    const typename HeadTensor<const K>::Rows k = keys();
    const typename HeadTensor<const V>::Rows v = values();
    if (call.group() == 1) {
      typename HeadTensor<Out>::Rows y = output(0);
      gma::bidirectional_into(y, mixture, queries(0), k, v, options, tokens, workspace);
      return store(y, 0);
    }
    // The steps of bidirectional_into(), the keys' once for the whole group.
    typename Workspace<S>::Frame frame(workspace);
    const TokenStream<S> stream{TokenView<S>(k), TokenView<S>(v), tokens};
    const MemoryView<S> memory =
        write_all(mixture, stream, tile_size(options, default_tile, stream.size()), options.executor, false, workspace)
            .memory;
    if (options.normalization == Normalization::slot) divide_slots(memory, memory.slots);
    for (Index g = 0; g < call.group(); ++g) {
      typename HeadTensor<Out>::Rows y = output(g);
      const typename HeadTensor<const Q>::Rows q = queries(g);
      read_tokens(mixture, TokenView<S>(q), memory, options.normalization, tile_size(options, default_tile, q.rows()),
                  options.executor, TokenSink<S>(y), workspace);
      store(y, g);
    }
  }

  /// All queries of the group read `memory`, which is advanced once.
  template <class Map>
  void causal(const Map& mixture, Memory<S>& memory, const Options& options, const TokenInputs<S>& tokens) const {
    const typename HeadTensor<const K>::Rows k = keys();
    const typename HeadTensor<const V>::Rows v = values();
    Memory<S>& copy = workspace.template keep<JobScratch<S>>().memory;
    for (Index g = call.group() - 1; g >= 0; --g) {
      typename HeadTensor<Out>::Rows y = output(g);
      if (g > 0) copy_memory(memory, copy);
      causal_into(y, mixture, queries(g), k, v, g > 0 ? copy : memory, options, tokens, workspace);
      store(y, g);
    }
  }
};

/// run(job, its token inputs, its number) for all jobs of a call.
template <class Out, class Q, class K, class V, class S, class Run>
void run_heads(const HeadCall& call, const HeadTensor<Out>& out, const HeadTensor<const Q>& queries,
               const HeadTensor<const K>& keys, const HeadTensor<const V>& values, const Options& options,
               const HeadInputs<S>& inputs, Workspace<S>& workspace, const Run& run) {
  if (call.queries.has_padding) set_zero(out);
  const Executor* executor = job_executor(call, options);
  workspace.prepare_workers(workers(executor));
  const std::vector<TokenInputs<S>>& tokens = gather_tokens(call, inputs, workspace);
  parallel_for(executor, call.jobs(), [&](Index i, Index worker) {
    Workspace<S>& own = workspace.worker(worker);
    const HeadJob<Out, Q, K, V, S> job{call, out, queries, keys, values, i / call.key_heads, i % call.key_heads, own};
    run(job, tokens[static_cast<std::size_t>(i)], i);
  });
}

/// write(target) with the outputs as the target, or, where they may overlap an input, scratch that is stored when all
/// of it is there.
template <class Out, class Q, class K, class V, class S, class Write>
void write_apart(const HeadTensor<Out>& out, const HeadTensor<Q>& queries, const HeadTensor<K>& keys,
                 const HeadTensor<V>& values, Workspace<S>& workspace, const Write& write) {
  if (!may_overlap(out, queries) && !may_overlap(out, keys) && !may_overlap(out, values)) return write(out);
  GatheredRows<Out>& scratch = workspace.template keep<OutputScratch<Out>>().rows;
  Out* const data = scratch.take(out.rows(), out.heads * out.width).data();
  const HeadTensor<Out> target = batch_tokens_heads(data, out.batch, out.tokens, out.heads, out.width);
  write(target);
  for (Index b = 0; b < out.batch; ++b) {
    for (Index h = 0; h < out.heads; ++h) {
      typename HeadTensor<Out>::Rows rows = out.head(h, b * out.tokens, out.tokens);
      rows = target.head(h, b * out.tokens, out.tokens);
    }
  }
}

}  // namespace detail

template <class Out, class M, class Q, class K, class V, class S>
void bidirectional_into(const HeadTensor<Out>& out, const std::vector<M>& mixtures, const HeadTensor<Q>& queries,
                        const HeadTensor<K>& keys, const HeadTensor<V>& values, const Options& options,
                        const HeadInputs<S>& inputs, Workspace<S>& workspace) {
  detail::HeadCall& call = workspace.template keep<detail::HeadCall>();
  call.function = "bidirectional";
  detail::open_heads(call, mixtures, queries, keys, values, "out", out, false, options, inputs);
  const std::vector<detail::FeatureMapOf<M>>& compiled = detail::compiled_heads(call.function, mixtures, workspace);
  const Options each = detail::job_options(call, options);
  detail::write_apart(out, queries, keys, values, workspace, [&](const HeadTensor<Out>& target) {
    detail::run_heads(call, target, detail::as_const(queries), detail::as_const(keys), detail::as_const(values),
                      options, inputs, workspace, [&](const auto& job, const TokenInputs<S>& tokens, Index) {
                        job.bidirectional(compiled[static_cast<std::size_t>(job.head)], each, tokens);
                      });
  });
}

namespace detail {

/// `prepare(call, compiled)` is called once everything is checked and nothing has changed; returns the memories to run
/// on, one of every job, or null: zeros, and nothing is left.
template <class Out, class M, class Q, class K, class V, class S, class Prepare>
void causal_heads(const HeadTensor<Out>& out, const std::vector<M>& mixtures, const HeadTensor<Q>& queries,
                  const HeadTensor<K>& keys, const HeadTensor<V>& values, const Options& options,
                  const HeadInputs<S>& inputs, Workspace<S>& workspace, const Prepare& prepare) {
  HeadCall& call = workspace.template keep<HeadCall>();
  call.function = "causal";
  open_heads(call, mixtures, queries, keys, values, "out", out, true, options, inputs);
  const std::vector<FeatureMapOf<M>>& compiled = compiled_heads(call.function, mixtures, workspace);
  std::vector<Memory<S>>* const memories = prepare(call, compiled);
  const Options each = job_options(call, options);
  write_apart(out, queries, keys, values, workspace, [&](const HeadTensor<Out>& target) {
    run_heads(call, target, as_const(queries), as_const(keys), as_const(values), options, inputs, workspace,
              [&](const auto& job, const TokenInputs<S>& tokens, Index i) {
                const FeatureMapOf<M>& mixture = compiled[static_cast<std::size_t>(job.head)];
                Memory<S>& memory = memories != nullptr ? (*memories)[static_cast<std::size_t>(i)]
                                                        : job.workspace.template keep<JobScratch<S>>().beginning;
                if (memories == nullptr) set_zero(memory, mixture.components(), values.width);
                size_if_empty(memory, mixture.components(), values.width);
                job.causal(mixture, memory, each, tokens);
              });
  });
}

}  // namespace detail

template <class Out, class M, class Q, class K, class V, class S>
void causal_into(const HeadTensor<Out>& out, const std::vector<M>& mixtures, const HeadTensor<Q>& queries,
                 const HeadTensor<K>& keys, const HeadTensor<V>& values, const Options& options,
                 const HeadInputs<S>& inputs, Workspace<S>& workspace) {
  std::vector<Memory<S>>* const none = nullptr;
  detail::causal_heads(out, mixtures, queries, keys, values, options, inputs, workspace,
                       [&](const detail::HeadCall&, const auto&) { return none; });
}

template <class Out, class M, class Q, class K, class V, class S>
void causal_into(const HeadTensor<Out>& out, const std::vector<M>& mixtures, const HeadTensor<Q>& queries,
                 const HeadTensor<K>& keys, const HeadTensor<V>& values, std::vector<Memory<S>>& memories,
                 const Options& options, const HeadInputs<S>& inputs, Workspace<S>& workspace) {
  using Advance = detail::MemoryAdvance<S, M, Out, Q, K, V>;
  Advance& advance = workspace.template keep<Advance>();
  detail::causal_heads(out, mixtures, queries, keys, values, options, inputs, workspace,
                       [&](const detail::HeadCall& call, const auto& compiled) {
                         detail::check_memories(call.function, "memories", memories, call, compiled, values.width);
                         return advance.begin(memories, call, compiled, options, inputs, queries, values.width);
                       });
  advance.finish(memories);
}

namespace detail {

/// One multi-head verb on matrices: into(out, queries, keys, values) as tensors, and the matrix it filled.
template <class M, class Q, class K, class V, class Into>
Matrix<typename M::Scalar> heads_of_matrices(const char* function, const std::vector<M>& mixtures,
                                             const Eigen::MatrixBase<Q>& queries, const Eigen::MatrixBase<K>& keys,
                                             const Eigen::MatrixBase<V>& values, const Into& into) {
  using S = typename M::Scalar;
  const Index query_heads = query_heads_of(function, mixtures, queries.cols());
  const Index key_heads = static_cast<Index>(mixtures.size());
  Evaluated<Q> q = queries.derived();
  Evaluated<K> k = keys.derived();
  Evaluated<V> v = values.derived();
  const HeadTensor<const typename Q::Scalar> q_heads = heads_of(function, "queries", q, query_heads);
  const HeadTensor<const typename K::Scalar> k_heads = heads_of(function, "keys", k, key_heads);
  const HeadTensor<const typename V::Scalar> v_heads = heads_of(function, "values", v, key_heads);
  Matrix<S> out(queries.rows(), query_heads * v_heads.width);
  const HeadTensor<S> out_heads = split_heads(out, query_heads);
  into(out_heads, q_heads, k_heads, v_heads);
  return out;
}

}  // namespace detail

template <class M, class Q, class K, class V, class TS>
Matrix<typename M::Scalar> bidirectional(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                         const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                         const Options& options, const HeadInputs<TS>& inputs) {
  detail::check_scalar<typename M::Scalar, TS>();
  Workspace<TS> workspace;
  return detail::heads_of_matrices("bidirectional", mixtures, queries, keys, values,
                                   [&](const auto& out, const auto& q, const auto& k, const auto& v) {
                                     bidirectional_into(out, mixtures, q, k, v, options, inputs, workspace);
                                   });
}

template <class M, class Q, class K, class V, class TS>
Matrix<typename M::Scalar> causal(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  const Options& options, const HeadInputs<TS>& inputs) {
  detail::check_scalar<typename M::Scalar, TS>();
  Workspace<TS> workspace;
  return detail::heads_of_matrices("causal", mixtures, queries, keys, values,
                                   [&](const auto& out, const auto& q, const auto& k, const auto& v) {
                                     causal_into(out, mixtures, q, k, v, options, inputs, workspace);
                                   });
}

template <class M, class Q, class K, class V, class MS, class TS>
Matrix<typename M::Scalar> causal(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  std::vector<Memory<MS>>& memories, const Options& options,
                                  const HeadInputs<TS>& inputs) {
  detail::check_scalar<typename M::Scalar, TS>();
  detail::check_scalar<typename M::Scalar, MS>();
  Workspace<TS> workspace;
  return detail::heads_of_matrices("causal", mixtures, queries, keys, values,
                                   [&](const auto& out, const auto& q, const auto& k, const auto& v) {
                                     causal_into(out, mixtures, q, k, v, memories, options, inputs, workspace);
                                   });
}

}  // namespace gma
