// SPDX-License-Identifier: MIT
// What the report holds, and its three forms: Markdown, JSON and a figure.
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

struct Machine {
  std::string cpu, load;
  Build build;
};

struct Report {
  Machine machine;
  LineupOptions options;
  std::vector<Result> results;
  std::vector<Result> yardstick;     // problem.tokens says at which length; an Eigen product of 512 x 512 matrices
  std::vector<std::string> stopped;  // one sentence each
  nlohmann::json memory = nlohmann::json::array();  // as gma_bench_memory wrote it

  const Result* find(Pass pass, const std::string& program, Index tokens) const;
  std::optional<double> bytes(Pass pass, const std::string& program, Index tokens) const;
};

inline constexpr Index yardstick_size = 512;

Machine describe_machine();

std::string to_markdown(const Report& report);
nlohmann::json to_json(const Report& report);

/// Writes time_memory.gp into `folder` and lets gnuplot draw time_memory.svg and time_memory.png from it there. Returns
/// whether gnuplot could.
bool draw_figure(const Report& report, const std::string& folder);

}  // namespace bench
