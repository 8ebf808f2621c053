// SPDX-License-Identifier: MIT
// The content of the report, and its three forms: Markdown, JSON and a figure.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lineup.hpp"
#include "timing.hpp"

namespace bench {

struct Result {
  Problem problem;
  Samples samples;
  double error = 0;  // see Program::error()
};

/// The machine in the rounds of one length: the peak of one core, and Eigen's product.
struct Yardstick {
  Pass pass;
  Index tokens;
  Samples peak, product;
};

struct Machine {
  std::string cpu, load;
  int pinned_to = -1;  // a CPU's number; -1: none
  Build build;
};

struct Report {
  Machine machine;
  LineupOptions options;
  std::vector<Result> results;
  std::vector<Yardstick> yardsticks;
  std::vector<std::string> stopped;                 // one sentence each
  nlohmann::json memory = nlohmann::json::array();  // one entry per program and length; empty where it is not counted

  const Result* find(Pass pass, const std::string& program, Index tokens) const;
  const Yardstick* yardstick(Pass pass, Index tokens) const;

  /// Fraction of the FMA peak of one core.
  std::optional<Spread> fraction_of_peak(const Result& result) const;
  /// Time per head of tiled softmax attention over that of `result`, causal over causal.
  std::optional<Spread> times_faster(const Result& result) const;

  std::optional<double> bytes(Pass pass, const std::string& program, Index tokens) const;
};

inline constexpr Index yardstick_size = 1024;  // of Eigen's product

Machine describe_machine(int pinned_to);

/// Whether this binary counts memory: with glibc.
bool counts_memory();

/// Adds the peak extra memory of a program to the report: the heap in use during the first call of one head, less
/// inputs, outputs and what was in use before.
void count_memory(Report& report, Problem problem);

/// Checks what the library promises about every forward operator with a compiled mixture and a workspace, and prints
/// it: the second call allocates nothing, and a workspace does not grow with the tokens, except once, when a stream
/// becomes long and its sums get a second number each. True where memory is not counted.
bool keeps_memory_promises(const LineupOptions& options);

std::string to_markdown(const Report& report);
nlohmann::json to_json(const Report& report);

/// Writes time_memory.gp into `folder`, from which gnuplot draws time_memory.svg and time_memory.png there. Returns
/// whether gnuplot succeeded.
bool draw_figure(const Report& report, const std::string& folder);

}  // namespace bench
