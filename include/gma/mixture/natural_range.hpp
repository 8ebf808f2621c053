// SPDX-License-Identifier: MIT
// What keeps natural parameters accurate and finite: a common centre that tokens and means are counted from, and bounds
// that no parameter in use comes near.
//
// Logits are x W + x^2 V + b, whose terms are of the size (|x| / sigma)^2 and cancel: far from the origin nothing is
// left. The centre makes them as accurate as at the origin. It is chosen from the parameters alone, and only where it
// is worth its price, one subtraction per number of a token.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "gma/core/numeric.hpp"
#include "gma/core/types.hpp"

namespace gma::detail {

/// 2^(share e), where 2^e is the first power of two beyond S: 2^128 for float, 2^1024 for double.
template <class S>
S power_of_range(double share) {
  constexpr int most = std::numeric_limits<double>::max_exponent;
  constexpr int exponent = std::numeric_limits<S>::is_specialized ? std::numeric_limits<S>::max_exponent : most;
  return S(std::exp2(share * ((std::min)(exponent, most))));
}

/// `value` within [low, high]; NaN stays NaN.
template <class S>
S bounded(const S& value, const S& low, const S& high) {
  return value < low ? low : value > high ? high : value;
}

/// tau = exp(log tau), within 2^-32 to 2^96 in float, 2^-256 to 2^768 in double: beyond, it counts as at the bound.
template <class S>
S bounded_temperature(const S& log_temperature) {
  using std::exp;
  return bounded(S(exp(log_temperature)), power_of_range<S>(-0.25), power_of_range<S>(0.75));
}

/// The largest precision for means of at most `reach` in size and beta = 1 / tau: with it logits stay finite for tokens
/// of up to 2^15 (in double 2^127) times the larger of 1 and reach. In float and at tau = 1 a standard deviation is at
/// least 2^-48 times that.
template <class S>
S largest_precision(const S& reach, const S& beta) {
  S most = power_of_range<S>(0.75);  // one operation at a time: autodiff scalars want no longer expressions
  if (beta > S(1)) most /= beta;
  if (reach > S(1)) most /= reach;
  if (reach > S(1)) most /= reach;
  return most;
}

/// The largest |mu_ki - c_i|. Cost O(K d).
template <class S, class Center>
S reach_of(const Matrix<S>& means, const Center& center) {
  S reach(0);
  for (Index k = 0; k < means.rows(); ++k) {
    for (Index i = 0; i < means.cols(); ++i) {
      const S difference = means(k, i) - center(i);
      if (difference > reach) reach = difference;
      if (-difference > reach) reach = -difference;
    }
  }
  return reach;
}

/// The upper median of the numbers, which change their order.
template <class S>
S median(RowVector<S>& numbers) {
  S* const middle = numbers.data() + numbers.size() / 2;
  std::nth_element(numbers.data(), middle, numbers.data() + numbers.size());
  return *middle;
}

/// A coordinate's centre: the median of the means, which a component far from the others does not move; 0 where the
/// means lie around the origin, no nearer to their median than to it. `scratch` holds K numbers.
template <class S>
S center_of(const Matrix<S>& means, Index i, RowVector<S>& scratch) {
  const S zero(0);
  scratch = means.col(i).transpose();
  const S center = median(scratch);
  if (!is_finite(center)) return zero;
  for (Index k = 0; k < means.rows(); ++k) {
    const S difference = means(k, i) - center;
    scratch(k) = difference < zero ? S(-difference) : difference;
  }
  const S spread = S(2) * median(scratch);
  return center > spread || -center > spread ? center : zero;
}

/// Chooses the centre (d numbers, zeros where it is not worth it); returns whether any is not zero. A coordinate is
/// looked at where its means are on average more than 4 of the smallest standard deviations from the origin; at a
/// temperature below 1, which sharpens, 4 sqrt(tau). Precisions have a row per component or one, and a column per
/// coordinate or one. Cost O(K d), and O(K) for each coordinate that is looked at.
template <class S>
bool choose_center(const Matrix<S>& means, const Matrix<S>& precisions, const S& beta, RowVector<S>& scratch,
                   RowVector<S>& center) {
  const S zero(0), enough = S(16) / (beta > S(1) ? beta : S(1));
  center = means.colwise().sum();
  center *= S(1 / static_cast<double>(means.rows()));
  const S narrowest = precisions.maxCoeff();
  bool is_centered = false;
  for (Index i = 0; i < center.size(); ++i) {
    S distance = center(i);
    distance *= distance;
    const bool is_far = distance * narrowest > enough &&  // the cheap question first
                        distance * precisions.col((std::min)(i, precisions.cols() - 1)).maxCoeff() > enough;
    center(i) = is_far ? center_of(means, i, scratch) : zero;
    is_centered = is_centered || center(i) != zero;
  }
  return is_centered;
}

}  // namespace gma::detail
