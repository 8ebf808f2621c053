// SPDX-License-Identifier: MIT
// Changes the sizes of matrices safely if memory runs out. Eigen 3.4 frees the old numbers before it allocates the new
// ones. If that fails, the matrix still points to the old ones, and the next resize, or the destructor, frees them
// again. Assigning a matrix of another size has the same fault. With the functions here a matrix is empty after
// std::bad_alloc, and can be used again.
#pragma once

#include "gma/core/types.hpp"

namespace gma::detail {

/// matrix.resize(rows, cols). Coefficients are kept only if the shape does not change; after std::bad_alloc the matrix
/// is empty.
template <class Derived>
void resize(Eigen::PlainObjectBase<Derived>& matrix, Index rows, Index cols) {
  if (matrix.rows() == rows && matrix.cols() == cols) return;
  const bool is_of_same_size =
      cols == 0 ? matrix.size() == 0 : matrix.size() % cols == 0 && matrix.size() / cols == rows;
  if (!is_of_same_size) {
    matrix.resize(Derived::RowsAtCompileTime == Eigen::Dynamic ? 0 : Index(Derived::RowsAtCompileTime),
                  Derived::ColsAtCompileTime == Eigen::Dynamic ? 0 : Index(Derived::ColsAtCompileTime));
  }
  matrix.resize(rows, cols);
}

/// The same for a vector.
template <class Derived>
void resize(Eigen::PlainObjectBase<Derived>& vector, Index size) {
  static_assert(Derived::IsVectorAtCompileTime, "gma: a matrix has two sizes");
  if constexpr (Derived::RowsAtCompileTime == 1) {
    resize(vector, 1, size);
  } else {
    resize(vector, size, 1);
  }
}

/// Makes room for at least `size` coefficients. Their values are unspecified if the room had to grow.
template <class Derived>
void grow(Eigen::PlainObjectBase<Derived>& vector, Index size) {
  if (vector.size() < size) resize(vector, size);
}

/// target = source, for any expression. If the sizes differ, it must not read `target`.
template <class Derived, class Source>
void assign(Eigen::PlainObjectBase<Derived>& target, const Eigen::DenseBase<Source>& source) {
  resize(target, source.rows(), source.cols());
  target.derived() = source.derived();
}

/// target.setConstant(rows, cols, value).
template <class Derived>
void set_constant(Eigen::PlainObjectBase<Derived>& target, Index rows, Index cols,
                  const typename Derived::Scalar& value) {
  resize(target, rows, cols);
  target.setConstant(value);
}
template <class Derived>
void set_constant(Eigen::PlainObjectBase<Derived>& target, Index size, const typename Derived::Scalar& value) {
  resize(target, size);
  target.setConstant(value);
}

}  // namespace gma::detail
