// SPDX-License-Identifier: MIT
// The programs that the report and the memory count compare, up to which length, and their command line options.
#pragma once

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "affinity.hpp"
#include "programs.hpp"

namespace bench {

struct LineupOptions {
  Index min_tokens = 256, max_tokens = 131072, width = 64, heads = 8;
  std::vector<Index> components{64, 128, 256};
  std::vector<std::string> covariances{"diagonal", "tied"};  // the figure shows the first
  bool backward = false;
  int cpu = this_cpu;
  double seconds = 10, gibibytes = 2;  // per call
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
  app.add_option("--heads", options.heads, "Heads per call; fewer where a call would take too long")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--components", options.components, "Mixture components of GMA; one program per number")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--covariance", options.covariances, "Covariance families of GMA; the figure shows the first")
      ->check(CLI::IsMember({"tied", "diagonal"}))
      ->capture_default_str();
  app.add_flag("--backward", options.backward, "Measure the backward passes too");
  app.add_option("--cpu", options.cpu, "Stay on this CPU (Linux); -1: the one it starts on; -2: any");
  app.add_option("--seconds-per-measurement", options.seconds,
                 "Leave out heads, then programs, where a call takes longer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--max-gibibytes", options.gibibytes, "Leave out programs that need larger matrices")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "Samples per timed program")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_flag("--quick", options.quick, "At most 1024 tokens and 3 rounds: only checks that everything works");
}

/// Call after parsing.
inline void apply_quick(LineupOptions& options) {
  if (!options.quick) return;
  options.max_tokens = std::min<Index>(options.max_tokens, 1024);
  options.rounds = std::min<Index>(options.rounds, 3);
  options.heads = std::min<Index>(options.heads, 2);
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

/// Softmax attention first, then GMA by family and components. All bidirectional programs come first, then all causal
/// ones, then all causal ones that forget.
inline std::vector<Problem> lineup(const LineupOptions& options, Pass pass, Index tokens) {
  std::vector<Problem> result;
  for (const int kind : {0, 1, 2}) {
    Problem problem;
    problem.pass = pass;
    problem.is_causal = kind > 0;
    problem.tokens = tokens;
    problem.heads = options.heads;
    problem.width = problem.value_width = options.width;
    if (kind == 0) {  // the dense form computes the whole matrix either way
      problem.attention = Operator::sdpa_dense;
      result.push_back(problem);
    }
    problem.attention = Operator::sdpa_tiled;
    if (kind < 2) result.push_back(problem);
    problem.attention = Operator::gma;
    problem.forgets = kind == 2;
    for (const std::string& covariance : options.covariances) {
      problem.covariance = covariance == "tied" ? Covariance::tied : Covariance::diagonal;
      for (const Index components : options.components) {
        problem.components = components;
        result.push_back(problem);
      }
    }
  }
  return result;
}

/// Programs that run with fewer heads or not at all at long sequences, and the reasons. Nothing is extrapolated
/// silently.
class Stops {
 public:
  explicit Stops(const LineupOptions& options) : options_(options) {}

  /// How many heads of `problem` run per call: fewer if more would take a fifth of the time that a call may take; 0 if
  /// its matrices do not fit, or if one head would take longer than a call may.
  Index heads(const Problem& problem) {
    if (stopped_.count(key(problem)) != 0) return 0;
    const double needed = necessary_bytes(problem) / 0x1p30;
    if (needed > options_.gibibytes) {
      stop(problem, "not run from N = " + std::to_string(problem.tokens) + " on, because its matrices need " +
                        text(needed) + " GiB (limit " + text(options_.gibibytes) + " GiB)");
      return 0;
    }
    const double seconds = expected_seconds(problem);
    if (seconds > options_.seconds) {
      stop(problem, "not run from N = " + std::to_string(problem.tokens) + " on, because a head would take about " +
                        text(seconds) + " s (limit " + text(options_.seconds) + " s)");
      return 0;
    }
    return std::clamp<Index>(static_cast<Index>(usual_share * options_.seconds / seconds), 1, problem.heads);
  }

  void took(const Problem& problem, double seconds_per_head) {
    measured_[key(problem)] = {static_cast<double>(problem.tokens), seconds_per_head};
  }

  /// One sentence per program that was stopped.
  const std::vector<std::string>& sentences() const { return sentences_; }

 private:
  static constexpr double usual_share = 0.2;

  struct Measured {
    double tokens, seconds;
  };

  static std::string key(const Problem& problem) { return std::string(name(problem.pass)) + ' ' + name(problem); }

  static std::string text(double number) {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.3g", number);
    return buffer;
  }

  /// Seconds per head. Twice the length takes twice as long with GMA, four times with softmax attention. A program that
  /// was not measured yet is assumed to be slow.
  double expected_seconds(const Problem& problem) const {
    const auto known = measured_.find(key(problem));
    if (known == measured_.end()) return useful_flops(problem) / static_cast<double>(problem.heads) / 1e10;
    const double longer = static_cast<double>(problem.tokens) / known->second.tokens;
    return known->second.seconds * (problem.attention == Operator::gma ? longer : longer * longer);
  }

  void stop(const Problem& problem, const std::string& why) {
    stopped_.insert(key(problem));
    sentences_.push_back(name(problem) + ", " + name(problem.pass) + ": " + why);
  }

  LineupOptions options_;
  std::map<std::string, Measured> measured_;
  std::set<std::string> stopped_;
  std::vector<std::string> sentences_;
};

}  // namespace bench
