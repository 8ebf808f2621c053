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

/// Median (quartiles).
std::string cell(const Spread& numbers) {
  return digits(numbers.median) + " (" + digits(numbers.lower) + ".." + digits(numbers.upper) + ")";
}

/// Per head: median (quartiles), smallest, and the heads per call if they are fewer than requested.
std::string milliseconds(const Result& result, Index usual_heads) {
  const double a_head = 1e3 / static_cast<double>(result.problem.heads);
  const Spread numbers = spread_of(result.samples, [a_head](double seconds) { return a_head * seconds; });
  const std::string heads =
      result.problem.heads < usual_heads ? " [" + std::to_string(result.problem.heads) + "]" : std::string();
  return cell(numbers) + " min " + digits(numbers.smallest) + heads;
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

/// The programs of one table: bidirectional, causal or causal with forgetting, GMA of one family.
struct Kind {
  bool is_causal, forgets;
  std::string covariance;

  std::string title() const {
    return std::string(is_causal ? "causal" : "bidirectional") + (forgets ? " with forgetting" : "") + ", " +
           covariance + " covariances";
  }
};

std::vector<Kind> kinds(const Report& report) {
  std::vector<Kind> result;
  for (const std::string& covariance : report.options.covariances) {
    for (const int kind : {0, 1, 2}) result.push_back({kind > 0, kind == 2, covariance});
  }
  return result;
}

std::vector<Problem> programs(const Report& report, Pass pass, const Kind& kind) {
  std::vector<Problem> result;
  for (const Problem& problem : lineup(report.options, pass, report.options.min_tokens)) {
    if (problem.is_causal != kind.is_causal) continue;
    const bool is_gma = problem.attention == Operator::gma;
    if (is_gma && (problem.forgets != kind.forgets || name(problem.covariance) != kind.covariance)) continue;
    result.push_back(problem);
  }
  return result;
}

/// Ratios: fractions of the peak, and GMA against tiled softmax attention.
std::string ratio_table(const Report& report, Pass pass, const Kind& kind) {
  const std::vector<Problem> columns = programs(report, pass, kind);
  std::vector<std::string> header{"N"};
  for (const Problem& problem : columns) {
    header.push_back(name(problem) + ": of peak");
    if (problem.attention == Operator::gma) header.push_back("times faster");
  }
  std::string text = row(header) + rule(header.size());
  for (const Index tokens : lengths(report.options)) {
    std::vector<std::string> cells{with_thousands(tokens)};
    for (const Problem& problem : columns) {
      const Result* const result = report.find(pass, name(problem), tokens);
      const std::optional<Spread> of_peak = result == nullptr ? std::nullopt : report.fraction_of_peak(*result);
      cells.push_back(of_peak ? cell(*of_peak) : "-");
      if (problem.attention != Operator::gma) continue;
      const std::optional<Spread> faster = result == nullptr ? std::nullopt : report.times_faster(*result);
      cells.push_back(faster ? "**" + digits(faster->median) + "** (" + digits(faster->lower) + ".." +
                                   digits(faster->upper) + ")"
                             : "-");
    }
    text += row(cells);
  }
  return text;
}

std::string time_table(const Report& report, Pass pass, const Kind& kind) {
  const std::vector<Problem> columns = programs(report, pass, kind);
  std::vector<std::string> header{"N"};
  for (const Problem& problem : columns) header.push_back(name(problem));
  std::string text = row(header) + rule(header.size());
  for (const Index tokens : lengths(report.options)) {
    std::vector<std::string> cells{with_thousands(tokens)};
    for (const Problem& problem : columns) {
      const Result* const result = report.find(pass, name(problem), tokens);
      cells.push_back(result == nullptr ? "-" : milliseconds(*result, report.options.heads));
    }
    text += row(cells);
  }
  return text;
}

std::string yardstick_table(const Report& report, Pass pass) {
  std::string text = row({"N", "FMA peak, GFLOP/s", "Eigen product, GFLOP/s", "of peak"}) + rule(4);
  for (const Yardstick& yardstick : report.yardsticks) {
    if (yardstick.pass != pass) continue;
    const auto rate = [](double flops, const Samples& samples) {
      return cell(spread_of(samples, [flops](double seconds) { return 1e-9 * flops / seconds; }));
    };
    const double product = product_flops(yardstick_size);
    text += row({with_thousands(yardstick.tokens), rate(peak_flops(), yardstick.peak), rate(product, yardstick.product),
                 cell(ratio(yardstick.peak, yardstick.product, product / peak_flops()))});
  }
  return text;
}

std::string memory_table(const Report& report, Pass pass) {
  std::vector<std::string> header{"N"};
  for (const Index tokens : lengths(report.options)) header.push_back(with_thousands(tokens));
  std::string text = row(header) + rule(header.size());
  for (const Problem& problem : lineup(report.options, pass, report.options.min_tokens)) {
    std::vector<std::string> cells{name(problem)};
    for (const Index tokens : lengths(report.options)) {
      const std::optional<double> bytes = report.bytes(pass, name(problem), tokens);
      cells.push_back(bytes ? size(*bytes) : "-");
    }
    text += row(cells);
  }
  return text;
}

/// "GMA tied K=64: faster than tiled SDPA from N = 512 on" (of the measured lengths), or where it is slower.
std::string crossovers(const Report& report, Pass pass) {
  std::string text;
  for (const Problem& problem : lineup(report.options, pass, report.options.min_tokens)) {
    if (problem.attention != Operator::gma) continue;
    Index slower = 0, faster = 0;
    for (const Index tokens : lengths(report.options)) {
      const Result* const result = report.find(pass, name(problem), tokens);
      const std::optional<Spread> times = result == nullptr ? std::nullopt : report.times_faster(*result);
      if (!times) continue;
      if (times->median < 1) slower = tokens;
      if (times->median >= 1 && faster <= slower) faster = tokens;
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
       << report.options.heads
       << " heads, each with its own inputs and mixture, one thread, float, d = e = " << report.options.width
       << ", standard normal inputs; GMA with slot normalisation and compiled mixtures. "
       << "Samples are the processor time of a call of all heads, in " << report.options.rounds
       << " rounds (at most 5 if a round takes more than a second). All programs take turns in one process. "
       << "Ratios are formed within a round. Cells are the median (lower quartile..upper quartile) over the rounds. "
       << "*Of peak* is the rate of the matrix products alone over that of multiply-adds in registers. "
       << "*Times faster* is the time per head of tiled SDPA over that of GMA, causal over causal. All outputs were "
          "first compared with a computation in double.\n\n"
       << "- machine: " << report.machine.cpu << "; load at the start " << report.machine.load << "; "
       << (report.machine.pinned_to < 0 ? "not pinned" : "pinned to CPU " + std::to_string(report.machine.pinned_to))
       << "\n"
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

const Yardstick* Report::yardstick(Pass pass, Index tokens) const {
  for (const Yardstick& yardstick : yardsticks) {
    if (yardstick.pass == pass && yardstick.tokens == tokens) return &yardstick;
  }
  return nullptr;
}

std::optional<Spread> Report::fraction_of_peak(const Result& result) const {
  const Yardstick* const beside = yardstick(result.problem.pass, result.problem.tokens);
  if (beside == nullptr) return std::nullopt;
  return ratio(beside->peak, result.samples, useful_flops(result.problem) / peak_flops());
}

std::optional<Spread> Report::times_faster(const Result& result) const {
  const Problem& p = result.problem;
  const Result* const other = find(p.pass, opponent(p.is_causal), p.tokens);
  if (other == nullptr) return std::nullopt;
  return ratio(other->samples, result.samples,
               static_cast<double>(p.heads) / static_cast<double>(other->problem.heads));
}

std::optional<double> Report::bytes(Pass pass, const std::string& program, Index tokens) const {
  for (const nlohmann::json& count : memory) {
    if (count.at("pass") == name(pass) && count.at("program") == program && count.at("tokens") == tokens) {
      return count.at("bytes").get<double>();
    }
  }
  return std::nullopt;
}

Machine describe_machine(int pinned_to) {
  Machine machine;
  machine.pinned_to = pinned_to;
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
    for (const Kind& kind : kinds(report)) {
      text += "\n## " + title + ", " + kind.title() + "\n\n" + ratio_table(report, pass, kind);
    }
    text += "\n" + crossovers(report, pass);
    text += "\n## " + title + ": milliseconds per head\n\nIn brackets: heads per call, if they were fewer.\n";
    for (const Kind& kind : kinds(report)) text += "\n" + kind.title() + "\n\n" + time_table(report, pass, kind);
    text += "\n## " + title + ": the machine in the same rounds\n\nThe product is of " +
            std::to_string(yardstick_size) + " x " + std::to_string(yardstick_size) + " matrices.\n\n" +
            yardstick_table(report, pass);
    if (!report.memory.empty()) {
      text += "\n## " + title +
              ": peak extra heap memory\n\nMemory of one head in the first call, less inputs and outputs.\n\n" +
              memory_table(report, pass);
    }
  }
  if (!report.stopped.empty()) text += "\n## Not measured\n\n";
  for (const std::string& sentence : report.stopped) text += "- " + sentence + "\n";
  return text;
}

nlohmann::json to_json(const Report& report) {
  const Build& build = report.machine.build;
  const auto numbers = [](const std::optional<Spread>& of) {
    if (!of) return nlohmann::json();
    return nlohmann::json({{"median", of->median},
                           {"quartiles", {of->lower, of->upper}},
                           {"smallest", of->smallest},
                           {"largest", of->largest}});
  };
  nlohmann::json results = nlohmann::json::array();
  for (const Result& result : report.results) {
    const Problem& p = result.problem;
    results.push_back({{"program", name(p)},
                       {"pass", name(p.pass)},
                       {"causal", p.is_causal},
                       {"tokens", p.tokens},
                       {"heads", p.heads},
                       {"median_seconds", result.samples.median()},
                       {"samples_seconds", result.samples.seconds},
                       {"calls_per_sample", result.samples.calls_per_sample},
                       {"useful_flops", useful_flops(p)},
                       {"relative_error", result.error},
                       {"fraction_of_peak", numbers(report.fraction_of_peak(result))},
                       {"times_faster_than_tiled_sdpa", numbers(report.times_faster(result))}});
  }
  nlohmann::json yardsticks = nlohmann::json::array();
  for (const Yardstick& yardstick : report.yardsticks) {
    yardsticks.push_back({{"pass", name(yardstick.pass)},
                          {"tokens", yardstick.tokens},
                          {"peak_flops", peak_flops()},
                          {"peak_samples_seconds", yardstick.peak.seconds},
                          {"product_size", yardstick_size},
                          {"product_samples_seconds", yardstick.product.seconds}});
  }
  return {{"machine",
           {{"cpu", report.machine.cpu},
            {"load", report.machine.load},
            {"pinned_to", report.machine.pinned_to},
            {"compiler", build.compiler},
            {"flags", build.flags},
            {"eigen", build.eigen},
            {"packet_floats", build.packet_floats}}},
          {"options",
           {{"width", report.options.width},
            {"covariances", report.options.covariances},
            {"heads", report.options.heads},
            {"rounds", report.options.rounds},
            {"seconds_per_measurement", report.options.seconds}}},
          {"results", results},
          {"yardsticks", yardsticks},
          {"memory", report.memory},
          {"stopped", report.stopped}};
}

}  // namespace bench
