// SPDX-License-Identifier: MIT
//
// Files from which training goes on as if it had never stopped: what a program wants to know, as JSON, and every
// tensor with its moments.
//
//   magic, version           8 bytes, u32: the program's own
//   length, header           u64, that many bytes of JSON; "tensors" has the names and shapes
//   values, moments          for every tensor in order: its values, first and second moments, as 32-bit floats
//
// All numbers are little endian. The file is written under another name and renamed, so that a reader never sees half
// of one and a full disk does not cost the previous one.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "tensors.hpp"

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

// Values, first and second moments, each a buffer of the layout.
using TrainedBuffers = std::array<const Vector<float>*, 3>;

inline void save_training_file(const std::string& path, const FileKind& kind, nlohmann::json header,
                               const Layout& layout, const TrainedBuffers& buffers) {
  header["tensors"] = detail::names_and_shapes(layout);
  const std::string text = header.dump(), fresh = path + ".new";
  {
    std::ofstream out(fresh, std::ios::binary | std::ios::trunc);
    out.write(kind.magic, 8);
    detail::put(out, kind.version);
    detail::put(out, std::uint64_t(text.size()));
    out << text;
    for (const auto& entry : layout.entries())
      for (const auto* buffer : buffers) detail::put(out, *buffer, entry.tensor);
    out.flush();
    if (!out) {
      std::remove(fresh.c_str());
      throw std::runtime_error("cannot write the checkpoint " + path);
    }
  }
  std::filesystem::rename(fresh, path);
}

// Throws std::runtime_error, with the file's name, where it is not of this kind, is damaged or does not fit.
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
    if (!in_ || length > (1u << 24)) throw std::runtime_error(path_ + " is damaged: its header has no sensible length");
    std::string text(std::size_t(length), '\0');
    in_.read(text.data(), std::streamsize(length));
    if (!in_) throw std::runtime_error(path_ + " is cut short");
    header_ = nlohmann::json::parse(text, nullptr, false);
    if (header_.is_discarded()) throw std::runtime_error(path_ + " is damaged: its header is not JSON");
  }

  // read(header) takes from the header what it needs.
  template <class Read>
  void header(Read&& read) const {
    try {
      read(header_);
    } catch (const nlohmann::json::exception& error) {
      throw std::runtime_error(path_ + " has an unexpected header: " + error.what());
    }
  }

  // Values, first and second moments.
  std::array<Vector<float>, 3> tensors(const Layout& layout) {
    if (header_.value("tensors", nlohmann::json()) != detail::names_and_shapes(layout))
      throw std::runtime_error(path_ + " holds other tensors than this program's model has");
    std::array<Vector<float>, 3> buffers;
    for (auto& buffer : buffers) buffer.setZero(layout.size());
    for (const auto& entry : layout.entries())
      for (auto& buffer : buffers) detail::take(in_, buffer, entry.tensor);
    if (!in_) throw std::runtime_error(path_ + " is cut short");
    if (in_.peek() != std::ifstream::traits_type::eof()) throw std::runtime_error(path_ + " has bytes after its end");
    return buffers;
  }

 private:
  std::string path_;
  std::ifstream in_;
  nlohmann::json header_;
};

}  // namespace transformer
