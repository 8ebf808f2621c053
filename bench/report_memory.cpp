// SPDX-License-Identifier: MIT
// The memory of the report, counted (see allocations.hpp).
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "allocations.hpp"
#include "report.hpp"

namespace bench {
namespace {

struct Count {
  std::size_t first_call, second_call, workspace;  // bytes
};

Count count(Program& program) {
  Count result{};
  result.first_call = peak_extra_bytes([&] { program.run(); }).value();
  result.second_call = peak_extra_bytes([&] { program.run(); }).value();
  result.workspace = program.workspace_bytes();
  return result;
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
  constexpr Index default_tile = 96;  // Options::tile = 0
  const auto floats = [](Index count) { return sizeof(float) * static_cast<std::size_t>(count) + padding; };
  const std::size_t memory = floats(problem.components * (problem.value_width + 1));
  const std::size_t outputs = floats(default_tile * problem.value_width);
  const bool kept = many == twice && few <= many && many <= few + 2 * memory + outputs;
  std::printf("%-52s workspace %zu, %zu, %zu bytes%s\n", name(problem).c_str(), few, many, twice,
              kept ? "" : ": it GROWS");
  return kept;
}

}  // namespace

bool counts_memory() {
  return peak_extra_bytes([] {}).has_value();
}

void count_memory(Report& report, Problem problem) {
  if (!counts_memory()) return;
  problem.heads = 1;
  const std::unique_ptr<Program> program = make_program(problem);
  const Count counted = count(*program);
  const std::size_t returned = program->returned_bytes();
  report.memory.push_back({{"pass", name(problem.pass)},
                           {"program", name(problem)},
                           {"tokens", problem.tokens},
                           {"bytes", counted.first_call > returned ? counted.first_call - returned : 0},
                           {"second_call_bytes", counted.second_call},
                           {"workspace_bytes", counted.workspace}});
}

bool keeps_memory_promises(const LineupOptions& options) {
  if (!counts_memory()) return true;
  bool kept = true;
  LineupOptions both = options;
  both.covariances = {"tied", "diagonal"};
  if (options.quick) both.components.resize(1);
  std::printf("\nForward operators with a compiled mixture and a workspace, at N = 512, 65,536 and 131,072\n");
  for (Problem problem : lineup(both, Pass::forward, 512)) {
    if (problem.attention != Operator::gma) continue;
    std::vector<std::size_t> workspaces;
    for (const Index tokens : {512, 65536, 131072}) {
      problem.tokens = tokens;
      const Count counted = count(*make_program(problem));
      kept = allocates_nothing(name(problem) + ", N = " + std::to_string(tokens), counted.second_call) && kept;
      workspaces.push_back(counted.workspace);
    }
    kept = holds_still(problem, workspaces[0], workspaces[1], workspaces[2]) && kept;
  }
  for (const Covariance covariance : {Covariance::tied, Covariance::diagonal}) {
    Problem step;
    step.covariance = covariance;
    step.is_causal = true;
    const std::unique_ptr<Program> decoding = make_decoding_program(step, 1024);
    kept = allocates_nothing(name(step) + ", a step of decoding", count(*decoding).second_call) && kept;
  }
  return kept;
}

}  // namespace bench
