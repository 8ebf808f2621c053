// SPDX-License-Identifier: MIT
// How diagonal scales are fitted to samples: the variances of a component are those of its coordinates.
#pragma once

#include <cmath>

#include "gma/mixture/families/diagonal.hpp"
#include "gma/mixture/family_fit.hpp"

namespace gma {

/// The fit of Diagonal.
template <>
struct FamilyFit<Diagonal> {
  static constexpr bool needs_covariances = false;
  using M = Mixture<double, Diagonal>;

  static double standardize(const M& mixture, Index k, Matrix<double>& rows) {
    rows.array().rowwise() *= (-mixture.log_scales.row(k).array()).exp();
    return -mixture.log_scales.row(k).sum();
  }
  static void displace(const M& mixture, Index k, Matrix<double>& row) {
    row.array() *= mixture.log_scales.row(k).array().exp();
  }
  static void maximize_scales(const FitMoments& moments, double floor, M& mixture) {
    for (Index k = 0; k < mixture.components(); ++k) {
      if (!moments.is_dead(k)) mixture.log_scales.row(k) = 0.5 * moments.second.row(k).cwiseMax(floor).array().log();
    }
  }
};

}  // namespace gma
