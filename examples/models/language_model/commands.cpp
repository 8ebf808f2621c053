// SPDX-License-Identifier: MIT
//
// The sub-commands. Each reads its input, runs and prints.

#include "commands.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <optional>

#include "baselines.hpp"
#include "lengths.hpp"
#include "sampler.hpp"
#include "stream_cost.hpp"
#include "training_run.hpp"
#include "transformer/build_information.hpp"
#include "transformer/results.hpp"

namespace language_model {

int train_command(const CommonOptions& common, TrainOptions options) {
  std::optional<Checkpoint> checkpoint;
  if (!options.resume.empty()) {
    checkpoint = load_resumable_checkpoint(options.resume);
    options.model = checkpoint->model;
    options.train = checkpoint->train;
  }
  validate(options.train);
  const Text text =
      load_text(common.text, options.train.context, common.pieces, checkpoint ? &checkpoint->vocabulary : nullptr);
  options.model.vocabulary = text.vocabulary.size();
  ThreadPool pool(common.threads);
  TrainingRun run(options.model, options.train, text, pool, options.run);
  if (checkpoint) {
    run.restore(*checkpoint);
    if (run.is_finished()) std::printf("The run in %s is finished.\n", options.resume.c_str());
  }
  std::printf("%s: %lld %s, %lld of them held out; %s, %lld parameters, %lld threads\n", text.name.c_str(),
              static_cast<long long>(text.size()), text.vocabulary.is_bytes() ? "bytes" : "subwords",
              static_cast<long long>(text.held_out()), name_of(options.model.mixer),
              static_cast<long long>(run.model().layout().parameters()), static_cast<long long>(pool.size()));
  const RunResult result = run.train();
  if (result.streamed > 0)
    std::printf("streamed, with the memory kept from byte to byte: %.3f bits/byte held out\n", result.streamed);
  if (!options.log.empty()) {
    nlohmann::json log = result;
    log["losses"] = run.losses();
    write_file(options.log, log.dump(2) + "\n");
  }
  if (options.sample > 0) {
    Sampler<float> sampler(run.model(), run.parameters(), text.vocabulary, options.train.context, options.sampling);
    sampler.read(options.prompt);
    std::printf("%s%s\n", options.prompt.c_str(), sampler.generate(options.sample).c_str());
  }
  return 0;
}

int generate_command(const GenerateOptions& options) {
  const Checkpoint checkpoint = load_checkpoint(options.checkpoint);
  Model<float> model(checkpoint.model);
  model.prepare(checkpoint.state.parameters);
  Sampler<float> sampler(model, checkpoint.state.parameters, checkpoint.vocabulary,
                         options.context > 0 ? options.context : checkpoint.train.context, options.sampling);
  sampler.read(options.prompt);
  std::fputs(options.prompt.c_str(), stdout);
  for (Index i = 0; i < options.tokens; ++i) {
    std::fputs(sampler.next().c_str(), stdout);
    std::fflush(stdout);
  }
  std::putchar('\n');
  return 0;
}

int evaluate_command(const CommonOptions& common, const EvaluateOptions& options) {
  const Checkpoint checkpoint = load_checkpoint(options.checkpoint);
  const Index context = options.context > 0 ? options.context : checkpoint.train.context;
  const Text text = load_text(common.text, context, 0, &checkpoint.vocabulary);
  const Vector<float>& parameters = checkpoint.state.parameters;
  ThreadPool pool(common.threads);
  Model<float> model(checkpoint.model);
  model.prepare(parameters);
  Evaluator<float> evaluator(model, text, context, pool);

  const Part validation_part = text.validation(), test_part = text.test();
  const std::vector<WindowLoss> validation = evaluator.windows(parameters, validation_part);
  const std::vector<WindowLoss> test = evaluator.windows(parameters, test_part);
  std::vector<WindowLoss> all = validation;
  all.insert(all.end(), test.begin(), test.end());
  const auto bits = [&](const std::vector<WindowLoss>& windows, const Part& part) {
    return bits_per_nat * mean_loss(windows) / part.bytes_per_token;
  };
  std::printf("windows of %lld tokens: %.4f bits/byte; validation half %.4f, test half %.4f\n",
              static_cast<long long>(context), bits(all, text.whole_held_out()), bits(validation, validation_part),
              bits(test, test_part));
  double streamed = 0;
  if (model.is_constant_memory()) {
    streamed = evaluator.streamed(parameters);
    std::printf("streamed: %.4f bits/byte\n", streamed);
  }
  const Index read = (std::min)(context, text.size() / 2), steps = (std::min)(Index(128), text.size() - read);
  const StreamCost cost = stream_cost(model, parameters, text.data(), read, steps);
  std::printf(
      "a stream on one thread: %lld numbers of state after %lld tokens, which it reads at %.0f tokens/s; then one at "
      "a time at %.0f tokens/s\n",
      static_cast<long long>(cost.numbers), static_cast<long long>(read), cost.reading, cost.decoding);
  if (!options.json.empty()) {
    nlohmann::json figures = {{"model", checkpoint.model},
                              {"parameters", model.layout().parameters()},
                              {"context", context},
                              {"validation_loss", mean_loss(validation)},
                              {"test_loss", mean_loss(test)},
                              {"state_numbers", cost.numbers},
                              {"reading_tokens_per_second", cost.reading},
                              {"decoding_tokens_per_second", cost.decoding},
                              {"machine", machine(pool.size())},
                              {"commit", commit()},
                              {"compiler", compiler()},
                              {"flags", effective_flags()}};
    if (model.is_constant_memory()) figures["streamed_bits_per_byte"] = streamed;
    for (const WindowLoss& window : test)
      figures["test_window_losses"].push_back(std::round(1e4 * window.nats / double(window.tokens)) / 1e4);
    write_file(options.json, figures.dump(2) + "\n");
  }
  return 0;
}

int baselines_command(const CommonOptions& common) {
  print_baselines(compute_baselines(load_text(common.text, 256)));
  return 0;
}

int lengths_command(const CommonOptions& common, const LengthsOptions& options) {
  std::vector<LengthCurve> curves;
  for (const std::string& path : options.checkpoints) {
    const Checkpoint checkpoint = load_checkpoint(path);
    const Text text = load_text(common.text, checkpoint.train.context, 0, &checkpoint.vocabulary);
    Model<float> model(checkpoint.model);
    model.prepare(checkpoint.state.parameters);
    std::printf("%s reads %s ...\n", path.c_str(), text.name.c_str());
    std::fflush(stdout);
    curves.push_back(measure_lengths(std::filesystem::path(path).stem().string(), model, checkpoint.state.parameters,
                                     text.tokens, options.longest));
    require(!curves.back().costs.empty(), "lengths: " + text.name + " has " + std::to_string(text.size()) +
                                              " tokens and the longest stream " + std::to_string(options.longest) +
                                              ", expected more than 512");
  }
  const bool is_drawn = write_lengths(options.directory, curves);
  std::printf("\n%s\nOn one thread. Written to %s: lengths.csv, lengths.md%s\n", length_table(curves).c_str(),
              options.directory.c_str(), is_drawn ? ", lengths.svg" : " (install gnuplot-nox to draw lengths.svg)");
  return 0;
}

}  // namespace language_model
