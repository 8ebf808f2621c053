// SPDX-License-Identifier: MIT
// A constant matrix as an output is refused.
// Expected: gma: an output must not be constant
#include <gma/attention/bidirectional.hpp>
#include <gma/mixture/mixture.hpp>

#ifdef GMA_MUST_NOT_COMPILE
using Output = const gma::Matrix<float>;
#else
using Output = gma::Matrix<float>;
#endif

void attend(const gma::Mixture<float>& mixture, const gma::Matrix<float>& tokens, Output& out) {
  gma::bidirectional_into(out, mixture, tokens, tokens, tokens);
}
