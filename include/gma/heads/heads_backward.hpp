// SPDX-License-Identifier: MIT
// Gradients of the multi-head verbs. Threads may process sequences and key heads at the same time; what these share,
// the mixtures and the key weights, is summed in one order: results have the same bits for any number of threads.
#pragma once

#include <vector>

#include "gma/attention/causal_backward.hpp"
#include "gma/heads/head_gradients.hpp"
#include "gma/heads/heads.hpp"

namespace gma {

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

/// The gradients of one job: `one` of one query head of the group, `all` of the group. What is not wanted stays empty.
template <class M>
struct JobGradients {
  Gradients<M> one, all;
};
/// One for every job that runs at the same time as others.
template <class M>
struct JobGradientsOfWave {
  std::vector<JobGradients<M>> jobs;
};

/// Sizes the wanted gradients of a query head, and returns them as targets.
template <class M>
GradientTargets<M> job_targets(Gradients<M>& gradients, const HeadDestination<M>& out, Index queries, Index keys) {
  using S = Scalar<M>;
  const auto sized = [](auto& numbers, bool is_wanted, Index rows, Index cols) {
    resize(numbers, is_wanted ? rows : 0, cols);
    return is_wanted ? Out<S>(numbers) : Out<S>();
  };
  const bool is_weighted = out.key_weights.is_wanted() && out.key_weights.rows() > 0;
  const bool forgets = out.log_forgetting.is_wanted() && out.log_forgetting.layout.width > 0;
  GradientTargets<M> targets;
  targets.queries = sized(gradients.queries, out.queries.is_wanted(), queries, out.queries.layout.width);
  targets.keys = sized(gradients.keys, out.keys.is_wanted(), keys, out.keys.layout.width);
  targets.values = sized(gradients.values, out.values.is_wanted(), keys, out.values.layout.width);
  targets.key_weights = sized(gradients.key_weights, is_weighted, keys, 1);
  targets.log_forgetting = sized(gradients.log_forgetting, forgets, keys, 1);
  const HeadsSink<S>& by_slot = out.slot_log_forgetting;
  targets.slot_log_forgetting =
      sized(gradients.slot_log_forgetting, by_slot.is_wanted() && by_slot.layout.width > 0, keys, by_slot.layout.width);
  if (out.memories != nullptr) targets.memory = &gradients.memory;
  if (out.mixtures != nullptr) targets.mixture = &gradients.mixture;
  return targets;
}

/// all += one, without what each query head has for itself.
template <class M>
void add_query_head(const HeadDestination<M>& out, const Gradients<M>& one, Gradients<M>& all) {
  all.keys += one.keys;
  all.values += one.values;
  all.key_weights += one.key_weights;
  all.log_forgetting += one.log_forgetting;
  all.slot_log_forgetting += one.slot_log_forgetting;
  if (out.memories != nullptr) {
    all.memory.slots += one.memory.slots;
    all.memory.mass += one.memory.mass;
    all.memory.log_forgetting += one.memory.log_forgetting;
  }
  if (out.mixtures != nullptr) add_parameters(all.mixture, one.mixture);
}

/// run(job, its token inputs, targets, query head of the group, number of the job) for every query head of every job,
/// and the gradients put together.
template <class M, class Run>
void run_heads_backward(const HeadDestination<M>& out, const HeadCall& call, const std::vector<M>& mixtures,
                        const HeadOperands<Scalar<M>, HeadsView<Scalar<M>>>& operands, const Options& options,
                        const HeadInputs<Scalar<M>>& inputs, Workspace<Scalar<M>>& workspace, const Run& run) {
  using S = Scalar<M>;
  if (call.queries.has_padding && out.queries.is_wanted()) set_zero(out.queries, workspace);
  for (const HeadsSink<S>* keyed : {&out.keys, &out.values, &out.log_forgetting, &out.slot_log_forgetting}) {
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
  const Executor* within = job_options(call, options).executor;  // a job
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
          run(job, tokens[static_cast<std::size_t>(i)],
              job_targets(one, out, job.query_span().count, job.key_span().count), g, i);
          put_rows(out.queries, call.queries, job.query_span(), job.query_head(g), within, one.queries);
          if (g > 0) add_query_head(out, one, job_gradients.all);
        }
        const Gradients<M>& all = job_gradients.all;
        put_rows(out.keys, call.keys, job.key_span(), job.head, within, all.keys);
        put_rows(out.values, call.keys, job.key_span(), job.head, within, all.values);
        put_rows(out.log_forgetting, call.keys, job.key_span(), job.head, within, all.log_forgetting);
        put_rows(out.slot_log_forgetting, call.keys, job.key_span(), job.head, within, all.slot_log_forgetting);
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

/// A verb's call: checked, opened and run. `targets(queries, keys, values)` is called once everything is checked.
template <class M, class Targets, class Check, class Run>
void heads_backward(const char* function, bool is_causal, const Targets& targets, const std::vector<M>& mixtures,
                    const HeadsView<Scalar<M>>& queries, const HeadsView<Scalar<M>>& keys,
                    const HeadsView<Scalar<M>>& values, const HeadsView<Scalar<M>>& d_output, const Options& options,
                    const HeadInputs<Scalar<M>>& inputs, Workspace<Scalar<M>>& workspace, const Check& check,
                    const Run& run) {
  using S = Scalar<M>;
  check_has_parameters<M>();
  HeadCall& call = workspace.template keep<HeadCall>();
  call.function = function;
  const HeadOperands<S, HeadsView<S>> operands(function, mixtures, queries, keys, values, "d_output", d_output);
  open_heads(call, mixtures, operands, "d_output", is_causal, options, inputs);
  check(call, operands.values.layout.width);
  const HeadDestination<M> out(targets(queries, keys, values), call, operands, inputs);
  HeadDestination<M>::check_mixtures(call, out.mixtures, mixtures);
  run_heads_backward(out, call, mixtures, operands, options, inputs, workspace, run(job_options(call, options)));
}

template <class M, class Targets>
void bidirectional_heads_backward(const Targets& targets, const std::vector<M>& mixtures,
                                  const HeadsView<Scalar<M>>& queries, const HeadsView<Scalar<M>>& keys,
                                  const HeadsView<Scalar<M>>& values, const HeadsView<Scalar<M>>& d_output,
                                  const Options& options, const HeadInputs<Scalar<M>>& inputs,
                                  Workspace<Scalar<M>>& workspace) {
  using S = Scalar<M>;
  heads_backward(
      "bidirectional_backward", false, targets, mixtures, queries, keys, values, d_output, options, inputs, workspace,
      [](const HeadCall&, Index) {},
      [&](const Options& each) {
        return [&mixtures, each](const HeadJob<S, HeadsView<S>>& job, const TokenInputs<S>& tokens,
                                 const GradientTargets<M>& to, Index g, Index) {
          bidirectional_backward_to<M>(to, mixtures[static_cast<std::size_t>(job.head)], job.queries(g), job.keys(),
                                       job.values(), job.d_output(g), each, tokens, job.workspace);
        };
      });
}

template <class M, class Targets>
void causal_heads_backward(const Targets& targets, const std::vector<M>& mixtures, const HeadsView<Scalar<M>>& queries,
                           const HeadsView<Scalar<M>>& keys, const HeadsView<Scalar<M>>& values,
                           const HeadsView<Scalar<M>>& d_output, const std::vector<Memory<Scalar<M>>>& initial_memories,
                           const std::vector<Memory<Scalar<M>>>& d_final_memories, const Options& options,
                           const HeadInputs<Scalar<M>>& inputs, Workspace<Scalar<M>>& workspace) {
  using S = Scalar<M>;
  const Memory<S> none;
  heads_backward(
      "causal_backward", true, targets, mixtures, queries, keys, values, d_output, options, inputs, workspace,
      [&](const HeadCall& call, Index width) {
        check_memories(call.function, "initial_memories", initial_memories, call, mixtures, width);
        check_memories(call.function, "d_final_memories", d_final_memories, call, mixtures, width);
      },
      [&](const Options& each) {
        return [&, each](const HeadJob<S, HeadsView<S>>& job, const TokenInputs<S>& tokens,
                         const GradientTargets<M>& to, Index g, Index i) {
          // The memory is advanced once for the whole group: its gradient goes through the first query head.
          const std::size_t at = static_cast<std::size_t>(i);
          causal_backward_to<M>(to, mixtures[static_cast<std::size_t>(job.head)], job.queries(g), job.keys(),
                                job.values(), job.d_output(g), initial_memories.empty() ? none : initial_memories[at],
                                g > 0 || d_final_memories.empty() ? none : d_final_memories[at], each, tokens,
                                job.workspace);
        };
      });
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
