// SPDX-License-Identifier: MIT
// model_files write FOLDER   a folder in it for several kinds of language models, each with a start and a training from
// it model_files check FOLDER   evaluates the models that Python trained from these starts, and compares with its
// figures
#include <cmath>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "language_model/checkpoint.hpp"
#include "language_model/evaluate.hpp"
#include "language_model/sampler.hpp"
#include "language_model/trainer.hpp"

namespace {

using namespace language_model;
using Path = std::filesystem::path;

ModelConfig model_config(const std::function<void(ModelConfig&)>& change) {
  ModelConfig config;
  config.width = 32;
  config.mlp_width = 48;
  config.components = {4, 4};
  change(config);
  return config;
}

TrainConfig train_config(std::uint64_t seed) {
  TrainConfig config;
  config.steps = 25;
  config.context = 96;
  config.learning_rate = 0.01;
  config.warmup_steps = 10;
  config.seed = seed;
  return config;
}

/// Words in random order.
void write_text(const Path& path) {
  constexpr const char* words[] = {"the ", "lord ", "said ", "unto ", "them ", "and ", "of ", "house ", "king\n"};
  Random random(1, 1);
  std::ofstream out(path, std::ios::binary);
  for (int i = 0; i < 6000; ++i) out << words[random.below(9)];
}

double windowed(const Model<float>& model, const Text& text, const Vector<float>& parameters, ThreadPool& pool) {
  return Evaluator<float>(model, text, train_config(1).context, pool).windowed(parameters);
}

void write_case(const Path& folder, const ModelConfig& config, const Text& text) {
  std::filesystem::create_directories(folder);
  ThreadPool pool(1);
  Model<float> model(config);
  nlohmann::json runs = nlohmann::json::array();
  Checkpoint checkpoint;
  checkpoint.model = config;
  for (const std::uint64_t seed : {1u, 2u}) {
    checkpoint.train = train_config(seed);
    Trainer<float> trainer(model, text, checkpoint.train, pool);
    if (seed == 1) {
      checkpoint.state = trainer.optimization.state();
      save_checkpoint((folder / "start.safetensors").string(), checkpoint, model.layout());
    } else {  // from the same start
      trainer.optimization.restore(load_checkpoint((folder / "start.safetensors").string()).state);
      model.prepare(trainer.parameters());
    }
    std::vector<double> losses;
    std::vector<std::vector<std::uint64_t>> windows;  // where the sequences of every step begin, as Trainer draws them
    for (std::int64_t step = 0; step < checkpoint.train.steps; ++step) {
      std::vector<std::uint64_t>& begins = windows.emplace_back();
      for (Index i = 0; i < checkpoint.train.batch; ++i) {
        const std::uint64_t sequence = static_cast<std::uint64_t>(step * checkpoint.train.batch + i);
        begins.push_back(
            Random(seed, 1000 + sequence).below(static_cast<std::uint64_t>(text.split - checkpoint.train.context)));
      }
      losses.push_back(trainer.step(static_cast<double>(step) / static_cast<double>(checkpoint.train.steps)));
    }
    checkpoint.state = trainer.optimization.state();
    save_checkpoint((folder / ("trained_" + std::to_string(seed) + ".safetensors")).string(), checkpoint,
                    model.layout());
    runs.push_back({{"windows", windows},
                    {"losses", losses},
                    {"bits_per_byte", windowed(model, text, trainer.parameters(), pool)}});
  }
  std::ofstream(folder / "runs.json") << runs;
}

void check_case(const Path& folder, const Text& text) {
  const nlohmann::json results = nlohmann::json::parse(std::ifstream(folder / "python" / "results.json"));
  ThreadPool pool(1);
  for (const nlohmann::json& run : results.at("runs")) {
    const std::string path = (folder / "python" / run.at("file").get<std::string>()).string();
    const Checkpoint checkpoint = load_checkpoint(path);
    Model<float> model(checkpoint.model);
    model.prepare(checkpoint.state.parameters);
    const double found = windowed(model, text, checkpoint.state.parameters, pool), expected = run.at("bits_per_byte");
    Evaluator<float> evaluator(model, text, train_config(1).context, pool);
    const double streamed = evaluator.streamed(checkpoint.state.parameters);
    Sampler<float> sampler(model, checkpoint.state.parameters, checkpoint.vocabulary, 0, SamplingOptions());
    std::cout << path << ": " << found << " bits per byte, " << std::abs(found - expected) << " from Python; streamed "
              << streamed << "; it writes \"" << sampler.generate(20) << "\"\n";
    if (!(std::abs(found - expected) <= 1e-5)) throw std::runtime_error(path + " differs from Python");
    if (!(streamed <= found + 0.1)) throw std::runtime_error(path + " is worse as a stream");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc == 3 ? argv[1] : "";
  try {
    if (verb == "write" || verb == "check") {
      const Path all = argv[2];
      std::filesystem::create_directories(all);
      if (verb == "write") write_text(all / "text.txt");
      const Text text = load_text({(all / "text.txt").string()}, train_config(1).context);
      const auto one = [&](const char* name, const std::function<void(ModelConfig&)>& change) {
        if (verb == "write") {
          write_case(all / name, model_config(change), text);
        } else {
          check_case(all / name, text);
        }
      };
      one("gma", [](ModelConfig&) {});
      one("gma_plain", [](ModelConfig& c) { c.mixer = MixerKind::gma_plain, c.mlp = MlpKind::plain; });
      one("slot_forgetting", [](ModelConfig& c) { c.slot_forgetting = 4; });
      one("gma_window", [](ModelConfig& c) { c.gma_window = 20, c.convolution = 3, c.has_forgetting = false; });
      return 0;
    }
    std::cerr << "usage: " << argv[0] << " write|check FOLDER\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
  }
  return 1;
}
