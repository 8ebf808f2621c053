// SPDX-License-Identifier: MIT
//
// The order of a training set of fixed size: a new permutation in every epoch. It is computed and not stored, so any
// thread can ask for any part of it.
#pragma once

#include "transformer/random.hpp"
#include "transformer/types.hpp"

namespace classification {

using transformer::Index;

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
      x = right << half | (left ^ (transformer::scramble(key ^ transformer::scramble(right << 8 | round)) & mask));
    }
  } while (x >= std::uint64_t(n));
  return Index(x);
}

// Which of `size` examples is number n of a training run with this seed.
inline Index epoch_order(std::uint64_t seed, std::uint64_t n, Index size) {
  const std::uint64_t epoch = n / std::uint64_t(size);
  return permuted(Index(n % std::uint64_t(size)), size, transformer::scramble(seed ^ transformer::scramble(epoch)));
}

}  // namespace classification
