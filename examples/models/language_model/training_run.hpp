// SPDX-License-Identifier: MIT
//
// A whole training run: the loop, its progress line, the validation curve, interruption, checkpoints, the log.
//
// The points of the curve are over every 64th window of the held-out text, or over 32 windows of its validation half.
#pragma once

#include <string>
#include <vector>

#include "checkpoint.hpp"
#include "evaluate.hpp"
#include "trainer.hpp"
#include "transformer/interruption.hpp"
#include "transformer/progress.hpp"

namespace language_model {

class TrainingRun {
 public:
  TrainingRun(const ModelConfig& model, const TrainConfig& train, const Text& text, ThreadPool& pool,
              RunOptions options);

  // Continues from a checkpoint of the same model, configuration and text.
  void restore(const Checkpoint& checkpoint);

  // Trains until the budget is used up, saves, evaluates over all of the held-out text. If the test is apart, it is
  // left to the caller, with evaluator().
  RunResult train();

  bool is_finished() const { return elapsed_fraction() >= 1; }  // the budget is used up
  const Model<float>& model() const { return model_; }
  Evaluator<float>& evaluator() { return evaluator_; }  // of parameters()
  const Vector<float>& parameters() const { return trainer_.parameters(); }
  const std::vector<double>& losses() const { return losses_; }  // of every step of this run, bits per byte

 private:
  double elapsed_fraction() const;
  std::int64_t bytes() const;  // tokens so far, as bytes of text
  std::string name() const { return name_of(model_.config().mixer); }
  std::string line() const;
  Part validation_part() const { return options_.is_test_apart ? text_.validation() : text_.whole_held_out(); }
  void add_point();
  RunResult finish();
  void save() const;

  Model<float> model_;
  TrainConfig config_;
  const Text& text_;
  RunOptions options_;
  Trainer<float> trainer_;
  Evaluator<float> evaluator_;
  Progress progress_;
  double seconds_ = 0, smoothed_ = 0;
  std::vector<double> losses_;
  std::vector<CurvePoint> curve_;
};

}  // namespace language_model
