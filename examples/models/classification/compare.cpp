// SPDX-License-Identifier: MIT
//
// Tables of mixers at equal numbers of parameters, sequences and schedule. Every finished run is added to a JSON file
// at once, and runs in that file are not repeated: the tables can be made in parts, and on several machines. An
// interrupted run is saved and continues the next time.

#include <cstdio>
#include <filesystem>

#include "commands.hpp"
#include "compare_report.hpp"
#include "run_json.hpp"
#include "training.hpp"
#include "transformer/comparison.hpp"
#include "transformer/interruption.hpp"

namespace classification {

namespace {

// If the task is not causal, variants with forgetting or a convolution, and mamba, read in both directions with two
// sets of parameters. The others see all tokens at once. See transformer/make_mixer.hpp.
const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = {
      {"gma as in the paper", MixerKind::gma_plain, as_it_is},
      {"gma 8 x 8", MixerKind::gma, plain},
      {"gma 8 x 8 + forgetting + convolution", MixerKind::gma, as_it_is},
      {"gma 16 x 16 + forgetting + convolution", MixerKind::gma,
       [](ModelConfig& c) {
         c.components = {16, 16};
       }},
      {"linear", MixerKind::linear, plain},
      {"linear + forgetting + convolution", MixerKind::linear, as_it_is},
      {"performer", MixerKind::performer, plain},
      {"performer + forgetting + convolution", MixerKind::performer, as_it_is},
      {"mamba", MixerKind::mamba, as_it_is},
      {"sdpa", MixerKind::sdpa, as_it_is},
      {"sdpa + convolution", MixerKind::sdpa, with_convolution},
  };
  return all;
}

// All runs of one task.
class Comparison {
 public:
  Comparison(const std::string& task, const CommonOptions& common, const CompareOptions& options, ThreadPool& pool,
             Results& results)
      : name_(task),
        common_(common),
        options_(options),
        pool_(pool),
        results_(results),
        budget_(budget_of(task, common.budget)) {
    if (options_.learning_rates.empty()) options_.learning_rates = {budget_.train.learning_rate};
  }

  void run() {
    for (const std::uint64_t seed : options_.seeds)
      for (const Variant& variant : chosen(variants(), options_.only))
        for (const double rate : options_.learning_rates) one(variant, rate, seed);
  }

 private:
  void one(const Variant& variant, double rate, std::uint64_t seed) {
    TrainConfig train = budget_.train;
    train.learning_rate = rate;
    train.seed = seed;
    nlohmann::json result = {{"task", name_},
                             {"mixer", name_of(variant.mixer)},
                             {"variant", variant.name},
                             {"budget", common_.budget},
                             {"seed", seed},
                             {"steps", train.steps},
                             {"batch", train.batch},
                             {"learning_rate", rate}};
    if (results_.find(result)) return;
    if (!task_) task_ = make_task(name_, budget_, common_.data);
    ModelConfig model = budget_.model;
    const auto parameters_of = [&](const ModelConfig& config) {
      return Classifier<float>(config, task_->shape()).layout().parameters();
    };
    const Index parameters = parameters_of(model);
    model.mixer = variant.mixer;
    variant.change(model);
    model.mlp_width = matching_mlp_width(model, parameters, parameters_of);
    Training training(*task_, model, train, pool_);
    const std::string unfinished = unfinished_file(variant, rate, seed);
    if (std::filesystem::exists(unfinished)) training.restore(unfinished);
    const std::string line =
        format("%s, %s, rate %g, seed %lld", name_.c_str(), variant.name, rate, static_cast<long long>(seed));
    training.train(line, false);
    training.save(unfinished);
    if (is_interrupted()) throw_interrupted(options_.results, unfinished);
    result.update(json_of(training.test(line, false)));
    result["chance"] = task_->chance();
    result["machine"] = machine(pool_.size());
    results_.add(result);
    std::filesystem::remove(unfinished);
  }

  // The file where an interrupted run is saved, to continue from there.
  std::string unfinished_file(const Variant& variant, double rate, std::uint64_t seed) const {
    return options_.results + "." + name_ + "_" + common_.budget + "_" + file_name(variant, rate, seed) + ".unfinished";
  }

  std::string name_;
  CommonOptions common_;
  CompareOptions options_;
  ThreadPool& pool_;
  Results& results_;
  Budget budget_;
  std::unique_ptr<Task> task_;  // made when it is needed
};

}  // namespace

int compare_command(const CommonOptions& common, const CompareOptions& options) {
  ThreadPool pool(common.threads);
  Results results(options.results);
  std::vector<std::string> tasks = {common.task};
  if (common.task == "all") tasks.assign(std::begin(all_tasks), std::end(all_tasks));
  for (const std::string& task : tasks) Comparison(task, common, options, pool, results).run();
  std::string tables;
  for (const std::string& task : tasks) tables += table_of(results, task, common.budget);
  std::printf("\n%s", tables.c_str());
  if (!options.table.empty()) write_file(options.table, tables);
  return 0;
}

}  // namespace classification
