// SPDX-License-Identifier: MIT
// Models in several safetensors files, their shards, as Hugging Face's tools write them. An index names the shard of
// every tensor. Needs nlohmann_json (CMake target gma::io).
//
//   model.safetensors.index.json       {"metadata": {"total_size": 123}, "weight_map": {"a.weight": "model-00001-of-
//   model-00001-of-00002.safetensors    00002.safetensors", ...}}
//   model-00002-of-00002.safetensors
//
// gma/io/lazy_safetensors.hpp reads the tensors.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gma/io/file.hpp"
#include "gma/io/safetensors.hpp"
#include "gma/io/safetensors_header.hpp"
#include "gma/io/write_file.hpp"

namespace gma::io {

/// The content of an index.
struct SafeTensorsIndex {
  std::map<std::string, std::string> files;  ///< of every tensor, the name of its shard, a file in the index's folder
  std::optional<std::uint64_t> total_size;   ///< bytes of all tensors, if the index says it
};

/// Reads an index. Throws std::runtime_error that names the tensor and the fault on anything except
///   JSON in UTF-8, at most 100 MB, an object with weight_map, an object whose values are strings, once
///   no tensor twice
///   names of files in the index's folder: neither empty, "." nor "..", without slash, backslash, colon and control
///     characters, so that an index leads to no other folder. (Such a file may still be a symbolic link.)
///   metadata.total_size, if there, an integer of 0 or more
/// Other members of the object and of metadata are passed over.
inline SafeTensorsIndex read_safetensors_index(const std::filesystem::path& path);

/// The same in memory.
inline SafeTensorsIndex parse_safetensors_index(const unsigned char* data, std::size_t size);

/// Writes `file` as shards name-00001-of-00003.safetensors, ... and, last, name.safetensors.index.json into `folder`,
/// which must be there. Tensors are in the order of their names. A shard has at most `most_bytes` of data, or one
/// tensor. Every shard has the metadata. Each file is replaced completely or not at all; shards of an earlier model
/// stay. Throws as write_safetensors() does, and std::invalid_argument if `name` is no name of a file or most_bytes is
/// 0. Cost O(size), with one shard more than `file` in memory.
inline void write_safetensors_shards(const std::filesystem::path& folder, const SafeTensors& file,
                                     std::uint64_t most_bytes, const std::string& name = "model");

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Whether the text is the name of a file in a folder, and leads to no other.
inline bool is_file_name(std::string_view name) {
  if (name.empty() || name == "." || name == "..") return false;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '/' || c == '\\' || c == ':' || byte < 0x20 || byte == 0x7f) return false;
  }
  return true;
}

/// Receives the index's JSON piece by piece and builds no tree, so that it sees repeated keys. The names and types of
/// the functions are those that nlohmann::json::sax_parse calls. Every fault leaves through Input::fail.
class SafeTensorsIndexHandler {
 public:
  SafeTensorsIndexHandler(const Input& input, SafeTensorsIndex& index) : input_(input), index_(index) {}

  bool null() { return value("null"); }
  bool boolean(bool found) { return value(found ? "true" : "false"); }
  bool number_integer(std::int64_t found) { return value(std::to_string(found)); }  // these are negative
  bool number_float(double, const std::string& text) { return value(excerpt(text)); }
  bool binary(nlohmann::json::binary_t&) { return value("binary data"); }

  bool number_unsigned(std::uint64_t found) {
    if (!is_total_size()) return value(std::to_string(found));
    index_.total_size = found;
    return true;
  }

  bool string(std::string& found) {
    if (!is_entry()) return value("the string " + excerpt(found));
    if (!is_file_name(found)) {
      input_.fail("tensor ", excerpt(name_), " is in the file ", excerpt(found),
                  ", expected the name of a file in the index's folder");
    }
    file_->second = std::move(found);
    return true;
  }

  bool start_object(std::size_t) {
    const bool is_section = depth_ == 1 && (section_ == "weight_map" || section_ == "metadata");
    if (depth_ > 0 && !is_section) value("an object");
    ++depth_;
    return true;
  }
  bool start_array(std::size_t) {
    value("an array");
    ++depth_;
    return true;
  }
  bool end_object() { return end(); }
  bool end_array() { return end(); }

  bool key(std::string& found) {
    if (depth_ == 1) {
      section_ = std::move(found);
      const bool is_weight_map = section_ == "weight_map";
      if (is_weight_map && has_weight_map_) input_.fail("index has weight_map twice");
      has_weight_map_ = has_weight_map_ || is_weight_map;
    } else if (depth_ == 2) {
      name_ = std::move(found);
      if (is_total_size() && index_.total_size) input_.fail("index has metadata.total_size twice");
      if (is_entry()) {
        const auto [position, is_new] = index_.files.emplace(name_, std::string());
        if (!is_new) input_.fail("index has the tensor ", excerpt(name_), " twice");
        file_ = position;
      }
    }
    return true;
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& error) {
    std::string reason = error.what();
    reason.erase(0, reason.find("] ") + 2);  // the JSON library's error number
    input_.fail("index is no JSON at byte ", position, ": ", excerpt(reason, 200));
  }

  void finish() const {
    if (!has_weight_map_) input_.fail("index lacks weight_map");
  }

 private:
  bool is_entry() const { return depth_ == 2 && section_ == "weight_map"; }
  bool is_total_size() const { return depth_ == 2 && section_ == "metadata" && name_ == "total_size"; }

  /// A value that is not stored: passed over, or refused where another one is expected.
  bool value(const std::string& found) const {
    if (depth_ == 0) input_.fail("index is ", found, ", expected an object");
    if (depth_ == 1 && section_ == "weight_map") input_.fail("weight_map is ", found, ", expected an object");
    if (is_entry())
      input_.fail("tensor ", excerpt(name_), " has in weight_map ", found, ", expected the name of a file");
    if (is_total_size()) input_.fail("metadata.total_size is ", found, ", expected an integer of 0 or more");
    return true;
  }

  bool end() {
    --depth_;
    return true;
  }

  const Input& input_;
  SafeTensorsIndex& index_;
  std::size_t depth_ = 0;  // of the objects and arrays around the next value
  std::string section_;    // the key in the index that is being read
  std::string name_;       // the key in that
  std::map<std::string, std::string>::iterator file_;
  bool has_weight_map_ = false;
};

inline SafeTensorsIndex read_safetensors_index(Input& input) {
  if (input.remaining() > safetensors_header_limit) {
    input.fail("index of ", input.remaining(), " bytes, expected at most ", safetensors_header_limit);
  }
  std::string text(input.in_memory(input.remaining()), '\0');
  input.read(&text[0], input.remaining());
  // The parser would take it for the end of the text.
  if (text.find('\0') != std::string::npos) input.fail("index is no JSON: it holds a zero byte");
  SafeTensorsIndex index;
  SafeTensorsIndexHandler handler(input, index);
  nlohmann::json::sax_parse(text.data(), text.data() + text.size(), &handler);
  handler.finish();
  return index;
}

inline std::string safetensors_index_json(const char* function, const SafeTensorsIndex& index) {
  std::string json = "{\"metadata\":{";
  if (index.total_size) json += "\"total_size\":" + std::to_string(*index.total_size);
  json += "},\"weight_map\":{";
  for (const auto& [tensor, file] : index.files) {
    json += json_string(function, tensor) + ":" + json_string(function, file) + ",";
  }
  if (json.back() == ',') json.pop_back();
  return json + "}}\n";
}

/// The name of shard i of n, counted from 0.
inline std::string shard_name(const std::string& name, std::size_t i, std::size_t n) {
  const auto five_digits = [](std::size_t number) {
    const std::string digits = std::to_string(number);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return name + "-" + five_digits(i + 1) + "-of-" + five_digits(n) + ".safetensors";
}

}  // namespace detail

inline SafeTensorsIndex read_safetensors_index(const std::filesystem::path& path) {
  detail::Input input("io::read_safetensors_index", path);
  return detail::read_safetensors_index(input);
}

inline SafeTensorsIndex parse_safetensors_index(const unsigned char* data, std::size_t size) {
  detail::Input input("io::parse_safetensors_index", data, size);
  return detail::read_safetensors_index(input);
}

inline void write_safetensors_shards(const std::filesystem::path& folder, const SafeTensors& file,
                                     std::uint64_t most_bytes, const std::string& name) {
  constexpr const char* function = "io::write_safetensors_shards";
  if (!detail::is_file_name(name)) {
    gma::detail::invalid_argument(function, "name is ", detail::excerpt(name), ", expected the name of a file");
  }
  if (most_bytes == 0) gma::detail::invalid_argument(function, "most_bytes is 0, expected at least 1");
  std::string unused;
  detail::safetensors_pieces(function, file, unused);  // refuses what cannot be written before anything is
  using Named = std::map<std::string, Tensor>::value_type;
  std::vector<std::vector<const Named*>> shards(1);
  std::uint64_t total = 0, in_shard = 0;
  for (const Named& named : file.tensors) {
    const std::uint64_t bytes = named.second.bytes.size();
    if (!shards.back().empty() && (bytes > most_bytes || in_shard > most_bytes - bytes)) {
      shards.emplace_back();
      in_shard = 0;
    }
    shards.back().push_back(&named);
    in_shard += bytes;
    total += bytes;
  }
  SafeTensorsIndex index;
  index.total_size = total;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string shard = detail::shard_name(name, i, shards.size());
    SafeTensors part{{}, file.metadata};
    for (const Named* named : shards[i]) {
      part.tensors.insert(*named);
      index.files[named->first] = shard;
    }
    std::string header;
    detail::write_file(function, folder / shard, detail::safetensors_pieces(function, part, header));
  }
  const std::string json = detail::safetensors_index_json(function, index);
  detail::write_file(function, folder / (name + ".safetensors.index.json"), {{json.data(), json.size()}});
}

}  // namespace gma::io
