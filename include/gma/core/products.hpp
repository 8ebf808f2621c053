// SPDX-License-Identifier: MIT
// Every matrix product of the library goes through these few functions of the scalar alone: one place to make fast, and
// one instantiation a scalar to compile. Operands are row-major with inner stride 1: matrices, tiles, blocks of rows.
#pragma once

#include "gma/core/types.hpp"

namespace gma::detail {

/// The rows of a row-major matrix, tile or block as a ConstTile.
template <class Derived>
ConstTile<typename Derived::Scalar> as_tile(const Eigen::MatrixBase<Derived>& m) {
  static_assert((Derived::Flags & Eigen::DirectAccessBit) != 0 && Derived::IsRowMajor,
                "gma: as_tile needs rows in memory");
  return {m.derived().data(), m.rows(), m.cols(), Eigen::OuterStride<>(m.derived().outerStride())};
}
template <class S>
Tile<S> as_tile(Matrix<S>& m) {
  return {m.data(), m.rows(), m.cols(), Eigen::OuterStride<>(m.cols())};
}

template <class S>
void add_product_nn(const ConstTile<S>& a, const ConstTile<S>& b, Tile<S>& c) {
  c.noalias() += a * b;
}
template <class S>
void add_product_nt(const ConstTile<S>& a, const ConstTile<S>& b, Tile<S>& c) {
  c.noalias() += a * b.transpose();
}
template <class S>
void add_product_tn(const ConstTile<S>& a, const ConstTile<S>& b, Tile<S>& c) {
  c.noalias() += a.transpose() * b;
}

/// y += s V: one row of coefficients (length rows of V) against a tile.
template <class S>
void add_row_product(const S* s, const ConstTile<S>& v, S* y) {
  Eigen::Map<RowVector<S>>(y, v.cols()).noalias() += Eigen::Map<const RowVector<S>>(s, v.rows()) * v;
}

/// c += a b. The product is summed from zero and added once, which keeps long sums accurate.
template <class S, class A, class B>
void add_product(const A& a, const B& b, Tile<S> c) {
  add_product_nn<S>(as_tile(a), as_tile(b), c);
}
/// c = a b.
template <class S, class A, class B>
void product(const A& a, const B& b, Tile<S> c) {
  c.setConstant(S(0));
  add_product_nn<S>(as_tile(a), as_tile(b), c);
}
/// c += a b^T.
template <class S, class A, class B>
void add_product_transposed(const A& a, const B& b, Tile<S> c) {
  add_product_nt<S>(as_tile(a), as_tile(b), c);
}
/// c = a b^T.
template <class S, class A, class B>
void product_transposed(const A& a, const B& b, Tile<S> c) {
  c.setConstant(S(0));
  add_product_nt<S>(as_tile(a), as_tile(b), c);
}
/// c += a^T b.
template <class S, class A, class B>
void add_transposed_product(const A& a, const B& b, Tile<S> c) {
  add_product_tn<S>(as_tile(a), as_tile(b), c);
}

}  // namespace gma::detail
