// SPDX-License-Identifier: MIT
//
// The command line of the example: `classification train | compare`.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "commands.hpp"

namespace cl = classification;

namespace {

void add_common_options(CLI::App& app, cl::CommonOptions& options, const char* tasks) {
  app.add_option("--task", options.task, tasks)->capture_default_str();
  app.add_option("--budget", options.budget, "smoke (seconds), small (minutes) or full")->capture_default_str();
  app.add_option("--data", options.data, "directory with the files of Fashion-MNIST")->capture_default_str();
  app.add_option("--threads", options.threads, "threads; 0 for all cores")->check(CLI::NonNegativeNumber);
}

// Options whose defaults are those of the budget. Given values replace members of the budget later.
class Changes {
 public:
  Changes(CLI::App& app, cl::TrainOptions& options) : app_(app) {
    options.change = [this](cl::Budget& budget) {
      for (const auto& change : changes_) change(budget);
    };
  }

  // An option for budget.part.member.
  template <class Part, class T>
  CLI::Option* add(const char* name, Part cl::Budget::*part, T Part::*member, const char* description) {
    const auto value = std::make_shared<T>();
    CLI::Option* option = app_.add_option(name, *value, description);
    changes_.push_back([=](cl::Budget& budget) {
      if (option->count() > 0) budget.*part.*member = *value;
    });
    return option;
  }

 private:
  CLI::App& app_;
  std::vector<std::function<void(cl::Budget&)>> changes_;
};

void add_train_options(Changes& changes) {
  using cl::Budget, cl::ModelConfig, cl::TrainConfig, cl::RecallSize, cl::listops::Grammar;
  std::map<std::string, cl::MixerKind> mixers;
  for (const cl::MixerKind mixer : cl::all_mixers) mixers[cl::name_of(mixer)] = mixer;
  const auto model = &Budget::model;
  const auto train = &Budget::train;
  changes.add("--mixer", model, &ModelConfig::mixer, "gma, gma-plain, linear, performer, mamba, sdpa or window")
      ->transform(CLI::CheckedTransformer(mixers));
  changes.add("--steps", train, &TrainConfig::steps, "steps of training");
  changes.add("--batch", train, &TrainConfig::batch, "sequences per step");
  changes.add("--shards", train, &TrainConfig::shards, "parts of a step that threads work on");
  changes.add("--learning-rate", train, &TrainConfig::learning_rate, "peak learning rate");
  changes.add("--warmup-steps", train, &TrainConfig::warmup_steps, "steps of linear warm-up");
  changes.add("--seed", train, &TrainConfig::seed, "seed of the initial parameters and of the order of examples");
  changes.add("--layers", model, &ModelConfig::layers, "blocks");
  changes.add("--width", model, &ModelConfig::width, "width of the model");
  changes.add("--heads", model, &ModelConfig::heads, "heads");
  changes.add("--mlp-width", model, &ModelConfig::mlp_width, "hidden width of the MLP");
  changes.add("--components", model, &ModelConfig::components,
              "gma: components of each factor of the product mixture; performer: their product features");
  changes.add("--plain-components", model, &ModelConfig::plain_components, "gma-plain: components");
  changes.add("--convolution", model, &ModelConfig::convolution, "taps of the short convolution; 1 for none");
  changes.add("--forgetting", model, &ModelConfig::has_forgetting, "gma, linear, performer: whether heads forget");
  changes.add("--forgetting-fastest", model, &ModelConfig::forgetting_fastest, "initial rate of the first head");
  changes.add("--forgetting-slowest", model, &ModelConfig::forgetting_slowest, "initial rate of the last head");
  changes.add("--state", model, &ModelConfig::state, "mamba: numbers kept per channel");
  changes.add("--pairs", &Budget::recall, &RecallSize::pairs, "recall: pairs of key and value");
  changes.add("--length", &Budget::recall, &RecallSize::length, "recall: tokens of a sequence");
  changes.add("--vocabulary", &Budget::recall, &RecallSize::vocabulary, "recall: keys and values");
  changes.add("--shortest", &Budget::listops, &Grammar::shortest,
              "listops: smallest number of tokens of an expression");
  changes.add("--longest", &Budget::listops, &Grammar::longest, "listops: largest number of tokens");
  changes.add("--training", &Budget::size, &cl::Size::training, "fashion, listops: training examples; 0 for all");
  changes.add("--tests", &Budget::size, &cl::Size::tests, "test examples; fashion: 0 for all");
}

int run(int argc, char** argv) {
  CLI::App app("Classifiers of long sequences on Gaussian mixture attention, and on other mixers");
  app.require_subcommand(1);
  cl::CommonOptions common;
  cl::TrainOptions train;
  cl::CompareOptions compare;

  CLI::App& training = *app.add_subcommand("train", "train and test a model; defaults are those of the budget");
  add_common_options(training, common, "fashion, listops or recall");
  Changes changes(training, train);
  add_train_options(changes);
  training.add_option("--log", train.log, "JSON file for the result and the losses");

  CLI::App& comparing = *app.add_subcommand("compare", "tables of mixers at equal parameters, sequences and schedule");
  add_common_options(comparing, common, "fashion, listops, recall or all");
  comparing.add_option("--results", compare.results, "JSON file of finished runs, which are not repeated")
      ->capture_default_str();
  comparing.add_option("--table", compare.table, "file for the tables in Markdown");
  comparing.add_option("--only", compare.only, "the variant of this name, or variants whose name contains it");
  comparing.add_option("--seeds", compare.seeds, "seeds of each variant")->capture_default_str();
  comparing.add_option("--learning-rates", compare.learning_rates, "the table has each variant at its best rate");

  CLI11_PARSE(app, argc, argv);
  return training.parsed() ? cl::train_command(common, train) : cl::compare_command(common, compare);
}

}  // namespace

int main(int argc, char** argv) try { return run(argc, argv); } catch (const std::exception& error) {
  std::fprintf(stderr, "classification: %s\n", error.what());
  return 1;
}
