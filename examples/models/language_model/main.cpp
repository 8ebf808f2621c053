// SPDX-License-Identifier: MIT
//
// The command line of the example: `language_model train | generate | evaluate | baselines | lengths | compare`.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "command_line.hpp"

namespace lm = language_model;

namespace {

void add_sampling_options(CLI::App& app, lm::SamplingOptions& options, std::string& prompt) {
  app.add_option("--temperature", options.temperature, "0 takes the most probable token")->capture_default_str();
  app.add_option("--top-k", options.top_k, "sample only from this many most probable tokens; 0 for all")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "seed of the sampling")->capture_default_str();
  app.add_option("--prompt", prompt, "text to continue");
}

void add_context_option(CLI::App& app, lm::Index& context) {
  app.add_option("--context", context, "tokens per window; 0: as in training, or 256 if the file does not say")
      ->check(CLI::NonNegativeNumber);
}

int run(int argc, char** argv) {
  CLI::App app("A language model on Gaussian mixture attention");
  app.require_subcommand(1);
  lm::CommonOptions common;
  lm::TrainOptions train;
  lm::GenerateOptions generate;
  lm::CompareOptions compare;
  lm::LengthsOptions lengths;
  lm::EvaluateOptions evaluate;

  CLI::App& training = *app.add_subcommand("train", "train a model");
  lm::add_common_options(training, common);
  lm::add_model_options(training, train.model);
  lm::add_train_options(training, train.train);
  add_sampling_options(training, train.sampling, train.prompt);
  training.add_option("--sample", train.sample, "tokens to generate at the end");
  training.add_option("--pieces", common.pieces,
                      "pieces of a subword vocabulary that is trained on the text; 0 for bytes");
  training.add_option("--save", train.run.checkpoint, "checkpoint to write at the end, or on Ctrl-C");
  training.add_option("--resume", train.resume, "checkpoint to continue; its model and training options apply");
  training.add_option("--stop-after", train.run.stop_after, "stop after this many steps of this run, to resume later");
  training.add_option("--log", train.log, "JSON file for the validation curve and all losses");

  CLI::App& generating = *app.add_subcommand("generate", "generate text from a checkpoint");
  generating.add_option("checkpoint", generate.checkpoint, "checkpoint, or a file of parameters")->required();
  add_context_option(generating, generate.context);
  generating.add_option("--tokens,--bytes", generate.tokens, "number of tokens to generate")->capture_default_str();
  add_sampling_options(generating, generate.sampling, generate.prompt);

  CLI::App& evaluating = *app.add_subcommand("evaluate", "bits per held-out byte of a checkpoint");
  evaluating.add_option("checkpoint", evaluate.checkpoint, "checkpoint, or a file of parameters")->required();
  evaluating.add_option("--json", evaluate.json, "file for losses, cost, machine and build");
  add_context_option(evaluating, evaluate.context);
  lm::add_common_options(evaluating, common);

  CLI::App& counting = *app.add_subcommand("baselines", "n-grams and xz on the same text");
  lm::add_common_options(counting, common);

  CLI::App& measuring = *app.add_subcommand("lengths", "time and memory of streams of checkpoints, over their length");
  measuring.add_option("checkpoints", lengths.checkpoints, "checkpoints, or files of parameters")->required();
  measuring.add_option("--longest", lengths.longest, "tokens of the longest stream")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  measuring.add_option("--out", lengths.directory, "directory for lengths.csv, lengths.md and lengths.svg")
      ->capture_default_str();
  lm::add_common_options(measuring, common);

  CLI::App& comparing = *app.add_subcommand("compare", "a table of mixers at equal parameters, tokens and schedule");
  comparing.add_option("--budget", compare.budget, "smoke, small (minutes), medium or full")->capture_default_str();
  comparing.add_option("--results", compare.results, "JSON file of finished runs, which are not repeated")
      ->capture_default_str();
  comparing.add_option("--table", compare.table, "file for the table in Markdown");
  comparing.add_option("--plot", compare.plot, "SVG file for the curves, drawn with gnuplot");
  comparing.add_option("--pieces", common.pieces,
                       "pieces of a subword vocabulary that is trained on the text; 0 for bytes");
  comparing.add_option("--models", compare.models, "directory for checkpoints of the trained models");
  comparing.add_option("--only", compare.only, "the variant of this name, or all whose names contain it");
  comparing.add_option("--seeds", compare.seeds, "seeds of each variant")->capture_default_str();
  comparing
      .add_option("--learning-rates", compare.learning_rates,
                  "one grid for all variants; the table has each at the rate with the least validation loss")
      ->capture_default_str();
  lm::add_common_options(comparing, common);

  CLI11_PARSE(app, argc, argv);
  if (training.parsed()) return lm::train_command(common, train);
  if (generating.parsed()) return lm::generate_command(generate);
  if (evaluating.parsed()) return lm::evaluate_command(common, evaluate);
  if (counting.parsed()) return lm::baselines_command(common);
  if (measuring.parsed()) return lm::lengths_command(common, lengths);
  return lm::compare_command(common, compare);
}

}  // namespace

int main(int argc, char** argv) try { return run(argc, argv); } catch (const std::exception& error) {
  std::fprintf(stderr, "language_model: %s\n", error.what());
  return 1;
}
