// SPDX-License-Identifier: MIT
#include <gma/io/npy.hpp>
#include <gma/io/safetensors.hpp>

std::vector<unsigned char> bytes_of(const gma::Matrix<float>& matrix) {
  gma::io::SafeTensors file;
  file.tensors["matrix"] = gma::io::make_tensor(matrix);
  return gma::io::serialize_safetensors(file);
}
