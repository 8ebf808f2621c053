// SPDX-License-Identifier: MIT
//
// Runs: the loss falls, the number of threads changes nothing, and results and tables.

#include <gtest/gtest.h>

#include <filesystem>

#include "../compare_report.hpp"
#include "../recall.hpp"
#include "../run_json.hpp"

namespace classification {
namespace {

// Two kinds of sequences of different lengths: the second token says which, and where there are more of it.
class Majority : public Task {
 public:
  TaskShape shape() const override {
    TaskShape shape;
    shape.vocabulary = 4;
    shape.classes = 2;
    shape.longest = 24;
    return shape;
  }
  void training(std::uint64_t seed, std::uint64_t n, Example& example) const override {
    Random random(seed, n);
    const auto label = Token(random.below(2));
    example.tokens.assign(8 + random.below(16), 0);
    for (Token& token : example.tokens) token = Token(random.uniform() < 0.7 ? label : 3 - label);
    example.places.clear();
    example.targets = {label};
  }
  Index tests() const override { return 100; }
  void test(Index i, Example& example) const override { training(1000, std::uint64_t(i), example); }
  double chance() const override { return 0.5; }
};

ModelConfig small_model() {
  ModelConfig config;
  config.layers = 1;
  config.width = 16;
  config.mlp_width = 16;
  config.components = {3, 4};
  return config;
}

TrainConfig small_training(std::int64_t steps) {
  TrainConfig config;
  config.steps = steps;
  config.batch = 8;
  config.shards = 4;
  config.warmup_steps = 5;
  config.learning_rate = 5e-3;
  return config;
}

RunResult trained(const Task& task, std::int64_t steps, ThreadPool& pool) {
  Training training(task, small_model(), small_training(steps), pool);
  training.train("", true);
  return training.test("", true);
}

TEST(Training, LossFallsAndTheTestIsPassed) {
  ThreadPool pool(2);
  const Majority task;
  const RunResult result = trained(task, 60, pool);
  EXPECT_EQ(result.losses.size(), 60u);
  EXPECT_GT(result.losses.front(), 0.5);
  EXPECT_LT(result.training_loss, 0.35);
  EXPECT_GT(result.test.accuracy, 0.85);
  EXPECT_EQ(result.test.cases, 100);
  EXPECT_NEAR(result.test.standard_error, std::sqrt(result.test.accuracy * (1 - result.test.accuracy) / 100), 1e-12);
  const nlohmann::json json = json_of(result);
  EXPECT_EQ(json["curve"].size(), 40u);
  EXPECT_EQ(json["curve"].back()["steps"], 60);
}

TEST(Training, ThreadsDoNotChangeTheNumbers) {
  const Majority majority;
  const Recall recall({4, 16, 64}, 20);
  for (const Task* task : {static_cast<const Task*>(&majority), static_cast<const Task*>(&recall)}) {
    std::vector<RunResult> results;
    for (const Index threads : {1, 2, 5}) {
      ThreadPool pool(threads);
      results.push_back(trained(*task, 4, pool));
    }
    for (const RunResult& result : results) {
      EXPECT_EQ(result.losses, results.front().losses);
      EXPECT_EQ(result.test.loss, results.front().test.loss);
      EXPECT_EQ(result.test.accuracy, results.front().test.accuracy);
      EXPECT_EQ(result.tokens, results.front().tokens);
    }
  }
}

TEST(Training, ResumeEqualsUninterrupted) {
  const std::string path = testing::TempDir() + "classification_resume.unfinished";
  ThreadPool pool(2);
  const Majority task;
  const RunResult expected = trained(task, 6, pool);

  Training first(task, small_model(), small_training(6), pool), second(task, small_model(), small_training(6), pool);
  first.train("", true, 4);
  first.save(path);
  second.restore(path);
  second.train("", true);
  const RunResult actual = second.test("", true);
  EXPECT_EQ(actual.losses, expected.losses);
  EXPECT_EQ(actual.tokens, expected.tokens);
  EXPECT_EQ(actual.steps, 6);
  EXPECT_EQ(actual.test.loss, expected.test.loss);

  // Of another run, and damaged: reported, and nothing is changed.
  Training other(task, small_model(), small_training(7), pool);
  EXPECT_THROW(other.restore(path), std::runtime_error);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  Training third(task, small_model(), small_training(6), pool);
  EXPECT_THROW(third.restore(path), std::runtime_error);
  third.train("", true);
  EXPECT_EQ(third.test("", true).losses, expected.losses);
  std::filesystem::remove(path);
}

TEST(Report, EveryVariantAtItsBetterRate) {
  const std::string path = testing::TempDir() + "classification_report.json";
  const auto run = [](const char* variant, int seed, double rate, double accuracy) {
    return nlohmann::json{{"task", "recall"},      {"budget", "full"},      {"variant", variant},
                          {"seed", seed},          {"learning_rate", rate}, {"accuracy", accuracy},
                          {"parameters", 7},       {"training_loss", 0.5},  {"standard_error", 0.01},
                          {"test_cases", 1000},    {"seconds", 3},          {"chance", 0.25},
                          {"machine", "a machine"}};
  };
  std::filesystem::remove(path);
  Results results(path);
  results.add(run("a", 1, 0.001, 0.9));
  results.add(run("b", 1, 0.001, 0.5));
  results.add(run("b", 1, 0.002, 0.94));
  results.add(run("b", 2, 0.002, 0.96));
  const std::string table = table_of(Results(path), "recall", "full");
  EXPECT_NE(table.find("| b | 95.00 | 94.00 to 96.00 | 0.5000 | 7 | 3 | 2 | 0.002 |\n| a | 90.00 | +- 1.00 |"),
            std::string::npos)
      << table;
  EXPECT_EQ(table_of(results, "recall", "small"), "");
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace classification
