// SPDX-License-Identifier: MIT
// What the verbs of mpi/attention.hpp and mpi/layer.hpp share: one rank's part of a call with its checks, and the
// memories and their gradients at the ends of every rank's segment. The equations are in mpi/attention.hpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "gma/heads/heads_write.hpp"
#include "gma/mpi/agreement.hpp"
#include "gma/mpi/exchange.hpp"

namespace gma::mpi {

/// Rows of this rank, the heads side by side: a matrix, or a block or map of one; expressions are evaluated.
template <class S>
using Rows = Eigen::Ref<const Matrix<S>, 0, Eigen::OuterStride<>>;

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

}  // namespace gma::mpi
