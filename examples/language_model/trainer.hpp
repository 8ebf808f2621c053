// SPDX-License-Identifier: MIT
//
// One training step on all cores: forward and backward over a minibatch, sum of gradients, clipping, AdamW.
//
// The B sequences of a step are dealt to a fixed number of shards; a shard adds up its sequences in order, shards are
// added in order, and threads take whole shards. So the numbers depend on the number of shards, never on that of
// threads. Where a sequence begins in the text is a function of (seed, step, sequence): to resume, the step is all one
// must know.
#pragma once

#include <algorithm>
#include <vector>

#include "model.hpp"
#include "optimizer.hpp"
#include "text.hpp"
#include "threads.hpp"

namespace language_model {

template <class S>
class Trainer {
 public:
  Trainer(Model<S>& model, const Text& text, const TrainConfig& config, ThreadPool& pool)
      : parameters(model.initial_parameters(config.seed)),
        optimizer(model.layout(), config),
        model_(model),
        text_(text),
        config_(config),
        pool_(pool),
        squared_norms_(model.layout().entries().size()) {
    const Index shards = (std::min)(config.shards, config.batch);
    gradients_.assign(std::size_t(shards), Vector<S>::Zero(model.layout().size()));
    for (Index i = 0; i < pool.size(); ++i) caches_.push_back(model.make_cache());
    model.prepare(parameters);
  }

  // Mean loss of the minibatch in nats, before the step. `progress` is the elapsed part of the budget.
  double step(double progress) {
    const double loss = accumulate();
    add_shards();
    double squared_norm = 0;
    for (const double s : squared_norms_) squared_norm += s;
    const double scale = clip_factor(std::sqrt(squared_norm), config_.clip);
    const double rate = schedule(config_, steps, progress);
    pool_.parallel_for(Index(squared_norms_.size()), [&](Index entry, Index) {
      optimizer.update(model_.layout(), std::size_t(entry), parameters, gradients_[0], scale, rate, steps);
    });
    model_.prepare(parameters);
    ++steps;
    return loss;
  }

  std::int64_t bytes() const { return steps * bytes_per_step(); }
  std::int64_t bytes_per_step() const { return config_.batch * config_.context; }

  std::int64_t steps = 0;  // done so far
  Vector<S> parameters;
  AdamW<S> optimizer;

 private:
  double accumulate() {
    const Index shards = Index(gradients_.size());
    std::vector<double> nats(std::size_t(config_.batch));
    pool_.parallel_for(shards, [&](Index shard, Index worker) {
      Vector<S>& gradients = gradients_[std::size_t(shard)];
      auto& cache = caches_[std::size_t(worker)];
      gradients.setZero();
      for (Index sequence = shard; sequence < config_.batch; sequence += shards) {
        const std::uint8_t* bytes = text_.data() + window(sequence);
        model_.forward(parameters, bytes, config_.context, nullptr, cache);
        nats[std::size_t(sequence)] = model_.losses(bytes + 1, cache);
        model_.backward(parameters, bytes, bytes + 1, S(1 / double(bytes_per_step())), cache, gradients);
      }
    });
    double total = 0;
    for (const double n : nats) total += n;
    return total / double(bytes_per_step());
  }

  // The sum of all shards into the first, tensor by tensor, and the squared norm of each tensor's gradient.
  void add_shards() {
    pool_.parallel_for(Index(squared_norms_.size()), [&](Index entry, Index) {
      const Tensor& tensor = model_.layout().entries()[std::size_t(entry)].tensor;
      auto sum = gradients_[0].segment(tensor.offset, tensor.size());
      for (std::size_t shard = 1; shard < gradients_.size(); ++shard)
        sum += gradients_[shard].segment(tensor.offset, tensor.size());
      squared_norms_[std::size_t(entry)] = double(sum.squaredNorm());
    });
  }

  // First byte of a sequence: anywhere in the training part that leaves room for the last byte's target.
  Index window(Index sequence) const {
    Random random(config_.seed, 1000 + std::uint64_t(steps) * std::uint64_t(config_.batch) + std::uint64_t(sequence));
    return Index(random.below(std::uint64_t(text_.split - config_.context)));
  }

  Model<S>& model_;
  const Text& text_;
  TrainConfig config_;
  ThreadPool& pool_;
  std::vector<Vector<S>> gradients_;              // one per shard
  std::vector<typename Model<S>::Cache> caches_;  // one per thread
  std::vector<double> squared_norms_;
};

}  // namespace language_model
