// SPDX-License-Identifier: MIT
// parse_safetensors_index throws std::runtime_error, or returns names of files in one folder, which are written and
// read again as the same.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <gma/io/safetensors_index.hpp>
#include <stdexcept>
#include <string>

#include "fuzz.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  gma::io::SafeTensorsIndex index;
  try {
    index = gma::io::parse_safetensors_index(data, size);
  } catch (const std::runtime_error&) {
    return 0;
  }
  for (const auto& [tensor, file] : index.files) {
    const auto path = (std::filesystem::path("/folder") / file).lexically_normal();
    require(path.parent_path() == "/folder" && path.filename() == file, "a shard is in the index's folder");
  }
  const std::string json = gma::io::detail::safetensors_index_json("fuzz", index);
  const auto again = gma::io::parse_safetensors_index(reinterpret_cast<const unsigned char*>(json.data()), json.size());
  require(again.files == index.files, "names survive a round trip");
  require(again.total_size == index.total_size, "the size survives a round trip");
  return 0;
}
