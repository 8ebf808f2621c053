// SPDX-License-Identifier: MIT
//
// One training step on all cores: a gradient per sequence of a minibatch, their sum, clipping, AdamW.
//
// The B sequences of a step are dealt to a fixed number of shards. A shard adds its sequences in order, shards are
// added in order, and threads take whole shards. So the numbers depend on the number of shards and not on the number of
// threads.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "optimizer.hpp"
#include "threads.hpp"

namespace transformer {

template <class S>
class Optimization {
 public:
  Optimization(const Layout& layout, Vector<S> initial_parameters, const TrainConfig& config, ThreadPool& pool)
      : parameters(std::move(initial_parameters)),
        optimizer(layout, config),
        layout_(layout),
        config_(config),
        pool_(pool),
        squared_norms_(layout.entries().size()) {
    gradients_.assign(std::size_t((std::min)(config.shards, config.batch)), Vector<S>::Zero(layout.size()));
  }

  // gradient(sequence, worker, gradients) adds the gradient of one sequence, 0 <= sequence < B, and returns its loss.
  // The sum of the losses, before the step. `progress` is the elapsed part of the budget.
  template <class SequenceGradient>
  double step(double progress, const SequenceGradient& gradient) {
    const Index shards = Index(gradients_.size());
    std::vector<double> losses(std::size_t(config_.batch));
    pool_.parallel_for(shards, [&](Index shard, Index worker) {
      Vector<S>& sum = gradients_[std::size_t(shard)];
      sum.setZero();
      for (Index sequence = shard; sequence < config_.batch; sequence += shards)
        losses[std::size_t(sequence)] = gradient(sequence, worker, sum);
    });
    add_shards();
    double squared_norm = 0, loss = 0;
    for (const double s : squared_norms_) squared_norm += s;
    for (const double l : losses) loss += l;
    const double scale = clip_factor(std::sqrt(squared_norm), config_.clip);
    const double rate = schedule(config_, steps, progress);
    pool_.parallel_for(Index(squared_norms_.size()), [&](Index entry, Index) {
      optimizer.update(layout_, std::size_t(entry), parameters, gradients_[0], scale, rate, steps);
    });
    ++steps;
    return loss;
  }

  TrainingState<S> state() const { return {steps, parameters, optimizer.first_moment, optimizer.second_moment}; }
  void restore(TrainingState<S> state) {
    steps = state.steps;
    parameters = std::move(state.parameters);
    optimizer.first_moment = std::move(state.first_moment);
    optimizer.second_moment = std::move(state.second_moment);
  }

  std::int64_t steps = 0;  // done so far
  Vector<S> parameters;
  AdamW<S> optimizer;

 private:
  // The sum of all shards into the first, tensor by tensor, and the squared norm of each tensor's gradient.
  void add_shards() {
    pool_.parallel_for(Index(squared_norms_.size()), [&](Index entry, Index) {
      const Tensor& tensor = layout_.entries()[std::size_t(entry)].tensor;
      auto sum = gradients_[0].segment(tensor.offset, tensor.size());
      for (std::size_t shard = 1; shard < gradients_.size(); ++shard)
        sum += gradients_[shard].segment(tensor.offset, tensor.size());
      squared_norms_[std::size_t(entry)] = double(sum.squaredNorm());
    });
  }

  const Layout& layout_;
  TrainConfig config_;
  ThreadPool& pool_;
  std::vector<Vector<S>> gradients_;  // one per shard
  std::vector<double> squared_norms_;
};

}  // namespace transformer
