// SPDX-License-Identifier: MIT
// The diagonal covariance family: one standard deviation per component and coordinate. The features are the token and
// its squares. The model for a new family.
#pragma once

#include "gma/mixture/family.hpp"

namespace gma {

/// One standard deviation per component and coordinate: log_scales is K x d, their logarithms.
struct Diagonal {
  static constexpr const char* name = "diagonal";
  static constexpr bool shares_scales = false;
  static constexpr bool log_scales_are_log_deviations = true;
  static constexpr Features features = Features::squares;
  static Index scale_cols(Index dim) { return dim; }

  /// W_k = p_k mu_k,  W_sq,k = -p_k / 2,  b_k = log pi_k - sum_i (p_ki mu_ki^2 / 2 + s_ki), all divided by tau.
  template <class S>
  static void compile(const Mixture<S, Diagonal>& mixture, const S& beta, NaturalParameters<S>& natural) {
    const Index d = mixture.dim();
    const Matrix<S>& p = natural.precisions;
    for (Index k = 0; k < mixture.components(); ++k) {
      for (Index i = 0; i < d; ++i) {
        const S mu = families::centered_mean(mixture, natural, k, i);
        natural.weights(i, k) = mu * p(k, i) * beta;
        natural.weights(d + i, k) = p(k, i) * S(-0.5) * beta;
        natural.bias(k) -= mu * mu * p(k, i) * S(0.5) + mixture.log_scales(k, i);
      }
    }
  }

  /// d mu = p (dW - mu db),  d s = p (-2 mu dW + dW_sq + mu^2 db) - db
  template <class S>
  static void pull_back(const Mixture<S, Diagonal>& mixture, const NaturalParameters<S>& natural,
                        const NaturalParameters<S>& gradient, Mixture<S, Diagonal>& out) {
    const Index d = mixture.dim();
    const Matrix<S>& p = natural.precisions;
    for (Index k = 0; k < mixture.components(); ++k) {
      const S db = gradient.bias(k);
      for (Index i = 0; i < d; ++i) {
        const S mu = families::centered_mean(mixture, natural, k, i), dw = gradient.weights(i, k);
        out.means(k, i) = p(k, i) * (dw - mu * db);
        out.log_scales(k, i) = p(k, i) * (mu * (mu * db - S(2) * dw) + gradient.weights(d + i, k)) - db;
      }
    }
  }
};

}  // namespace gma
