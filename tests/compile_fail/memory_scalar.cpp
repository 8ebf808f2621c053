// SPDX-License-Identifier: MIT
// A memory of another scalar than the mixture's is refused by the compiler, which names both types.
// Expected: no matching function for call to
#include <gma/attention/causal.hpp>
#include <gma/mixture/mixture.hpp>

#ifdef GMA_MUST_NOT_COMPILE
using MemoryScalar = double;
#else
using MemoryScalar = float;
#endif

gma::Matrix<float> step(const gma::Mixture<float>& mixture, const gma::Matrix<float>& token,
                        gma::Memory<MemoryScalar>& memory) {
  return gma::causal(mixture, token, token, token, memory);
}
