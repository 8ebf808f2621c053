// SPDX-License-Identifier: MIT
// parse_npy throws std::runtime_error, or returns a tensor that is written and read again as the same.
#include <cstddef>
#include <cstdint>
#include <gma/io/npy.hpp>
#include <stdexcept>
#include <vector>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  gma::io::Tensor tensor;
  try {
    tensor = gma::io::parse_npy(data, size);
  } catch (const std::runtime_error&) {
    return 0;
  }
  const std::vector<unsigned char> bytes = gma::io::serialize_npy(tensor);
  require(gma::io::parse_npy(bytes.data(), bytes.size()) == tensor, "the tensor survives a round trip");
  require(gma::io::serialize_npy(tensor) == bytes, "a tensor always gives the same bytes");
  require(tensor.matrix<float>().size() == tensor.size(), "the matrix has the tensor's size");
  return 0;
}
