// SPDX-License-Identifier: MIT
//
// One training step of the language model. The position of a sequence in the text is a function of (seed, step,
// sequence): to resume, only the step is needed.
#pragma once

#include <vector>

#include "model.hpp"
#include "text.hpp"
#include "transformer/optimization.hpp"

namespace language_model {

template <class S>
class Trainer {
 public:
  Trainer(Model<S>& model, const Text& text, const TrainConfig& config, ThreadPool& pool)
      : optimization(model.layout(), model.initial_parameters(config.seed), config, pool),
        model_(model),
        text_(text),
        config_(config) {
    for (Index i = 0; i < pool.size(); ++i) caches_.push_back(model.make_cache());
    model.prepare(parameters());
  }

  // Mean loss of the minibatch in nats, before the step. `progress` is the elapsed part of the budget.
  double step(double progress) {
    const S scale = S(1 / double(tokens_per_step()));
    const double nats = optimization.step(progress, [&](Index sequence, Index worker, Vector<S>& gradients) {
      auto& cache = caches_[std::size_t(worker)];
      const Token* tokens = text_.data() + window(sequence);
      model_.forward(parameters(), tokens, config_.context, nullptr, cache);
      const double loss = model_.losses(tokens + 1, cache);
      model_.backward(parameters(), tokens, tokens + 1, scale, cache, gradients);
      return loss;
    });
    model_.prepare(parameters());
    return nats / double(tokens_per_step());
  }

  const Vector<S>& parameters() const { return optimization.parameters; }
  std::int64_t steps() const { return optimization.steps; }
  std::int64_t tokens() const { return steps() * tokens_per_step(); }
  std::int64_t tokens_per_step() const { return config_.batch * config_.context; }

  Optimization<S> optimization;

 private:
  // First token of a sequence: any position in the training part that leaves room for the last token's target.
  Index window(Index sequence) const {
    Random random(config_.seed, 1000 + std::uint64_t(steps()) * std::uint64_t(config_.batch) + std::uint64_t(sequence));
    return Index(random.below(std::uint64_t(text_.split - config_.context)));
  }

  Model<S>& model_;
  const Text& text_;
  TrainConfig config_;
  std::vector<typename Model<S>::Cache> caches_;  // one per thread
};

}  // namespace language_model
