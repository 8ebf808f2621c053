// SPDX-License-Identifier: MIT
// A covariance family that gma does not have, written as a user would write it: this file, trial_family_fit.hpp, and no
// line elsewhere. Halves: two standard deviations per component, one for the first half of the coordinates and one for
// the others, as where tokens are a content and a position side by side.
#pragma once

#include <cmath>

#include "gma/mixture/family.hpp"
#include "gma/mixture/mixture.hpp"

namespace gma_test {

/// log_scales is K x 2, the logarithms. An odd coordinate belongs to the first half.
struct Halves {
  static constexpr const char* name = "halves";
  static constexpr bool shares_scales = false;
  static constexpr bool log_scales_are_log_deviations = false;  // they are, but of two halves and not of d coordinates
  static constexpr gma::Features features = gma::Features::squares;
  static gma::Index scale_cols(gma::Index /*dim*/) { return 2; }

  static gma::Index half_of(gma::Index i, gma::Index dim) { return i < dim - dim / 2 ? 0 : 1; }

  template <class S>
  static S log_deviation(const gma::Mixture<S, Halves>& mixture, gma::Index k, gma::Index i) {
    return mixture.log_scales(k, half_of(i, mixture.dim()));
  }

  template <class S>
  static void precisions(const gma::Mixture<S, Halves>& mixture, gma::Matrix<S>& precisions) {
    using std::exp;
    gma::families::resize(precisions, mixture.components(), mixture.dim());
    for (gma::Index k = 0; k < mixture.components(); ++k) {
      for (gma::Index i = 0; i < mixture.dim(); ++i) precisions(k, i) = exp(S(-2) * log_deviation(mixture, k, i));
    }
  }

  /// As of a diagonal family.
  template <class S>
  static void compile(const gma::Mixture<S, Halves>& mixture, const S& beta, gma::NaturalParameters<S>& natural) {
    const gma::Index d = mixture.dim();
    const gma::Matrix<S>& p = natural.precisions;
    for (gma::Index k = 0; k < mixture.components(); ++k) {
      for (gma::Index i = 0; i < d; ++i) {
        const S mu = gma::families::centered_mean(mixture, natural, k, i);
        natural.weights(i, k) = mu * p(k, i) * beta;
        natural.weights(d + i, k) = p(k, i) * S(-0.5) * beta;
        natural.bias(k) -= mu * mu * p(k, i) * S(0.5) + log_deviation(mixture, k, i);
      }
    }
  }

  /// d mu = p (dW - mu db),  d s_h = the sum over its half of p (-2 mu dW + dW_sq + mu^2 db) - db
  template <class S>
  static void pull_back(const gma::Mixture<S, Halves>& mixture, const gma::NaturalParameters<S>& natural,
                        const gma::NaturalParameters<S>& gradient, gma::Mixture<S, Halves>& out) {
    const gma::Index d = mixture.dim();
    const gma::Matrix<S>& p = natural.precisions;
    for (gma::Index k = 0; k < mixture.components(); ++k) {
      const S db = gradient.bias(k);
      for (gma::Index i = 0; i < d; ++i) {
        const S mu = gma::families::centered_mean(mixture, natural, k, i), dw = gradient.weights(i, k);
        out.means(k, i) = p(k, i) * (dw - mu * db);
        out.log_scales(k, half_of(i, d)) += p(k, i) * (mu * (mu * db - S(2) * dw) + gradient.weights(d + i, k)) - db;
      }
    }
  }

  /// One variance per component and coordinate.
  template <class S, class F>
  static void for_each_variance(const gma::Mixture<S, Halves>& mixture, const F& f) {
    for (gma::Index k = 0; k < mixture.components(); ++k) {
      for (gma::Index i = 0; i < mixture.dim(); ++i) {
        f(std::exp(2 * static_cast<double>(log_deviation(mixture, k, i))));
      }
    }
  }

  /// sum_i -(x_i - mu_i)^2 / (2 sigma_i^2) - log sigma_i - log(2 pi) / 2
  template <class S>
  static S reference_log_density(const gma::Mixture<S, Halves>& mixture, const gma::RowVector<S>& x, gma::Index k) {
    using std::exp;
    S sum(0);
    for (gma::Index i = 0; i < mixture.dim(); ++i) {
      const S log_sigma = mixture.log_scales(k, 2 * i < mixture.dim() ? 0 : 1);
      const S z = (x(i) - mixture.means(k, i)) * exp(-log_sigma);
      sum -= S(0.5) * z * z + log_sigma + S(0.91893853320467274178);
    }
    return sum;
  }
};

}  // namespace gma_test
