// SPDX-License-Identifier: MIT
// Built with -fno-exceptions and -fno-rtti. A shape error prints the message that would have been thrown, and aborts.
#include <gma/gma.hpp>

int main() {
  const gma::Mixture<float> mixture(2, 3);
  const gma::Matrix<float> tokens = gma::Matrix<float>::Ones(4, 3);
  const gma::Matrix<float> values = gma::Matrix<float>::Ones(7, 2);
  return gma::bidirectional(mixture, tokens, tokens, values).sum() > 0 ? 0 : 1;
}
