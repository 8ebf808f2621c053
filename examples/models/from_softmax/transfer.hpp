// SPDX-License-Identifier: MIT
//
// Attention transfer: every new mixer learns to do what the old one does.
//
// The old model reads text. In every block, the new mixer sees the same input x as the old one and its loss is
//
//   |new(x) - old(x)|^2 / |old(x)|^2        (norms over the tokens and channels of one sequence)
//
// so the blocks learn independently of each other, and only mixers change. (M. Zhang et al., The Hedgehog & the
// Porcupine, 2024, and LoLCATs, 2024, learn feature maps of linear attention in this way.)
#pragma once

#include <memory>
#include <vector>

#include "language_model/model.hpp"
#include "language_model/text.hpp"
#include "transformer/optimization.hpp"

namespace from_softmax {

using namespace language_model;

class Transfer {
 public:
  // Everything must outlive this. `parameters` are those of the old model.
  Transfer(const Model<float>& old_model, const Vector<float>& old_parameters, Model<float>& new_model,
           Vector<float> new_parameters, const Text& text, TrainConfig config, ThreadPool& pool)
      : old_(old_model),
        old_parameters_(old_parameters),
        new_(new_model),
        text_(text),
        config_(without_decay(config)),
        optimization_(new_model.layout(), std::move(new_parameters), config_, pool) {
    for (Index i = 0; i < pool.size(); ++i) scratch_.push_back(Scratch(old_, new_));
    new_.prepare(parameters());
  }

  // Mean loss of the sequences and blocks before the step. config.steps are the whole budget.
  double step() {
    const double progress = double(optimization_.steps) / double(config_.steps);
    const double loss = optimization_.step(progress, [&](Index sequence, Index worker, Vector<float>& gradients) {
      return gradient(sequence, scratch_[std::size_t(worker)], gradients);
    });
    new_.prepare(parameters());
    return loss / double(config_.batch * old_.blocks().size());
  }

  const Vector<float>& parameters() const { return optimization_.parameters; }

 private:
  struct Scratch {
    Scratch(const Model<float>& old_model, const Model<float>& new_model) : old_pass(old_model.make_cache()) {
      for (Index b = 0; b < old_model.blocks().size(); ++b) {
        old_mixers.push_back(old_model.blocks().mixer(b).make_cache());
        new_mixers.push_back(new_model.blocks().mixer(b).make_cache());
      }
    }
    Model<float>::Cache old_pass;
    std::vector<std::unique_ptr<transformer::MixerCache<float>>> old_mixers, new_mixers;
    Matrix<float> expected, y, dx;
  };

  // A tensor without a gradient, as all outside of mixers, then stays as it is.
  static TrainConfig without_decay(TrainConfig config) {
    config.weight_decay = 0;
    return config;
  }

  double gradient(Index sequence, Scratch& scratch, Vector<float>& gradients) const {
    Random random(config_.seed, 1 + std::uint64_t(optimization_.steps * config_.batch + sequence));
    const Token* tokens = text_.data() + Index(random.below(std::uint64_t(text_.split - config_.context)));
    old_.forward(old_parameters_, tokens, config_.context, nullptr, scratch.old_pass);
    double loss = 0;
    for (Index b = 0; b < old_.blocks().size(); ++b) {
      const Matrix<float>& x = transformer::Blocks<float>::mixer_input(scratch.old_pass.blocks, b);
      auto& old_cache = *scratch.old_mixers[std::size_t(b)];
      auto& new_cache = *scratch.new_mixers[std::size_t(b)];
      old_.blocks().mixer(b).forward(old_parameters_, x, nullptr, old_cache, scratch.expected);
      new_.blocks().mixer(b).forward(parameters(), x, nullptr, new_cache, scratch.y);
      const float size = scratch.expected.squaredNorm() + 1e-20f;
      scratch.y -= scratch.expected;
      loss += double(scratch.y.squaredNorm() / size);
      scratch.y *= 2 / (size * float(config_.batch));
      new_.blocks().mixer(b).backward(parameters(), x, scratch.y, new_cache, gradients, scratch.dx);
    }
    return loss;
  }

  const Model<float>& old_;
  const Vector<float>& old_parameters_;
  Model<float>& new_;
  const Text& text_;
  TrainConfig config_;
  Optimization<float> optimization_;
  std::vector<Scratch> scratch_;  // one per thread
};

}  // namespace from_softmax
