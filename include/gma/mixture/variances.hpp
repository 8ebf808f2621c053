// SPDX-License-Identifier: MIT
// The variances of a mixture at a glance: their range, and how many ran to a bound.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "gma/core/checks.hpp"
#include "gma/mixture/mixture.hpp"

namespace gma {

/// The variances of a mixture: one per component (Isotropic), per component and coordinate (Diagonal), per coordinate
/// (Tied), or the d eigenvalues of every covariance (Full); of a product mixture those of all factors.
template <class S>
struct VarianceRange {
  S smallest = 0;   ///< of all variances
  S largest = 0;    ///< of all variances
  Index below = 0;  ///< variances at `lower` or less
  Index above = 0;  ///< variances at `upper` or more
  Index count = 0;  ///< all variances
};

/// A variance within 1e-5 of a bound, relatively, is at it: parameters that were clamped to a bound count, in float
/// too. S is float or double; computed in double. Cost one exp a variance; for Full some 10 sweeps of Jacobi rotations
/// over every precision factor L_k, O(K d^3), with a relative error of some d eps times the condition number of L_k.
/// Throws std::invalid_argument if a parameter is not finite, or unless 0 <= lower <= upper.
template <class S, class Covariance>
VarianceRange<S> variance_range(const Mixture<S, Covariance>& mixture, double lower = 1e-4, double upper = 1e4);
template <class S, class Covariance>
VarianceRange<S> variance_range(const ProductMixture<S, Covariance>& mixture, double lower = 1e-4, double upper = 1e4);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// f(variance) for every variance, in double.
template <class S, class Covariance, class F>
void for_each_variance(const Mixture<S, Covariance>& mixture, const F& f) {
  static_assert(check_family<Covariance>());
  if constexpr (Covariance::log_scales_are_log_deviations) {
    for (Index i = 0; i < mixture.log_scales.size(); ++i) {
      f(std::exp(2 * static_cast<double>(mixture.log_scales.data()[i])));
    }
  } else {
    Covariance::for_each_variance(mixture, f);
  }
}

struct VarianceCounts {
  double lower, upper;
  double smallest = std::numeric_limits<double>::infinity(), largest = 0;
  Index below = 0, above = 0, count = 0;

  VarianceCounts(double low, double high) : lower(low), upper(high) {
    if (!(lower >= 0 && lower <= upper)) {
      invalid_argument("variance_range", "lower is ", lower, " and upper is ", upper, ", expected 0 <= lower <= upper");
    }
  }
  template <class M>
  void add(const M& mixture, const std::string& name) {
    check_finite_parameters("variance_range", mixture, name);
    for_each_variance(mixture, [this](double variance) {
      constexpr double slack = 1e-5;
      smallest = (std::min)(smallest, variance);
      largest = (std::max)(largest, variance);
      if (variance <= lower * (1 + slack)) ++below;
      if (variance >= upper * (1 - slack)) ++above;
      ++count;
    });
  }
  template <class S>
  VarianceRange<S> result() const {
    return {static_cast<S>(smallest), static_cast<S>(largest), below, above, count};
  }
};

}  // namespace detail

template <class S, class Covariance>
VarianceRange<S> variance_range(const Mixture<S, Covariance>& mixture, double lower, double upper) {
  detail::check_parameters("variance_range", mixture);
  detail::VarianceCounts counts(lower, upper);
  counts.add(mixture, "mixture");
  return counts.template result<S>();
}

template <class S, class Covariance>
VarianceRange<S> variance_range(const ProductMixture<S, Covariance>& mixture, double lower, double upper) {
  detail::check_parameters("variance_range", mixture);
  detail::VarianceCounts counts(lower, upper);
  for (std::size_t m = 0; m < mixture.factors.size(); ++m) {
    counts.add(mixture.factors[m], "mixture.factors[" + std::to_string(m) + "]");
  }
  return counts.template result<S>();
}

}  // namespace gma
