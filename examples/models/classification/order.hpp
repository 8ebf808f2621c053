// SPDX-License-Identifier: MIT
//
// The order of a training set of fixed size: a new permutation in every epoch. It is computed and not stored, so any
// thread can ask for any part of it.
#pragma once

#include "transformer/types.hpp"

namespace classification {

using transformer::Index;

// The finaliser of SplitMix64: a bijection of 64 bits whose outputs pass as random for consecutive inputs.
inline std::uint64_t scramble(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// The position of i, 0 <= i < n, in the key's permutation of 0 .. n - 1. A Feistel network permutes the numbers below
// the next power of 4, and is applied until the result is below n.
inline Index permuted(Index i, Index n, std::uint64_t key) {
  int half = 1;
  while ((Index(1) << 2 * half) < n) ++half;
  const std::uint64_t mask = (std::uint64_t(1) << half) - 1;
  std::uint64_t x = std::uint64_t(i);
  do {
    for (std::uint64_t round = 0; round < 4; ++round) {
      const std::uint64_t left = x >> half, right = x & mask;
      x = right << half | (left ^ (scramble(key ^ scramble(right << 8 | round)) & mask));
    }
  } while (x >= std::uint64_t(n));
  return Index(x);
}

// Which of `size` examples is number n of a training run with this seed.
inline Index epoch_order(std::uint64_t seed, std::uint64_t n, Index size) {
  const std::uint64_t epoch = n / std::uint64_t(size);
  return permuted(Index(n % std::uint64_t(size)), size, scramble(seed ^ scramble(epoch)));
}

}  // namespace classification
