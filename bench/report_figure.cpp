// SPDX-License-Identifier: MIT
// The report as a figure: time and memory against N, both axes logarithmic, drawn by gnuplot.
#include <cstdlib>
#include <functional>
#include <optional>

#include "gma/io/write_file.hpp"
#include "report.hpp"

namespace bench {
namespace {

/// A curve: its data block and its style. The colours are those of Okabe and Ito, which colour-blind readers can
/// distinguish. Point shapes distinguish the curves once more.
struct Curve {
  std::string block, data, style, title;
};

std::string style(const Problem& problem, std::size_t rank) {
  static const char* const gma_colours[] = {"#56B4E9", "#0072B2", "#009E73", "#CC79A7"};
  static const int gma_points[] = {6, 7, 9, 11};
  std::string colour = "#D55E00";
  int point = 5;
  if (problem.attention == Operator::sdpa_dense) {
    colour = "#000000";
    point = 4;
  }
  if (problem.attention == Operator::gma) {
    colour = gma_colours[rank % 4];
    point = gma_points[rank % 4];
  }
  return "lc rgb '" + colour + "' pt " + std::to_string(point) + (problem.is_causal ? " dt (6,4)" : " dt 1") +
         " lw 2 ps 0.8";
}

std::vector<Curve> curves(const Report& report, const std::string& prefix,
                          const std::function<std::optional<double>(const std::string&, Index)>& value) {
  std::vector<Curve> result;
  std::size_t rank = 0;
  bool was_causal = false;
  for (const Problem& problem : lineup(report.options, Pass::forward, report.options.min_tokens)) {
    const bool is_gma = problem.attention == Operator::gma;
    if (problem.forgets || (is_gma && name(problem.covariance) != report.options.covariances.front())) continue;
    if (problem.is_causal != was_causal) rank = 0;
    was_causal = problem.is_causal;
    Curve curve{"$" + prefix + std::to_string(result.size()), "", style(problem, rank), name(problem)};
    if (is_gma) ++rank;
    for (const Index tokens : lengths(report.options)) {
      const std::optional<double> y = value(name(problem), tokens);
      if (y && *y > 0) curve.data += std::to_string(tokens) + " " + std::to_string(*y) + "\n";
    }
    if (!curve.data.empty()) result.push_back(curve);
  }
  return result;
}

std::string blocks(const std::vector<Curve>& curves) {
  std::string text;
  for (const Curve& curve : curves) text += curve.block + " << EOD\n" + curve.data + "EOD\n";
  return text;
}

std::string plot(const std::vector<Curve>& curves) {
  std::string text = "plot ";
  for (const Curve& curve : curves) {
    if (&curve != &curves.front()) text += ", \\\n     ";
    text += curve.block + " using 1:2 with linespoints " + curve.style + " title '" + curve.title + "'";
  }
  return text + "\n";
}

std::string ticks(const Report& report) {
  std::string text;
  const std::vector<Index> tokens_of = lengths(report.options);
  for (std::size_t i = 0; i < tokens_of.size(); i += 2) {
    const Index tokens = tokens_of[i];
    const std::string label = tokens % 1024 == 0 ? std::to_string(tokens / 1024) + "k" : std::to_string(tokens);
    text += (text.empty() ? "" : ", ") + ("'" + label + "' " + std::to_string(tokens));
  }
  return text;
}

std::string script(const Report& report) {
  const std::vector<Curve> times =
      curves(report, "time", [&](const std::string& program, Index tokens) -> std::optional<double> {
        const Result* const result = report.find(Pass::forward, program, tokens);
        if (result == nullptr) return std::nullopt;
        return 1e3 * result->samples.median() / static_cast<double>(result->problem.heads);
      });
  const std::vector<Curve> sizes =
      curves(report, "memory", [&](const std::string& program, Index tokens) -> std::optional<double> {
        const std::optional<double> bytes = report.bytes(Pass::forward, program, tokens);
        if (!bytes) return std::nullopt;
        return *bytes / 0x1p20;
      });
  const bool has_sizes = !sizes.empty();
  const std::string width = has_sizes ? "1200" : "640";
  std::string text = blocks(times) + blocks(sizes);
  text += "do for [kind in 'svg png'] {\n";
  text += "if (kind eq 'svg') {\n  set terminal svg size " + width +
          ",600 dynamic background rgb 'white' font 'DejaVu Sans,Helvetica,Arial,sans-serif,13'\n} else {\n" +
          "  set terminal pngcairo size " + width + ",600 background rgb 'white' font 'DejaVu Sans,11'\n}\n";
  text += "set output 'time_memory.'.kind\n";
  text += std::string("set multiplot layout 1,") + (has_sizes ? "2" : "1") +
          " margins screen 0.07,0.98,0.27,0.92 spacing screen 0.08\n";
  text +=
      "set logscale xy\nset grid xtics ytics lc rgb '#dddddd' lt 1 lw 1\nset border 3\nset tics nomirror\n"
      "set key at screen 0.5,0.02 center bottom maxrows 3 reverse Left samplen 3 spacing 1.1\n"
      "set xlabel 'N, tokens in the sequence'\nset format y '%g'\n";
  text += "set xrange [" + std::to_string(0.8 * static_cast<double>(report.options.min_tokens)) + ":" +
          std::to_string(1.25 * static_cast<double>(lengths(report.options).back())) + "]\n";
  text += "set xtics (" + ticks(report) + ")\n";
  text += "set title 'Time of one head, forward, d = e = " + std::to_string(report.options.width) +
          " (dashed: causal)'\nset ylabel 'time per call (ms)'\n";
  text += plot(times);
  if (has_sizes) {
    text +=
        "set title 'Memory beyond inputs and outputs (dashed: causal)'\nset ylabel 'peak extra heap memory "
        "(MiB)'\nunset key\n" +
        plot(sizes);
  }
  text += "unset multiplot\nunset output\n}\n";
  return text;
}

}  // namespace

bool draw_figure(const Report& report, const std::string& folder) {
  gma::io::write_file(folder + "/time_memory.gp",
                      "# Drawn by gnuplot from the numbers of report.json: gnuplot time_memory.gp\n" + script(report));
  std::string quoted;  // for the shell
  for (const char c : folder) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  const std::string command = "cd -- '" + quoted + "' && gnuplot time_memory.gp";
  return std::system(command.c_str()) == 0;
}

}  // namespace bench
