// SPDX-License-Identifier: MIT
// With one component every token reads the mean of the values.
#include <cstdio>
#include <gma/gma.hpp>

#ifdef EXPECTED_EIGEN_MAJOR
static_assert(EIGEN_MAJOR_VERSION == EXPECTED_EIGEN_MAJOR, "another Eigen than the expected one");
#endif

int main() {
  const gma::Mixture<double> mixture(1, 3);
  const gma::Matrix<double> tokens = gma::Matrix<double>::Random(5, 3);
  const gma::Matrix<double> values = gma::Matrix<double>::Random(5, 2);
  const gma::Matrix<double> outputs = gma::bidirectional(mixture, tokens, tokens, values);
  const double error = (outputs.rowwise() - values.colwise().mean()).norm();
  std::printf("gma %d.%d.%d: error %.1e\n", GMA_VERSION_MAJOR, GMA_VERSION_MINOR, GMA_VERSION_PATCH, error);
  return error < 1e-14 ? 0 : 1;
}
