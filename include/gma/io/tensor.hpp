// SPDX-License-Identifier: MIT
// Dense tensors as files store them: a type, a shape and bytes. The readers and writers of gma::io exchange them, and
// functions here convert them from and to matrices.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/core/types.hpp"
#include "gma/io/data_type.hpp"

namespace gma::io {

/// A dense tensor. Every function that takes one checks that `bytes` has the size that `type` and `shape` require.
struct Tensor {
  DataType type = DataType::f32;     ///< of every number
  std::vector<Index> shape = {0};    ///< {} is a single number
  std::vector<unsigned char> bytes;  ///< row-major (the last dimension is contiguous), each number little-endian
  std::string other_type = {};       ///< the type's name where `type` is DataType::other, else empty

  /// The number of its numbers: the product of the dimensions, 1 for shape {}. Throws std::invalid_argument if a
  /// dimension is negative, or if the product of those that are not 0 does not fit into an Index.
  Index size() const;

  /// Shape {} as 1 x 1, {n} as n x 1, {a, b} as a x b and {a, b, c, ...} as a x (b c ...). S is float, double,
  /// Eigen::half or Eigen::bfloat16, and every type converts to it. If S does not hold a number, it is rounded to the
  /// nearest (for 16 bits via float), or becomes an infinity if it is too large. Cost O(size). Throws
  /// std::invalid_argument if the tensor is not well formed, or is of DataType::other.
  template <class S>
  Matrix<S> matrix() const;

  /// The same for tensors with at most one dimension other than 1. Throws std::invalid_argument for others.
  template <class S>
  Vector<S> vector() const;
};

/// The same type (its name included), shape and bytes.
inline bool operator==(const Tensor& a, const Tensor& b);
inline bool operator!=(const Tensor& a, const Tensor& b);

/// The tensor of `m`, of shape {rows, columns}, or {size} if the C++ type of m is a vector. `type` is that of the
/// scalar, or a floating type, to which numbers are rounded as in Tensor::matrix(); for others it throws
/// std::invalid_argument. Cost O(size).
template <class Derived>
Tensor make_tensor(const Eigen::MatrixBase<Derived>& m, DataType type = data_type_of<typename Derived::Scalar>());

/// The numbers of `m`, row by row, under another shape. Throws std::invalid_argument unless the shape's product is
/// their number.
template <class Derived>
Tensor make_tensor(const Eigen::MatrixBase<Derived>& m, const std::vector<Index>& shape,
                   DataType type = data_type_of<typename Derived::Scalar>());

/// make_tensor(m, {}) does not compile: {} would be read as a DataType. Write std::vector<gma::Index>{}.
template <class Derived>
Tensor make_tensor(const Eigen::MatrixBase<Derived>& m, std::nullptr_t) = delete;

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

inline constexpr Index largest_index = (std::numeric_limits<Index>::max)();

inline std::string text_of(const std::vector<Index>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i == 8) return text + ", ... of " + std::to_string(shape.size()) + " dimensions]";
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

/// The number of numbers in a tensor of this shape, or -1 if that is not a shape (see Tensor::size). A zero dimension
/// does not hide overflow in the others, so the result does not depend on their order, and the product of any of them
/// is safe.
inline Index count_of(const std::vector<Index>& shape) {
  Index product = 1;
  bool empty = false;
  for (const Index dimension : shape) {
    if (dimension < 0 || (dimension > 0 && product > largest_index / dimension)) return -1;
    if (dimension == 0) {
      empty = true;
    } else {
      product *= dimension;
    }
  }
  return empty ? 0 : product;
}

/// The fault of this type and shape, for a tensor of so many bytes; "" if there is none.
inline std::string fault_of(DataType type, const std::vector<Index>& shape, std::uint64_t bytes) {
  const Index count = count_of(shape), width = width_of(type);
  if (count < 0 || (width > 0 && count > largest_index / width)) {
    return "a shape that overflows or is negative, " + text_of(shape) + ", expected dimensions that an Index can count";
  }
  if (type == DataType::other || static_cast<std::uint64_t>(count * width) == bytes) return "";
  return gma::detail::concatenate("data of ", bytes, " bytes, expected ", count * width, " (shape ", text_of(shape),
                                  " of ", name_of(type), ")");
}

inline std::string fault_of(const Tensor& tensor) {
  std::string fault = fault_of(tensor.type, tensor.shape, tensor.bytes.size());
  if (fault.empty() && tensor.other_type.empty() == (tensor.type == DataType::other)) {
    return gma::detail::concatenate("the type ", name_of(tensor.type), " and other_type '", tensor.other_type,
                                    "', expected a name for DataType::other and for no other");
  }
  if (fault.empty() && tensor.type == DataType::boolean) {
    const auto bad = std::find_if(tensor.bytes.begin(), tensor.bytes.end(), [](unsigned char b) { return b > 1; });
    if (bad != tensor.bytes.end()) fault = "the byte " + std::to_string(int{*bad}) + " for a boolean, expected 0 or 1";
  }
  return fault;
}

inline void check_tensor(const char* function, const Tensor& tensor) {
  const std::string fault = fault_of(tensor);
  if (!fault.empty()) gma::detail::invalid_argument(function, "tensor has ", fault);
}

/// The same, and checks that its numbers are known.
inline void check_numbers(const char* function, const Tensor& tensor) {
  check_tensor(function, tensor);
  if (tensor.type == DataType::other) {
    gma::detail::invalid_argument(function, "tensor is of the type ", tensor.other_type,
                                  ", which gma does not know: its bytes give no numbers");
  }
}

/// `size` numbers of a file as S.
template <class S>
void copy_numbers(DataType type, const unsigned char* bytes, Index size, S* numbers) {
  static_assert(is_float<S>, "gma::io::Tensor: converts to float, double, Eigen::half and Eigen::bfloat16 only");
  with_type(type, [&](auto zero) {
    using From = decltype(zero);
    const unsigned char* next = bytes;
    for (Index i = 0; i < size; ++i, next += sizeof(From)) numbers[i] = convert<S>(load_little_endian<From>(next));
  });
}

/// The rows and columns of a tensor as a matrix.
inline std::pair<Index, Index> matrix_extents(const std::vector<Index>& shape) {
  std::pair<Index, Index> extents(1, 1);
  for (std::size_t i = 0; i < shape.size(); ++i) (i == 0 ? extents.first : extents.second) *= shape[i];
  return extents;
}

template <class To, class S>
std::vector<unsigned char> bytes_as(const Eigen::Ref<const Matrix<S>>& m) {
  std::vector<unsigned char> bytes(static_cast<std::size_t>(m.size()) * sizeof(To));
  unsigned char* next = bytes.data();
  for (Index i = 0; i < m.rows(); ++i) {
    for (Index j = 0; j < m.cols(); ++j, next += sizeof(To)) store_little_endian(convert<To>(m.coeff(i, j)), next);
  }
  return bytes;
}

}  // namespace detail

inline Index Tensor::size() const {
  const Index count = detail::count_of(shape);
  if (count < 0) {
    gma::detail::invalid_argument("io::Tensor::size", "shape ", detail::text_of(shape),
                                  " overflows or is negative, expected dimensions that an Index can count");
  }
  return count;
}

template <class S>
Matrix<S> Tensor::matrix() const {
  detail::check_numbers("io::Tensor::matrix", *this);
  const auto [rows, cols] = detail::matrix_extents(shape);
  Matrix<S> result(rows, cols);
  detail::copy_numbers(type, bytes.data(), result.size(), result.data());
  return result;
}

template <class S>
Vector<S> Tensor::vector() const {
  detail::check_numbers("io::Tensor::vector", *this);
  if (std::count(shape.begin(), shape.end(), Index{1}) + 1 < static_cast<Index>(shape.size())) {
    gma::detail::invalid_argument("io::Tensor::vector", "shape is ", detail::text_of(shape),
                                  ", expected at most one dimension other than 1");
  }
  Vector<S> result(size());
  detail::copy_numbers(type, bytes.data(), result.size(), result.data());
  return result;
}

inline bool operator==(const Tensor& a, const Tensor& b) {
  return a.type == b.type && a.other_type == b.other_type && a.shape == b.shape && a.bytes == b.bytes;
}
inline bool operator!=(const Tensor& a, const Tensor& b) { return !(a == b); }

template <class Derived>
Tensor make_tensor(const Eigen::MatrixBase<Derived>& m, DataType type) {
  if (Derived::IsVectorAtCompileTime) return make_tensor(m, std::vector<Index>{m.size()}, type);
  return make_tensor(m, std::vector<Index>{m.rows(), m.cols()}, type);
}

template <class Derived>
Tensor make_tensor(const Eigen::MatrixBase<Derived>& m, const std::vector<Index>& shape, DataType type) {
  using S = typename Derived::Scalar;
  if (detail::count_of(shape) != m.size()) {
    gma::detail::invalid_argument("io::make_tensor", "shape is ", detail::text_of(shape), ", expected a product of ",
                                  m.size(), " (the matrix is ", m.rows(), " x ", m.cols(), ")");
  }
  const Eigen::Ref<const Matrix<S>> numbers(m.derived());
  Tensor tensor{type, shape, {}};
  detail::with_type(type, [&](auto zero) {
    using To = decltype(zero);
    if constexpr (detail::is_float<To> || data_type_of<To>() == data_type_of<S>()) {
      tensor.bytes = detail::bytes_as<To, S>(numbers);
    } else {
      gma::detail::invalid_argument("io::make_tensor", "type is ", name_of(type), ", expected ",
                                    name_of(data_type_of<S>()), " (the scalar's own) or a floating type");
    }
  });
  return tensor;
}

}  // namespace gma::io
