// SPDX-License-Identifier: MIT
// The isotropic covariance family, sigma_k^2 I: one standard deviation per component. The features are the token and
// its squared norm.
#pragma once

#include "gma/mixture/family.hpp"

namespace gma {

/// One standard deviation per component: log_scales is K x 1, its logarithm.
struct Isotropic {
  static constexpr const char* name = "isotropic";
  static constexpr bool shares_scales = false;
  static constexpr bool log_scales_are_log_deviations = true;
  static constexpr Features features = Features::squared_norm;
  static Index scale_cols(Index /*dim*/) { return 1; }

  /// W_k = p_k mu_k,  W_sq,k = -p_k / 2,  b_k = log pi_k - p_k |mu_k|^2 / 2 - d s_k, all divided by tau.
  template <class S>
  static void compile(const Mixture<S, Isotropic>& mixture, const S& beta, NaturalParameters<S>& natural) {
    const Index d = mixture.dim();
    const Matrix<S>& p = natural.precisions;
    for (Index k = 0; k < mixture.components(); ++k) {
      for (Index i = 0; i < d; ++i) {
        const S mu = families::centered_mean(mixture, natural, k, i);
        natural.weights(i, k) = mu * p(k, 0) * beta;
        natural.bias(k) -= mu * mu * p(k, 0) * S(0.5);
      }
      natural.weights(d, k) = p(k, 0) * S(-0.5) * beta;
      natural.bias(k) -= mixture.log_scales(k, 0) * S(static_cast<double>(d));
    }
  }

  /// d mu_k = p_k (dW_k - mu_k db_k),  d s_k = p_k (-2 mu_k . dW_k + dW_sq,k + |mu_k|^2 db_k) - d db_k
  template <class S>
  static void pull_back(const Mixture<S, Isotropic>& mixture, const NaturalParameters<S>& natural,
                        const NaturalParameters<S>& gradient, Mixture<S, Isotropic>& out) {
    const Index d = mixture.dim();
    const Matrix<S>& p = natural.precisions;
    for (Index k = 0; k < mixture.components(); ++k) {
      const S db = gradient.bias(k);
      S sum = gradient.weights(d, k);
      for (Index i = 0; i < d; ++i) {
        const S mu = families::centered_mean(mixture, natural, k, i), dw = gradient.weights(i, k);
        out.means(k, i) = p(k, 0) * (dw - mu * db);
        sum += mu * (mu * db - S(2) * dw);
      }
      out.log_scales(k, 0) = p(k, 0) * sum - db * S(static_cast<double>(d));
    }
  }
};

}  // namespace gma
