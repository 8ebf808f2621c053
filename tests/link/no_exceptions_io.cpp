// SPDX-License-Identifier: MIT
// Without exceptions and RTTI, a malformed file prints the message that would have been thrown, and aborts.
#include <gma/io/npy.hpp>
#include <gma/io/safetensors.hpp>
#include <string>

int main() {
  const std::string header = R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,3]}})";
  std::string file(8, '\0');
  file[0] = static_cast<char>(header.size());
  file += header + "abc";
  const auto* bytes = reinterpret_cast<const unsigned char*>(file.data());
  return gma::io::parse_safetensors(bytes, file.size()).tensors.empty() ? 0 : 1;
}
