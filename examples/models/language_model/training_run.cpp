// SPDX-License-Identifier: MIT

#include "training_run.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

namespace language_model {

TrainingRun::TrainingRun(const ModelConfig& model, const TrainConfig& train, const Text& text, ThreadPool& pool,
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

void TrainingRun::restore(const Checkpoint& c) {
  if (c.text_size != text_.size())
    throw std::runtime_error("the checkpoint was trained on " + c.text_name + " of " + std::to_string(c.text_size) +
                             " tokens, this text has " + std::to_string(text_.size()));
  trainer_.optimization.restore(c.state);
  seconds_ = c.seconds;
  curve_ = c.curve;
  model_.prepare(trainer_.parameters());
}

RunResult TrainingRun::train() {
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

double TrainingRun::elapsed_fraction() const {
  return config_.steps > 0 ? double(trainer_.steps()) / double(config_.steps) : seconds_ / config_.seconds;
}

std::int64_t TrainingRun::bytes() const { return std::llround(double(trainer_.tokens()) * text_.bytes_per_token()); }

std::string TrainingRun::line() const {
  const double done = elapsed_fraction(), rate = double(bytes()) / seconds_;
  return format("%-9s step %5lld  %5.2f MB  %.3f bits/byte  %6.0f bytes/s  %s left", name().c_str(),
                static_cast<long long>(trainer_.steps()), double(bytes()) / 1e6, smoothed_, rate,
                minutes(seconds_ * (1 - done) / done).c_str());
}

void TrainingRun::add_point() {
  CurvePoint point;
  point.steps = trainer_.steps();
  point.bytes = bytes();
  point.seconds = seconds_;
  point.training = smoothed_;
  const Part part = validation_part();
  const Index every = options_.is_test_apart ? (std::max)(Index(1), evaluator_.windows_in(part) / 32) : 64;
  point.validation = evaluator_.windowed(trainer_.parameters(), part, every);
  curve_.push_back(point);
}

RunResult TrainingRun::finish() {
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
  result.windowed = evaluator_.windowed(trainer_.parameters(), validation_part());
  if (model_.is_constant_memory() && !options_.is_test_apart)
    result.streamed = evaluator_.streamed(trainer_.parameters());
  progress_.finish(format("%-9s %lld steps, %.2f MB in %s at %.0f bytes/s: %.3f bits/byte held out", name().c_str(),
                          static_cast<long long>(result.steps), double(result.bytes) / 1e6, minutes(seconds_).c_str(),
                          result.bytes_per_second(), result.windowed));
  return result;
}

void TrainingRun::save() const {
  Checkpoint c;
  c.model = model_.config();
  c.train = config_;
  c.text_name = text_.name;
  c.text_size = text_.size();
  c.vocabulary = text_.vocabulary;
  c.seconds = seconds_;
  c.curve = curve_;
  c.state = trainer_.optimization.state();
  save_checkpoint(options_.checkpoint, c, model_.layout());
}

}  // namespace language_model
