// SPDX-License-Identifier: MIT
// The comparison of GMA with softmax attention in one command: checks every output, times all programs in turn, counts
// their memory, prints the tables, and writes report.md, report.json and the figure time_memory.svg and .png. Fails if
// the library breaks a promise about memory.
#include <CLI/CLI.hpp>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gma/io/write_file.hpp"
#include "report.hpp"

namespace {

using bench::Index;
using bench::Pass;
using bench::Problem;
using bench::Report;

/// Checks and times every program at one length, together with the programs that measure the machine.
void measure(Report& report, Pass pass, Index tokens, bench::Stops& stops) {
  std::vector<std::unique_ptr<bench::Program>> owned;
  std::vector<bench::Result> results;
  std::vector<double> first;
  const auto add = [&](std::unique_ptr<bench::Program> program) {
    owned.push_back(std::move(program));
    first.push_back(bench::warm_up(*owned.back()));
  };
  add(bench::make_peak_program());
  add(bench::make_product_program(bench::yardstick_size));
  const std::size_t yardsticks = owned.size();
  for (Problem problem : bench::lineup(report.options, pass, tokens)) {
    problem.heads = stops.heads(problem);
    if (problem.heads == 0) continue;
    bench::count_memory(report, problem);
    std::unique_ptr<bench::Program> program = bench::make_program(problem);
    results.push_back({problem, {}, program->error()});
    if (!(results.back().error <= bench::tolerated_error(problem))) {
      throw std::runtime_error(bench::name(problem) + " computes a wrong result at N = " + std::to_string(tokens) +
                               ": relative error " + std::to_string(results.back().error));
    }
    add(std::move(program));
  }

  std::vector<bench::Program*> programs;
  for (const std::unique_ptr<bench::Program>& program : owned) programs.push_back(program.get());
  bench::Rounds rounds;
  rounds.rounds = report.options.rounds;
  const std::vector<bench::Samples> samples = bench::round_robin(programs, first, rounds);
  report.yardsticks.push_back({pass, tokens, samples[0], samples[1]});
  for (std::size_t i = 0; i < results.size(); ++i) {
    results[i].samples = samples[i + yardsticks];
    report.results.push_back(results[i]);
    const Problem& problem = results[i].problem;
    stops.took(problem, results[i].samples.median() / static_cast<double>(problem.heads));
  }
}

int run(int argc, char** argv) {
  Report report;
  std::string folder = "report";
  CLI::App app("GMA against softmax attention: time and memory from N = 256 to 131,072");
  bench::add_options(app, report.options);
  app.add_option("--out", folder, "Folder for report.md, report.json and the figure")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  bench::apply_quick(report.options);

  const bench::Pinned pinned(report.options.cpu);
  report.machine = bench::describe_machine(pinned.cpu());
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
  gma::io::write_file(folder + "/report.md", markdown);
  gma::io::write_file(folder + "/report.json", bench::to_json(report).dump(1) + "\n");
  if (!bench::draw_figure(report, folder)) std::cerr << "gnuplot could not draw the figure; is it installed?\n";
  std::cerr << "written: " << folder << "/report.md, report.json, time_memory.svg, time_memory.png\n";
  if (!bench::keeps_memory_promises(report.options)) throw std::runtime_error("a promise about memory is broken");
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
