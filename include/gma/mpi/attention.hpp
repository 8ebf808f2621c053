// SPDX-License-Identifier: MIT
// Attention over one sequence whose tokens lie in several processes. Rank p holds segment p: its own rows of queries,
// keys, values, key weights and log-forgetting; any number of rows, also none. With S_p the memory that segment p
// writes to zeros and "+" for merge() (attention/memory.hpp):
//
//   bidirectional   M = S_0 + ... + S_{P-1}                  every rank reads M (all_reduce)
//   causal          M_p = M_in + S_0 + ... + S_{p-1}         segment p goes on from M_p (scan)
//
// Backward, with L_p the gradient of M_p through the outputs of segment p alone and f_p its total log-forgetting, the
// gradient G_p of the memory after segment p is the scan from the other end:
//
//   bidirectional   dM = sum_p L_p                           then every rank writes backward from dM
//   causal          G_{P-1} = dM_out,  G_{p-1} = exp(f_p) G_p + L_p
//
// The pass is linear in the gradients of its results. So the keys' gradients are those through the outputs, plus those
// of a write from G_p. Gradients of mixtures are summed over ranks once.
//
// Work: bidirectional as in one process. Causal writes each key twice (once to zeros, once in the pass), except those
// of the last rank; backward adds one backward write, except on the last rank. Messages: exchange.hpp; they do not
// depend on the number of tokens. Results have the same bits in every run with as many ranks, and differ with the
// number of ranks by rounding only.
//
// Every verb is collective: each rank calls it with the same mixtures, options and widths. Errors: communicator.hpp.
#pragma once

#include <vector>

#include "gma/mpi/heads_of_rank.hpp"

namespace gma::mpi {

/// The memories at the two ends of this rank's segment, one per key head.
template <class S>
struct Carry {
  /// Before the segment's first token. In: read on rank 0 only, where it is the memory before the sequence (empty:
  /// zeros), and stays. Out: set on every rank; the backward pass needs it.
  std::vector<Memory<S>> before;
  std::vector<Memory<S>> after;        ///< out: after the segment's last token; on the last rank that of the sequence
  std::vector<S> log_forgetting = {};  ///< out: the segment's total, one per key head
};

/// gma::bidirectional() of the whole sequence: queries N_p x (Hq d), keys N'_p x (H d), values N'_p x (H e) of this
/// rank; returns its N_p x (Hq e). Without forgetting, and with one sequence: inputs has key_weights or nothing.
template <class M>
Matrix<Scalar<M>> bidirectional(Communicator& communicator, const std::vector<M>& mixtures,
                                const Rows<Scalar<M>>& queries, const Rows<Scalar<M>>& keys,
                                const Rows<Scalar<M>>& values, const Options& options = {},
                                const HeadInputs<Scalar<M>>& inputs = {});

/// Gradients of it: rows of this rank; `mixtures` over all ranks, with the same bits on each; `memories` are those of
/// the merged memory.
template <class M>
HeadGradients<M> bidirectional_backward(Communicator& communicator, const std::vector<M>& mixtures,
                                        const Rows<Scalar<M>>& queries, const Rows<Scalar<M>>& keys,
                                        const Rows<Scalar<M>>& values, const Rows<Scalar<M>>& d_output,
                                        const Options& options = {}, const HeadInputs<Scalar<M>>& inputs = {});

/// gma::causal() of the whole sequence, N_p rows on this rank; returns its N_p x (Hq e).
template <class M>
Matrix<Scalar<M>> causal(Communicator& communicator, const std::vector<M>& mixtures, const Rows<Scalar<M>>& queries,
                         const Rows<Scalar<M>>& keys, const Rows<Scalar<M>>& values, Carry<Scalar<M>>& carry,
                         const Options& options = {}, const HeadInputs<Scalar<M>>& inputs = {});

/// Gradients of it, from the carry that it left. d_final_memories is the gradient of the last rank's carry.after
/// (empty: zeros), and is read there only. Rows of this rank; `memories` is the gradient of carry.before, on rank 0
/// that of the memory before the sequence; `mixtures` over all ranks, with the same bits on each.
template <class M>
HeadGradients<M> causal_backward(Communicator& communicator, const std::vector<M>& mixtures,
                                 const Rows<Scalar<M>>& queries, const Rows<Scalar<M>>& keys,
                                 const Rows<Scalar<M>>& values, const Rows<Scalar<M>>& d_output,
                                 const Carry<Scalar<M>>& carry,
                                 const std::vector<Memory<Scalar<M>>>& d_final_memories = {},
                                 const Options& options = {}, const HeadInputs<Scalar<M>>& inputs = {});

// Implementation -----------------------------------------------------------------------------------------------------

template <class M>
Matrix<Scalar<M>> bidirectional(Communicator& communicator, const std::vector<M>& mixtures,
                                const Rows<Scalar<M>>& queries, const Rows<Scalar<M>>& keys,
                                const Rows<Scalar<M>>& values, const Options& options,
                                const HeadInputs<Scalar<M>>& inputs) {
  using S = Scalar<M>;
  constexpr const char* function = "mpi::bidirectional";
  const detail::HeadsOfRank<M> call{mixtures, queries, keys, values, options, inputs};
  detail::Agreement agreement(communicator, function);
  agreement.check_here([&] { call.check(function, false, nullptr); });
  call.describe(agreement);
  agreement.finish();
  return detail::guarded(communicator, function, [&] {
    std::vector<Memory<S>> memories = call.totals();
    detail::merge_over_ranks(communicator, call.shape(), memories);
    const Index query_heads = call.group() * static_cast<Index>(call.heads()), d = call.key_width(),
                e = call.value_width();
    Matrix<S> out(queries.rows(), query_heads * e);
    for (Index h = 0; h < query_heads; ++h) {
      const std::size_t key_head = static_cast<std::size_t>(h / call.group());
      gma::read_into(out.middleCols(h * e, e), mixtures[key_head], queries.middleCols(h * d, d), memories[key_head],
                     options);
    }
    return out;
  });
}

template <class M>
HeadGradients<M> bidirectional_backward(Communicator& communicator, const std::vector<M>& mixtures,
                                        const Rows<Scalar<M>>& queries, const Rows<Scalar<M>>& keys,
                                        const Rows<Scalar<M>>& values, const Rows<Scalar<M>>& d_output,
                                        const Options& options, const HeadInputs<Scalar<M>>& inputs) {
  using S = Scalar<M>;
  constexpr const char* function = "mpi::bidirectional_backward";
  const detail::HeadsOfRank<M> call{mixtures, queries, keys, values, options, inputs};
  detail::Agreement agreement(communicator, function);
  agreement.check_here([&] { call.check(function, false, &d_output); });
  call.describe(agreement);
  agreement.finish();
  return detail::guarded(communicator, function, [&] {
    const Index group = call.group(), d = call.key_width(), e = call.value_width();
    Workspace<S> workspace;
    std::vector<Memory<S>> memories = call.totals();
    detail::merge_over_ranks(communicator, call.shape(), memories);
    HeadGradients<M> gradients;
    gradients.queries.resize(queries.rows(), queries.cols());
    gradients.keys.resize(keys.rows(), keys.cols());
    gradients.values.resize(values.rows(), values.cols());
    gradients.memories = detail::zeros_of<S>(call.shape());
    gradients.mixtures.resize(call.heads());
    std::vector<Vector<S>> d_weights(call.heads());  // all heads share the weights
    detail::for_each_head<S>(call.heads(), options, inputs, workspace,
                             [&](Index h, const Options& each, const TokenInputs<S>&, Workspace<S>& scratch) {
                               const std::size_t at = static_cast<std::size_t>(h);
                               detail::set_zero_like(gradients.mixtures[at], mixtures[at]);
                               Memory<S> d_memory;
                               M d_mixture;
                               for (Index q = h * group; q < (h + 1) * group; ++q) {
                                 GradientTargets<M> targets;
                                 targets.queries = gradients.queries.middleCols(q * d, d);
                                 targets.memory = &d_memory;
                                 targets.mixture = &d_mixture;
                                 read_backward_into(targets, mixtures[at], queries.middleCols(q * d, d), memories[at],
                                                    d_output.middleCols(q * e, e), each, scratch);
                                 gradients.memories[at].slots += d_memory.slots;
                                 gradients.memories[at].mass += d_memory.mass;
                                 detail::add_parameters(gradients.mixtures[at], d_mixture);
                               }
                             });
    detail::merge_over_ranks(communicator, call.shape(), gradients.memories);
    for (Memory<S>& memory : gradients.memories) {
      memory.tokens = S(0);
      detail::clear_remainder(memory);
    }
    detail::for_each_head<S>(call.heads(), options, inputs, workspace,
                             [&](Index h, const Options& each, const TokenInputs<S>& tokens, Workspace<S>& scratch) {
                               const std::size_t at = static_cast<std::size_t>(h);
                               M d_mixture;
                               d_weights[at].resize(inputs.key_weights.size());
                               GradientTargets<M> targets;
                               targets.keys = gradients.keys.middleCols(h * d, d);
                               targets.values = gradients.values.middleCols(h * e, e);
                               if (inputs.key_weights.size() != 0) targets.key_weights = d_weights[at];
                               targets.mixture = &d_mixture;
                               write_backward_into(targets, mixtures[at], keys.middleCols(h * d, d),
                                                   values.middleCols(h * e, e), Memory<S>(), gradients.memories[at],
                                                   each, tokens, scratch);
                               detail::add_parameters(gradients.mixtures[at], d_mixture);
                             });
    gradients.key_weights = Vector<S>::Zero(inputs.key_weights.size());
    for (const Vector<S>& part : d_weights) gradients.key_weights += part;
    detail::sum_mixtures(communicator, gradients.mixtures);
    return gradients;
  });
}

template <class M>
Matrix<Scalar<M>> causal(Communicator& communicator, const std::vector<M>& mixtures, const Rows<Scalar<M>>& queries,
                         const Rows<Scalar<M>>& keys, const Rows<Scalar<M>>& values, Carry<Scalar<M>>& carry,
                         const Options& options, const HeadInputs<Scalar<M>>& inputs) {
  using S = Scalar<M>;
  constexpr const char* function = "mpi::causal";
  const detail::HeadsOfRank<M> call{mixtures, queries, keys, values, options, inputs};
  detail::Agreement agreement(communicator, function);
  agreement.check_here([&] {
    call.check(function, true, nullptr);
    if (communicator.rank() == 0) {
      detail::check_head_memories(function, "carry.before", mixtures, carry.before, call.value_width());
    }
  });
  call.describe(agreement);
  agreement.finish();
  return detail::guarded(communicator, function, [&] {
    std::vector<Memory<S>> totals;
    if (!communicator.is_last()) totals = call.totals();
    carry.before = detail::memories_before(communicator, call.shape(), std::move(totals), carry.before);
    carry.after = carry.before;
    for (Memory<S>& memory : carry.after) memory.log_forgetting = S(0);
    Matrix<S> out = gma::causal(mixtures, queries, keys, values, carry.after, options, inputs);
    carry.log_forgetting.clear();
    for (std::size_t h = 0; h < call.heads(); ++h) {
      carry.log_forgetting.push_back(carry.after[h].log_forgetting);
      carry.after[h].log_forgetting += carry.before[h].log_forgetting;
    }
    return out;
  });
}

template <class M>
HeadGradients<M> causal_backward(Communicator& communicator, const std::vector<M>& mixtures,
                                 const Rows<Scalar<M>>& queries, const Rows<Scalar<M>>& keys,
                                 const Rows<Scalar<M>>& values, const Rows<Scalar<M>>& d_output,
                                 const Carry<Scalar<M>>& carry, const std::vector<Memory<Scalar<M>>>& d_final_memories,
                                 const Options& options, const HeadInputs<Scalar<M>>& inputs) {
  using S = Scalar<M>;
  constexpr const char* function = "mpi::causal_backward";
  const detail::HeadsOfRank<M> call{mixtures, queries, keys, values, options, inputs};
  detail::Agreement agreement(communicator, function);
  agreement.check_here([&] {
    call.check(function, true, &d_output);
    detail::check_size(function, "carry.before", "entries", static_cast<Index>(carry.before.size()),
                       static_cast<Index>(call.heads()), "as causal() left it");
    detail::check_size(function, "carry.log_forgetting", "entries", static_cast<Index>(carry.log_forgetting.size()),
                       static_cast<Index>(call.heads()), "as causal() left it");
    detail::check_head_memories(function, "carry.before", mixtures, carry.before, call.value_width());
    if (communicator.is_last()) {
      detail::check_head_memories(function, "d_final_memories", mixtures, d_final_memories, call.value_width());
    }
  });
  call.describe(agreement);
  agreement.finish();
  return detail::guarded(communicator, function, [&] {
    const std::vector<Memory<S>> none;
    HeadGradients<M> gradients =
        gma::causal_backward(mixtures, queries, keys, values, d_output, carry.before,
                             communicator.is_last() ? d_final_memories : none, options, inputs);
    const std::vector<Memory<S>> d_after =
        detail::gradients_after(communicator, call.shape(), gradients.memories, carry.log_forgetting);
    if (!d_after.empty()) call.add_write_backward(carry.before, d_after, gradients);
    detail::sum_mixtures(communicator, gradients.mixtures);
    return gradients;
  });
}

}  // namespace gma::mpi
