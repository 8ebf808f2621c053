// SPDX-License-Identifier: MIT
// An output of another scalar than the mixture's is refused in words.
// Expected: gma: an output must have the mixture's scalar
#include <gma/attention/bidirectional.hpp>
#include <gma/mixture/mixture.hpp>

#ifdef GMA_MUST_NOT_COMPILE
using OutputScalar = int;
#else
using OutputScalar = Eigen::bfloat16;
#endif

void attend(const gma::Mixture<float>& mixture, const gma::Matrix<float>& tokens, gma::Matrix<OutputScalar>& out) {
  gma::Workspace<float> workspace;
  gma::bidirectional_into(out, mixture, tokens, tokens, tokens, gma::Options(), gma::TokenInputs<float>(), workspace);
}
