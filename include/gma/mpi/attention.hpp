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

#include "gma/heads/heads_write.hpp"
#include "gma/mpi/agreement.hpp"
#include "gma/mpi/exchange.hpp"

namespace gma::mpi {

/// Rows of this rank, the heads side by side: a matrix, or a block or map of one; expressions are evaluated.
template <class S>
using Rows = Eigen::Ref<const Matrix<S>, 0, Eigen::OuterStride<>>;

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

namespace detail {

using gma::detail::add_parameters, gma::detail::check_memory, gma::detail::check_size, gma::detail::for_each_head,
    gma::detail::HeadCall, gma::detail::HeadOperands, gma::detail::HeadsView, gma::detail::open_heads,
    gma::detail::query_heads_of, gma::detail::set_zero_like;

/// One rank's part of a call.
template <class M>
struct HeadsOfRank {
  using S = Scalar<M>;

  const std::vector<M>& mixtures;
  const Rows<S>&queries, &keys, &values;
  const Options& options;
  const HeadInputs<S>& inputs;

  std::size_t heads() const { return mixtures.size(); }
  Index key_width() const { return keys.cols() / static_cast<Index>(heads()); }
  Index value_width() const { return values.cols() / static_cast<Index>(heads()); }
  Index group() const { return queries.cols() / keys.cols(); }
  MemoryShape shape() const {
    MemoryShape result{{}, value_width()};
    for (const M& mixture : mixtures) result.components.push_back(mixture.components());
    return result;
  }
  /// Throws what the verb of one process would throw for this rank's rows. `d_output`: null in a forward pass.
  void check(const char* function, bool is_causal, const Rows<S>* d_output) const {
    if (mixtures.empty()) invalid_argument(function, "mixtures is empty, expected one per key head");
    const Sequences& sequences = inputs.sequences;
    if (!sequences.offsets.empty() || !sequences.lengths.empty() || !sequences.keep.empty() || inputs.key_sequences) {
      invalid_argument(function, "inputs has sequences, expected none: all ranks together hold one sequence");
    }
    if (inputs.slot_log_forgetting.size() != 0) {
      invalid_argument(function, "inputs.slot_log_forgetting is given, expected none where a sequence lies over ranks");
    }
    if (!is_causal && inputs.log_forgetting.size() != 0) {
      invalid_argument(function, "inputs.log_forgetting is given, expected none where every token reads all others");
    }
    const Index query_heads = query_heads_of(function, mixtures, queries.cols());
    const HeadTensor<const S> output =
        batch_tokens_heads<const S>(queries.data(), 1, queries.rows(), query_heads, value_width());  // is not read
    const HeadOperands<S, HeadsView<S>> operands(function, mixtures, HeadsView<S>(queries), HeadsView<S>(keys),
                                                 HeadsView<S>(values), "d_output",
                                                 d_output == nullptr ? HeadsView<S>(output) : HeadsView<S>(*d_output));
    HeadCall call;
    call.function = function;
    open_heads(call, mixtures, operands, "d_output", is_causal, options, inputs);
    Workspace<S> workspace;
    for (const M& mixture : mixtures) gma::detail::compiled(function, mixture, workspace);
  }

  /// Adds all that ranks must have in common.
  void describe(Agreement& agreement) const {
    Digest digest;
    Index components = 0;
    for (const M& mixture : mixtures) {
      components += mixture.components();
      for_each_block(mixture, [&](const S* numbers, Index count) { digest.add(numbers, count); });
    }
    agreement.add("the scalar's size", static_cast<std::int64_t>(sizeof(S)));
    agreement.add("mixtures.size()", static_cast<std::int64_t>(heads()));
    agreement.add("the number of components of all mixtures", components);
    agreement.add("queries.cols()", queries.cols());
    agreement.add("keys.cols()", keys.cols());
    agreement.add("values.cols()", values.cols());
    agreement.add("options.normalization", static_cast<std::int64_t>(options.normalization));
    agreement.add("options.tile", options.tile);
    agreement.add("options.checkpoint_interval", options.checkpoint_interval);
    agreement.add("options.segment", options.segment);
    agreement.add("the parameters of the mixtures", digest);
    // A rank without tokens has neither.
    agreement.add_if(keys.rows() > 0, "the presence of inputs.key_weights", inputs.key_weights.size() > 0 ? 1 : 0);
    agreement.add_if(keys.rows() > 0, "the presence of inputs.log_forgetting",
                     inputs.log_forgetting.size() > 0 ? 1 : 0);
  }

  /// What this rank's keys write to zeros.
  std::vector<Memory<S>> totals() const {
    std::vector<Memory<S>> memories;
    Workspace<S> workspace;
    gma::detail::write_heads(mixtures, keys, values, options, inputs, memories, workspace);
    return memories;
  }
  void add_write_backward(const std::vector<Memory<S>>& before, const std::vector<Memory<S>>& d_after,
                          HeadGradients<M>& gradients) const {
    Workspace<S> workspace;
    gma::detail::add_write_heads_backward(mixtures, keys, values, before, d_after, options, inputs, gradients,
                                          workspace);
  }
};

/// Sums the gradients of the mixtures over ranks.
template <class M>
void sum_mixtures(Communicator& communicator, std::vector<M>& mixtures) {
  using S = Scalar<M>;
  std::vector<S> numbers;
  for (M& mixture : mixtures) {
    for_each_block(mixture, [&](const S* from, Index count) { numbers.insert(numbers.end(), from, from + count); });
  }
  add_numbers(communicator, numbers);
  const S* from = numbers.data();
  for (M& mixture : mixtures) {
    for_each_block(mixture, [&](S* to, Index count) {
      std::copy(from, from + count, to);
      from += count;
    });
  }
}

template <class S>
Carried<S> carried(std::vector<Memory<S>> memories) {
  const std::size_t heads = memories.size();
  return {std::move(memories), std::vector<S>(heads, S(0))};
}

/// The memories before every rank's segment. `initial` is read on the first rank only.
template <class S>
std::vector<Memory<S>> memories_before(Communicator& communicator, const MemoryShape& shape,
                                       std::vector<Memory<S>> totals, const std::vector<Memory<S>>& initial) {
  Carried<S> before;
  if (communicator.rank() == 0) {
    std::vector<Memory<S>> first = initial.empty() ? zeros_of<S>(shape) : initial;
    for (std::size_t h = 0; h < first.size(); ++h) {
      if (first[h].empty()) first[h] = empty_memory<S>(shape.components[h], shape.width);
    }
    before = carried(std::move(first));
  }
  scan(communicator, true, shape, carried(std::move(totals)), before);
  return std::move(before.memories);
}

/// The gradients of the memories after every rank's segment, none on the last rank. `d_before`: of those before it,
/// through what the rank has itself, on the last rank also through the memories after it, with log_forgetting as the
/// gradient of that. `log_forgetting`: of the segment.
template <class S>
std::vector<Memory<S>> gradients_after(Communicator& communicator, const MemoryShape& shape,
                                       const std::vector<Memory<S>>& d_before, const std::vector<S>& log_forgetting) {
  Carried<S> sum, after;
  if (communicator.rank() > 0) {
    sum = carried(d_before);
    for (std::size_t h = 0; h < d_before.size(); ++h) {
      sum.d_log_forgetting[h] = d_before[h].log_forgetting;
      sum.memories[h].log_forgetting = log_forgetting[h];
    }
  }
  scan(communicator, false, shape, std::move(sum), after);
  for (std::size_t h = 0; h < after.memories.size(); ++h) {
    after.memories[h].log_forgetting = after.d_log_forgetting[h];
    clear_remainder(after.memories[h]);
  }
  return std::move(after.memories);
}

template <class Map, class S>
void check_head_memories(const char* function, const char* argument, const std::vector<Map>& mixtures,
                         const std::vector<Memory<S>>& memories, Index width) {
  if (memories.empty()) return;
  check_size(function, argument, "entries", static_cast<Index>(memories.size()), static_cast<Index>(mixtures.size()),
             "one per key head");
  for (std::size_t h = 0; h < memories.size(); ++h) {
    if (!memories[h].empty()) check_memory(function, argument, memories[h], mixtures[h].components(), width);
  }
}

}  // namespace detail

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
