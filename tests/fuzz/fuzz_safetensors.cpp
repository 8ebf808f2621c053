// SPDX-License-Identifier: MIT
// parse_safetensors throws std::runtime_error, or returns what is written and read again as the same.
#include <cstddef>
#include <cstdint>
#include <gma/io/safetensors.hpp>
#include <stdexcept>
#include <vector>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  gma::io::SafeTensors file;
  try {
    file = gma::io::parse_safetensors(data, size);
  } catch (const std::runtime_error&) {
    return 0;
  }
  const std::vector<unsigned char> bytes = gma::io::serialize_safetensors(file);
  const gma::io::SafeTensors again = gma::io::parse_safetensors(bytes.data(), bytes.size());
  require(again.tensors == file.tensors, "tensors survive a round trip");
  require(again.metadata == file.metadata, "metadata survives a round trip");
  require(gma::io::serialize_safetensors(again) == bytes, "the same contents always give the same bytes");
  for (const auto& [name, tensor] : file.tensors) {
    if (tensor.type == gma::io::DataType::other) continue;
    require(tensor.matrix<double>().size() == tensor.size(), "the matrix has the tensor's size");
  }
  return 0;
}
