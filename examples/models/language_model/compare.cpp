// SPDX-License-Identifier: MIT
//
// A table of mixers at equal numbers of parameters, tokens and schedule. Every finished run is added to a JSON file at
// once, and runs in that file are not repeated: the table can be made in parts, and on several machines.

#include <cmath>
#include <cstdio>
#include <filesystem>

#include "commands.hpp"
#include "compare_report.hpp"
#include "training_run.hpp"
#include "transformer/comparison.hpp"

namespace language_model {

namespace {

const std::vector<Variant>& variants() {
  const auto components = [](std::vector<Index> sizes, Index taps) {
    return [sizes, taps](ModelConfig& c) { c.components = sizes, c.convolution = taps; };
  };
  static const std::vector<Variant> all = {
      {"performer", MixerKind::performer, plain},
      {"linear", MixerKind::linear, plain},
      {"gma as in the paper", MixerKind::gma_plain, as_it_is},
      {"performer + forgetting + convolution", MixerKind::performer, as_it_is},
      {"linear + forgetting + convolution", MixerKind::linear, as_it_is},
      {"mamba", MixerKind::mamba, as_it_is},
      {"sdpa", MixerKind::sdpa, as_it_is},
      {"sdpa + convolution", MixerKind::sdpa, with_convolution},
      {"window 64 + convolution", MixerKind::window, with_convolution},
      {"gma 64 + forgetting", MixerKind::gma, components({64}, 1)},
      {"gma 64 + forgetting + convolution", MixerKind::gma, components({64}, 4)},
      {"gma 8 x 8 + forgetting + convolution", MixerKind::gma, components({8, 8}, 4)},
      {"gma 16 x 16 + forgetting + convolution", MixerKind::gma, components({16, 16}, 4)},
      {"gma 8 x 8 + forgetting + convolution + window 64", MixerKind::gma,
       [](ModelConfig& c) {
         c.components = {8, 8}, c.convolution = 4, c.gma_window = 64;
       }},
  };
  return all;
}

struct Budget {
  ModelConfig model;
  TrainConfig train;
};

Budget budget_of(const std::string& name) {
  Budget b;
  b.train.seconds = 0;
  const auto set = [&](Index layers, Index width, Index heads, Index mlp, Index context, Index batch, double tokens) {
    b.model.layers = layers, b.model.width = width, b.model.heads = heads, b.model.mlp_width = mlp;
    b.train.context = context, b.train.batch = batch;
    b.train.steps = static_cast<std::int64_t>(std::ceil(tokens / double(context * batch)));
  };
  if (name == "smoke") {
    set(1, 32, 2, 64, 64, 2, 2e3);
  } else if (name == "small") {
    set(2, 96, 2, 256, 256, 4, 4e5);
  } else if (name == "medium") {
    set(4, 128, 4, 352, 512, 8, 4e6);
  } else if (name == "full") {
    set(4, 192, 4, 576, 512, 8, 20e6);
  } else {
    throw std::invalid_argument("budget is " + name + ", expected smoke, small, medium or full");
  }
  b.train.shards = b.train.batch;
  return b;
}

Index parameters_of(const ModelConfig& config) { return Model<float>(config).layout().parameters(); }

class Comparison {
 public:
  Comparison(const CommonOptions& common, const CompareOptions& options)
      : options_(options),
        budget_(budget_of(options.budget)),
        pool_(common.threads),
        text_(load_text(common.text, budget_.train.context, common.pieces)),
        token_(common.pieces > 0 ? format("one of %lld pieces", static_cast<long long>(common.pieces)) : "byte"),
        results_(options.results) {
    budget_.model.vocabulary = text_.vocabulary.size();
    ModelConfig model = budget_.model;
    model.mixer = MixerKind::gma;
    parameters_ = parameters_of(model);
  }

  void run() {
    for (const std::uint64_t seed : options_.seeds)
      for (const Variant& variant : chosen(variants(), options_.only))
        for (const double rate : options_.learning_rates) one(variant, rate, seed);
    report(results_, {{"budget", options_.budget}, {"token", token_}, {"text", text_.name}}, options_);
  }

 private:
  void one(const Variant& variant, double rate, std::uint64_t seed) {
    TrainConfig train = budget_.train;
    train.learning_rate = rate;
    train.seed = seed;
    nlohmann::json result = {{"mixer", name_of(variant.mixer)},
                             {"variant", variant.name},
                             {"budget", options_.budget},
                             {"seed", seed},
                             {"tokens", train.steps * train.batch * train.context},
                             {"token", token_},
                             {"context", train.context},
                             {"text", text_.name},
                             {"learning_rate", rate}};
    if (results_.find(result)) return;
    ModelConfig model = budget_.model;
    model.mixer = variant.mixer;
    variant.change(model);
    model.mlp_width = matching_mlp_width(model, parameters_, parameters_of);
    RunOptions run_options;
    run_options.is_quiet = true;
    run_options.is_evaluated_early = false;
    run_options.checkpoint = unfinished_file(variant, rate, seed);
    TrainingRun training(model, train, text_, pool_, run_options);
    if (std::filesystem::exists(run_options.checkpoint))
      training.restore(load_resumable_checkpoint(run_options.checkpoint));
    const RunResult r = training.train();
    if (is_interrupted()) throw_interrupted(options_.results, run_options.checkpoint);
    const double nats = text_.bytes_per_token() / bits_per_nat;  // nats per token at one bit per byte
    nlohmann::json curve = nlohmann::json::array(), positions = nlohmann::json::array();
    for (const CurvePoint& p : r.curve)
      curve.push_back(
          {{"tokens", p.steps * train.batch * train.context}, {"seconds", p.seconds}, {"loss", p.validation * nats}});
    constexpr Index beyond = 8, windows = 64;  // times the context
    for (const PositionLoss& p : training.loss_by_position(beyond * train.context, windows))
      positions.push_back({{"begin", p.begin}, {"end", p.end}, {"loss", p.loss}});
    result.update({{"parameters", r.parameters},
                   {"validation_loss", r.windowed * nats},
                   {"bits_per_byte", r.windowed},
                   {"streamed_bits_per_byte", r.streamed},
                   {"seconds", r.seconds},
                   {"machine", machine(pool_.size())},
                   {"curve", curve},
                   {"loss_by_position", positions}});
    results_.add(result);
    if (options_.models.empty()) {
      std::filesystem::remove(run_options.checkpoint);
    } else {
      std::filesystem::create_directories(options_.models);
      std::filesystem::rename(run_options.checkpoint, std::filesystem::path(options_.models) /
                                                          (file_name(variant, rate, seed) + ".checkpoint"));
    }
    std::printf("%-40s seed %llu  rate %g  %lld parameters  %.4f nats per token, %.3f bits per byte, %.0f s\n",
                variant.name, static_cast<unsigned long long>(seed), rate, static_cast<long long>(r.parameters),
                r.windowed * nats, r.windowed, r.seconds);
    std::fflush(stdout);
  }

  // The file where an interrupted run is saved, to continue from there.
  std::string unfinished_file(const Variant& variant, double rate, std::uint64_t seed) const {
    return options_.results + "." + file_name(variant, rate, seed) + ".unfinished";
  }

  CompareOptions options_;
  Budget budget_;
  ThreadPool pool_;
  Text text_;
  std::string token_;
  Results results_;
  Index parameters_ = 0;
};

}  // namespace

int compare_command(const CommonOptions& common, const CompareOptions& options) {
  Comparison(common, options).run();
  return 0;
}

}  // namespace language_model
