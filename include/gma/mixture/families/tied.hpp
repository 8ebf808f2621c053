// SPDX-License-Identifier: MIT
// The tied covariance family: one diagonal covariance for all components. The squares of the token cancel, so that the
// features are the token alone, which makes this the cheapest family.
#pragma once

#include "gma/mixture/family.hpp"

namespace gma {

/// One standard deviation per coordinate, shared by all components: log_scales is 1 x d. The cheapest: logits are
/// linear.
struct Tied {
  static constexpr const char* name = "tied";
  static constexpr bool shares_scales = true;
  static constexpr bool log_scales_are_log_deviations = true;
  static constexpr Features features = Features::linear;
  static Index scale_cols(Index dim) { return dim; }

  /// W_k = p mu_k,  b_k = log pi_k - sum_i p_i mu_ki^2 / 2, all divided by tau.
  template <class S>
  static void compile(const Mixture<S, Tied>& mixture, const S& beta, NaturalParameters<S>& natural) {
    const Index d = mixture.dim();
    const Matrix<S>& p = natural.precisions;
    for (Index k = 0; k < mixture.components(); ++k) {
      for (Index i = 0; i < d; ++i) {
        const S mu = families::centered_mean(mixture, natural, k, i);
        natural.weights(i, k) = mu * p(0, i) * beta;
        natural.bias(k) -= mu * mu * p(0, i) * S(0.5);
      }
    }
    natural.log_normalizer -= mixture.log_scales.sum();
  }

  /// d mu_k = p (dW_k - mu_k db_k),  d s = sum_k p (-2 mu_k dW_k + mu_k^2 db_k)
  template <class S>
  static void pull_back(const Mixture<S, Tied>& mixture, const NaturalParameters<S>& natural,
                        const NaturalParameters<S>& gradient, Mixture<S, Tied>& out) {
    const Matrix<S>& p = natural.precisions;
    for (Index k = 0; k < mixture.components(); ++k) {
      const S db = gradient.bias(k);
      for (Index i = 0; i < mixture.dim(); ++i) {
        const S mu = families::centered_mean(mixture, natural, k, i), dw = gradient.weights(i, k);
        out.means(k, i) = p(0, i) * (dw - mu * db);
        out.log_scales(0, i) += p(0, i) * mu * (mu * db - S(2) * dw);
      }
    }
  }
};

}  // namespace gma
