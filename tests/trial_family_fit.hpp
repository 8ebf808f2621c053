// SPDX-License-Identifier: MIT
// The fit of the trial family: the variance of a half is the mean of those of its coordinates.
#pragma once

#include <algorithm>
#include <cmath>

#include "gma/mixture/family_fit.hpp"
#include "trial_family.hpp"

template <>
struct gma::FamilyFit<gma_test::Halves> {
  static constexpr bool needs_covariances = false;
  using Halves = gma_test::Halves;
  using M = Mixture<double, Halves>;

  static double standardize(const M& mixture, Index k, Matrix<double>& rows) {
    double log_det = 0;
    for (Index i = 0; i < mixture.dim(); ++i) {
      rows.col(i) *= std::exp(-Halves::log_deviation(mixture, k, i));
      log_det -= Halves::log_deviation(mixture, k, i);
    }
    return log_det;
  }
  static void displace(const M& mixture, Index k, Matrix<double>& row) {
    for (Index i = 0; i < mixture.dim(); ++i) row.col(i) *= std::exp(Halves::log_deviation(mixture, k, i));
  }
  static void maximize_scales(const FitMoments& moments, double floor, M& mixture) {
    const Index d = mixture.dim(), of_first = d - d / 2;
    for (Index k = 0; k < mixture.components(); ++k) {
      if (moments.is_dead(k)) continue;
      const RowVector<double> variances = moments.second.row(k);
      mixture.log_scales(k, 0) = 0.5 * std::log((std::max)(floor, variances.head(of_first).mean()));
      if (d > 1) mixture.log_scales(k, 1) = 0.5 * std::log((std::max)(floor, variances.tail(d / 2).mean()));
    }
  }
};
