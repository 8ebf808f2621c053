// SPDX-License-Identifier: MIT
//
// The command line: `needle CHECKPOINT --longest 1048576`.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "language_model/checkpoint.hpp"
#include "needle.hpp"
#include "transformer/build_information.hpp"
#include "transformer/config_json.hpp"
#include "transformer/progress.hpp"
#include "transformer/results.hpp"
#include "transformer/write_file.hpp"

namespace lm = language_model;

namespace {

int run(int argc, char** argv) {
  CLI::App app("Asks a model for what stood at the beginning of a stream, after 256 bytes up to a million and more");
  std::string path, json, stream_file;
  needle::Options options;
  lm::Index threads = 0;
  app.add_option("checkpoint", path, "checkpoint of a model of bytes that was trained on needles")->required();
  app.add_option("--needles", options.needles, "needles of a stream")->capture_default_str();
  app.add_option("--longest", options.longest, "bytes of a stream")->capture_default_str();
  app.add_option("--streams", options.streams, "streams")->capture_default_str();
  app.add_option("--chunk", options.chunk, "bytes that are read at a time")->capture_default_str();
  app.add_option("--seed", options.seed, "seed of the streams")->capture_default_str();
  app.add_option("--threads", threads, "threads; 0 for all cores")->check(CLI::NonNegativeNumber);
  app.add_option("--json", json, "file for the figures");
  app.add_option("--write", stream_file, "file for the first 256 bytes of the first stream, questions included");
  CLI11_PARSE(app, argc, argv);

  const lm::Checkpoint checkpoint = lm::load_checkpoint(path);
  lm::Model<float> model(checkpoint.model);
  model.prepare(checkpoint.state.parameters);
  transformer::ThreadPool pool(threads);
  const transformer::Stopwatch watch;
  const auto answers = needle::find_needles(model, checkpoint.state.parameters, options, pool);
  const double seconds = watch.seconds();

  std::printf("| bytes | right answers | nats | bytes of state |\n|---:|---:|---:|---:|\n");
  nlohmann::json rows = nlohmann::json::array();
  for (const needle::Answers& a : answers) {
    const double share = double(a.right) / double(a.asked);
    std::printf("| %lld | %.1f %% of %lld | %.3f | %lld |\n", static_cast<long long>(a.length), 100 * share,
                static_cast<long long>(a.asked), a.nats, static_cast<long long>(a.state_bytes));
    rows.push_back({{"length", a.length},
                    {"asked", a.asked},
                    {"right", a.right},
                    {"nats", a.nats},
                    {"state_bytes", a.state_bytes}});
  }
  std::printf("%lld streams in %.1f s\n", static_cast<long long>(options.streams), seconds);

  if (!stream_file.empty()) {
    needle::Stream stream(options, 0);
    std::vector<lm::Token> tokens = stream.needles();
    const auto append = [&](const std::vector<lm::Token>& more) {
      tokens.insert(tokens.end(), more.begin(), more.end());
    };
    for (lm::Index left = 256 - 8 * options.needles; left > 0; left -= options.chunk)
      append(stream.letters((std::min)(options.chunk, left)));
    const needle::Questions questions = stream.questions();
    append(questions.tokens);
    for (const lm::Token value : questions.values) tokens.push_back(value);
    transformer::write_file(stream_file, std::string(tokens.begin(), tokens.end()));
  }
  if (!json.empty()) {
    const nlohmann::json figures = {{"checkpoint", path},
                                    {"model", checkpoint.model},
                                    {"needles", options.needles},
                                    {"streams", options.streams},
                                    {"seed", options.seed},
                                    {"answers", rows},
                                    {"seconds", seconds},
                                    {"machine", transformer::machine(pool.size())},
                                    {"compiler", transformer::compiler()},
                                    {"flags", transformer::effective_flags()},
                                    {"commit", transformer::commit()}};
    transformer::write_file(json, figures.dump(2) + "\n");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) try { return run(argc, argv); } catch (const std::exception& error) {
  std::fprintf(stderr, "needle: %s\n", error.what());
  return 1;
}
