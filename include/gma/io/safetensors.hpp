// SPDX-License-Identifier: MIT
// Safetensors files: named tensors and a few strings. They contain nothing that could be executed. Needs nlohmann_json
// (CMake target gma::io).
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gma/io/file.hpp"
#include "gma/io/safetensors_header.hpp"
#include "gma/io/tensor.hpp"

namespace gma::io {

/// The content of a file. Names, keys and values are UTF-8.
struct SafeTensors {
  std::map<std::string, Tensor> tensors;        ///< by name
  std::map<std::string, std::string> metadata;  ///< of the file as a whole
};

/// Reads a whole file. Cost O(size); nothing is allocated except the tensors and the header. Throws std::runtime_error
/// that names the tensor and the fault on anything except a valid file:
///   header   at most 100 MB, within the file, starts with '{', is JSON in UTF-8 without a repeated key, and only
///            spaces follow it
///   tensor   exactly a dtype, a shape and data_offsets that fit each other; booleans are 0 or 1. A dtype that
///            DataType lacks, such as F8_E4M3, is DataType::other: its bytes are kept and written again
///   data     the tensors cover it without gap, overlap or rest
///   __metadata__ maps strings to strings
inline SafeTensors read_safetensors(const std::filesystem::path& path);

/// Writes a file that is the same for the same contents: wider types first, then by name, so that all data is aligned
/// to its width. The file replaces the old one at `path` once it is complete; on failure the old one is untouched.
/// Throws std::invalid_argument if a tensor is not well formed or is called __metadata__, if a text is not UTF-8 or the
/// header would exceed 100 MB, and std::runtime_error if the file cannot be written.
inline void write_safetensors(const std::filesystem::path& path, const SafeTensors& file);

/// The same in memory.
inline SafeTensors parse_safetensors(const unsigned char* data, std::size_t size);
inline std::vector<unsigned char> serialize_safetensors(const SafeTensors& file);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

inline SafeTensors read_safetensors(Input& input) {
  SafeTensorsHeader header = read_safetensors_header(input);
  const std::vector<NamedEntry*> in_order = entries_in_order(input, header);
  SafeTensors file;
  file.metadata = std::move(header.metadata);
  for (auto* named : in_order) {
    auto& [name, entry] = *named;
    Tensor& tensor = file.tensors[name];
    tensor.type = entry.type;
    tensor.other_type = std::move(entry.other_type);
    tensor.shape = std::move(entry.shape);
    tensor.bytes.resize(input.in_memory(entry.end - entry.begin));
    input.read(tensor.bytes.data(), tensor.bytes.size());
    const std::string fault = fault_of(tensor);
    if (!fault.empty()) input.fail("tensor ", excerpt(name), " has ", fault);
  }
  return file;
}

/// Bytes per number, to which its data must be aligned. For another type: bytes per number if this is a whole number,
/// else 0.
inline Index alignment_of(const Tensor& tensor) {
  if (tensor.type != DataType::other) return width_of(tensor.type);
  const Index size = tensor.size(), bytes = static_cast<Index>(tensor.bytes.size());
  return size > 0 && bytes % size == 0 ? bytes / size : 0;
}

/// The length and the header of a file, then its tensors in place. The first piece points into `header`.
inline std::vector<Piece> safetensors_pieces(const char* function, const SafeTensors& file, std::string& header) {
  using Named = std::map<std::string, Tensor>::value_type;
  std::vector<const Named*> in_order;
  for (const Named& named : file.tensors) {
    std::string fault = named.first == safetensors_metadata ? "a name that is reserved" : fault_of(named.second);
    if (fault.empty() && named.second.type == DataType::other) fault = fault_of_type_name(named.second.other_type);
    if (!fault.empty()) gma::detail::invalid_argument(function, "tensor ", excerpt(named.first), " has ", fault);
    in_order.push_back(&named);
  }
  std::sort(in_order.begin(), in_order.end(), [](const Named* a, const Named* b) {
    const Index left = alignment_of(a->second), right = alignment_of(b->second);
    return left != right ? left > right : a->first < b->first;
  });
  SafeTensorsHeader contents{{}, file.metadata};
  std::vector<Piece> pieces(1);
  std::uint64_t position = 0;
  for (const Named* named : in_order) {
    const auto& [name, tensor] = *named;
    contents.entries[name] = {tensor.type, tensor.other_type, tensor.shape, position, position + tensor.bytes.size()};
    position += tensor.bytes.size();
    pieces.push_back({tensor.bytes.data(), tensor.bytes.size()});
  }
  std::string json = safetensors_json(function, contents);
  json.resize((json.size() + 7) / 8 * 8, ' ');
  if (json.size() > safetensors_header_limit) {
    gma::detail::invalid_argument(function, "the header would have ", json.size(), " bytes, expected at most ",
                                  safetensors_header_limit);
  }
  header.clear();
  for (std::size_t i = 0; i < 8; ++i) header += static_cast<char>((json.size() >> (8 * i)) & 0xff);
  header += json;
  pieces.front() = {header.data(), header.size()};
  return pieces;
}

}  // namespace detail

inline SafeTensors read_safetensors(const std::filesystem::path& path) {
  detail::Input input("io::read_safetensors", path);
  return detail::read_safetensors(input);
}

inline SafeTensors parse_safetensors(const unsigned char* data, std::size_t size) {
  detail::Input input("io::parse_safetensors", data, size);
  return detail::read_safetensors(input);
}

inline void write_safetensors(const std::filesystem::path& path, const SafeTensors& file) {
  std::string header;
  const std::vector<detail::Piece> pieces = detail::safetensors_pieces("io::write_safetensors", file, header);
  detail::write_file("io::write_safetensors", path, pieces);
}

inline std::vector<unsigned char> serialize_safetensors(const SafeTensors& file) {
  std::string header;
  return detail::join(detail::safetensors_pieces("io::serialize_safetensors", file, header));
}

}  // namespace gma::io
