// SPDX-License-Identifier: MIT
// Random numbers: the same bits from the same seed on every platform. The engines of <random> are specified exactly,
// its distributions are not, so the step from bits to numbers is ours.
#pragma once

#include <cstdint>
#include <limits>
#include <random>

#include "gma/core/types.hpp"

namespace gma {

/// Uniform and normal draws from std::mt19937_64. No function of <cmath> is called, whose last bit differs between
/// libraries: the normal is drawn by comparing uniforms only (C. F. F. Karney, Sampling exactly from the normal
/// distribution, ACM Transactions on Mathematical Software 42, 2016, algorithm N), about ten of them per draw.
class Random {
 public:
  /// Streams of one seed are independent. Number the steps of a training run, for example, and use one stream per step:
  /// a run that is resumed then needs no state of a generator. Cost about 1 us.
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0)
      : engine_(stream == 0 ? seed : scrambled(seed ^ scrambled(stream))) {}

  /// 64 random bits.
  std::uint64_t bits() { return engine_(); }

  /// 53 random bits in [0, 1).
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

  /// One of 0 ... count - 1, each with the same probability. count must not be 0.
  std::uint64_t below(std::uint64_t count) {
    constexpr std::uint64_t most = (std::numeric_limits<std::uint64_t>::max)();
    const std::uint64_t limit = most - most % count;
    std::uint64_t draw = engine_();
    while (draw >= limit) draw = engine_();
    return draw % count;
  }

  /// Normal(0, 1) = (integer + fraction) with a random sign, by rejection: integer k and fraction x are kept with
  /// probability proportional to exp(-(k + x)^2 / 2).
  double normal() {
    for (;;) {
      const int integer = geometric();
      if (!all_half(integer * (integer - 1))) continue;
      const double fraction = uniform();
      int trial = 0;
      while (trial <= integer && fraction_trial(integer, fraction)) ++trial;
      if (trial <= integer) continue;
      const double magnitude = integer + fraction;
      return uniform() < 0.5 ? magnitude : -magnitude;
    }
  }

  /// Row by row, so that a larger matrix begins with the same rows.
  void fill_normal(Matrix<double>& matrix) {
    for (Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = normal();
  }

 private:
  /// True with probability exp(-1/2): von Neumann's descending run of uniforms from 1/2 has even length.
  bool half() {
    bool even = true;
    for (double last = 0.5, next = uniform(); next < last; last = next, next = uniform()) even = !even;
    return even;
  }

  bool all_half(int times) {
    for (int i = 0; i < times; ++i) {
      if (!half()) return false;
    }
    return true;
  }

  /// k with probability exp(-k/2) (1 - exp(-1/2)).
  int geometric() {
    int k = 0;
    while (half()) ++k;
    return k;
  }

  /// True with probability exp(-x (2k + x) / (2k + 2)): a descending run from x whose every step is also kept with
  /// probability (2k + x) / (2k + 2).
  bool fraction_trial(int k, double x) {
    const double keep = (2 * k + x) / (2 * k + 2);
    bool even = true;
    for (double last = x, next = uniform(); next < last && uniform() < keep; last = next, next = uniform()) {
      even = !even;
    }
    return even;
  }

  /// The finaliser of SplitMix64, a bijection: seeds that follow each other become unlike each other.
  static std::uint64_t scrambled(std::uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }

  std::mt19937_64 engine_;
};

}  // namespace gma
