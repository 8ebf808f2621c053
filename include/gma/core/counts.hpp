// SPDX-License-Identifier: MIT
// Arithmetic with counts from a caller or a file. It never overflows: a result that does not fit into an Index becomes
// the largest Index, and every bound below refuses that.
#pragma once

#include <limits>

#include "gma/core/types.hpp"

namespace gma {

/// The largest mixture. Its slots are the product of the components of all factors.
inline constexpr Index max_slots = Index(1) << 24;

/// The longest window of a layer, in tokens.
inline constexpr Index max_window = Index(1) << 20;

/// The widest token of a layer: its columns before and after the projections, of all heads together.
inline constexpr Index max_columns = Index(1) << 24;

namespace detail {

inline constexpr Index max_index = (std::numeric_limits<Index>::max)();

/// a * b; 0 if one of them is negative.
constexpr Index product_of_counts(Index a, Index b) {
  if (a <= 0 || b <= 0) return 0;
  return a > max_index / b ? max_index : a * b;
}

/// a + b; neither may be negative.
constexpr Index sum_of_counts(Index a, Index b) { return a > max_index - b ? max_index : a + b; }
template <class... More>
constexpr Index sum_of_counts(Index a, Index b, Index c, More... more) {
  return sum_of_counts(sum_of_counts(a, b), c, more...);
}

}  // namespace detail
}  // namespace gma
