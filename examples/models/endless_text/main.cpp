// SPDX-License-Identifier: MIT
//
// The command line: `endless_text CHECKPOINT FILE --state FILE`.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "report.hpp"
#include "transformer/build_information.hpp"
#include "transformer/results.hpp"

namespace lm = language_model;
namespace et = endless_text;

namespace {

int run(int argc, char** argv) {
  CLI::App app("Reads a text of any length through a trained language model, in constant memory");
  std::string checkpoint_path, text, csv, json;
  et::ReadOptions options;
  app.add_option("checkpoint", checkpoint_path, "checkpoint of the example language model, of bytes")->required();
  app.add_option("text", text, "the text: a file, or - for the standard input")->required();
  app.add_option(
      "--state", options.state,
      "file of the stream: it is written now and then, on Ctrl-C and at the end, and a stream goes on from it");
  app.add_option("--save-every", options.save_every, "seconds between two states")->capture_default_str();
  app.add_flag("--feed", options.is_feed,
               "the text goes on where the state ended; otherwise it is read from its start again, and compared");
  app.add_option("--begin", options.begin, "bytes of the text to leave out before the stream begins");
  app.add_option("--bytes", options.bytes, "bytes to read at most");
  app.add_option("--chunk", options.chunk, "bytes that go through the model at a time")->capture_default_str();
  app.add_option("--threads", options.threads, "threads; 0 for all cores")->check(CLI::NonNegativeNumber);
  app.add_option("--csv", csv, "file for the bits per byte by position, in CSV");
  app.add_option("--json", json, "file for the same with times and memory, in JSON");
  app.add_flag("--quiet", options.is_quiet, "no progress line");
  CLI11_PARSE(app, argc, argv);

  lm::Checkpoint checkpoint = lm::load_checkpoint(checkpoint_path);
  checkpoint.state.first_moment.resize(0);  // only training needs them
  checkpoint.state.second_moment.resize(0);
  et::DescriptorSource file(text);
  options.text_bytes = file.size();
  const et::ByteSource source = [&](char* to, std::size_t most) { return file(to, most); };
  const et::ReadResult result = et::read_text(checkpoint, source, options);
  std::printf("%s", et::table(result, checkpoint.is_resumable ? checkpoint.train.context : 0).c_str());
  if (!csv.empty()) transformer::write_file(csv, et::csv(result));
  if (!json.empty()) {
    nlohmann::json record = et::to_json(result);
    record["checkpoint"] = checkpoint_path;
    record["model"] = checkpoint.model;
    record["text"] = text;
    record["begin"] = options.begin;
    record["chunk"] = options.chunk;
    record["machine"] = transformer::machine(result.threads);
    record["compiler"] = transformer::compiler();
    record["flags"] = transformer::effective_flags();
    record["commit"] = transformer::commit();
    transformer::write_file(json, record.dump(2) + "\n");
  }
  if (result.is_complete) return 0;
  if (options.state.empty())
    std::printf("Interrupted. With --state FILE the same command would go on from here.\n");
  else
    std::printf("Interrupted. The same command goes on from %s.\n", options.state.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) try { return run(argc, argv); } catch (const std::exception& error) {
  std::fprintf(stderr, "endless_text: %s\n", error.what());
  return 1;
}
