// SPDX-License-Identifier: MIT
//
// The options of text, model and training on a command line.
#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "commands.hpp"

namespace language_model {

inline void add_model_options(CLI::App& app, ModelConfig& c) {
  std::map<std::string, MixerKind> mixers;
  for (const MixerKind mixer : all_mixers) mixers[name_of(mixer)] = mixer;
  const std::map<std::string, MlpKind> mlps{{"gated", MlpKind::gated}, {"plain", MlpKind::plain}};
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

inline void add_train_options(CLI::App& app, TrainConfig& c) {
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

inline void add_common_options(CLI::App& app, CommonOptions& options) {
  app.add_option("--text", options.text, "kjv (the King James Bible), anarchism (An Anarchist FAQ), or text files")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "threads; 0 for all cores")->check(CLI::NonNegativeNumber);
}

}  // namespace language_model
