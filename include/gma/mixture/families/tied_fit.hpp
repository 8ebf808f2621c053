// SPDX-License-Identifier: MIT
// How tied scales are fitted to samples: the variances are the means over the components, each counted by its mass.
#pragma once

#include <cmath>

#include "gma/mixture/families/tied.hpp"
#include "gma/mixture/family_fit.hpp"

namespace gma {

/// The fit of Tied.
template <>
struct FamilyFit<Tied> {
  static constexpr bool needs_covariances = false;
  using M = Mixture<double, Tied>;

  static double standardize(const M& mixture, Index /*k*/, Matrix<double>& rows) {
    rows.array().rowwise() *= (-mixture.log_scales.row(0).array()).exp();
    return -mixture.log_scales.sum();
  }
  static void displace(const M& mixture, Index /*k*/, Matrix<double>& row) {
    row.array() *= mixture.log_scales.row(0).array().exp();
  }
  static void maximize_scales(const FitMoments& moments, double floor, M& mixture) {
    RowVector<double> sum = RowVector<double>::Zero(mixture.dim());
    double mass = 0;
    for (Index k = 0; k < mixture.components(); ++k) {
      if (moments.is_dead(k)) continue;
      sum += moments.mass(k) * moments.second.row(k);
      mass += moments.mass(k);
    }
    if (mass > 0) mixture.log_scales.row(0) = 0.5 * (sum / mass).cwiseMax(floor).array().log();
  }
};

}  // namespace gma
