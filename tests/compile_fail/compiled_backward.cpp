// SPDX-License-Identifier: MIT
// A compiled mixture has no parameters left to take the gradient of; a backward verb says so.
// Expected: gma: a backward verb needs the mixture's parameters, not a compiled mixture
#include <gma/gma.hpp>

#ifdef GMA_MUST_NOT_COMPILE
using GivenMixture = gma::CompiledMixture<float>;
#else
using GivenMixture = gma::Mixture<float>;
#endif

gma::Matrix<float> gradient(const GivenMixture& mixture, const gma::Matrix<float>& tokens) {
  return gma::bidirectional_backward(mixture, tokens, tokens, tokens, tokens).keys;
}
