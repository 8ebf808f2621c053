// SPDX-License-Identifier: MIT
// Peak extra memory of every program against N, counted (see allocations.hpp): the heap in use during the first call of
// one head, less inputs, outputs and what was in use before. Prints a table; --out writes JSON for the report. Then it
// checks the library's promises about forward operators, and fails if one is broken: the second call allocates nothing,
// and a workspace does not grow with the tokens, except once, when a stream becomes long and its sums get a second
// number each.
#include <CLI/CLI.hpp>

#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "allocations.hpp"
#include "gma/io/write_file.hpp"
#include "lineup.hpp"
#include "timing.hpp"

namespace {

using bench::Problem;

struct Count {
  std::size_t first_call, second_call, workspace;  // bytes
  double seconds;
};

Count count(bench::Program& program) {
  Count result{};
  result.seconds =
      bench::seconds_of([&] { result.first_call = bench::peak_extra_bytes([&] { program.run(); }).value(); });
  result.second_call = bench::peak_extra_bytes([&] { program.run(); }).value();
  result.workspace = program.workspace_bytes();
  return result;
}

double kib(std::size_t bytes) { return static_cast<double>(bytes) / 1024; }

/// Counts every program at one length.
void count_lineup(bench::Pass pass, bench::Index tokens, const bench::LineupOptions& options, bench::Stops& stops,
                  nlohmann::json& counts) {
  for (const Problem& problem : bench::lineup(options, pass, tokens)) {
    if (stops.heads(problem) == 0) continue;
    const std::unique_ptr<bench::Program> program = bench::make_program(problem);
    const Count counted = count(*program);
    const std::size_t returned = program->returned_bytes();
    const std::size_t extra = counted.first_call > returned ? counted.first_call - returned : 0;
    const std::string name = bench::name(problem);
    std::printf("%-9s %-39s %8td %14.1f %14.1f\n", bench::name(pass), name.c_str(), tokens, kib(extra),
                kib(counted.second_call));
    std::fflush(stdout);
    counts.push_back({{"pass", bench::name(pass)},
                      {"program", name},
                      {"tokens", tokens},
                      {"bytes", extra},
                      {"second_call_bytes", counted.second_call},
                      {"workspace_bytes", counted.workspace}});
    stops.took(problem, counted.seconds);
  }
}

/// Bytes of the second call. The promise is 0.
bool allocates_nothing(const std::string& name, std::size_t second_call) {
  std::printf("%-52s second call %zu bytes%s\n", name.c_str(), second_call, second_call == 0 ? "" : ": NOT 0");
  return second_call == 0;
}

/// The size of a workspace after few tokens, many, and twice as many. A long stream needs a second number for every
/// number of its memory, a memory for the writes of one tile, and one more matrix of outputs per tile. The promise is
/// that it needs no more, and no more for twice as many tokens.
bool holds_still(const Problem& problem, std::size_t few, std::size_t many, std::size_t twice) {
  constexpr std::size_t padding = 256;
  constexpr bench::Index default_tile = 96;  // Options::tile = 0
  const auto floats = [](bench::Index count) { return sizeof(float) * static_cast<std::size_t>(count) + padding; };
  const std::size_t memory = floats(problem.components * (problem.value_width + 1));
  const std::size_t outputs = floats(default_tile * problem.value_width);
  const bool kept = many == twice && few <= many && many <= few + 2 * memory + outputs;
  std::printf("%-52s workspace %zu, %zu, %zu bytes%s\n", bench::name(problem).c_str(), few, many, twice,
              kept ? "" : ": it GROWS");
  return kept;
}

/// The promises, for every forward operator with a compiled mixture and a workspace.
bool keeps_promises(const bench::LineupOptions& options) {
  bool kept = true;
  bench::LineupOptions both = options;
  both.covariances = {"tied", "diagonal"};
  if (options.quick) both.components.resize(1);
  std::printf("\nForward operators with a compiled mixture and a workspace, at N = 512, 65,536 and 131,072\n");
  for (Problem problem : bench::lineup(both, bench::Pass::forward, 512)) {
    if (problem.attention != bench::Operator::gma) continue;
    std::vector<std::size_t> workspaces;
    for (const bench::Index tokens : {512, 65536, 131072}) {
      problem.tokens = tokens;
      const Count counted = count(*bench::make_program(problem));
      const std::string name = bench::name(problem) + ", N = " + std::to_string(tokens);
      kept = allocates_nothing(name, counted.second_call) && kept;
      workspaces.push_back(counted.workspace);
    }
    kept = holds_still(problem, workspaces[0], workspaces[1], workspaces[2]) && kept;
  }
  for (const bench::Covariance covariance : {bench::Covariance::tied, bench::Covariance::diagonal}) {
    Problem step;
    step.covariance = covariance;
    step.is_causal = true;
    const std::unique_ptr<bench::Program> decoding = bench::make_decoding_program(step, 1024);
    kept = allocates_nothing(bench::name(step) + ", a step of decoding", count(*decoding).second_call) && kept;
  }
  return kept;
}

}  // namespace

int main(int argc, char** argv) {
  bench::LineupOptions options;
  std::string out;
  CLI::App app("Peak extra heap memory of GMA and of softmax attention against the length of the sequence");
  bench::add_options(app, options);
  app.add_option("--out", out, "JSON file for the counts");
  CLI11_PARSE(app, argc, argv);
  bench::apply_quick(options);
  options.heads = 1;

  nlohmann::json counts = nlohmann::json::array();
  bench::Stops stops(options);
  std::printf("%-9s %-39s %8s %14s %14s\n", "pass", "program", "N", "peak extra KiB", "2nd call KiB");
  for (const bench::Pass pass : bench::passes(options)) {
    for (const bench::Index tokens : bench::lengths(options)) count_lineup(pass, tokens, options, stops, counts);
  }
  for (const std::string& sentence : stops.sentences()) std::printf("%s\n", sentence.c_str());
  if (!out.empty()) {
    try {
      gma::io::write_file(out, counts.dump(1) + '\n');
    } catch (const std::runtime_error& error) {
      std::cerr << error.what() << '\n';
      return 1;
    }
  }
  if (keeps_promises(options)) return 0;
  std::cerr << "gma_bench_memory: a forward operator breaks its promise, see above\n";
  return 1;
}
