// SPDX-License-Identifier: MIT
// Timing in one process, round-robin: every round calls every program once, so that what disturbs the machine disturbs
// all of them, and ratios hold where milliseconds do not.
#pragma once

#include <algorithm>
#include <cmath>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

#include "programs.hpp"

namespace bench {

/// Seconds of one call: samples, and what is reported of them.
struct Samples {
  std::vector<double> seconds;
  Index calls_per_sample = 1;

  double median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t n = sorted.size();
    return n % 2 == 1 ? sorted[n / 2] : 0.5 * (sorted[n / 2 - 1] + sorted[n / 2]);
  }
  double smallest() const { return *std::min_element(seconds.begin(), seconds.end()); }
  double largest() const { return *std::max_element(seconds.begin(), seconds.end()); }
};

/// Processor time, not the wall's: the programs run in one thread, and on a busy machine only this can be compared.
inline double seconds_of(const std::function<void()>& call) {
  const std::clock_t start = std::clock();
  call();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

/// Times all programs, which were warmed up by a call of `first` seconds each. A sample repeats a short call until
/// about `shortest` seconds have passed. Where a round takes more than a second, at most 5 rounds are run.
inline std::vector<Samples> round_robin(const std::vector<Program*>& programs, const std::vector<double>& first,
                                        Index rounds, double shortest) {
  std::vector<Samples> result(programs.size());
  double round = 0;
  for (std::size_t i = 0; i < programs.size(); ++i) {
    result[i].calls_per_sample = std::max<Index>(1, static_cast<Index>(std::ceil(shortest / std::max(first[i], 1e-9))));
    round += first[i] * static_cast<double>(result[i].calls_per_sample);
  }
  if (round > 1) rounds = std::min<Index>(rounds, 5);
  for (Index r = 0; r < rounds; ++r) {
    for (std::size_t i = 0; i < programs.size(); ++i) {
      const Index calls = result[i].calls_per_sample;
      const double seconds = seconds_of([&] {
        for (Index c = 0; c < calls; ++c) programs[i]->run();
      });
      result[i].seconds.push_back(seconds / static_cast<double>(calls));
    }
  }
  return result;
}

}  // namespace bench
