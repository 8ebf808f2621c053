// SPDX-License-Identifier: MIT
#include <gma/gma.hpp>

double first_unit();

int main() {
  const gma::Mixture<double> mixture(2, 3);
  const gma::Matrix<double> tokens = gma::Matrix<double>::Ones(4, 3);
  const double difference = gma::bidirectional(mixture, tokens, tokens, tokens).sum() - first_unit();
  return difference < 1e-12 && difference > -1e-12 ? 0 : 1;
}
