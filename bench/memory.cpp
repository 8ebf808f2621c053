// SPDX-License-Identifier: MIT
// Peak extra memory of every program against N, counted (see allocations.hpp for what is): heap in use during the first
// call, beyond inputs, outputs and what was there before. Prints a table; --out writes JSON, which the report reads.
#include <CLI/CLI.hpp>

#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "allocations.hpp"
#include "lineup.hpp"
#include "timing.hpp"

namespace {

/// Counts every program at one length.
void count(bench::Pass pass, bench::Index tokens, const bench::LineupOptions& options, bench::Stops& stops,
           nlohmann::json& counts) {
  for (const bench::Problem& problem : bench::lineup(options, pass, tokens)) {
    if (!stops.permits(problem)) continue;
    const std::unique_ptr<bench::Program> program = bench::make_program(problem);
    std::size_t peak = 0;
    const double seconds = bench::seconds_of([&] { peak = bench::peak_extra_bytes([&] { program->run(); }).value(); });
    const std::size_t returned = program->returned_bytes();
    const std::size_t extra = peak > returned ? peak - returned : 0;
    const std::string name = bench::name(problem);
    std::printf("%-9s %-18s %8td %14.1f\n", bench::name(pass), name.c_str(), tokens, static_cast<double>(extra) / 1024);
    std::fflush(stdout);
    counts.push_back({{"pass", bench::name(pass)}, {"program", name}, {"tokens", tokens}, {"bytes", extra}});
    stops.took(problem, seconds);
  }
}

}  // namespace

int main(int argc, char** argv) {
  bench::LineupOptions options;
  std::string out;
  CLI::App app("Peak extra heap memory of GMA and of softmax attention against the length of the sequence");
  bench::add_options(app, options);
  app.add_option("--out", out, "Write the counts to this JSON file");
  CLI11_PARSE(app, argc, argv);
  bench::apply_quick(options);

  nlohmann::json counts = nlohmann::json::array();
  bench::Stops stops(options);
  std::printf("%-9s %-18s %8s %14s\n", "pass", "program", "N", "peak extra KiB");
  for (const bench::Pass pass : bench::passes(options)) {
    for (const bench::Index tokens : bench::lengths(options)) count(pass, tokens, options, stops, counts);
  }
  for (const std::string& sentence : stops.sentences()) std::printf("%s\n", sentence.c_str());
  if (out.empty()) return 0;
  std::ofstream file(out);
  file << counts.dump(1) << '\n';
  file.close();
  if (!file) {
    std::cerr << "cannot write " << out << '\n';
    return 1;
  }
  return 0;
}
