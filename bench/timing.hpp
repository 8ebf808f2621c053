// SPDX-License-Identifier: MIT
// Timing in one process, round-robin: every round calls every program once. A disturbance of the machine then affects
// all programs, and ratios hold even if milliseconds do not. A ratio is formed within each round, from samples that are
// close in time, and only then summarised.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "programs.hpp"

namespace bench {

/// The summary of a few numbers: the median, the quartiles, the smallest and the largest.
struct Spread {
  double median = 0, lower = 0, upper = 0, smallest = 0, largest = 0;
};

/// The quantile `at` of the sorted numbers, interpolated.
inline double quantile(const std::vector<double>& sorted, double at) {
  const double place = at * static_cast<double>(sorted.size() - 1);
  const std::size_t below = static_cast<std::size_t>(place), above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

inline Spread spread(std::vector<double> numbers) {
  if (numbers.empty()) return {};
  std::sort(numbers.begin(), numbers.end());
  return {quantile(numbers, 0.5), quantile(numbers, 0.25), quantile(numbers, 0.75), numbers.front(), numbers.back()};
}

/// Seconds per call: samples and their summary.
struct Samples {
  std::vector<double> seconds;
  Index calls_per_sample = 1;

  double median() const { return spread(seconds).median; }
  double smallest() const { return spread(seconds).smallest; }
};

/// scale * a / b, round by round.
inline Spread ratio(const Samples& a, const Samples& b, double scale = 1) {
  std::vector<double> ratios(std::min(a.seconds.size(), b.seconds.size()));
  for (std::size_t r = 0; r < ratios.size(); ++r) ratios[r] = scale * a.seconds[r] / b.seconds[r];
  return spread(std::move(ratios));
}

/// f(seconds) of every round.
template <class F>
Spread spread_of(const Samples& samples, const F& f) {
  std::vector<double> numbers = samples.seconds;
  for (double& number : numbers) number = f(number);
  return spread(std::move(numbers));
}

/// Processor time for programs of one thread: on a busy machine only this can be compared. Wall time for several
/// threads.
enum class Clock { processor, wall };

inline double seconds_of(const std::function<void()>& call, Clock clock = Clock::processor) {
  if (clock == Clock::wall) {
    const auto start = std::chrono::steady_clock::now();
    call();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  const std::clock_t start = std::clock();
  call();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

/// Calls a program once to fill its memory and caches, and returns about how long a call takes.
inline double warm_up(Program& program, Clock clock = Clock::processor) {
  program.run();
  const double first = seconds_of([&] { program.run(); }, clock);
  if (first > 1e-4) return first;
  constexpr Index calls = 64;
  const auto repeated = [&] {
    for (Index c = 0; c < calls; ++c) program.run();
  };
  return seconds_of(repeated, clock) / static_cast<double>(calls);
}

/// How programs are timed.
struct Rounds {
  Index rounds = 11;
  Index long_rounds = 5;          // if a round takes more than a second
  double shortest_sample = 5e-3;  // seconds: a shorter call is repeated
  Clock clock = Clock::processor;
};

/// Times all programs. `first` has about how many seconds a call takes, see warm_up(). Each round starts with the next
/// program.
inline std::vector<Samples> round_robin(const std::vector<Program*>& programs, const std::vector<double>& first,
                                        const Rounds& options) {
  std::vector<Samples> result(programs.size());
  double round = 0;
  for (std::size_t i = 0; i < programs.size(); ++i) {
    const double calls = std::ceil(options.shortest_sample / std::max(first[i], 1e-7));
    result[i].calls_per_sample = std::max<Index>(1, static_cast<Index>(calls));
    round += first[i] * static_cast<double>(result[i].calls_per_sample);
  }
  const Index rounds = round > 1 ? std::min(options.rounds, options.long_rounds) : options.rounds;
  for (Index r = 0; r < rounds; ++r) {
    for (std::size_t place = 0; place < programs.size(); ++place) {
      const std::size_t i = (place + static_cast<std::size_t>(r)) % programs.size();
      const Index calls = result[i].calls_per_sample;
      const auto call = [&] {
        for (Index c = 0; c < calls; ++c) programs[i]->run();
      };
      result[i].seconds.push_back(seconds_of(call, options.clock) / static_cast<double>(calls));
    }
  }
  return result;
}

}  // namespace bench
