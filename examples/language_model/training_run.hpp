// SPDX-License-Identifier: MIT
//
// A whole training run: the loop, its progress line, the validation curve, interruption, checkpoints, the log.
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
              RunOptions options)
      : model_(model),
        config_(train),
        text_(text),
        options_(std::move(options)),
        trainer_(model_, text, train, pool),
        evaluator_(model_, text, train.context, pool),
        progress_(options_.is_quiet) {
    validate(train);
  }

  void restore(const Checkpoint& c) {
    if (c.text_size != text_.size())
      throw std::runtime_error("the checkpoint was trained on " + c.text_name + " of " + std::to_string(c.text_size) +
                               " tokens, this text has " + std::to_string(text_.size()));
    trainer_.optimization.restore(c.state);
    seconds_ = c.seconds;
    curve_ = c.curve;
    model_.prepare(trainer_.parameters());
  }

  // Trains until the budget is used up, evaluates over all of the held-out text, saves.
  RunResult train() {
    const InterruptionGuard guard;
    const std::int64_t first = trainer_.steps();
    double next_point = double(curve_.size()) / options_.curve_points;
    while (elapsed_fraction() < 1 && !is_interrupted()) {
      if (options_.stop_after > 0 && trainer_.steps() - first >= options_.stop_after) break;
      const Stopwatch watch;
      const double loss = bits_per_nat * trainer_.step(elapsed_fraction()) / text_.bytes_per_token();
      seconds_ += watch.seconds();
      losses_.push_back(loss);
      smoothed_ = trainer_.steps() - first == 1 ? loss : 0.95 * smoothed_ + 0.05 * loss;
      if (progress_.is_due()) progress_.show(line());
      if (elapsed_fraction() >= next_point) {
        add_point();
        next_point += 1.0 / options_.curve_points;
      }
    }
    if (!options_.checkpoint.empty()) save();
    return finish();
  }

  // See Evaluator::by_position.
  std::vector<PositionLoss> loss_by_position(Index length, Index most_windows) {
    return evaluator_.by_position(trainer_.parameters(), length, most_windows);
  }

  bool is_finished() const { return elapsed_fraction() >= 1; }  // the budget is used up
  const Model<float>& model() const { return model_; }
  const Vector<float>& parameters() const { return trainer_.parameters(); }
  const std::vector<double>& losses() const { return losses_; }  // of every step of this run, bits per byte

 private:
  double elapsed_fraction() const {
    return config_.steps > 0 ? double(trainer_.steps()) / double(config_.steps) : seconds_ / config_.seconds;
  }

  std::string line() const {
    const double done = elapsed_fraction(), rate = double(bytes()) / seconds_;
    return format("%-9s step %5lld  %5.2f MB  %.3f bits/byte  %6.0f bytes/s  %s left", name().c_str(),
                  static_cast<long long>(trainer_.steps()), double(bytes()) / 1e6, smoothed_, rate,
                  minutes(seconds_ * (1 - done) / done).c_str());
  }

  // Tokens so far, as bytes of text.
  std::int64_t bytes() const { return std::llround(double(trainer_.tokens()) * text_.bytes_per_token()); }

  std::string name() const { return name_of(model_.config().mixer); }

  void add_point() {
    CurvePoint point;
    point.steps = trainer_.steps();
    point.bytes = bytes();
    point.seconds = seconds_;
    point.training = smoothed_;
    point.validation = evaluator_.windowed(trainer_.parameters(), 64);
    curve_.push_back(point);
  }

  RunResult finish() {
    RunResult result;
    result.model = model_.config();
    result.train = config_;
    result.parameters = model_.layout().parameters();
    result.steps = trainer_.steps();
    result.tokens = trainer_.tokens();
    result.bytes = bytes();
    result.seconds = seconds_;
    result.curve = curve_;
    if (is_interrupted() && !options_.is_evaluated_early) return result;
    progress_.show(name() + " reads the held-out text ...");
    result.windowed = evaluator_.windowed(trainer_.parameters());
    if (model_.is_constant_memory()) result.streamed = evaluator_.streamed(trainer_.parameters());
    progress_.finish(format("%-9s %lld steps, %.2f MB in %s at %.0f bytes/s: %.3f bits/byte held out", name().c_str(),
                            static_cast<long long>(result.steps), double(result.bytes) / 1e6, minutes(seconds_).c_str(),
                            result.bytes_per_second(), result.windowed));
    return result;
  }

  void save() const {
    Checkpoint c;
    c.model = model_.config();
    c.train = config_;
    c.text_name = text_.name;
    c.text_size = text_.size();
    c.vocabulary = text_.vocabulary.serialized();
    c.seconds = seconds_;
    c.curve = curve_;
    c.state = trainer_.optimization.state();
    save_checkpoint(options_.checkpoint, c, model_.layout());
  }

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
