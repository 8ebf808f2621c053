// SPDX-License-Identifier: MIT
// A covariance family that lacks a part is told which.
// Expected: gma: a covariance family has a static function pull_back(mixture, natural, gradient, out)
#include <gma/gma.hpp>

struct Family {
  static constexpr const char* name = "family";
  static constexpr bool shares_scales = false;
  static constexpr bool log_scales_are_log_deviations = true;
  static constexpr gma::Features features = gma::Features::squares;
  static gma::Index scale_cols(gma::Index dim) { return dim; }
  template <class S>
  static void compile(const gma::Mixture<S, Family>&, const S&, gma::NaturalParameters<S>&) {}
#ifndef GMA_MUST_NOT_COMPILE
  template <class S>
  static void pull_back(const gma::Mixture<S, Family>&, const gma::NaturalParameters<S>&,
                        const gma::NaturalParameters<S>&, gma::Mixture<S, Family>&) {}
#endif
};

gma::Matrix<float> posterior(const gma::Mixture<float, Family>& mixture, const gma::Matrix<float>& tokens) {
  return gma::responsibilities(mixture, tokens);
}
