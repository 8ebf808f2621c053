// SPDX-License-Identifier: MIT
// Arithmetic with counts that a caller or a file gives: it never overflows. A result that an Index does not hold
// becomes the largest Index, which every bound below refuses.
#pragma once

#include <limits>

#include "gma/core/types.hpp"

namespace gma {

/// The largest mixture: its slots are the product of the components of all factors. A larger one is refused.
inline constexpr Index max_slots = Index(1) << 24;

/// The longest window of a layer, in tokens.
inline constexpr Index max_window = Index(1) << 20;

/// The widest token of a layer: its columns before and after the projections, of all heads together.
inline constexpr Index max_columns = Index(1) << 24;

namespace detail {

inline constexpr Index max_index = (std::numeric_limits<Index>::max)();

/// a * b; 0 where one of them is negative.
constexpr Index product_of_counts(Index a, Index b) {
  if (a <= 0 || b <= 0) return 0;
  return a > max_index / b ? max_index : a * b;
}

/// a + b, neither of them negative.
constexpr Index sum_of_counts(Index a, Index b) { return a > max_index - b ? max_index : a + b; }
template <class... More>
constexpr Index sum_of_counts(Index a, Index b, Index c, More... more) {
  return sum_of_counts(sum_of_counts(a, b), c, more...);
}

}  // namespace detail
}  // namespace gma
