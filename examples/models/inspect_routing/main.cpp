// SPDX-License-Identifier: MIT
//
// The command line: `inspect_routing CHECKPOINT --text kjv --out DIRECTORY`.

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>

#include "files.hpp"

namespace lm = language_model;
namespace ir = inspect_routing;

namespace {

void print_summary(const ir::Inspection& inspection) {
  std::printf("layer head side     entropy/log K  dead  components/token   NMI  tokens in memory\n");
  const double log_k = std::log(double(inspection.components));
  for (const ir::HeadReport& head : inspection.heads) {
    for (const ir::Side side : ir::sides) {
      const ir::SideReport& s = head.side(side);
      std::printf("%5lld %4lld %-8s %13.3f %5lld %17.1f %5.3f", static_cast<long long>(head.layer + 1),
                  static_cast<long long>(head.head + 1), ir::name_of(side), log_k > 0 ? s.usage_entropy / log_k : 1.0,
                  static_cast<long long>(s.dead), s.token_components, s.information.normalised());
      if (head.has_forgetting) std::printf(" %17.1f", head.forgetting.held);
      std::printf("\n");
    }
  }
}

int run(int argc, char** argv) {
  CLI::App app("What the components of a trained Gaussian mixture attention model have learned");
  std::string checkpoint_path, out = "routing";
  std::vector<std::string> texts = {"kjv"};
  ir::InspectOptions options;
  app.add_option("checkpoint", checkpoint_path, "checkpoint of the example language model, mixer gma or gma-plain")
      ->required();
  app.add_option("--text", texts, "kjv (the King James Bible), anarchism (An Anarchist FAQ), or text files")
      ->capture_default_str();
  app.add_option("--out", out, "directory for routing.html and the tables")->capture_default_str();
  app.add_option("--tokens", options.tokens, "approximate number of held-out tokens to count")->capture_default_str();
  app.add_option("--window", options.window, "tokens to show one by one")->capture_default_str();
  app.add_option("--window-at", options.window_at,
                 "first token of the window in the held-out part; -1: a line in the middle")
      ->capture_default_str();
  app.add_option("--strongest", options.strongest, "strongest tokens to list per component")->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const lm::Checkpoint checkpoint = lm::load_checkpoint(checkpoint_path);
  const lm::Text text = lm::load_text(texts, checkpoint.train.context, 0, &checkpoint.vocabulary);
  ir::Inspection inspection = ir::inspect(checkpoint, text, options);
  inspection.checkpoint = std::filesystem::path(checkpoint_path).filename().string();
  print_summary(inspection);

  const std::filesystem::path directory = out;
  ir::write_files(directory, inspection);
  std::printf("%s: open it in a browser; the tables are in the same folder\n",
              (directory / "routing.html").string().c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) try { return run(argc, argv); } catch (const std::exception& error) {
  std::fprintf(stderr, "inspect_routing: %s\n", error.what());
  return 1;
}
