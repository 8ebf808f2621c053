// SPDX-License-Identifier: MIT
// With one component every token reads the mean of the values.
#include <cstdio>
#include <gma/gma.hpp>
#ifdef WITH_JSON
#include <gma/io/safetensors.hpp>
#endif

int main() {
  const gma::Mixture<double> mixture(1, 3);
  const gma::Matrix<double> tokens = gma::Matrix<double>::Random(5, 3);
  const gma::Matrix<double> outputs = gma::bidirectional(mixture, tokens, tokens, tokens);
  const double error = (outputs.rowwise() - tokens.colwise().mean()).norm();
  const char* with_json = "False";
#ifdef WITH_JSON
  with_json = "True";
#endif
  std::printf("gma %d.%d.%d: error %.1e, with_json=%s\n", GMA_VERSION_MAJOR, GMA_VERSION_MINOR, GMA_VERSION_PATCH,
              error, with_json);
  return error < 1e-14 ? 0 : 1;
}
