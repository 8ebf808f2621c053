// SPDX-License-Identifier: MIT
// NumPy's .npy files, one tensor per file. Reads versions 1.0, 2.0 and 3.0 of plain numbers, and never pickled data.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "gma/io/file.hpp"
#include "gma/io/npy_header.hpp"
#include "gma/io/tensor.hpp"

namespace gma::io {

/// Reads a file of floats of 16, 32 or 64 bits, integers of 8 to 64 bits or booleans. The result is row-major and
/// little-endian: big-endian numbers are swapped and Fortran order is reordered, for any number of dimensions. Nothing
/// is allocated except the tensor and a buffer. Cost O(size).
/// Throws std::runtime_error on everything else: another version, a header that is not exactly NumPy's dictionary of
/// 'descr', 'fortran_order' and 'shape', the byte order '=' (native), complex numbers, strings, dates, records and
/// Python objects, booleans other than 0 and 1, and data that is shorter or longer than the shape.
inline Tensor read_npy(const std::filesystem::path& path);

/// Writes version 1.0 (2.0 if the header needs it) in C order, with the data aligned to 64 bytes. A tensor always gives
/// the same bytes. The file replaces the old one at `path` once it is complete; on failure the old one is untouched.
/// Throws std::invalid_argument if the tensor is not well formed, or is of bf16 or DataType::other, which the format
/// lacks, and std::runtime_error if the file cannot be written.
inline void write_npy(const std::filesystem::path& path, const Tensor& tensor);

/// The same in memory.
inline Tensor parse_npy(const unsigned char* data, std::size_t size);
inline std::vector<unsigned char> serialize_npy(const Tensor& tensor);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// The position in C order of each number of an array in Fortran order: call next() once per number.
class FortranOrder {
 public:
  explicit FortranOrder(const std::vector<Index>& shape) {
    Index stride = 1;
    for (auto dimension = shape.rbegin(); dimension != shape.rend(); ++dimension) {
      // Dimensions of 1 change no position, and a large number of them would make every step slow.
      if (*dimension != 1) axes_.push_back({*dimension, stride, 0});
      stride *= *dimension;
    }
    std::reverse(axes_.begin(), axes_.end());
  }
  Index next() {
    const Index current = place_;
    for (Axis& axis : axes_) {
      place_ += axis.stride;
      if (++axis.position < axis.size) break;
      place_ -= axis.size * axis.stride;
      axis.position = 0;
    }
    return current;
  }

 private:
  struct Axis {
    Index size, stride, position;
  };
  std::vector<Axis> axes_;
  Index place_ = 0;
};

inline void read_fortran_order(Input& input, Tensor& tensor) {
  constexpr std::size_t chunk = 1 << 16;  // a multiple of every width
  const std::size_t width = static_cast<std::size_t>(width_of(tensor.type));
  FortranOrder order(tensor.shape);
  std::vector<unsigned char> buffer((std::min)(chunk, tensor.bytes.size()));
  for (std::size_t left = tensor.bytes.size(); left > 0; left -= buffer.size()) {
    buffer.resize((std::min)(left, buffer.size()));
    input.read(buffer.data(), buffer.size());
    for (std::size_t from = 0; from < buffer.size(); from += width) {
      std::memcpy(tensor.bytes.data() + static_cast<std::size_t>(order.next()) * width, buffer.data() + from, width);
    }
  }
}

inline void swap_bytes(Tensor& tensor) {
  const std::ptrdiff_t width = width_of(tensor.type);
  for (auto number = tensor.bytes.begin(); number != tensor.bytes.end(); number += width) {
    std::reverse(number, number + width);
  }
}

inline Tensor read_npy(Input& input) {
  NpyHeader header = read_npy_header(input);
  std::string fault = fault_of(header.type, header.shape, input.remaining());
  if (!fault.empty()) input.fail("has ", fault);
  Tensor tensor{header.type, std::move(header.shape), {}};
  tensor.bytes.resize(input.in_memory(input.remaining()));
  if (header.fortran_order) {
    read_fortran_order(input, tensor);
  } else {
    input.read(tensor.bytes.data(), tensor.bytes.size());
  }
  if (header.big_endian) swap_bytes(tensor);
  fault = fault_of(tensor);
  if (!fault.empty()) input.fail("has ", fault);
  return tensor;
}

}  // namespace detail

inline Tensor read_npy(const std::filesystem::path& path) {
  detail::Input input("io::read_npy", path);
  return detail::read_npy(input);
}

inline Tensor parse_npy(const unsigned char* data, std::size_t size) {
  detail::Input input("io::parse_npy", data, size);
  return detail::read_npy(input);
}

inline void write_npy(const std::filesystem::path& path, const Tensor& tensor) {
  const std::string header = detail::npy_header("io::write_npy", tensor);
  detail::write_file("io::write_npy", path,
                     {{header.data(), header.size()}, {tensor.bytes.data(), tensor.bytes.size()}});
}

inline std::vector<unsigned char> serialize_npy(const Tensor& tensor) {
  const std::string header = detail::npy_header("io::serialize_npy", tensor);
  return detail::join({{header.data(), header.size()}, {tensor.bytes.data(), tensor.bytes.size()}});
}

}  // namespace gma::io
