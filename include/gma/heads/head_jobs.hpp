// SPDX-License-Identifier: MIT
// A multi-head call for a caller with threads of his own, such as the custom operator of an inference engine: the call
// is checked and compiled once, and then job i of n may run on any thread.
#pragma once

#include <vector>

#include "gma/heads/heads.hpp"

namespace gma {

/// A forward call of many heads as independent jobs, one per sequence and key head. Results have the same bits as those
/// of causal_into() and bidirectional_into(). The tensors, mixtures, inputs and memories that it was made from must
/// outlive it, and stay where they are.
template <class M>
class HeadJobs {
 public:
  using S = Scalar<M>;

  /// Checks, compiles and sets outputs without a sequence to zero. `memories` as in causal(); null: from zeros, and
  /// nothing is left. Throws std::invalid_argument as causal() does, for outputs that may overlap an input, and for
  /// operands that are expressions, since those would be gone when the jobs run.
  static HeadJobs causal(const HeadsOut<S>& out, const std::vector<M>& mixtures, const HeadsIn<S>& queries,
                         const HeadsIn<S>& keys, const HeadsIn<S>& values, std::vector<Memory<S>>* memories,
                         const Options& options = {}, const HeadInputs<S>& inputs = {});
  /// As bidirectional(): the queries of a sequence read all of its keys. Throws as above.
  static HeadJobs bidirectional(const HeadsOut<S>& out, const std::vector<M>& mixtures, const HeadsIn<S>& queries,
                                const HeadsIn<S>& keys, const HeadsIn<S>& values, const Options& options = {},
                                const HeadInputs<S>& inputs = {});

  /// The number of jobs: sequences times key heads.
  Index jobs() const { return call_.jobs(); }

  /// Job i of jobs(), at most once. Jobs may run at the same time, each with a workspace that no other uses meanwhile.
  /// An exception leaves the memory of this job unchanged.
  void run_job(Index i, Workspace<S>& workspace) const;

 private:
  HeadJobs(const char* function, bool is_causal, const HeadsOut<S>& out, const std::vector<M>& mixtures,
           const HeadsIn<S>& queries, const HeadsIn<S>& keys, const HeadsIn<S>& values,
           std::vector<Memory<S>>* memories, const Options& options, const HeadInputs<S>& inputs);

  bool is_causal_;
  Options options_;
  Workspace<S> workspace_;  // holds the compiled mixtures and the jobs' token inputs
  detail::HeadCall call_;
  detail::HeadOperands<S, detail::HeadsSink<S>> operands_;
  const std::vector<detail::FeatureMapOf<M>>* compiled_ = nullptr;
  const std::vector<TokenInputs<S>>* tokens_ = nullptr;
  std::vector<Memory<S>>* memories_ = nullptr;
};

// Implementation -----------------------------------------------------------------------------------------------------

template <class M>
HeadJobs<M>::HeadJobs(const char* function, bool is_causal, const HeadsOut<S>& out, const std::vector<M>& mixtures,
                      const HeadsIn<S>& queries, const HeadsIn<S>& keys, const HeadsIn<S>& values,
                      std::vector<Memory<S>>* memories, const Options& options, const HeadInputs<S>& inputs)
    : is_causal_(is_causal),
      options_(options),
      operands_(function, mixtures, queries, keys, values, "out", out),
      memories_(memories) {
  const auto check_in_memory = [&](const char* name, const HeadsIn<S>& operand) {
    if (operand.is_evaluated()) {
      detail::invalid_argument(function, name, " is an expression, expected a matrix or tensor that outlives the jobs");
    }
  };
  check_in_memory("queries", queries);
  check_in_memory("keys", keys);
  check_in_memory("values", values);
  call_.function = function;
  detail::open_heads(call_, mixtures, operands_, "out", is_causal, options, inputs);
  if (!detail::is_apart(operands_)) {
    detail::invalid_argument(function, "out may overlap an input, expected memory apart from all inputs");
  }
  options_.executor = nullptr;
  compiled_ = &detail::compiled_heads(function, mixtures, workspace_);
  if (memories_ != nullptr) {
    const Index width = operands_.values.layout.width;
    detail::check_memories(function, "memories", *memories_, call_, *compiled_, width);
    memories_->resize(static_cast<std::size_t>(jobs()));
    for (std::size_t i = 0; i < memories_->size(); ++i) {
      detail::size_if_empty((*memories_)[i], (*compiled_)[i % compiled_->size()].components(), width);
    }
  }
  tokens_ = &detail::gather_tokens(call_, inputs, workspace_);
  if (call_.queries.has_padding) detail::set_zero(operands_.like_queries, workspace_);
}

template <class M>
HeadJobs<M> HeadJobs<M>::causal(const HeadsOut<S>& out, const std::vector<M>& mixtures, const HeadsIn<S>& queries,
                                const HeadsIn<S>& keys, const HeadsIn<S>& values, std::vector<Memory<S>>* memories,
                                const Options& options, const HeadInputs<S>& inputs) {
  return HeadJobs("HeadJobs::causal", true, out, mixtures, queries, keys, values, memories, options, inputs);
}

template <class M>
HeadJobs<M> HeadJobs<M>::bidirectional(const HeadsOut<S>& out, const std::vector<M>& mixtures,
                                       const HeadsIn<S>& queries, const HeadsIn<S>& keys, const HeadsIn<S>& values,
                                       const Options& options, const HeadInputs<S>& inputs) {
  return HeadJobs("HeadJobs::bidirectional", false, out, mixtures, queries, keys, values, nullptr, options, inputs);
}

template <class M>
void HeadJobs<M>::run_job(Index i, Workspace<S>& workspace) const {
  if (i < 0 || i >= jobs()) {
    detail::invalid_argument("HeadJobs::run_job", "i is ", i, ", expected 0 to ", jobs() - 1);
  }
  const std::size_t at = static_cast<std::size_t>(i);
  const detail::ForwardJob<S> job(call_, operands_, i, workspace);
  const detail::FeatureMapOf<M>& mixture = (*compiled_)[static_cast<std::size_t>(job.head)];
  if (is_causal_) {
    job.causal(mixture, memories_ == nullptr ? nullptr : &(*memories_)[at], options_, (*tokens_)[at]);
  } else {
    job.bidirectional(mixture, options_, (*tokens_)[at]);
  }
}

}  // namespace gma
