// SPDX-License-Identifier: MIT
// Which programs the report and the memory count compare, how far, and the command line options they share.
#pragma once

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "programs.hpp"

namespace bench {

struct LineupOptions {
  Index min_tokens = 256, max_tokens = 65536, width = 64;
  std::vector<Index> components{64, 128, 256};
  std::string covariance = "diagonal";
  bool backward = false;
  double seconds = 10, gibibytes = 2;  // a call
  Index rounds = 11;
  bool quick = false;
};

inline void add_options(CLI::App& app, LineupOptions& options) {
  app.add_option("--min-n", options.min_tokens, "Shortest sequence")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--max-n", options.max_tokens, "Longest sequence; lengths double up to it")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--width", options.width, "Columns of queries, keys and values")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--components", options.components, "Mixture components of GMA, one program each")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--covariance", options.covariance, "Covariance family of GMA")
      ->check(CLI::IsMember({"tied", "diagonal"}))
      ->capture_default_str();
  app.add_flag("--backward", options.backward, "Measure the backward passes too");
  app.add_option("--seconds-per-measurement", options.seconds, "Skip what would take longer than this a call")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--max-gibibytes", options.gibibytes, "Skip what needs larger matrices than this")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "Samples of every program that is timed")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_flag("--quick", options.quick, "At most 1024 tokens and 3 rounds: does it still work?");
}

/// Call after parsing.
inline void apply_quick(LineupOptions& options) {
  if (!options.quick) return;
  options.max_tokens = std::min<Index>(options.max_tokens, 1024);
  options.rounds = std::min<Index>(options.rounds, 3);
}

inline const char* name(Pass pass) { return pass == Pass::forward ? "forward" : "backward"; }

inline std::vector<Pass> passes(const LineupOptions& options) {
  if (options.backward) return {Pass::forward, Pass::backward};
  return {Pass::forward};
}

inline std::vector<Index> lengths(const LineupOptions& options) {
  std::vector<Index> result;
  for (Index tokens = options.min_tokens; tokens <= options.max_tokens; tokens *= 2) result.push_back(tokens);
  return result;
}

/// Softmax attention first, then GMA by components; all bidirectional ones, then all causal ones.
inline std::vector<Problem> lineup(const LineupOptions& options, Pass pass, Index tokens) {
  std::vector<Problem> result;
  for (const bool is_causal : {false, true}) {
    Problem problem;
    problem.pass = pass;
    problem.is_causal = is_causal;
    problem.tokens = tokens;
    problem.width = problem.value_width = options.width;
    problem.covariance = options.covariance == "tied" ? Covariance::tied : Covariance::diagonal;
    if (!is_causal) {  // the dense form computes the whole matrix either way
      problem.attention = Operator::sdpa_dense;
      result.push_back(problem);
    }
    problem.attention = Operator::sdpa_tiled;
    result.push_back(problem);
    problem.attention = Operator::gma;
    for (const Index components : options.components) {
      problem.components = components;
      result.push_back(problem);
    }
  }
  return result;
}

/// Programs that are not run at longer sequences any more, and why: nothing is extrapolated in silence.
class Stops {
 public:
  explicit Stops(const LineupOptions& options) : options_(options) {}

  /// Whether `problem` may run: its program was not stopped, and its matrices fit.
  bool permits(const Problem& problem) {
    if (names_.count(key(problem)) != 0) return false;
    const double needed = necessary_bytes(problem) / 0x1p30;
    if (needed <= options_.gibibytes) return true;
    add(problem, "not run from N = " + std::to_string(problem.tokens) + " on, whose matrices need " + text(needed) +
                     " GiB (limit " + text(options_.gibibytes) + " GiB)");
    return false;
  }

  /// A call took `seconds`. Twice the length takes twice as long with GMA, four times with softmax attention.
  void took(const Problem& problem, double seconds) {
    const double next = seconds * (problem.attention == Operator::gma ? 2 : 4);
    if (next <= options_.seconds || 2 * problem.tokens > options_.max_tokens) return;
    add(problem, "stopped after N = " + std::to_string(problem.tokens) + ", where a call took " + text(seconds) +
                     " s; at twice the length it would take about " + text(next) + " s (limit " +
                     text(options_.seconds) + " s)");
  }

  /// One for each program that was stopped.
  const std::vector<std::string>& sentences() const { return sentences_; }

 private:
  static std::string key(const Problem& problem) { return std::string(name(problem.pass)) + ' ' + name(problem); }

  static std::string text(double number) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.3g", number);
    return buffer;
  }

  void add(const Problem& problem, const std::string& why) {
    names_.insert(key(problem));
    sentences_.push_back(name(problem) + ", " + name(problem.pass) + ": " + why);
  }

  LineupOptions options_;
  std::set<std::string> names_;
  std::vector<std::string> sentences_;
};

}  // namespace bench
