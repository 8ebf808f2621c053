// SPDX-License-Identifier: MIT
//
// The command line of the example: `language_model train | generate | evaluate | baselines | demo`.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <map>

#include "commands.hpp"

namespace lm = language_model;

namespace {

void add_model_options(CLI::App& app, lm::ModelConfig& c) {
  std::map<std::string, lm::MixerKind> mixers;
  for (const lm::MixerKind mixer : lm::all_mixers) mixers[lm::name_of(mixer)] = mixer;
  const std::map<std::string, lm::MlpKind> mlps{{"gated", lm::MlpKind::gated}, {"plain", lm::MlpKind::plain}};
  app.add_option("--mixer", c.mixer, "gma, gma-plain, linear, performer, mamba, delta, sdpa or window")
      ->transform(CLI::CheckedTransformer(mixers));
  app.add_option("--mlp", c.mlp, "gated (SwiGLU) or plain (squared ReLU)")->transform(CLI::CheckedTransformer(mlps));
  app.add_option("--layers", c.layers, "blocks")->capture_default_str();
  app.add_option("--width", c.width, "width of the model")->capture_default_str();
  app.add_option("--heads", c.heads, "heads")->capture_default_str();
  app.add_option("--mlp-width", c.mlp_width, "hidden width of the MLP")->capture_default_str();
  app.add_option("--components", c.components,
                 "gma: components of each factor of the product mixture; performer: their product features")
      ->capture_default_str();
  app.add_option("--plain-components", c.plain_components, "gma-plain: components")->capture_default_str();
  app.add_option(
         "--convolution", c.convolution,
         "taps of the short convolution; 1: none; 0: the default, none for gma-plain and sdpa, 4 for the others")
      ->capture_default_str();
  app.add_flag("--forgetting,!--no-forgetting", c.has_forgetting, "gma, linear, performer: whether heads forget");
  app.add_option("--slot-forgetting", c.slot_forgetting, "gma: rank of the forgetting of every slot; 0 for none")
      ->capture_default_str();
  app.add_option("--gma-window", c.gma_window, "gma: tokens of the exact window; 0 for none")->capture_default_str();
  app.add_flag("--positions,!--no-positions", c.has_positions,
               "add sinusoids of the position to the tokens; for mixers that do not know the order of tokens");
  app.add_option("--window", c.window, "window: number of tokens that a token sees")->capture_default_str();
  app.add_option("--state", c.state, "mamba: numbers kept per channel")->capture_default_str();
  app.add_option("--mamba-head", c.mamba_head, "mamba: channels per head")->capture_default_str();
  app.add_option("--cache", c.cache, "sdpa: the last tokens whose keys a stream keeps; 0: all")->capture_default_str();
  app.add_flag("--unit-queries,!--no-unit-queries", c.has_unit_queries,
               "sdpa, window: queries and keys of unit root mean square, with a learned scale");
  app.add_flag("--output-norm,!--no-output-norm", c.has_output_norm, "gma: outputs of heads of unit root mean square");
  app.add_flag("--output-gate,!--no-output-gate", c.has_output_gate, "gma: the outputs times silu(x W^T)");
  app.add_option("--forgetting-fastest", c.forgetting_fastest, "gma: initial rate of the first head")
      ->capture_default_str();
  app.add_option("--forgetting-slowest", c.forgetting_slowest, "gma: initial rate of the last head")
      ->capture_default_str();
}

void add_train_options(CLI::App& app, lm::TrainConfig& c) {
  app.add_option("--seconds", c.seconds, "train for this long")->capture_default_str();
  app.add_option("--steps", c.steps, "train for this many steps instead of --seconds")->excludes("--seconds");
  app.add_option("--batch", c.batch, "sequences per step")->capture_default_str();
  app.add_option("--context", c.context, "tokens per sequence")->capture_default_str();
  app.add_option("--shards", c.shards, "parts of a step that threads work on")->capture_default_str();
  app.add_option("--learning-rate", c.learning_rate, "peak learning rate")->capture_default_str();
  app.add_option("--final-learning-rate", c.final_learning_rate, "learning rate at the end, as a fraction of the peak")
      ->capture_default_str();
  app.add_option("--warmup-steps", c.warmup_steps, "steps of linear warm-up")->capture_default_str();
  app.add_option("--mixture-learning-rate", c.mixture_learning_rate, "factor for mixture parameters")
      ->capture_default_str();
  app.add_option("--weight-decay", c.weight_decay, "weight decay of matrices")->capture_default_str();
  app.add_option("--beta1", c.beta1, "AdamW")->capture_default_str();
  app.add_option("--beta2", c.beta2, "AdamW")->capture_default_str();
  app.add_option("--clip", c.clip, "largest norm of the gradient")->capture_default_str();
  app.add_option("--train-seed", c.seed, "seed of the initial parameters and of the order of the text")
      ->capture_default_str();
}

void add_sampling_options(CLI::App& app, lm::SamplingOptions& options, std::string& prompt) {
  app.add_option("--temperature", options.temperature, "0 takes the most probable token")->capture_default_str();
  app.add_option("--top-k", options.top_k, "sample only from this many most probable tokens; 0 for all")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "seed of the sampling")->capture_default_str();
  app.add_option("--prompt", prompt, "text to continue");
}

void add_common_options(CLI::App& app, lm::CommonOptions& options) {
  app.add_option("--text", options.text, "kjv (the King James Bible), anarchism (An Anarchist FAQ), or text files")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "threads; 0 for all cores")->check(CLI::NonNegativeNumber);
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
  lm::DemoOptions demo;
  lm::CompareOptions compare;
  demo.train.seconds = 50;
  lm::EvaluateOptions evaluate;

  CLI::App& training = *app.add_subcommand("train", "train a model");
  add_common_options(training, common);
  add_model_options(training, train.model);
  add_train_options(training, train.train);
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
  add_common_options(evaluating, common);

  CLI::App& counting = *app.add_subcommand("baselines", "n-grams and xz on the same text");
  add_common_options(counting, common);

  CLI::App& showing = *app.add_subcommand("demo", "train every mixer for the same bytes and the same seconds");
  showing.add_option("--out", demo.directory, "directory for the files it writes")->capture_default_str();
  add_common_options(showing, common);
  add_model_options(showing, demo.model);
  add_train_options(showing, demo.train);

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
  add_common_options(comparing, common);

  CLI11_PARSE(app, argc, argv);
  if (training.parsed()) return lm::train_command(common, train);
  if (generating.parsed()) return lm::generate_command(generate);
  if (evaluating.parsed()) return lm::evaluate_command(common, evaluate);
  if (counting.parsed()) return lm::baselines_command(common);
  if (comparing.parsed()) return lm::compare_command(common, compare);
  return lm::demo_command(common, demo);
}

}  // namespace

int main(int argc, char** argv) try { return run(argc, argv); } catch (const std::exception& error) {
  std::fprintf(stderr, "language_model: %s\n", error.what());
  return 1;
}
