// SPDX-License-Identifier: MIT
//
// Rotary positions: channel pairs (i, i + d/2) of a query or key at position t are turned by the angle t / base^(2i/d),
// so inner products depend only on differences of positions. The gradient is the reverse rotation.
#pragma once

#include "types.hpp"

namespace transformer {

// Turns rows of x [T, H d] in place, row t by direction * (first + t). direction is 1, or -1 for the gradient.
template <class S>
void rotate(Out<S> x, Index heads, Index first, S direction) {
  const Index half = x.cols() / heads / 2;
  Eigen::Array<S, 1, Eigen::Dynamic> frequency(half), cosine(half), sine(half), turned(half);
  for (Index i = 0; i < half; ++i) frequency[i] = static_cast<S>(std::pow(10000.0, -double(i) / double(half)));
  for (Index t = 0; t < x.rows(); ++t) {
    cosine = (S(first + t) * frequency).cos();
    sine = direction * (S(first + t) * frequency).sin();
    for (Index h = 0; h < heads; ++h) {
      auto a = x.row(t).segment(2 * half * h, half).array();
      auto b = x.row(t).segment(2 * half * h + half, half).array();
      turned = a * cosine - b * sine;
      b = a * sine + b * cosine;
      a = turned;
    }
  }
}

}  // namespace transformer
