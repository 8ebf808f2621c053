// SPDX-License-Identifier: MIT
//
// A training run: steps over minibatches of sequences, and the test at the end. A thread works on one sequence at a
// time, so there is no padding. The numbers depend on the seed and on the number of shards, not on the number of
// threads.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "classifier.hpp"
#include "transformer/optimization.hpp"

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
  Training(const Task& task, const ModelConfig& model, const TrainConfig& config, ThreadPool& pool);

  // Runs the steps that are left, or this many of them, until Ctrl-C. `name` is for the progress line.
  void train(const std::string& name, bool is_quiet, std::int64_t most = std::numeric_limits<std::int64_t>::max());

  // The test after training, with all results of the run. At least one step must be finished.
  RunResult test(const std::string& name, bool is_quiet);

  // Saves everything that is needed to continue with the same numbers.
  void save(const std::string& path) const;

  // Continues from a file that a run of the same model and configuration, on the same task, has saved. Throws
  // std::runtime_error if the file belongs to another run or is damaged; the run is then unchanged.
  void restore(const std::string& path);

 private:
  // Mean loss of the minibatch in nats per answer, before the step.
  double step();
  TestResult over_all_tests();
  std::string line(const std::string& name, double loss) const;

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
