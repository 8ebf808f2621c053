// SPDX-License-Identifier: MIT
// The variances of a mixture at a glance: their range, and how many ran to a bound.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "gma/core/checks.hpp"
#include "gma/mixture/mixture.hpp"
#include "gma/mixture/natural.hpp"

namespace gma {

/// The variances of a mixture: one a component (Isotropic), a component and coordinate (Diagonal), a coordinate (Tied),
/// or the d eigenvalues of every covariance (Full); of a product mixture those of all factors.
template <class S>
struct VarianceRange {
  S smallest = 0;
  S largest = 0;
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

/// The singular values of a square matrix, which is used up: its rows are rotated until they are orthogonal.
inline Vector<double> singular_values(Matrix<double> a) {
  const double tolerance = std::numeric_limits<double>::epsilon() * static_cast<double>(a.rows());
  RowVector<double> kept;
  bool rotated = true;
  for (int sweep = 0; rotated && sweep < 60; ++sweep) {
    rotated = false;
    for (Index p = 0; p < a.rows(); ++p) {
      for (Index q = p + 1; q < a.rows(); ++q) {
        const double aa = a.row(p).squaredNorm(), bb = a.row(q).squaredNorm(), ab = a.row(p).dot(a.row(q));
        if (!(std::abs(ab) > tolerance * std::sqrt(aa) * std::sqrt(bb))) continue;
        rotated = true;
        const double zeta = (bb - aa) / (2 * ab);
        const double tangent = (zeta < 0 ? -1 : 1) / (std::abs(zeta) + std::hypot(1.0, zeta));
        const double cosine = 1 / std::hypot(1.0, tangent), sine = cosine * tangent;
        kept = a.row(p);
        a.row(p) = cosine * kept - sine * a.row(q);
        a.row(q) = sine * kept + cosine * a.row(q);
      }
    }
  }
  return a.rowwise().norm();
}

/// f(variance) for every variance, in double.
template <class S, class Covariance, class F>
void for_each_variance(const Mixture<S, Covariance>& mixture, F&& f) {
  for (Index i = 0; i < mixture.log_scales.size(); ++i) {
    f(std::exp(2 * static_cast<double>(mixture.log_scales.data()[i])));
  }
}
template <class S, class F>
void for_each_variance(const Mixture<S, Full>& mixture, F&& f) {
  const Index d = mixture.dim();
  for (Index k = 0; k < mixture.components(); ++k) {
    Matrix<double> lower(d, d);
    for (Index i = 0; i < d; ++i) {
      for (Index j = 0; j < d; ++j) lower(i, j) = static_cast<double>(Family<S, Full>::lower(mixture, k, i, j));
    }
    const Vector<double> values = singular_values(std::move(lower));
    for (Index i = 0; i < d; ++i) f(1 / (values(i) * values(i)));
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
