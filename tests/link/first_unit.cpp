// SPDX-License-Identifier: MIT
// Two translation units that include every header link into one program: nothing in a header is defined twice.
#include <gma/gma.hpp>

double first_unit() {
  const gma::Mixture<double> mixture(2, 3);
  const gma::Matrix<double> tokens = gma::Matrix<double>::Ones(4, 3);
  return gma::bidirectional(mixture, tokens, tokens, tokens).sum();
}
