// SPDX-License-Identifier: MIT
// The parts of gma_bench_kernels: groups of programs that are timed in the same rounds, and the lines of the table.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "timing.hpp"

namespace bench {

struct KernelOptions {
  std::vector<Index> tokens{2048, 8192, 32768}, components{64, 128, 256};
  Index heads = 8, sdpa_heads = 2, threads = 2, rounds = 11;
  Index long_tokens = 131072;     // for the errors
  Index compared_tokens = 8192;   // for all comparisons at one length
  Index late_position = 1 << 20;  // for decoding
  int cpu = -1;
  bool quick = false;
};

/// One line of the table. The spread is over the rounds. `best` uses the smallest times, if the line has times.
struct Line {
  std::string name;
  Spread value;
  double best = 0;
  std::string unit, relative_to;
};

/// Programs that are checked and then timed in the same rounds, together with the FMA peak and a large product of
/// Eigen's.
class Group {
 public:
  explicit Group(const Rounds& rounds);

  /// Checks a program and returns its number. Throws std::runtime_error if the program is wrong.
  std::size_t add(const Problem& problem);
  std::size_t add(std::unique_ptr<Program> program, double flops, double heads);
  void measure();

  /// Lines; call these after the measurement.
  Line of_peak(const std::string& name, std::size_t program) const;
  Line product_of_peak() const;
  Line peak_rate() const;
  /// Time per head of `slow` over that of `fast`.
  Line times(const std::string& name, std::size_t slow, std::size_t fast, const std::string& relative_to) const;
  /// Time per call.
  Line microseconds(const std::string& name, std::size_t program, const std::string& relative_to) const;

 private:
  Rounds rounds_;
  std::vector<std::unique_ptr<Program>> programs_;
  std::vector<double> flops_, heads_, first_;
  std::vector<Samples> samples_;
};

/// Every line, in the order of the table. Prints its progress on stderr.
std::vector<Line> kernel_lines(const KernelOptions& options);

}  // namespace bench
