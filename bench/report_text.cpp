// SPDX-License-Identifier: MIT
// The report as Markdown tables and as JSON.
#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "report.hpp"

namespace bench {
namespace {

std::string format(const char* pattern, double value) {
  char text[64];
  std::snprintf(text, sizeof text, pattern, value);
  return text;
}

/// Three digits.
std::string digits(double value) {
  return format(value >= 100 ? "%.0f" : value >= 10 ? "%.1f" : value >= 1 ? "%.2f" : "%.3f", value);
}

std::string milliseconds(const Samples& samples) {
  return digits(1e3 * samples.median()) + " (" + digits(1e3 * samples.smallest()) + ".." +
         digits(1e3 * samples.largest()) + ")";
}

std::string with_thousands(Index number) {
  std::string text = std::to_string(number);
  for (std::size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, ",");
  return text;
}

std::string size(double bytes) {
  return bytes >= 0x1p20 ? digits(bytes / 0x1p20) + " MiB" : digits(bytes / 0x1p10) + " KiB";
}

std::string row(const std::vector<std::string>& cells) {
  std::string text = "|";
  for (const std::string& cell : cells) text += " " + cell + " |";
  return text + "\n";
}

std::string rule(std::size_t columns) {
  std::string text = "|";
  for (std::size_t c = 0; c < columns; ++c) text += "---:|";
  return text + "\n";
}

std::string opponent(bool is_causal) {
  Problem problem;
  problem.attention = Operator::sdpa_tiled;
  problem.is_causal = is_causal;
  return name(problem);
}

double ratio_to_opponent(const Report& report, const Result& result) {
  const Result* const other =
      report.find(result.problem.pass, opponent(result.problem.is_causal), result.problem.tokens);
  return other == nullptr ? 0 : other->samples.median() / result.samples.median();
}

std::string time_table(const Report& report, Pass pass, bool is_causal) {
  std::vector<Problem> columns;
  for (const Problem& problem : lineup(report.options, pass, report.options.min_tokens)) {
    if (problem.is_causal == is_causal) columns.push_back(problem);
  }
  std::vector<std::string> header{"N"};
  for (const Problem& problem : columns) {
    header.push_back(name(problem));
    if (problem.attention == Operator::gma) header.push_back("times faster");
  }
  std::string text = row(header) + rule(header.size());
  for (const Index tokens : lengths(report.options)) {
    std::vector<std::string> cells{with_thousands(tokens)};
    for (const Problem& problem : columns) {
      const Result* const result = report.find(pass, name(problem), tokens);
      cells.push_back(result == nullptr ? "-" : milliseconds(result->samples));
      if (problem.attention != Operator::gma) continue;
      const double ratio = result == nullptr ? 0 : ratio_to_opponent(report, *result);
      cells.push_back(ratio == 0 ? "-" : "**" + digits(ratio) + "**");
    }
    text += row(cells);
  }
  return text;
}

std::string rate_table(const Report& report, Pass pass) {
  const std::vector<Problem> columns = lineup(report.options, pass, report.options.min_tokens);
  std::vector<std::string> header{"N"};
  for (const Problem& problem : columns) header.push_back(name(problem));
  header.push_back("Eigen product");
  std::string text = row(header) + rule(header.size());
  for (const Index tokens : lengths(report.options)) {
    std::vector<std::string> cells{with_thousands(tokens)};
    for (const Problem& problem : columns) {
      const Result* const result = report.find(pass, name(problem), tokens);
      cells.push_back(result == nullptr ? "-"
                                        : digits(1e-9 * useful_flops(result->problem) / result->samples.median()));
    }
    for (const Result& product : report.yardstick) {
      if (product.problem.pass != pass || product.problem.tokens != tokens) continue;
      const double flops = 2.0 * yardstick_size * yardstick_size * yardstick_size;
      cells.push_back(digits(1e-9 * flops / product.samples.median()));
    }
    text += row(cells);
  }
  return text;
}

std::string memory_table(const Report& report, Pass pass) {
  const std::vector<Problem> columns = lineup(report.options, pass, report.options.min_tokens);
  std::vector<std::string> header{"N"};
  for (const Problem& problem : columns) header.push_back(name(problem));
  std::string text = row(header) + rule(header.size());
  for (const Index tokens : lengths(report.options)) {
    std::vector<std::string> cells{with_thousands(tokens)};
    for (const Problem& problem : columns) {
      const std::optional<double> bytes = report.bytes(pass, name(problem), tokens);
      cells.push_back(bytes ? size(*bytes) : "-");
    }
    text += row(cells);
  }
  return text;
}

/// "GMA K=64 is faster than tiled softmax attention from N = 512 on (measured lengths).", or where it is not.
std::string crossovers(const Report& report, Pass pass) {
  std::string text;
  for (const Problem& problem : lineup(report.options, pass, report.options.min_tokens)) {
    if (problem.attention != Operator::gma) continue;
    Index slower = 0, faster = 0;
    for (const Index tokens : lengths(report.options)) {
      const Result* const result = report.find(pass, name(problem), tokens);
      const double ratio = result == nullptr ? 0 : ratio_to_opponent(report, *result);
      if (ratio == 0) continue;
      if (ratio < 1) slower = tokens;
      if (ratio >= 1 && faster <= slower) faster = tokens;
    }
    text += "- " + name(problem) + ": ";
    if (slower != 0)
      text += "slower than tiled SDPA up to N = " + with_thousands(slower) + (faster > slower ? ", " : "");
    if (faster > slower) text += "faster from N = " + with_thousands(faster) + " on";
    if (slower == 0 && faster == 0) text += "no length was measured with both";
    text += "\n";
  }
  return text;
}

std::string introduction(const Report& report) {
  std::ostringstream text;
  const Build& build = report.machine.build;
  text << "# GMA and softmax attention (SDPA)\n\n"
       << "One head, one thread, float, d = e = " << report.options.width << ", standard normal inputs; GMA with "
       << report.options.covariance
       << " covariances and slot normalisation, compiled from its parameters in every call. "
       << "Milliseconds of processor time a call: median (fastest..slowest) of " << report.options.rounds
       << " rounds (at most 5 where a round takes more than a second), programs in turn in one process. *Times faster* "
          "is "
       << "the ratio of medians, tiled SDPA over GMA, causal over causal. All outputs were compared with a computation "
          "in "
       << "double first.\n\n"
       << "- machine: " << report.machine.cpu << "; load at the start " << report.machine.load << "\n"
       << "- build: " << build.compiler << ", `" << build.flags << "`, Eigen " << build.eigen << ", "
       << build.packet_floats << " floats in a packet\n";
  return text.str();
}

}  // namespace

const Result* Report::find(Pass pass, const std::string& program, Index tokens) const {
  for (const Result& result : results) {
    const Problem& p = result.problem;
    if (p.pass == pass && p.tokens == tokens && name(p) == program) return &result;
  }
  return nullptr;
}

std::optional<double> Report::bytes(Pass pass, const std::string& program, Index tokens) const {
  for (const nlohmann::json& count : memory) {
    if (count.at("pass") == name(pass) && count.at("program") == program && count.at("tokens") == tokens) {
      return count.at("bytes").get<double>();
    }
  }
  return std::nullopt;
}

Machine describe_machine() {
  Machine machine;
  machine.build = build();
  std::ifstream file("/proc/cpuinfo");
  std::string line, family, model;
  const auto value = [&line] { return line.substr(std::min(line.size(), line.find(':') + 2)); };
  while (std::getline(file, line) && !line.empty()) {
    if (line.rfind("model name", 0) == 0) machine.cpu = value();
    if (line.rfind("cpu family", 0) == 0) family = value();
    if (line.rfind("model\t", 0) == 0) model = value();
  }
  if (machine.cpu.empty()) machine.cpu = "unknown processor";
  if (!family.empty()) machine.cpu += " (family " + family + ", model " + model + ")";
  double load = 0;
  machine.load = getloadavg(&load, 1) == 1 ? format("%.1f", load) : "unknown";
  return machine;
}

std::string to_markdown(const Report& report) {
  std::string text = introduction(report);
  for (const Pass pass : passes(report.options)) {
    const std::string title = pass == Pass::forward ? "Forward" : "Backward";
    text += "\n## " + title + ", bidirectional (ms)\n\n" + time_table(report, pass, false);
    text += "\n## " + title + ", causal (ms)\n\n" + time_table(report, pass, true);
    text += "\n" + crossovers(report, pass);
    text += "\n## " + title +
            ": useful GFLOP/s\n\nProducts only, a multiply-add counted as two; the last column is Eigen's " +
            std::to_string(yardstick_size) + "^3 product, timed in the same rounds.\n\n" + rate_table(report, pass);
    if (!report.memory.empty()) {
      text += "\n## " + title + ": peak extra heap memory\n\nBeyond inputs and outputs, in the first call.\n\n" +
              memory_table(report, pass);
    }
  }
  if (!report.stopped.empty()) text += "\n## Not measured\n\n";
  for (const std::string& sentence : report.stopped) text += "- " + sentence + "\n";
  return text;
}

nlohmann::json to_json(const Report& report) {
  const Build& build = report.machine.build;
  nlohmann::json results = nlohmann::json::array();
  for (const Result& result : report.results) {
    const Problem& p = result.problem;
    const double ratio = ratio_to_opponent(report, result);
    results.push_back({{"program", name(p)},
                       {"pass", name(p.pass)},
                       {"causal", p.is_causal},
                       {"tokens", p.tokens},
                       {"median_seconds", result.samples.median()},
                       {"samples_seconds", result.samples.seconds},
                       {"calls_per_sample", result.samples.calls_per_sample},
                       {"useful_flops", useful_flops(p)},
                       {"relative_error", result.error},
                       {"times_faster_than_tiled_sdpa", ratio == 0 ? nlohmann::json() : nlohmann::json(ratio)}});
  }
  nlohmann::json yardstick = nlohmann::json::array();
  for (const Result& product : report.yardstick) {
    yardstick.push_back({{"pass", name(product.problem.pass)},
                         {"tokens", product.problem.tokens},
                         {"size", yardstick_size},
                         {"samples_seconds", product.samples.seconds}});
  }
  return {{"machine",
           {{"cpu", report.machine.cpu},
            {"load", report.machine.load},
            {"compiler", build.compiler},
            {"flags", build.flags},
            {"eigen", build.eigen},
            {"packet_floats", build.packet_floats}}},
          {"options",
           {{"width", report.options.width},
            {"covariance", report.options.covariance},
            {"rounds", report.options.rounds},
            {"seconds_per_measurement", report.options.seconds}}},
          {"results", results},
          {"eigen_product", yardstick},
          {"memory", report.memory},
          {"stopped", report.stopped}};
}

}  // namespace bench
