// SPDX-License-Identifier: MIT
//
// Random numbers that are the same on every platform. The engines of <random> are, but its distributions are not. A
// counter-based generator needs no state in a checkpoint: draw number n of stream s is a function of (s, n).
#pragma once

#include <cmath>
#include <cstdint>

namespace transformer {

// The finaliser of SplitMix64: a bijection of 64 bits whose outputs pass as random for consecutive inputs.
inline std::uint64_t scramble(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

class Random {
 public:
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0) : key_(scramble(seed ^ scramble(stream))) {}

  std::uint64_t bits() { return scramble(key_ ^ scramble(counter_++)); }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }  // [0, 1)
  std::uint64_t below(std::uint64_t n) { return static_cast<std::uint64_t>(uniform() * static_cast<double>(n)); }
  double normal() {  // Box-Muller
    constexpr double two_pi = 6.283185307179586;
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(two_pi * uniform());
  }

 private:
  std::uint64_t key_;
  std::uint64_t counter_ = 0;
};

}  // namespace transformer
