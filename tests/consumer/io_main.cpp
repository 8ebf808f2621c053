// SPDX-License-Identifier: MIT
// Two units with gma/io: a matrix becomes a file's bytes in one and comes back in the other.
#include <cstdio>
#include <gma/io/npy.hpp>
#include <gma/io/safetensors.hpp>
#include <vector>

std::vector<unsigned char> bytes_of(const gma::Matrix<float>& matrix);

int main() {
  const gma::Matrix<float> matrix = gma::Matrix<float>::Random(5, 3);
  const std::vector<unsigned char> bytes = bytes_of(matrix);
  const gma::io::SafeTensors file = gma::io::parse_safetensors(bytes.data(), bytes.size());
  const float error = (file.tensors.at("matrix").matrix<float>() - matrix).norm();
  std::printf("%d bytes: error %.1e\n", static_cast<int>(bytes.size()), static_cast<double>(error));
  return error > 0 ? 1 : 0;
}
