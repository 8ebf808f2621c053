// SPDX-License-Identifier: MIT
// The comparison of GMA with softmax attention in one command: checks every output, times all programs in turn, prints
// the tables, and writes report.md, report.json and the figure time_memory.svg and .png.
#include <CLI/CLI.hpp>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "report.hpp"

namespace {

using bench::Index;
using bench::Pass;
using bench::Problem;
using bench::Report;

constexpr double tolerated_error = 1e-4;  // norm-wise; float gradients lie near 1e-6
constexpr double shortest_sample = 5e-3;  // seconds; shorter calls are repeated

/// Checks and times every program at one length.
void measure(Report& report, Pass pass, Index tokens, bench::Stops& stops) {
  std::vector<std::unique_ptr<bench::Program>> owned;
  std::vector<bench::Result> results;
  std::vector<double> first;
  for (const Problem& problem : bench::lineup(report.options, pass, tokens)) {
    if (!stops.permits(problem)) continue;
    owned.push_back(bench::make_program(problem));
    results.push_back({problem, {}, owned.back()->error()});
    if (!(results.back().error <= tolerated_error)) {
      throw std::runtime_error(bench::name(problem) + " computes something else at N = " + std::to_string(tokens) +
                               ": relative error " + std::to_string(results.back().error));
    }
    first.push_back(bench::seconds_of([&] { owned.back()->run(); }));
  }
  owned.push_back(bench::make_product_program(bench::yardstick_size));
  owned.back()->run();
  first.push_back(bench::seconds_of([&] { owned.back()->run(); }));

  std::vector<bench::Program*> programs;
  for (const std::unique_ptr<bench::Program>& program : owned) programs.push_back(program.get());
  const std::vector<bench::Samples> samples =
      bench::round_robin(programs, first, report.options.rounds, shortest_sample);
  for (std::size_t i = 0; i < results.size(); ++i) {
    results[i].samples = samples[i];
    report.results.push_back(results[i]);
    stops.took(results[i].problem, samples[i].median());
  }
  Problem product;
  product.pass = pass;
  product.tokens = tokens;
  report.yardstick.push_back({product, samples.back(), 0});
}

void write(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) throw std::runtime_error("cannot write " + path);
}

int run(int argc, char** argv) {
  Report report;
  std::string folder = "report", memory;
  CLI::App app("GMA against softmax attention: time and memory from N = 256 to 65,536");
  bench::add_options(app, report.options);
  app.add_option("--memory", memory, "Counts that gma_bench_memory --out wrote")->check(CLI::ExistingFile);
  app.add_option("--out", folder, "Folder for report.md, report.json and the figure")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  bench::apply_quick(report.options);

  report.machine = bench::describe_machine();
  if (!memory.empty()) {
    std::ifstream file(memory);
    report.memory = nlohmann::json::parse(file);
  }
  bench::Stops stops(report.options);
  for (const Pass pass : bench::passes(report.options)) {
    for (const Index tokens : bench::lengths(report.options)) {
      std::fprintf(stderr, "%s, N = %td\n", bench::name(pass), tokens);
      measure(report, pass, tokens, stops);
    }
  }
  report.stopped = stops.sentences();

  std::filesystem::create_directories(folder);
  const std::string markdown = bench::to_markdown(report);
  std::cout << markdown << std::flush;
  write(folder + "/report.md", markdown);
  write(folder + "/report.json", bench::to_json(report).dump(1) + "\n");
  if (!bench::draw_figure(report, folder)) std::cerr << "gnuplot did not draw the figure (is it installed?)\n";
  std::cerr << "written: " << folder << "/report.md, report.json, time_memory.svg, time_memory.png\n";
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "gma_bench_report: " << error.what() << '\n';
    return 1;
  }
}
