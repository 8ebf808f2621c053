// SPDX-License-Identifier: MIT

#include "compare_report.hpp"

#include <utility>
#include <vector>

#include "transformer/comparison.hpp"
#include "transformer/progress.hpp"

namespace classification {

namespace {

using transformer::least_and_most, transformer::mean, transformer::Runs;

bool is_better(const Runs& a, const Runs& b) {
  return std::make_pair(mean(a, "accuracy"), -mean(a, "training_loss")) >
         std::make_pair(mean(b, "accuracy"), -mean(b, "training_loss"));
}

// With one seed: the standard error of its test. With several: from the least to the most accurate.
std::string spread(const Runs& runs) {
  if (runs.size() < 2) return transformer::format("+- %.2f", 100 * runs.front()["standard_error"].get<double>());
  const auto [least, most] = least_and_most(runs, "accuracy");
  return transformer::format("%.2f to %.2f", 100 * least, 100 * most);
}

}  // namespace

std::string table_of(const transformer::Results& results, const std::string& task, const std::string& budget) {
  using transformer::format;
  const std::vector<Runs> best = best_of_each(results, {{"task", task}, {"budget", budget}}, is_better);
  if (best.empty()) return {};
  const auto& first = best.front().front();
  std::string table = format(
      "### %s\n\n%lld answers are tested; guessing gives %.1f%%. Seconds are those of training on %s.\n\n"
      "| variant | accuracy, %% | spread | training loss | parameters | seconds | seeds | learning rate |\n"
      "|---|---:|---:|---:|---:|---:|---:|---:|\n",
      task.c_str(), first["test_cases"].get<long long>(), 100 * first["chance"].get<double>(),
      first["machine"].get<std::string>().c_str());
  for (const Runs& runs : best) {
    const auto& run = runs.front();
    table += format("| %s | %.2f | %s | %.4f | %lld | %.0f | %zu | %g |\n", run["variant"].get<std::string>().c_str(),
                    100 * mean(runs, "accuracy"), spread(runs).c_str(), mean(runs, "training_loss"),
                    run["parameters"].get<long long>(), mean(runs, "seconds"), runs.size(),
                    run["learning_rate"].get<double>());
  }
  return table + "\n";
}

}  // namespace classification
