// SPDX-License-Identifier: MIT
// What gma_bench_kernels is made of: groups of programs that are timed in the same rounds, and the lines that are
// formed from them.
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
  Index long_tokens = 131072;     // of the errors
  Index compared_tokens = 8192;   // of everything that is compared at one length
  Index late_position = 1 << 20;  // of decoding
  int cpu = -1;
  bool quick = false;
};

/// One line of the table. The spread is over the rounds; `best` is formed of the smallest times, where there are times.
struct Line {
  std::string name;
  Spread value;
  double best = 0;
  std::string unit, relative_to;
};

/// Programs that are checked, then timed in the same rounds, beside the FMA peak and a large product of Eigen's.
class Group {
 public:
  explicit Group(const Rounds& rounds);

  /// Checks a program, throws std::runtime_error where it is wrong, and returns its number.
  std::size_t add(const Problem& problem);
  std::size_t add(std::unique_ptr<Program> program, double flops, double heads);
  void measure();

  /// Lines, once it was measured.
  Line of_peak(const std::string& name, std::size_t program) const;
  Line product_of_peak() const;
  Line peak_rate() const;
  /// Time of a head of `slow` over that of `fast`.
  Line times(const std::string& name, std::size_t slow, std::size_t fast, const std::string& relative_to) const;
  /// Of a call.
  Line microseconds(const std::string& name, std::size_t program, const std::string& relative_to) const;

 private:
  Rounds rounds_;
  std::vector<std::unique_ptr<Program>> programs_;
  std::vector<double> flops_, heads_, first_;
  std::vector<Samples> samples_;
};

/// Every line, in the order of the table. Says on stderr what it is at.
std::vector<Line> kernel_lines(const KernelOptions& options);

}  // namespace bench
