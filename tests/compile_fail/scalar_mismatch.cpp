// SPDX-License-Identifier: MIT
// Queries of another scalar than the mixture's are refused in words.
// Expected: gma: an input must have the mixture's scalar
#include <gma/gma.hpp>

#ifdef GMA_MUST_NOT_COMPILE
using TokenScalar = double;
#else
using TokenScalar = float;
#endif

gma::Matrix<float> attend(const gma::Mixture<float>& mixture, const gma::Matrix<TokenScalar>& tokens) {
  return gma::bidirectional(mixture, tokens, tokens, tokens);
}
