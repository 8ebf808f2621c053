// SPDX-License-Identifier: MIT
//
// A table of mixers at equal numbers of parameters, tokens and schedule, and with one grid of learning rates for all.
// The validation half of the held-out text chooses the rate, and the test half gives the figures of the table. Every
// finished run is added to a JSON file at once, and runs in that file are not repeated: the table can be made in parts,
// and on several machines.

#include <cmath>
#include <cstdio>
#include <filesystem>

#include "commands.hpp"
#include "compare_report.hpp"
#include "stream_cost.hpp"
#include "training_run.hpp"
#include "transformer/build_information.hpp"
#include "transformer/comparison.hpp"

namespace language_model {

namespace {

const std::vector<Variant>& variants() {
  const auto components = [](std::vector<Index> sizes, Index taps) {
    return [sizes, taps](ModelConfig& c) { c.components = sizes, c.convolution = taps; };
  };
  static const std::vector<Variant> all = {
      {"performer + positions", MixerKind::performer, plain_with_positions},
      {"linear + positions", MixerKind::linear, plain_with_positions},
      {"gma as in the paper + positions", MixerKind::gma_plain, plain_with_positions},
      {"performer + forgetting + convolution", MixerKind::performer, as_it_is},
      {"linear + forgetting + convolution", MixerKind::linear, as_it_is},
      {"mamba", MixerKind::mamba, as_it_is},
      {"mamba without MLP, state 128, heads of 64", MixerKind::mamba,
       [](ModelConfig& c) { c.mlp_width = 0, c.state = 128, c.mamba_head = 64; }},
      {"delta (Gated DeltaNet)", MixerKind::delta, as_it_is},
      {"sdpa", MixerKind::sdpa, as_it_is},
      {"sdpa + convolution", MixerKind::sdpa, with_convolution},
      {"sdpa + convolution + unit queries", MixerKind::sdpa,
       [](ModelConfig& c) { c.convolution = 4, c.has_unit_queries = true; }},
      {"window 64 + convolution", MixerKind::window, with_convolution},
      {"gma 64 + forgetting", MixerKind::gma, components({64}, 1)},
      {"gma 64 + forgetting + convolution", MixerKind::gma, components({64}, 4)},
      {"gma 8 x 8 + forgetting + convolution", MixerKind::gma, components({8, 8}, 4)},
      {"gma 8 x 8 + forgetting + convolution + norm and gate", MixerKind::gma,
       [](ModelConfig& c) {
         c.components = {8, 8}, c.convolution = 4, c.has_output_norm = c.has_output_gate = true;
       }},
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
  b.model.has_output_norm = b.model.has_output_gate = false;  // variants say what they have
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
    const Index least = (std::min)(text_.validation().size(), text_.test().size()), context = budget_.train.context;
    require(least >= context, "compare: half of the held-out part of " + text_.name + " has " + std::to_string(least) +
                                  " tokens, expected at least a context of " + std::to_string(context) +
                                  ": give a longer text");
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
                             {"evaluation", test_apart},
                             {"budget", options_.budget},
                             {"seed", seed},
                             {"tokens", train.steps * train.batch * train.context},
                             {"token", token_},
                             {"context", train.context},
                             {"text", text_.name},
                             {"learning_rate", rate}};
    if (results_.find(result)) return;
    RunOptions run_options;
    run_options.is_quiet = true;
    run_options.is_evaluated_early = false;
    run_options.is_test_apart = true;
    run_options.checkpoint = unfinished_file(variant, rate, seed);
    TrainingRun training(model_of(variant), train, text_, pool_, run_options);
    if (std::filesystem::exists(run_options.checkpoint))
      training.restore(load_resumable_checkpoint(run_options.checkpoint));
    const RunResult r = training.train();
    if (is_interrupted()) throw_interrupted(options_.results, run_options.checkpoint);
    result.update(figures_of(r, training));
    results_.add(result);
    if (options_.models.empty()) {
      std::filesystem::remove(run_options.checkpoint);
    } else {
      std::filesystem::create_directories(options_.models);
      std::filesystem::rename(run_options.checkpoint, std::filesystem::path(options_.models) /
                                                          (file_name(variant, rate, seed) + ".checkpoint"));
    }
    std::printf("%-52s seed %llu  rate %g  %lld parameters  validation %.4f nats per token, %.0f s\n", variant.name,
                static_cast<unsigned long long>(seed), rate, static_cast<long long>(r.parameters),
                number(result, "validation_loss", "validation_loss"), r.seconds);
    std::fflush(stdout);
  }

  ModelConfig model_of(const Variant& variant) const {
    ModelConfig model = budget_.model;
    model.mixer = variant.mixer;
    variant.change(model);
    if (model.mlp_width > 0) {
      model.mlp_width = matching_mlp_width(model, parameters_, parameters_of);
    } else {
      model.layers = matching_layers(model, parameters_, parameters_of);
    }
    return model;
  }

  // The members of a finished run that are measured.
  nlohmann::json figures_of(const RunResult& r, TrainingRun& training) const {
    const Part validation = text_.validation(), test = text_.test();
    const auto nats = [](double bits_per_byte, const Part& part) {  // per token
      return bits_per_byte * part.bytes_per_token / bits_per_nat;
    };
    Evaluator<float>& evaluator = training.evaluator();
    const Vector<float>& parameters = training.parameters();
    const std::vector<WindowLoss> windows = evaluator.windows(parameters, test);
    nlohmann::json window_losses = nlohmann::json::array(), curve = nlohmann::json::array(),
                   positions = nlohmann::json::array();
    for (const WindowLoss& window : windows)
      window_losses.push_back(std::round(1e4 * window.nats / double(window.tokens)) / 1e4);
    for (const CurvePoint& p : r.curve)
      curve.push_back({{"tokens", p.steps * r.train.batch * r.train.context},
                       {"seconds", p.seconds},
                       {"loss", nats(p.validation, validation)}});
    constexpr Index beyond = 8, most_windows = 64, steps = 128;  // beyond: times the context
    for (const PositionLoss& p : evaluator.by_position(parameters, test, beyond * r.train.context, most_windows))
      positions.push_back({{"begin", p.begin}, {"end", p.end}, {"loss", p.loss}});
    const StreamCost stream = stream_cost(training.model(), parameters, text_.data(), r.train.context, steps);
    const double test_loss = mean_loss(windows);
    nlohmann::json figures = {{"parameters", r.parameters},
                              {"model", r.model},
                              {"validation_loss", nats(r.windowed, validation)},
                              {"test_loss", test_loss},
                              {"test_bits_per_byte", bits_per_nat * test_loss / test.bytes_per_token},
                              {"test_window_losses", window_losses},
                              {"seconds", r.seconds},
                              {"training_tokens_per_second", double(r.tokens) / r.seconds},
                              {"decoding_tokens_per_second", stream.decoding},
                              {"state_numbers", stream.numbers},
                              {"machine", machine(pool_.size())},
                              {"commit", commit()},
                              {"compiler", compiler()},
                              {"flags", effective_flags()},
                              {"curve", curve},
                              {"loss_by_position", positions}};
    if (training.model().is_constant_memory())
      figures["test_streamed_bits_per_byte"] = evaluator.streamed(parameters, test);
    return figures;
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
  Index parameters_ = 0;  // of all variants, as near as they come
};

}  // namespace

int compare_command(const CommonOptions& common, const CompareOptions& options) {
  Comparison(common, options).run();
  return 0;
}

}  // namespace language_model
