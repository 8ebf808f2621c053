// SPDX-License-Identifier: MIT
// Gradients of the multi-head verbs. Threads may process sequences and key heads at the same time; what these share,
// the mixtures and the key weights, is summed in one order: results have the same bits for any number of threads.
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

/// Where a backward verb of many heads writes its gradients: tensors, matrices, blocks or maps of any layout and
/// storage, of the shapes that HeadGradients names. What is left out is not wanted.
template <class M>
struct HeadGradientTargets {
  HeadsOut<Scalar<M>> queries, keys, values;
  Out<Scalar<M>> key_weights;                          ///< Nk x 1
  HeadsOut<Scalar<M>> log_forgetting;                  ///< Nk x H, a matrix or a tensor of width 1
  std::vector<Memory<Scalar<M>>>* memories = nullptr;  ///< is sized
  std::vector<M>* mixtures = nullptr;                  ///< is sized
};

/// Gradients of bidirectional() of many heads; d_output is Nq x (Hq e). Cost and errors as the single-head verb's,
/// times Hq.
template <class M>
HeadGradients<M> bidirectional_backward(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                                        const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                                        const HeadsIn<Scalar<M>>& d_output, const Options& options = {},
                                        const HeadInputs<Scalar<M>>& inputs = {});

/// Gradients of causal() of many heads, from zeros, or from `initial_memories` and through the memories left behind,
/// whose gradient is d_final_memories (either empty: zeros).
template <class M>
HeadGradients<M> causal_backward(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                                 const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                                 const HeadsIn<Scalar<M>>& d_output, const Options& options = {},
                                 const HeadInputs<Scalar<M>>& inputs = {});
template <class M>
HeadGradients<M> causal_backward(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                                 const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                                 const HeadsIn<Scalar<M>>& d_output,
                                 const std::vector<Memory<Scalar<M>>>& initial_memories,
                                 const std::vector<Memory<Scalar<M>>>& d_final_memories, const Options& options = {},
                                 const HeadInputs<Scalar<M>>& inputs = {});

/// All of them into `gradients`, whose matrices are reused. Inputs may lie in `gradients`: new matrices then take the
/// place of the old ones at the end.
template <class M>
void bidirectional_backward_into(HeadGradients<M>& gradients, const std::vector<M>& mixtures,
                                 const HeadsIn<Scalar<M>>& queries, const HeadsIn<Scalar<M>>& keys,
                                 const HeadsIn<Scalar<M>>& values, const HeadsIn<Scalar<M>>& d_output,
                                 const Options& options = {}, const HeadInputs<Scalar<M>>& inputs = {},
                                 const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void causal_backward_into(HeadGradients<M>& gradients, const std::vector<M>& mixtures,
                          const HeadsIn<Scalar<M>>& queries, const HeadsIn<Scalar<M>>& keys,
                          const HeadsIn<Scalar<M>>& values, const HeadsIn<Scalar<M>>& d_output,
                          const std::vector<Memory<Scalar<M>>>& initial_memories = {},
                          const std::vector<Memory<Scalar<M>>>& d_final_memories = {}, const Options& options = {},
                          const HeadInputs<Scalar<M>>& inputs = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});

/// All of them to where the targets say, which share no memory with the inputs: std::invalid_argument if they may.
template <class M>
void bidirectional_backward_into(const HeadGradientTargets<M>& targets, const std::vector<M>& mixtures,
                                 const HeadsIn<Scalar<M>>& queries, const HeadsIn<Scalar<M>>& keys,
                                 const HeadsIn<Scalar<M>>& values, const HeadsIn<Scalar<M>>& d_output,
                                 const Options& options = {}, const HeadInputs<Scalar<M>>& inputs = {},
                                 const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void causal_backward_into(const HeadGradientTargets<M>& targets, const std::vector<M>& mixtures,
                          const HeadsIn<Scalar<M>>& queries, const HeadsIn<Scalar<M>>& keys,
                          const HeadsIn<Scalar<M>>& values, const HeadsIn<Scalar<M>>& d_output,
                          const std::vector<Memory<Scalar<M>>>& initial_memories = {},
                          const std::vector<Memory<Scalar<M>>>& d_final_memories = {}, const Options& options = {},
                          const HeadInputs<Scalar<M>>& inputs = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// The gradients of one job: `one` of one query head of the group, `all` of the group.
template <class M>
struct JobGradients {
  Gradients<M> one, all;
};
/// One for every job that runs at the same time as others.
template <class M>
struct JobGradientsOfWave {
  std::vector<JobGradients<M>> jobs;
};

/// all += one, without what each query head has for itself.
template <class M>
void add_query_head(const Gradients<M>& one, Gradients<M>& all) {
  all.keys += one.keys;
  all.values += one.values;
  all.key_weights += one.key_weights;
  all.log_forgetting += one.log_forgetting;
  all.memory.slots += one.memory.slots;
  all.memory.mass += one.memory.mass;
  all.memory.log_forgetting += one.memory.log_forgetting;
  add_parameters(all.mixture, one.mixture);
}

/// Rows of a sequence and head to where they belong, which may be nowhere.
template <class S, class Derived>
void put_rows(const HeadsSink<S>& target, const Placement& placement, const Placement::Span& span, Index head,
              const Eigen::PlainObjectBase<Derived>& numbers) {
  if (!target.is_wanted() || span.count == 0) return;
  const Index width = target.layout.width;
  S* const data = const_cast<S*>(numbers.data());  // is only read
  if (!placement.is_masked) {
    target.head(head, span.begin, span.count).put(Tile<S>(data, span.count, width, Eigen::OuterStride<>(width)));
    return;
  }
  for (Index i = 0; i < span.count; ++i) {
    target.head(head, placement.row(span.begin + i), 1)
        .put(Tile<S>(data + i * width, 1, width, Eigen::OuterStride<>(width)));
  }
}

/// Targets whose matrices are split into heads and checked.
template <class M>
struct HeadDestination {
  using S = Scalar<M>;

  HeadsSink<S> queries, keys, values, log_forgetting;
  Out<S> key_weights;
  std::vector<Memory<S>>* memories;
  std::vector<M>* mixtures;

  HeadDestination(const HeadGradientTargets<M>& targets, const HeadCall& call,
                  const HeadOperands<S, HeadsView<S>>& operands, const HeadInputs<S>& inputs)
      : queries(targets.queries),
        keys(targets.keys),
        values(targets.values),
        log_forgetting(targets.log_forgetting),
        key_weights(targets.key_weights),
        memories(targets.memories),
        mixtures(targets.mixtures) {
    check(call, "targets.queries", queries, operands.queries.layout);
    check(call, "targets.keys", keys, operands.keys.layout);
    check(call, "targets.values", values, operands.values.layout);
    HeadLayout forgetting = operands.keys.layout;
    forgetting.width = inputs.log_forgetting.size() != 0 ? 1 : 0;
    check(call, "targets.log_forgetting", log_forgetting, forgetting);
    if (key_weights.is_wanted()) {
      check_shape(call.function, "targets.key_weights", key_weights.rows(), key_weights.cols(),
                  inputs.key_weights.size(), 1, "one per key row, if weights were given");
    }
    const auto check_apart = [&](const char* name, const HeadRows& target) {
      if (target.data == nullptr) return;
      const bool touches = target.may_overlap(operands.queries) || target.may_overlap(operands.keys) ||
                           target.may_overlap(operands.values) || target.may_overlap(operands.like_queries);
      if (touches) invalid_argument(call.function, name, " overlaps an input, expected memory apart from all inputs");
    };
    check_apart("targets.queries", queries);
    check_apart("targets.keys", keys);
    check_apart("targets.values", values);
  }

  static void check_mixtures(const HeadCall& call, const std::vector<M>* target, const std::vector<M>& given) {
    if (target == &given) {
      invalid_argument(call.function, "targets.mixtures points to the mixtures themselves, expected another vector");
    }
  }

  static void check(const HeadCall& call, const char* name, HeadsSink<S>& target, const HeadLayout& like) {
    if (!target.is_wanted()) return;
    target.split(call.function, name, like.heads);
    check_head_tensor(call.function, name, target);
    const HeadLayout& l = target.layout;
    check_size(call.function, name, "heads", l.heads, like.heads, "as its input");
    check_size(call.function, name, "columns a head", l.width, like.width, "as its input");
    check_size(call.function, name, "rows", l.rows(), like.rows(), "as its input");
  }
};

/// run(job, compiled mixture, its token inputs, gradients of one query head, query head of the group, number of the
/// job) for every query head of every job, and the gradients put together.
template <class M, class Run>
void run_heads_backward(const HeadDestination<M>& out, const HeadCall& call, const std::vector<M>& mixtures,
                        const HeadOperands<Scalar<M>, HeadsView<Scalar<M>>>& operands, const Options& options,
                        const HeadInputs<Scalar<M>>& inputs, Workspace<Scalar<M>>& workspace, const Run& run) {
  using S = Scalar<M>;
  if (call.queries.has_padding && out.queries.is_wanted()) set_zero(out.queries, workspace);
  for (const HeadsSink<S>* keyed : {&out.keys, &out.values, &out.log_forgetting}) {
    if (call.keys.has_padding && keyed->is_wanted()) set_zero(*keyed, workspace);
  }
  if (out.memories != nullptr) out.memories->resize(static_cast<std::size_t>(call.jobs()));
  if (out.mixtures != nullptr) {
    out.mixtures->resize(mixtures.size());
    for (std::size_t h = 0; h < mixtures.size(); ++h) set_zero_like((*out.mixtures)[h], mixtures[h]);
  }
  typename Workspace<S>::Frame frame(workspace);
  Tile<S> key_weights = workspace.take(out.key_weights.is_wanted() ? operands.keys.rows() : Index(0), 1);
  key_weights.setConstant(S(0));
  const Executor* executor = job_executor(call, options);
  workspace.prepare_workers(workers(executor));
  std::vector<JobGradients<M>>& wave = workspace.template keep<JobGradientsOfWave<M>>().jobs;
  const Index at_once = (std::max)(Index(1), (std::min)(workers(executor), call.jobs()));
  if (static_cast<Index>(wave.size()) < at_once) wave.resize(static_cast<std::size_t>(at_once));
  const std::vector<TokenInputs<S>>& tokens = gather_tokens(call, inputs, workspace);
  const bool is_grouped = call.group() > 1;
  in_waves(
      executor, call.jobs(), at_once,
      [&](Index i, Index slot, Index worker) {
        const HeadJob<S, HeadsView<S>> job(call, operands, i, workspace.worker(worker));
        JobGradients<M>& job_gradients = wave[static_cast<std::size_t>(slot)];
        for (Index g = 0; g < call.group(); ++g) {
          typename Workspace<S>::Frame head_frame(job.workspace);
          Gradients<M>& one = is_grouped && g > 0 ? job_gradients.one : job_gradients.all;
          run(job, tokens[static_cast<std::size_t>(i)], one, g, i);
          put_rows(out.queries, call.queries, job.query_span(), job.query_head(g), one.queries);
          if (g > 0) add_query_head(one, job_gradients.all);
        }
        const Gradients<M>& all = job_gradients.all;
        put_rows(out.keys, call.keys, job.key_span(), job.head, all.keys);
        put_rows(out.values, call.keys, job.key_span(), job.head, all.values);
        put_rows(out.log_forgetting, call.keys, job.key_span(), job.head, all.log_forgetting);
        if (out.memories != nullptr) copy_memory(all.memory, (*out.memories)[static_cast<std::size_t>(i)]);
      },
      [&](Index i, Index slot) {
        const Gradients<M>& all = wave[static_cast<std::size_t>(slot)].all;
        if (out.mixtures != nullptr) {
          add_parameters((*out.mixtures)[static_cast<std::size_t>(i % call.key_heads)], all.mixture);
        }
        const Placement::Span& span = call.keys[i / call.key_heads];
        for (Index t = 0; out.key_weights.is_wanted() && t < all.key_weights.size(); ++t) {
          key_weights(call.keys.row(span.begin + t), 0) += all.key_weights(t);
        }
      });
  if (out.key_weights.is_wanted()) out.key_weights.put(key_weights);
}

/// `targets(queries, keys, values)` is called once everything is checked.
template <class M, class Targets>
void bidirectional_heads_backward(const Targets& targets, const std::vector<M>& mixtures,
                                  const HeadsView<Scalar<M>>& queries, const HeadsView<Scalar<M>>& keys,
                                  const HeadsView<Scalar<M>>& values, const HeadsView<Scalar<M>>& d_output,
                                  const Options& options, const HeadInputs<Scalar<M>>& inputs,
                                  Workspace<Scalar<M>>& workspace) {
  using S = Scalar<M>;
  check_has_parameters<M>();
  HeadCall& call = workspace.template keep<HeadCall>();
  call.function = "bidirectional_backward";
  const HeadOperands<S, HeadsView<S>> operands(call.function, mixtures, queries, keys, values, "d_output", d_output);
  open_heads(call, mixtures, operands, "d_output", false, options, inputs);
  const HeadDestination<M> out(targets(queries, keys, values), call, operands, inputs);
  HeadDestination<M>::check_mixtures(call, out.mixtures, mixtures);
  const Options each = job_options(call, options);
  run_heads_backward(
      out, call, mixtures, operands, options, inputs, workspace,
      [&](const HeadJob<S, HeadsView<S>>& job, const TokenInputs<S>& tokens, Gradients<M>& one, Index g, Index) {
        bidirectional_backward_to<M>(one, mixtures[static_cast<std::size_t>(job.head)], job.queries(g), job.keys(),
                                     job.values(), job.d_output(g), each, tokens, job.workspace);
      });
}

/// `targets(queries, keys, values)` is called once everything is checked.
template <class M, class Targets>
void causal_heads_backward(const Targets& targets, const std::vector<M>& mixtures, const HeadsView<Scalar<M>>& queries,
                           const HeadsView<Scalar<M>>& keys, const HeadsView<Scalar<M>>& values,
                           const HeadsView<Scalar<M>>& d_output, const std::vector<Memory<Scalar<M>>>& initial_memories,
                           const std::vector<Memory<Scalar<M>>>& d_final_memories, const Options& options,
                           const HeadInputs<Scalar<M>>& inputs, Workspace<Scalar<M>>& workspace) {
  using S = Scalar<M>;
  check_has_parameters<M>();
  HeadCall& call = workspace.template keep<HeadCall>();
  call.function = "causal_backward";
  const HeadOperands<S, HeadsView<S>> operands(call.function, mixtures, queries, keys, values, "d_output", d_output);
  open_heads(call, mixtures, operands, "d_output", true, options, inputs);
  const Index width = operands.values.layout.width;
  check_memories(call.function, "initial_memories", initial_memories, call, mixtures, width);
  check_memories(call.function, "d_final_memories", d_final_memories, call, mixtures, width);
  const HeadDestination<M> out(targets(queries, keys, values), call, operands, inputs);
  HeadDestination<M>::check_mixtures(call, out.mixtures, mixtures);
  const Options each = job_options(call, options);
  const Memory<S> none;
  run_heads_backward(
      out, call, mixtures, operands, options, inputs, workspace,
      [&](const HeadJob<S, HeadsView<S>>& job, const TokenInputs<S>& tokens, Gradients<M>& one, Index g, Index i) {
        // The memory is advanced once for the whole group: its gradient goes through the first query
        // head.
        const std::size_t at = static_cast<std::size_t>(i);
        causal_backward_to<M>(one, mixtures[static_cast<std::size_t>(job.head)], job.queries(g), job.keys(),
                              job.values(), job.d_output(g), initial_memories.empty() ? none : initial_memories[at],
                              g > 0 || d_final_memories.empty() ? none : d_final_memories[at], each, tokens,
                              job.workspace);
      });
}

/// Sizes the gradients of a call and returns them as targets.
template <class M>
HeadGradientTargets<M> size_gradients(HeadGradients<M>& gradients, const std::vector<M>& mixtures,
                                      const HeadRows& queries, const HeadRows& keys, const HeadRows& values,
                                      const HeadInputs<Scalar<M>>& inputs) {
  const auto columns = [](const HeadRows& t) {
    return t.layout.heads != 0 ? t.layout.heads * t.layout.width : t.layout.width;
  };
  const Index key_rows = keys.rows(), key_heads = static_cast<Index>(mixtures.size());
  const bool forgets = inputs.log_forgetting.size() != 0;
  resize(gradients.queries, queries.rows(), columns(queries));
  resize(gradients.keys, key_rows, columns(keys));
  resize(gradients.values, key_rows, columns(values));
  resize(gradients.key_weights, inputs.key_weights.size() == 0 ? 0 : key_rows);
  resize(gradients.log_forgetting, forgets ? key_rows : 0, key_heads);
  HeadGradientTargets<M> targets;
  targets.queries = as_output(gradients.queries, queries);
  targets.keys = as_output(gradients.keys, keys);
  targets.values = as_output(gradients.values, values);
  if (inputs.key_weights.size() != 0) targets.key_weights = gradients.key_weights;
  if (forgets) targets.log_forgetting = as_output(gradients.log_forgetting, keys);
  targets.memories = &gradients.memories;
  targets.mixtures = &gradients.mixtures;
  return targets;
}

/// compute(gradients to fill): the caller's, or, where an input lies in them, others that then take their place.
template <class M, class Compute, class... T>
void compute_apart(HeadGradients<M>& gradients, bool is_touched, const Compute& compute, const T&... inputs) {
  const auto touches = [&](const HeadRows& input) {
    return HeadRows(gradients.queries).may_overlap(input) || HeadRows(gradients.keys).may_overlap(input) ||
           HeadRows(gradients.values).may_overlap(input) || HeadRows(gradients.log_forgetting).may_overlap(input);
  };
  if (!is_touched && !(touches(inputs) || ...)) return compute(gradients);
  HeadGradients<M> others;
  compute(others);
  gradients = std::move(others);
}

}  // namespace detail

template <class M>
void bidirectional_backward_into(const HeadGradientTargets<M>& targets, const std::vector<M>& mixtures,
                                 const HeadsIn<Scalar<M>>& queries, const HeadsIn<Scalar<M>>& keys,
                                 const HeadsIn<Scalar<M>>& values, const HeadsIn<Scalar<M>>& d_output,
                                 const Options& options, const HeadInputs<Scalar<M>>& inputs,
                                 const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::bidirectional_heads_backward([&](const auto&, const auto&, const auto&) { return targets; }, mixtures,
                                       queries, keys, values, d_output, options, inputs, workspace.get());
}

template <class M>
void bidirectional_backward_into(HeadGradients<M>& gradients, const std::vector<M>& mixtures,
                                 const HeadsIn<Scalar<M>>& queries, const HeadsIn<Scalar<M>>& keys,
                                 const HeadsIn<Scalar<M>>& values, const HeadsIn<Scalar<M>>& d_output,
                                 const Options& options, const HeadInputs<Scalar<M>>& inputs,
                                 const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::compute_apart(
      gradients, &mixtures == &gradients.mixtures,
      [&](HeadGradients<M>& to) {
        detail::bidirectional_heads_backward(
            [&](const auto& q, const auto& k, const auto& v) {
              return detail::size_gradients(to, mixtures, q, k, v, inputs);
            },
            mixtures, queries, keys, values, d_output, options, inputs, workspace.get());
      },
      queries, keys, values, d_output);
}

template <class M>
void causal_backward_into(const HeadGradientTargets<M>& targets, const std::vector<M>& mixtures,
                          const HeadsIn<Scalar<M>>& queries, const HeadsIn<Scalar<M>>& keys,
                          const HeadsIn<Scalar<M>>& values, const HeadsIn<Scalar<M>>& d_output,
                          const std::vector<Memory<Scalar<M>>>& initial_memories,
                          const std::vector<Memory<Scalar<M>>>& d_final_memories, const Options& options,
                          const HeadInputs<Scalar<M>>& inputs, const OptionalWorkspace<Scalar<M>>& workspace) {
  detail::causal_heads_backward([&](const auto&, const auto&, const auto&) { return targets; }, mixtures, queries, keys,
                                values, d_output, initial_memories, d_final_memories, options, inputs, workspace.get());
}

template <class M>
void causal_backward_into(HeadGradients<M>& gradients, const std::vector<M>& mixtures,
                          const HeadsIn<Scalar<M>>& queries, const HeadsIn<Scalar<M>>& keys,
                          const HeadsIn<Scalar<M>>& values, const HeadsIn<Scalar<M>>& d_output,
                          const std::vector<Memory<Scalar<M>>>& initial_memories,
                          const std::vector<Memory<Scalar<M>>>& d_final_memories, const Options& options,
                          const HeadInputs<Scalar<M>>& inputs, const OptionalWorkspace<Scalar<M>>& workspace) {
  const bool is_touched = &mixtures == &gradients.mixtures || &initial_memories == &gradients.memories ||
                          &d_final_memories == &gradients.memories;
  detail::compute_apart(
      gradients, is_touched,
      [&](HeadGradients<M>& to) {
        detail::causal_heads_backward(
            [&](const auto& q, const auto& k, const auto& v) {
              return detail::size_gradients(to, mixtures, q, k, v, inputs);
            },
            mixtures, queries, keys, values, d_output, initial_memories, d_final_memories, options, inputs,
            workspace.get());
      },
      queries, keys, values, d_output);
}

template <class M>
HeadGradients<M> bidirectional_backward(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                                        const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                                        const HeadsIn<Scalar<M>>& d_output, const Options& options,
                                        const HeadInputs<Scalar<M>>& inputs) {
  HeadGradients<M> gradients;
  bidirectional_backward_into(gradients, mixtures, queries, keys, values, d_output, options, inputs);
  return gradients;
}

template <class M>
HeadGradients<M> causal_backward(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                                 const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                                 const HeadsIn<Scalar<M>>& d_output,
                                 const std::vector<Memory<Scalar<M>>>& initial_memories,
                                 const std::vector<Memory<Scalar<M>>>& d_final_memories, const Options& options,
                                 const HeadInputs<Scalar<M>>& inputs) {
  HeadGradients<M> gradients;
  causal_backward_into(gradients, mixtures, queries, keys, values, d_output, initial_memories, d_final_memories,
                       options, inputs);
  return gradients;
}

template <class M>
HeadGradients<M> causal_backward(const std::vector<M>& mixtures, const HeadsIn<Scalar<M>>& queries,
                                 const HeadsIn<Scalar<M>>& keys, const HeadsIn<Scalar<M>>& values,
                                 const HeadsIn<Scalar<M>>& d_output, const Options& options,
                                 const HeadInputs<Scalar<M>>& inputs) {
  const std::vector<Memory<Scalar<M>>> none;
  return causal_backward(mixtures, queries, keys, values, d_output, none, none, options, inputs);
}

}  // namespace gma
