// SPDX-License-Identifier: MIT
//
// Files from which training continues with the same numbers: the program's own data as JSON, and every tensor with its
// moments.
//
//   magic, version           8 bytes, u32: those of the program
//   length, header           u64, that many bytes of JSON; "tensors" has the names and shapes, "steps" those done
//   values, moments          for every tensor in order: its values, first and second moments, as 32-bit floats
//
// All numbers are little endian.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "optimizer.hpp"
#include "write_file.hpp"

namespace transformer {

struct FileKind {
  char magic[8];
  std::uint32_t version;
};

namespace detail {

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

inline nlohmann::json names_and_shapes(const Layout& layout) {
  nlohmann::json tensors = nlohmann::json::array();
  for (const auto& entry : layout.entries()) tensors.push_back({entry.name, entry.tensor.rows, entry.tensor.cols});
  return tensors;
}

}  // namespace detail

inline void save_training_file(const std::string& path, const FileKind& kind, nlohmann::json header,
                               const Layout& layout, const TrainingState<float>& state) {
  header["tensors"] = detail::names_and_shapes(layout);
  header["steps"] = state.steps;
  const std::string text = header.dump();
  write_file(path, [&](std::ostream& out) {
    out.write(kind.magic, 8);
    detail::put(out, kind.version);
    detail::put(out, std::uint64_t(text.size()));
    out << text;
    for (const auto& entry : layout.entries())
      for (const auto* buffer : {&state.parameters, &state.first_moment, &state.second_moment})
        detail::put(out, *buffer, entry.tensor);
  });
}

// Throws std::runtime_error with the file's name if the file is of another kind, is damaged or does not fit.
class TrainingFile {
 public:
  TrainingFile(std::string path, const FileKind& kind) : path_(std::move(path)), in_(path_, std::ios::binary) {
    if (!in_) throw std::runtime_error("cannot read the checkpoint " + path_);
    char magic[8] = {};
    in_.read(magic, 8);
    if (!in_ || std::memcmp(magic, kind.magic, 8) != 0)
      throw std::runtime_error(path_ + " is not a checkpoint of this program");
    const auto version = detail::take<std::uint32_t>(in_);
    if (!in_ || version != kind.version)
      throw std::runtime_error(path_ + " is a checkpoint of version " + std::to_string(version) +
                               ", this program reads " + std::to_string(kind.version));
    const auto length = detail::take<std::uint64_t>(in_);
    if (!in_ || length > (1u << 24))
      throw std::runtime_error(path_ + " is damaged: the length of its header is impossible");
    std::string text(std::size_t(length), '\0');
    in_.read(text.data(), std::streamsize(length));
    if (!in_) throw std::runtime_error(path_ + " is cut short");
    header_ = nlohmann::json::parse(text, nullptr, false);
    if (!header_.is_object()) throw std::runtime_error(path_ + " is damaged: its header is not a JSON object");
  }

  // read(header) takes its data from the header.
  template <class Read>
  void header(Read&& read) const {
    try {
      read(header_);
    } catch (const nlohmann::json::exception& error) {
      throw std::runtime_error(path_ + " has an unexpected header: " + error.what());
    }
  }

  // The saved tensors of a model with this layout.
  TrainingState<float> state(const Layout& layout) {
    if (header_.value("tensors", nlohmann::json()) != detail::names_and_shapes(layout))
      throw std::runtime_error(path_ + " holds other tensors than the model of this program");
    TrainingState<float> state;
    header([&](const nlohmann::json& members) { members.at("steps").get_to(state.steps); });
    const auto buffers = {&state.parameters, &state.first_moment, &state.second_moment};
    for (auto* buffer : buffers) buffer->setZero(layout.size());
    for (const auto& entry : layout.entries())
      for (auto* buffer : buffers) detail::take(in_, *buffer, entry.tensor);
    if (!in_) throw std::runtime_error(path_ + " is cut short");
    if (in_.peek() != std::ifstream::traits_type::eof()) throw std::runtime_error(path_ + " has bytes after its end");
    return state;
  }

 private:
  std::string path_;
  std::ifstream in_;
  nlohmann::json header_;
};

}  // namespace transformer
