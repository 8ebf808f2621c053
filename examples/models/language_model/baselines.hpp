// SPDX-License-Identifier: MIT
//
// The bits per byte of models that only count, on the same split of the text.
#pragma once

#include <cstdio>
#include <optional>
#include <vector>

#include "compression.hpp"
#include "ngram.hpp"
#include "text.hpp"

namespace language_model {

struct Baselines {
  std::vector<double> ngrams;  // bits per held-out byte; element 0 is the order 1
  std::optional<double> xz;
};

inline Baselines compute_baselines(const Text& text) {
  const Ngrams ngrams(text.data(), text.split, Ngrams::largest_order);
  return {ngrams.bits_per_byte(text.data(), text.split, text.size()), xz_bits_per_byte(text)};
}

inline void print_baselines(const Baselines& baselines) {
  std::printf("Bits per byte of counting models on the held-out text:\n");
  for (std::size_t n = 2; n <= baselines.ngrams.size(); ++n)
    std::printf("  %zu-gram, Witten-Bell     %.3f\n", n, baselines.ngrams[n - 1]);
  if (baselines.xz)
    std::printf("  xz -9e, after training   %.3f\n", *baselines.xz);
  else
    std::printf("  xz                       (not installed)\n");
}

}  // namespace language_model
