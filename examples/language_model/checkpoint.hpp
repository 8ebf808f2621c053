// SPDX-License-Identifier: MIT
//
// Checkpoints: everything a run needs to go on as if it had never stopped.
//
//   "GMALM" 0 0 0            8 bytes
//   version                  u32, 2
//   length, header           u64, that many bytes of JSON: model, training, text, vocabulary, steps, seconds, names,
//   shapes values, moments          for every tensor in order: its values, first and second moments, as 32-bit floats
//
// All numbers are little endian. The file is written under another name and renamed, so that a reader never sees half
// of one and a full disk does not cost the previous one.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

#include "run_result.hpp"
#include "transformer/tensors.hpp"

namespace language_model {

struct Checkpoint {
  ModelConfig model;
  TrainConfig train;
  std::string text_name, vocabulary;  // the vocabulary serialized; empty for bytes
  std::int64_t text_size = 0;         // in tokens; resuming on another text would be a mistake that nobody notices
  std::int64_t steps = 0;
  double seconds = 0;             // of training
  std::vector<CurvePoint> curve;  // so far
  Vector<float> parameters, first_moment, second_moment;
};

namespace detail {

inline constexpr char checkpoint_magic[8] = {'G', 'M', 'A', 'L', 'M', 0, 0, 0};
inline constexpr std::uint32_t checkpoint_version = 2;

template <class Unsigned>
void put(std::ostream& out, Unsigned value) {
  for (std::size_t i = 0; i < sizeof(value); ++i) out.put(char(static_cast<unsigned char>(value >> (8 * i))));
}

template <class Unsigned>
Unsigned take(std::istream& in) {
  Unsigned value = 0;
  for (std::size_t i = 0; i < sizeof(value); ++i)
    value = Unsigned(value | Unsigned(Unsigned(static_cast<unsigned char>(in.get())) << (8 * i)));
  return value;
}

inline void put(std::ostream& out, const Vector<float>& buffer, const Tensor& tensor) {
  for (Index i = 0; i < tensor.size(); ++i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &buffer[tensor.offset + i], sizeof(bits));
    put(out, bits);
  }
}

inline void take(std::istream& in, Vector<float>& buffer, const Tensor& tensor) {
  for (Index i = 0; i < tensor.size(); ++i) {
    const auto bits = take<std::uint32_t>(in);
    std::memcpy(&buffer[tensor.offset + i], &bits, sizeof(bits));
  }
}

inline std::string to_hexadecimal(const std::string& bytes) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

inline std::string from_hexadecimal(const std::string& text) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2)
    bytes += char(std::strtol(text.substr(i, 2).c_str(), nullptr, 16));
  return bytes;
}

inline nlohmann::json names_and_shapes(const Layout& layout) {
  nlohmann::json tensors = nlohmann::json::array();
  for (const auto& entry : layout.entries()) tensors.push_back({entry.name, entry.tensor.rows, entry.tensor.cols});
  return tensors;
}

// The header of a checkpoint; the stream is left at the first tensor.
inline nlohmann::json read_header(std::istream& in, const std::string& path) {
  char magic[8] = {};
  in.read(magic, 8);
  if (!in || std::memcmp(magic, checkpoint_magic, 8) != 0)
    throw std::runtime_error(path + " is not a checkpoint of this program");
  const auto version = take<std::uint32_t>(in);
  if (!in || version != checkpoint_version)
    throw std::runtime_error(path + " is a checkpoint of version " + std::to_string(version) + ", this program reads " +
                             std::to_string(checkpoint_version));
  const auto length = take<std::uint64_t>(in);
  if (!in || length > (1u << 24)) throw std::runtime_error(path + " is damaged: its header has no sensible length");
  std::string header(std::size_t(length), '\0');
  in.read(header.data(), std::streamsize(length));
  if (!in) throw std::runtime_error(path + " is cut short");
  nlohmann::json parsed = nlohmann::json::parse(header, nullptr, false);
  if (parsed.is_discarded()) throw std::runtime_error(path + " is damaged: its header is not JSON");
  return parsed;
}

}  // namespace detail

inline void save_checkpoint(const std::string& path, const Checkpoint& c, const Layout& layout) {
  const std::string header = nlohmann::json{
      {"model", c.model},
      {"train", c.train},
      {"text", c.text_name},
      {"text_size", c.text_size},
      {"vocabulary", detail::to_hexadecimal(c.vocabulary)},
      {"steps", c.steps},
      {"seconds", c.seconds},
      {"curve", c.curve},
      {"tensors", detail::names_and_shapes(
                      layout)}}.dump();
  const std::string unfinished = path + ".unfinished";
  {
    std::ofstream out(unfinished, std::ios::binary | std::ios::trunc);
    out.write(detail::checkpoint_magic, 8);
    detail::put(out, detail::checkpoint_version);
    detail::put(out, std::uint64_t(header.size()));
    out << header;
    for (const auto& entry : layout.entries())
      for (const auto* buffer : {&c.parameters, &c.first_moment, &c.second_moment})
        detail::put(out, *buffer, entry.tensor);
    out.flush();
    if (!out) {
      std::remove(unfinished.c_str());
      throw std::runtime_error("cannot write the checkpoint " + path);
    }
  }
  std::filesystem::rename(unfinished, path);
}

// make_layout(const ModelConfig&) gives the layout that the tensors of the file must have.
template <class MakeLayout>
Checkpoint load_checkpoint(const std::string& path, MakeLayout&& make_layout) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read the checkpoint " + path);
  const nlohmann::json header = detail::read_header(in, path);
  Checkpoint c;
  try {
    header.at("model").get_to(c.model);
    header.at("train").get_to(c.train);
    header.at("text").get_to(c.text_name);
    header.at("text_size").get_to(c.text_size);
    c.vocabulary = detail::from_hexadecimal(header.at("vocabulary").get<std::string>());
    header.at("steps").get_to(c.steps);
    header.at("seconds").get_to(c.seconds);
    header.at("curve").get_to(c.curve);
  } catch (const nlohmann::json::exception& error) {
    throw std::runtime_error(path + " has an unexpected header: " + error.what());
  }
  const Layout layout = make_layout(c.model);
  if (header.value("tensors", nlohmann::json()) != detail::names_and_shapes(layout))
    throw std::runtime_error(path + " holds other tensors than this program's model has");
  for (auto* buffer : {&c.parameters, &c.first_moment, &c.second_moment}) buffer->setZero(layout.size());
  for (const auto& entry : layout.entries())
    for (auto* buffer : {&c.parameters, &c.first_moment, &c.second_moment}) detail::take(in, *buffer, entry.tensor);
  if (!in) throw std::runtime_error(path + " is cut short");
  if (in.peek() != std::ifstream::traits_type::eof()) throw std::runtime_error(path + " has bytes after its end");
  return c;
}

}  // namespace language_model
