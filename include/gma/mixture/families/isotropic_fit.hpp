// SPDX-License-Identifier: MIT
// How isotropic scales are fitted to samples: the variance of a component is the mean of those of its coordinates.
#pragma once

#include <algorithm>
#include <cmath>

#include "gma/mixture/families/isotropic.hpp"
#include "gma/mixture/family_fit.hpp"

namespace gma {

/// The fit of Isotropic.
template <>
struct FamilyFit<Isotropic> {
  static constexpr bool needs_covariances = false;
  using M = Mixture<double, Isotropic>;

  static double standardize(const M& mixture, Index k, Matrix<double>& rows) {
    rows *= std::exp(-mixture.log_scales(k, 0));
    return -mixture.log_scales(k, 0) * static_cast<double>(mixture.dim());
  }
  static void displace(const M& mixture, Index k, Matrix<double>& row) { row *= std::exp(mixture.log_scales(k, 0)); }
  static void maximize_scales(const FitMoments& moments, double floor, M& mixture) {
    for (Index k = 0; k < mixture.components(); ++k) {
      if (!moments.is_dead(k))
        mixture.log_scales(k, 0) = 0.5 * std::log((std::max)(floor, moments.second.row(k).mean()));
    }
  }
};

}  // namespace gma
