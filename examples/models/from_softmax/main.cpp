// SPDX-License-Identifier: MIT
//
// The command line: `from_softmax CHECKPOINT --text kjv --steps 500 --save gma.checkpoint`.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <map>
#include <set>

#include "conversion.hpp"
#include "language_model/command_line.hpp"
#include "language_model/training_run.hpp"
#include "transfer.hpp"
#include "transformer/build_information.hpp"
#include "transformer/results.hpp"

namespace fs = from_softmax;
namespace lm = language_model;
using lm::Index;

namespace {

const char* name_of(fs::Taken taken) {
  constexpr const char* names[] = {"nothing", "surroundings", "projections"};
  return names[static_cast<int>(taken)];
}

struct Options {
  std::string checkpoint, json;
  fs::Taken taken = fs::Taken::projections;
  std::int64_t transfer_steps = 200;
  lm::ModelConfig model;
  lm::TrainConfig train;
  lm::RunOptions run;
};

// Nats per token of the validation half and of the test half of the held-out text.
struct Losses {
  double validation = 0, test = 0;
};

Losses losses_of(const lm::Model<float>& model, const lm::Vector<float>& parameters, const lm::Text& text,
                 Index context, lm::ThreadPool& pool) {
  lm::Evaluator<float> evaluator(model, text, context, pool);
  return {lm::mean_loss(evaluator.windows(parameters, text.validation())),
          lm::mean_loss(evaluator.windows(parameters, text.test()))};
}

void print(const char* what, const Losses& losses) {
  std::printf("%-42s %.4f nats per token (validation %.4f)\n", what, losses.test, losses.validation);
  std::fflush(stdout);
}

void print_parts(const fs::Conversion& conversion, const lm::Layout& layout) {
  const std::set<std::string> taken(conversion.taken.begin(), conversion.taken.end());
  Index numbers = 0;
  std::map<std::string, Index> learnt;  // by the name within a block
  for (const auto& entry : layout.entries()) {
    if (taken.count(entry.name) != 0) {
      numbers += entry.tensor.size();
      continue;
    }
    std::string name = entry.name;
    if (const std::size_t at = name.find(".mixer."); at != std::string::npos) name = name.substr(at + 7);
    if (name.find("mixtures.") == 0) name = "mixtures";
    learnt[name] += entry.tensor.size();
  }
  std::printf("%lld of %lld parameters are taken over. To be learnt:", static_cast<long long>(numbers),
              static_cast<long long>(layout.parameters()));
  for (const auto& [name, size] : learnt) std::printf(" %s (%lld)", name.c_str(), static_cast<long long>(size));
  std::printf("\n");
}

int run(const lm::CommonOptions& common, Options options) {
  const lm::Checkpoint softmax = lm::load_checkpoint(options.checkpoint);
  const lm::ModelConfig config = fs::converted(softmax.model, options.model);
  const lm::Text text = lm::load_text(common.text, options.train.context, 0, &softmax.vocabulary);
  lm::ThreadPool pool(common.threads);
  const Index context = options.train.context;

  lm::Model<float> old_model(softmax.model), new_model(config);
  old_model.prepare(softmax.state.parameters);
  fs::Conversion conversion = fs::convert(softmax, config, options.taken, options.train.seed);
  print_parts(conversion, new_model.layout());

  nlohmann::json record = {{"taken", name_of(options.taken)},
                           {"transfer_steps", options.transfer_steps},
                           {"model", config},
                           {"train", options.train},
                           {"text", text.name},
                           {"machine", transformer::machine(pool.size())},
                           {"commit", transformer::commit()}};
  const auto note = [&](const char* what, const char* key, const Losses& losses) {
    print(what, losses);
    record[key] = {{"validation_loss", losses.validation}, {"test_loss", losses.test}};
  };
  note("the model with softmax attention", "softmax",
       losses_of(old_model, softmax.state.parameters, text, context, pool));
  new_model.prepare(conversion.parameters);
  note("converted", "converted", losses_of(new_model, conversion.parameters, text, context, pool));

  if (options.transfer_steps > 0) {
    lm::TrainConfig train = options.train;
    train.steps = options.transfer_steps;
    fs::Transfer transfer(old_model, softmax.state.parameters, new_model, conversion.parameters, text, train, pool);
    lm::Progress progress;
    const lm::InterruptionGuard guard;
    double error = 0;
    for (std::int64_t step = 0; step < train.steps; ++step) {
      if (lm::is_interrupted()) throw std::runtime_error("interrupted");
      error = step == 0 ? transfer.step() : 0.95 * error + 0.05 * transfer.step();
      if (progress.is_due())
        progress.show(lm::format("transfer, step %lld of %lld: error %.3f", static_cast<long long>(step + 1),
                                 static_cast<long long>(train.steps), error));
    }
    progress.finish(lm::format("transfer: the mixers differ from the old ones by %.3f of their squared norm", error));
    conversion.parameters = transfer.parameters();
    record["transfer_error"] = error;
    note("after the transfer", "transferred", losses_of(new_model, conversion.parameters, text, context, pool));
  }
  if (options.train.steps > 0) {
    options.run.is_test_apart = true;
    lm::TrainingRun training(config, options.train, text, pool, options.run);
    lm::Checkpoint start;
    start.text_size = text.size();
    start.state.parameters = conversion.parameters;
    start.state.first_moment = start.state.second_moment = lm::Vector<float>::Zero(conversion.parameters.size());
    training.restore(start);
    const lm::RunResult result = training.train();
    note("after training", "trained", losses_of(training.model(), training.parameters(), text, context, pool));
    record["curve"] = result.curve;
    record["seconds"] = result.seconds;
  }
  if (!options.json.empty()) transformer::write_file(options.json, record.dump() + "\n");
  return 0;
}

int run(int argc, char** argv) {
  CLI::App app("Turns a language model with softmax attention into one with Gaussian mixture attention");
  lm::CommonOptions common;
  Options options;
  options.train.steps = 500;
  const std::map<std::string, fs::Taken> kinds{{"nothing", fs::Taken::nothing},
                                               {"surroundings", fs::Taken::surroundings},
                                               {"projections", fs::Taken::projections}};
  app.add_option("checkpoint", options.checkpoint, "checkpoint of language_model with --mixer sdpa")->required();
  app.add_option("--take", options.taken, "nothing, surroundings (all but attention) or projections (these too)")
      ->transform(CLI::CheckedTransformer(kinds));
  app.add_option("--transfer-steps", options.transfer_steps, "steps in which mixers learn to do what the old ones do")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--steps", options.train.steps, "steps of training the whole model after that")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--save", options.run.checkpoint, "checkpoint to write at the end, or on Ctrl-C");
  app.add_option("--json", options.json, "file for the losses");
  app.add_option("--components", options.model.components, "components of each factor")->capture_default_str();
  app.add_option("--convolution", options.model.convolution, "taps, if the old model has no convolution; 1: none")
      ->capture_default_str();
  app.add_option("--slot-forgetting", options.model.slot_forgetting, "rank; 0 for none")->capture_default_str();
  app.add_option("--gma-window", options.model.gma_window, "tokens of the exact window; 0 for none")
      ->capture_default_str();
  app.add_flag("--output-norm,!--no-output-norm", options.model.has_output_norm);
  app.add_flag("--output-gate,!--no-output-gate", options.model.has_output_gate);
  app.add_option("--batch", options.train.batch, "sequences per step")->capture_default_str();
  app.add_option("--context", options.train.context, "tokens per sequence")->capture_default_str();
  app.add_option("--learning-rate", options.train.learning_rate, "peak learning rate")->capture_default_str();
  app.add_option("--train-seed", options.train.seed, "seed of what is learnt anew and of the order of the text")
      ->capture_default_str();
  lm::add_common_options(app, common);
  CLI11_PARSE(app, argc, argv);
  return run(common, options);
}

}  // namespace

int main(int argc, char** argv) try { return run(argc, argv); } catch (const std::exception& error) {
  std::fprintf(stderr, "from_softmax: %s\n", error.what());
  return 1;
}
