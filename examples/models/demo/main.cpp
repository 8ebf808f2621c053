// SPDX-License-Identifier: MIT
//
// The command line: `demo --out out`.

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "demo.hpp"
#include "language_model/command_line.hpp"

namespace {

int run(int argc, char** argv) {
  CLI::App app("Trains Gaussian mixture attention and softmax attention on a book and compares them");
  language_model::CommonOptions common;
  demo::DemoOptions options;
  options.train.seconds = 42;
  app.add_option("--out", options.directory, "directory for the files it writes")->capture_default_str();
  app.add_option("--language-model", options.language_model,
                 "the program language_model, for the commands to go on with")
      ->required();
  app.add_option("--longest", options.longest, "tokens of the longest stream")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  language_model::add_common_options(app, common);
  language_model::add_model_options(app, options.model);
  language_model::add_train_options(app, options.train);
  CLI11_PARSE(app, argc, argv);
  demo::run(common, options);
  return 0;
}

}  // namespace

int main(int argc, char** argv) try { return run(argc, argv); } catch (const std::exception& error) {
  std::fprintf(stderr, "demo: %s\n", error.what());
  return 1;
}
