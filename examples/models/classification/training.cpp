// SPDX-License-Identifier: MIT

#include "training.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "transformer/config_json.hpp"
#include "transformer/interruption.hpp"
#include "transformer/progress.hpp"
#include "transformer/training_file.hpp"

namespace classification {

namespace {

constexpr const char* file_format = "gma classifier 1";

}  // namespace

Training::Training(const Task& task, const ModelConfig& model, const TrainConfig& config, ThreadPool& pool)
    : task_(task),
      config_(config),
      pool_(pool),
      model_(model, task.shape()),
      optimization_(model_.layout(), model_.initial_parameters(config.seed), config, pool),
      tokens_(std::size_t(config.batch)),
      examples_(std::size_t(pool.size())) {
  validate(config);
  require(config.steps > 0, "steps must be positive");
  for (Index i = 0; i < pool.size(); ++i) caches_.push_back(model_.make_cache());
  model_.prepare(optimization_.parameters);
}

void Training::train(const std::string& name, bool is_quiet, std::int64_t most) {
  const InterruptionGuard guard;
  Progress progress(is_quiet);
  double smoothed = 0;
  const std::int64_t first = optimization_.steps, end = first + (std::min)(most, config_.steps - first);
  while (optimization_.steps < end && !is_interrupted()) {
    const Stopwatch watch;
    const double loss = step();
    result_.seconds += watch.seconds();
    result_.losses.push_back(loss);
    smoothed = optimization_.steps - first == 1 ? loss : 0.98 * smoothed + 0.02 * loss;
    if (progress.is_due()) progress.show(line(name, smoothed));
  }
}

RunResult Training::test(const std::string& name, bool is_quiet) {
  RunResult result = result_;
  result.parameters = model_.layout().parameters();
  result.steps = optimization_.steps;
  const std::size_t last = (result.losses.size() + 19) / 20;
  for (std::size_t i = result.losses.size() - last; i < result.losses.size(); ++i)
    result.training_loss += result.losses[i] / double(last);
  Progress progress(is_quiet);
  progress.show(name + ": testing ...");
  result.test = over_all_tests();
  progress.finish(format("%s: %lld parameters, %lld steps in %s, training loss %.4f, accuracy %.2f%% +- %.2f%%",
                         name.c_str(), static_cast<long long>(result.parameters), static_cast<long long>(result.steps),
                         minutes(result.seconds).c_str(), result.training_loss, 100 * result.test.accuracy,
                         100 * result.test.standard_error));
  return result;
}

void Training::save(const std::string& path) const {
  const nlohmann::json training = {
      {"config", config_}, {"tokens", result_.tokens}, {"seconds", result_.seconds}, {"losses", result_.losses}};
  write_training_file(path, file_format, model_.config(), training, model_.layout(), optimization_.state());
}

void Training::restore(const std::string& path) {
  const TrainingFile file(path, file_format);
  RunResult result;
  file.training([&](const nlohmann::json& training) {
    if (nlohmann::json(file.config()) != nlohmann::json(model_.config()) ||
        training.at("config") != nlohmann::json(config_))
      throw std::runtime_error(path + " belongs to a run with another model or another configuration");
    training.at("tokens").get_to(result.tokens);
    training.at("seconds").get_to(result.seconds);
    training.at("losses").get_to(result.losses);
  });
  optimization_.restore(file.state(model_.layout()));
  result_ = std::move(result);
  model_.prepare(optimization_.parameters);
}

double Training::step() {
  const double answers = double(config_.batch * task_.shape().answers_per_example);
  const auto first = std::uint64_t(optimization_.steps) * std::uint64_t(config_.batch);
  const double progress = double(optimization_.steps) / double(config_.steps);
  const double nats = optimization_.step(progress, [&](Index sequence, Index worker, Vector<float>& gradients) {
    Example& example = examples_[std::size_t(worker)];
    auto& cache = caches_[std::size_t(worker)];
    task_.training(config_.seed, first + std::uint64_t(sequence), example);
    tokens_[std::size_t(sequence)] = Index(example.tokens.size());
    const double loss = model_.forward(optimization_.parameters, example, cache);
    model_.backward(optimization_.parameters, example, float(1 / answers), cache, gradients);
    return loss;
  });
  model_.prepare(optimization_.parameters);
  for (const Index tokens : tokens_) result_.tokens += tokens;
  return nats / answers;
}

TestResult Training::over_all_tests() {
  const Index tests = task_.tests();
  std::vector<double> losses(std::size_t(tests), 0.0);
  std::vector<Index> right(std::size_t(tests), 0);
  pool_.parallel_for(tests, [&](Index i, Index worker) {
    Example& example = examples_[std::size_t(worker)];
    auto& cache = caches_[std::size_t(worker)];
    task_.test(i, example);
    losses[std::size_t(i)] = model_.forward(optimization_.parameters, example, cache);
    right[std::size_t(i)] = Classifier<float>::correct(example, cache);
  });
  TestResult result;
  result.cases = tests * task_.shape().answers_per_example;
  Index all_right = 0;
  for (std::size_t i = 0; i < losses.size(); ++i) {
    result.loss += losses[i] / double(result.cases);
    all_right += right[i];
  }
  result.accuracy = double(all_right) / double(result.cases);
  result.standard_error = std::sqrt(result.accuracy * (1 - result.accuracy) / double(result.cases));
  return result;
}

std::string Training::line(const std::string& name, double loss) const {
  const double done = double(optimization_.steps) / double(config_.steps);
  return format("%s: step %lld of %lld, loss %.4f, %.0f tokens/s, %s left", name.c_str(),
                static_cast<long long>(optimization_.steps), static_cast<long long>(config_.steps), loss,
                double(result_.tokens) / result_.seconds, minutes(result_.seconds * (1 - done) / done).c_str());
}

}  // namespace classification
