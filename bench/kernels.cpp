// SPDX-License-Identifier: MIT
// The speed of the kernels as ratios, in one process: fractions of the FMA peak of one core, GMA against tiled softmax
// attention, causal against bidirectional, threads, decoding, storage, and the error in float. Prints one table in
// Markdown on stdout; --out writes JSON.
#include <CLI/CLI.hpp>

#include <cstdio>
#include <exception>
#include <iostream>
#include <stdexcept>

#include "affinity.hpp"
#include "gma/io/write_file.hpp"
#include "kernels.hpp"

namespace {

using bench::KernelOptions;
using bench::Line;

std::string digits(double value, const std::string& unit) {
  char text[32];
  const char* const pattern = unit == "error" ? "%.2e"
                              : value >= 1000 ? "%.0f"
                              : value >= 100  ? "%.1f"
                              : value >= 10   ? "%.2f"
                                              : "%.3f";
  std::snprintf(text, sizeof text, pattern, value);
  return text;
}

void print(const std::vector<Line>& lines, const KernelOptions& options) {
  const bench::Build build = bench::build();
  std::printf("%td heads, float, d = e = 64, one thread; %s, `%s`, Eigen %s, %d floats in a packet. ", options.heads,
              build.compiler.c_str(), build.flags.c_str(), build.eigen.c_str(), build.packet_floats);
  std::printf("Median and quartiles of %td rounds; *best* uses the smallest times.\n\n", options.rounds);
  std::printf("| what | value | quartiles | best | unit | relative to |\n|---|---:|---:|---:|---|---|\n");
  for (const Line& line : lines) {
    const std::string unit = line.unit == "error" ? "" : line.unit;
    std::printf("| %s | %s | %s..%s | %s | %s | %s |\n", line.name.c_str(),
                digits(line.value.median, line.unit).c_str(), digits(line.value.lower, line.unit).c_str(),
                digits(line.value.upper, line.unit).c_str(), digits(line.best, line.unit).c_str(), unit.c_str(),
                line.relative_to.c_str());
  }
}

void write(const std::string& path, const std::vector<Line>& lines, const KernelOptions& options) {
  const bench::Build build = bench::build();
  nlohmann::json rows = nlohmann::json::array();
  for (const Line& line : lines) {
    rows.push_back({{"name", line.name},
                    {"value", line.value.median},
                    {"quartiles", {line.value.lower, line.value.upper}},
                    {"smallest", line.value.smallest},
                    {"largest", line.value.largest},
                    {"best", line.best},
                    {"unit", line.unit},
                    {"relative_to", line.relative_to}});
  }
  const nlohmann::json all({{"build",
                             {{"compiler", build.compiler},
                              {"flags", build.flags},
                              {"eigen", build.eigen},
                              {"packet_floats", build.packet_floats}}},
                            {"heads", options.heads},
                            {"rounds", options.rounds},
                            {"lines", rows}});
  gma::io::write_file(path, all.dump(1) + '\n');
}

int run(int argc, char** argv) {
  KernelOptions options;
  std::string out;
  CLI::App app("The speed of gma's kernels as ratios");
  app.add_option("--n", options.tokens, "Lengths of the forward passes")->capture_default_str();
  app.add_option("--components", options.components, "Mixture components")->capture_default_str();
  app.add_option("--heads", options.heads, "Heads per call")->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--sdpa-heads", options.sdpa_heads, "Heads per call of long softmax attention")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--compared-n", options.compared_tokens, "Length of the comparisons at one length")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads for heads, in addition to two")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "Samples per program")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--cpu", options.cpu, "Stay on this CPU (Linux); -1: the one it starts on; -2: any")
      ->capture_default_str();
  app.add_flag("--quick", options.quick, "Short sequences, 2 heads, 3 rounds: only checks that everything works");
  app.add_option("--out", out, "JSON file for the lines");
  CLI11_PARSE(app, argc, argv);
  if (options.quick) {
    options.tokens = {512};
    options.components = {64};
    options.heads = 2;
    options.sdpa_heads = 1;
    options.rounds = 3;
    options.compared_tokens = 1024;
    options.long_tokens = 4096;
    options.late_position = 16384;
  }
  const std::vector<Line> lines = bench::kernel_lines(options);
  print(lines, options);
  if (!out.empty()) write(out, lines, options);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "gma_bench_kernels: " << error.what() << '\n';
    return 1;
  }
}
