// SPDX-License-Identifier: MIT
// Gradients of the multi-head operators. Sequences and key heads run side by side; what they share, the mixtures and
// the key weights, is summed in one order, so that the number of threads moves no bit.
#pragma once

#include <utility>
#include <vector>

#include "gma/attention/causal_backward.hpp"
#include "gma/heads/heads.hpp"

namespace gma {

/// Gradients of a scalar loss, each of the shape of what it is the gradient of, matrices as batch * tokens rows with
/// the heads side by side. Zero for rows that belong to no sequence. What a verb was not given stays empty.
template <class M>
struct HeadGradients {
  using Scalar = typename M::Scalar;

  Matrix<Scalar> queries;                ///< Nq x (Hq d)
  Matrix<Scalar> keys;                   ///< Nk x (H d)
  Matrix<Scalar> values;                 ///< Nk x (H e)
  Vector<Scalar> key_weights;            ///< Nk, if weights were given
  Matrix<Scalar> log_forgetting;         ///< Nk x H, if forgetting was given
  std::vector<Memory<Scalar>> memories;  ///< before the first token, one per sequence and key head
  std::vector<M> mixtures;               ///< H
};

/// Gradients of bidirectional() of many heads; d_output is Nq x (Hq e). Cost and errors as the single-head verb's,
/// times Hq.
template <class M, class Q, class K, class V, class D, class TS = typename M::Scalar>
HeadGradients<M> bidirectional_backward(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                        const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                        const Eigen::MatrixBase<D>& d_output, const Options& options = {},
                                        const HeadInputs<TS>& inputs = {});

/// Gradients of causal() of many heads, from zeros, or from `initial_memories` and through the memories left behind,
/// whose gradient is d_final_memories (either empty: zeros).
template <class M, class Q, class K, class V, class D, class TS = typename M::Scalar>
HeadGradients<M> causal_backward(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                 const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                 const Eigen::MatrixBase<D>& d_output, const Options& options = {},
                                 const HeadInputs<TS>& inputs = {});
template <class M, class Q, class K, class V, class D, class MS, class TS = typename M::Scalar>
HeadGradients<M> causal_backward(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                 const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                 const Eigen::MatrixBase<D>& d_output, const std::vector<Memory<MS>>& initial_memories,
                                 const std::vector<Memory<MS>>& d_final_memories, const Options& options = {},
                                 const HeadInputs<TS>& inputs = {});

/// All of them for tensors wherever they lie, into `gradients`, whose matrices are reused, with a caller's scratch.
/// Inputs may lie in `gradients`: new matrices then take the place of the old ones at the end.
template <class M, class Q, class K, class V, class D, class S>
void bidirectional_backward_into(HeadGradients<M>& gradients, const std::vector<M>& mixtures,
                                 const HeadTensor<Q>& queries, const HeadTensor<K>& keys, const HeadTensor<V>& values,
                                 const HeadTensor<D>& d_output, const Options& options, const HeadInputs<S>& inputs,
                                 Workspace<S>& workspace);
template <class M, class Q, class K, class V, class D, class S>
void causal_backward_into(HeadGradients<M>& gradients, const std::vector<M>& mixtures, const HeadTensor<Q>& queries,
                          const HeadTensor<K>& keys, const HeadTensor<V>& values, const HeadTensor<D>& d_output,
                          const std::vector<Memory<S>>& initial_memories,
                          const std::vector<Memory<S>>& d_final_memories, const Options& options,
                          const HeadInputs<S>& inputs, Workspace<S>& workspace);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// What one job adds to what all share, kept until its turn comes.
template <class M>
struct SharedGradients {
  Gradients<M> one;  // of one query head
  Vector<typename M::Scalar> key_weights;
  M mixture;
};
template <class M>
struct SharedGradientsOfPlaces {
  std::vector<SharedGradients<M>> places;
};

/// Rows of a block, added to or assigned to those of a sequence and head.
template <class S, class Rows>
void put_rows(Matrix<S>& target, const Placement& placement, const Placement::Span& span, Index head, const Rows& rows,
              bool adds) {
  const Index width = rows.cols();
  if (span.count == 0) return;
  if (!placement.is_masked) {
    auto block = target.block(span.begin, head * width, span.count, width);
    if (adds) {
      block += rows;
    } else {
      block = rows;
    }
    return;
  }
  for (Index i = 0; i < span.count; ++i) {
    auto row = target.row(placement.row(span.begin + i)).segment(head * width, width);
    if (adds) {
      row += rows.row(i);
    } else {
      row = rows.row(i);
    }
  }
}

/// The gradient of query head g of a job goes where it belongs; what all jobs share goes to `shared`.
template <class M, class S>
void put_job(HeadGradients<M>& all, const HeadCall& call, Index sequence, Index head, Index g,
             SharedGradients<M>& shared) {
  const Placement::Span &q = call.queries[sequence], &k = call.keys[sequence];
  const Gradients<M>& one = shared.one;
  const bool adds = g > 0;
  put_rows(all.queries, call.queries, q, head * call.group() + g, one.queries, false);
  put_rows(all.keys, call.keys, k, head, one.keys, adds);
  put_rows(all.values, call.keys, k, head, one.values, adds);
  if (all.log_forgetting.size() != 0) put_rows(all.log_forgetting, call.keys, k, head, one.log_forgetting, adds);
  Memory<S>& memory = all.memories[static_cast<std::size_t>(sequence * call.key_heads + head)];
  if (adds) {
    shared.key_weights += one.key_weights;
    add_parameters(shared.mixture, one.mixture);
    memory.slots += one.memory.slots;
    memory.mass += one.memory.mass;
    memory.log_forgetting += one.memory.log_forgetting;
  } else {
    assign(shared.key_weights, one.key_weights);
    set_zero_like(shared.mixture, one.mixture);
    add_parameters(shared.mixture, one.mixture);
    copy_memory(one.memory, memory);
  }
}

/// Whether an input lies in what is to be assigned.
template <class M, class... T>
bool lie_in(HeadGradients<M>& gradients, const HeadTensor<T>&... inputs) {
  const auto is_touched = [&](const auto& input) {
    return may_overlap(split_heads(gradients.queries, 1), input) ||
           may_overlap(split_heads(gradients.keys, 1), input) || may_overlap(split_heads(gradients.values, 1), input) ||
           may_overlap(split_heads(gradients.log_forgetting, 1), input);
  };
  return (is_touched(inputs) || ...);
}

/// compute(target) with the gradients as the target, or, where an input lies in them, with others that then take their
/// place.
template <class M, class Compute>
void compute_apart(HeadGradients<M>& gradients, bool is_touched, const Compute& compute) {
  if (!is_touched) return compute(gradients);
  HeadGradients<M> target;
  compute(target);
  gradients = std::move(target);
}

template <class M, class S>
void size_gradients(HeadGradients<M>& gradients, const HeadCall& call, const std::vector<M>& mixtures, Index query_rows,
                    Index key_rows, Index dim, Index width, const HeadInputs<S>& inputs) {
  set_constant(gradients.queries, query_rows, call.query_heads * dim, S(0));
  set_constant(gradients.keys, key_rows, call.key_heads * dim, S(0));
  set_constant(gradients.values, key_rows, call.key_heads * width, S(0));
  set_constant(gradients.key_weights, inputs.key_weights.size() == 0 ? 0 : key_rows, S(0));
  set_constant(gradients.log_forgetting, inputs.log_forgetting.size() == 0 ? 0 : key_rows, call.key_heads, S(0));
  gradients.memories.resize(static_cast<std::size_t>(call.jobs()));
  gradients.mixtures.resize(mixtures.size());
  for (std::size_t h = 0; h < mixtures.size(); ++h) set_zero_like(gradients.mixtures[h], mixtures[h]);
}

/// run(job, its token inputs, one gradient, query head of the group, number of the job) for every query head of every
/// job, and the gradients put together.
template <class M, class Q, class K, class V, class D, class S, class Run>
void run_heads_backward(HeadGradients<M>& gradients, const HeadCall& call, const std::vector<M>& mixtures,
                        const HeadTensor<const Q>& queries, const HeadTensor<const K>& keys,
                        const HeadTensor<const V>& values, const HeadTensor<const D>& d_output, const Options& options,
                        const HeadInputs<S>& inputs, Workspace<S>& workspace, const Run& run) {
  size_gradients(gradients, call, mixtures, queries.rows(), keys.rows(), queries.width, values.width, inputs);
  const Executor* executor = job_executor(call, options);
  workspace.prepare_workers(workers(executor));
  std::vector<SharedGradients<M>>& places = workspace.template keep<SharedGradientsOfPlaces<M>>().places;
  const Index at_once = (std::max)(Index(1), (std::min)(workers(executor), call.jobs()));
  if (static_cast<Index>(places.size()) < at_once) places.resize(static_cast<std::size_t>(at_once));
  const std::vector<TokenInputs<S>>& tokens = gather_tokens(call, inputs, workspace);
  in_waves(
      executor, call.jobs(), at_once,
      [&](Index i, Index place, Index worker) {
        Workspace<S>& own = workspace.worker(worker);
        const HeadJob<const D, Q, K, V, S> job{
            call, d_output, queries, keys, values, i / call.key_heads, i % call.key_heads, own};
        SharedGradients<M>& shared = places[static_cast<std::size_t>(place)];
        for (Index g = 0; g < call.group(); ++g) {
          run(job, tokens[static_cast<std::size_t>(i)], shared.one, g, i);
          put_job<M, S>(gradients, call, job.sequence, job.head, g, shared);
        }
      },
      [&](Index i, Index place) {
        const SharedGradients<M>& shared = places[static_cast<std::size_t>(place)];
        add_parameters(gradients.mixtures[static_cast<std::size_t>(i % call.key_heads)], shared.mixture);
        const Placement::Span& span = call.keys[i / call.key_heads];
        for (Index t = 0; t < shared.key_weights.size(); ++t) {
          gradients.key_weights(call.keys.row(span.begin + t)) += shared.key_weights(t);
        }
      });
}

}  // namespace detail

template <class M, class Q, class K, class V, class D, class S>
void bidirectional_backward_into(HeadGradients<M>& gradients, const std::vector<M>& mixtures,
                                 const HeadTensor<Q>& queries, const HeadTensor<K>& keys, const HeadTensor<V>& values,
                                 const HeadTensor<D>& d_output, const Options& options, const HeadInputs<S>& inputs,
                                 Workspace<S>& workspace) {
  detail::check_has_parameters<M>();
  detail::HeadCall& call = workspace.template keep<detail::HeadCall>();
  call.function = "bidirectional_backward";
  detail::open_heads(call, mixtures, queries, keys, values, "d_output", d_output, false, options, inputs);
  const Options each = detail::job_options(call, options);
  const bool is_touched =
      &mixtures == &gradients.mixtures || detail::lie_in(gradients, queries, keys, values, d_output);
  detail::compute_apart(gradients, is_touched, [&](HeadGradients<M>& target) {
    detail::run_heads_backward(target, call, mixtures, detail::as_const(queries), detail::as_const(keys),
                               detail::as_const(values), detail::as_const(d_output), options, inputs, workspace,
                               [&](const auto& job, const TokenInputs<S>& tokens, Gradients<M>& one, Index g, Index) {
                                 bidirectional_backward_into(one, mixtures[static_cast<std::size_t>(job.head)],
                                                             job.queries(g), job.keys(), job.values(),
                                                             job.gathered_output(g), each, tokens, job.workspace);
                               });
  });
}

template <class M, class Q, class K, class V, class D, class S>
void causal_backward_into(HeadGradients<M>& gradients, const std::vector<M>& mixtures, const HeadTensor<Q>& queries,
                          const HeadTensor<K>& keys, const HeadTensor<V>& values, const HeadTensor<D>& d_output,
                          const std::vector<Memory<S>>& initial_memories,
                          const std::vector<Memory<S>>& d_final_memories, const Options& options,
                          const HeadInputs<S>& inputs, Workspace<S>& workspace) {
  detail::check_has_parameters<M>();
  detail::HeadCall& call = workspace.template keep<detail::HeadCall>();
  call.function = "causal_backward";
  detail::open_heads(call, mixtures, queries, keys, values, "d_output", d_output, true, options, inputs);
  detail::check_memories(call.function, "initial_memories", initial_memories, call, mixtures, values.width);
  detail::check_memories(call.function, "d_final_memories", d_final_memories, call, mixtures, values.width);
  const Options each = detail::job_options(call, options);
  const Memory<S> none;
  const bool is_touched = &mixtures == &gradients.mixtures || &initial_memories == &gradients.memories ||
                          &d_final_memories == &gradients.memories ||
                          detail::lie_in(gradients, queries, keys, values, d_output);
  detail::compute_apart(gradients, is_touched, [&](HeadGradients<M>& target) {
    detail::run_heads_backward(target, call, mixtures, detail::as_const(queries), detail::as_const(keys),
                               detail::as_const(values), detail::as_const(d_output), options, inputs, workspace,
                               [&](const auto& job, const TokenInputs<S>& tokens, Gradients<M>& one, Index g, Index i) {
                                 // The memory is advanced once, whatever the group: its gradient goes through the
                                 // first query head.
                                 const std::size_t at = static_cast<std::size_t>(i);
                                 causal_backward_into(one, mixtures[static_cast<std::size_t>(job.head)], job.queries(g),
                                                      job.keys(), job.values(), job.gathered_output(g),
                                                      initial_memories.empty() ? none : initial_memories[at],
                                                      g > 0 || d_final_memories.empty() ? none : d_final_memories[at],
                                                      each, tokens, job.workspace);
                               });
  });
}

namespace detail {

template <class M, class Q, class K, class V, class D, class Into>
HeadGradients<M> head_gradients(const char* function, const std::vector<M>& mixtures,
                                const Eigen::MatrixBase<Q>& queries, const Eigen::MatrixBase<K>& keys,
                                const Eigen::MatrixBase<V>& values, const Eigen::MatrixBase<D>& d_output,
                                const Into& into) {
  const Index query_heads = query_heads_of(function, mixtures, queries.cols());
  const Index key_heads = static_cast<Index>(mixtures.size());
  Evaluated<Q> q = queries.derived();
  Evaluated<K> k = keys.derived();
  Evaluated<V> v = values.derived();
  Evaluated<D> dy = d_output.derived();
  HeadGradients<M> gradients;
  into(gradients, heads_of(function, "queries", q, query_heads), heads_of(function, "keys", k, key_heads),
       heads_of(function, "values", v, key_heads), heads_of(function, "d_output", dy, query_heads));
  return gradients;
}

}  // namespace detail

template <class M, class Q, class K, class V, class D, class TS>
HeadGradients<M> bidirectional_backward(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                        const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                        const Eigen::MatrixBase<D>& d_output, const Options& options,
                                        const HeadInputs<TS>& inputs) {
  detail::check_scalar<typename M::Scalar, TS>();
  Workspace<TS> workspace;
  return detail::head_gradients(
      "bidirectional_backward", mixtures, queries, keys, values, d_output,
      [&](HeadGradients<M>& gradients, const auto& q, const auto& k, const auto& v, const auto& dy) {
        bidirectional_backward_into(gradients, mixtures, q, k, v, dy, options, inputs, workspace);
      });
}

template <class M, class Q, class K, class V, class D, class MS, class TS>
HeadGradients<M> causal_backward(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                 const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                 const Eigen::MatrixBase<D>& d_output, const std::vector<Memory<MS>>& initial_memories,
                                 const std::vector<Memory<MS>>& d_final_memories, const Options& options,
                                 const HeadInputs<TS>& inputs) {
  detail::check_scalar<typename M::Scalar, TS>();
  detail::check_scalar<typename M::Scalar, MS>();
  Workspace<TS> workspace;
  return detail::head_gradients(
      "causal_backward", mixtures, queries, keys, values, d_output,
      [&](HeadGradients<M>& gradients, const auto& q, const auto& k, const auto& v, const auto& dy) {
        causal_backward_into(gradients, mixtures, q, k, v, dy, initial_memories, d_final_memories, options, inputs,
                             workspace);
      });
}

template <class M, class Q, class K, class V, class D, class TS>
HeadGradients<M> causal_backward(const std::vector<M>& mixtures, const Eigen::MatrixBase<Q>& queries,
                                 const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                 const Eigen::MatrixBase<D>& d_output, const Options& options,
                                 const HeadInputs<TS>& inputs) {
  const std::vector<Memory<TS>> none;
  return causal_backward(mixtures, queries, keys, values, d_output, none, none, options, inputs);
}

}  // namespace gma
