// SPDX-License-Identifier: MIT
// Random numbers for initialisations: the same bits from the same seed on every platform. The engines of <random> are
// specified to the bit, its distributions are not, so the step from bits to numbers is ours.
#pragma once

#include <cstdint>
#include <random>

#include "gma/core/types.hpp"

namespace gma::detail {

/// Uniform and normal draws from std::mt19937_64. No function of <cmath> is called, whose last bit differs between
/// libraries: the normal is drawn by comparing uniforms only (C. F. F. Karney, Sampling exactly from the normal
/// distribution, ACM Transactions on Mathematical Software 42, 2016, algorithm N), about ten of them a draw.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  /// 53 random bits in [0, 1).
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

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

  std::mt19937_64 engine_;
};

}  // namespace gma::detail
