// SPDX-License-Identifier: MIT
//
// A training run: steps over minibatches of sequences, and the test at the end. A thread works on one sequence at a
// time, so there is no padding. The numbers depend on the seed and on the number of shards, not on the number of
// threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "classifier.hpp"
#include "transformer/config_json.hpp"
#include "transformer/interruption.hpp"
#include "transformer/optimization.hpp"
#include "transformer/progress.hpp"
#include "transformer/training_file.hpp"

namespace classification {

struct TestResult {
  double accuracy = 0, standard_error = 0;  // of the answers
  double loss = 0;                          // mean, nats per answer
  Index cases = 0;                          // answers
};

struct RunResult {
  Index parameters = 0;
  std::int64_t steps = 0, tokens = 0;
  double seconds = 0;          // of training, the drawing of examples included
  double training_loss = 0;    // mean over the last twentieth of the steps, nats per answer
  std::vector<double> losses;  // of every step
  TestResult test;
};

class Training {
 public:
  Training(const Task& task, const ModelConfig& model, const TrainConfig& config, ThreadPool& pool)
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

  // Runs the steps that are left, or this many of them, until Ctrl-C. `name` is for the progress line.
  void train(const std::string& name, bool is_quiet, std::int64_t most = std::numeric_limits<std::int64_t>::max()) {
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

  // The test after training, with all results of the run. At least one step must be finished.
  RunResult test(const std::string& name, bool is_quiet) {
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
                           name.c_str(), static_cast<long long>(result.parameters),
                           static_cast<long long>(result.steps), minutes(result.seconds).c_str(), result.training_loss,
                           100 * result.test.accuracy, 100 * result.test.standard_error));
    return result;
  }

  // Saves everything that is needed to continue with the same numbers.
  void save(const std::string& path) const {
    save_training_file(path, file_kind,
                       {{"model", model_.config()},
                        {"train", config_},
                        {"tokens", result_.tokens},
                        {"seconds", result_.seconds},
                        {"losses", result_.losses}},
                       model_.layout(), optimization_.state());
  }

  // Continues from a file that a run of the same model and configuration, on the same task, has saved. Throws
  // std::runtime_error if the file belongs to another run or is damaged; the run is then unchanged.
  void restore(const std::string& path) {
    TrainingFile file(path, file_kind);
    RunResult result;
    file.header([&](const nlohmann::json& header) {
      if (header.at("model") != nlohmann::json(model_.config()) || header.at("train") != nlohmann::json(config_))
        throw std::runtime_error(path + " belongs to a run with another model or another configuration");
      header.at("tokens").get_to(result.tokens);
      header.at("seconds").get_to(result.seconds);
      header.at("losses").get_to(result.losses);
    });
    optimization_.restore(file.state(model_.layout()));
    result_ = std::move(result);
    model_.prepare(optimization_.parameters);
  }

 private:
  static constexpr FileKind file_kind = {{'G', 'M', 'A', 'C', 'L', 0, 0, 0}, 1};

  // Mean loss of the minibatch in nats per answer, before the step.
  double step() {
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

  TestResult over_all_tests() {
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

  std::string line(const std::string& name, double loss) const {
    const double done = double(optimization_.steps) / double(config_.steps);
    return format("%s: step %lld of %lld, loss %.4f, %.0f tokens/s, %s left", name.c_str(),
                  static_cast<long long>(optimization_.steps), static_cast<long long>(config_.steps), loss,
                  double(result_.tokens) / result_.seconds, minutes(result_.seconds * (1 - done) / done).c_str());
  }

  const Task& task_;
  TrainConfig config_;
  ThreadPool& pool_;
  Classifier<float> model_;
  Optimization<float> optimization_;
  std::vector<Index> tokens_;      // of the sequences of a step
  std::vector<Example> examples_;  // one per thread
  std::vector<Classifier<float>::Cache> caches_;
  RunResult result_;  // so far
};

}  // namespace classification
