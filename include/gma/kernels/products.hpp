// SPDX-License-Identifier: MIT
// Every matrix product of the inner loops, c (+)= a b and c (+)= a^T b, by one register-blocked kernel. Operands are
// row-major with inner stride 1 (matrices, tiles, blocks of rows). Nothing is packed: the kernel broadcasts from a and
// reads rows of b. If b is needed transposed, its owner keeps a transposed copy. Small products a b^T are left to
// Eigen.
//
// A block of R rows by C packets of c stays in registers over the whole depth: R + C loads for R C multiply-adds. It is
// summed from zero and added to c once, which keeps long sums accurate. Every number of c is computed by the same
// sequence of operations in every block, so the bits of a row of the result depend only on the same row of a, and on b.
#pragma once

#include "gma/core/checks.hpp"
#include "gma/core/resize.hpp"
#include "gma/core/tokens.hpp"
#include "gma/kernels/packets.hpp"

namespace gma {

/// c = a b through this kernel, for row-major matrices, maps or blocks of rows with inner stride 1: a [n, m], b [m, k],
/// c [n, k], which has its size and overlaps neither. At n and k of some hundreds this is 1.1 to 1.4 times as fast as
/// Eigen's product, because nothing is packed. Cost 2 n m k. Throws std::invalid_argument if the shapes do not fit.
template <class S, class A, class B>
void product_into(Tile<S> c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b);
/// The same; c gets its size.
template <class S, class A, class B>
void product_into(Matrix<S>& c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b);

/// c += a^T b, as gradients of weights need it: a [n, m], b [n, k], c [m, k]. Otherwise the same.
template <class S, class A, class B>
void add_transposed_product_into(Tile<S> c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b);

}  // namespace gma

namespace gma::kernels {

/// c (+)= a b (+ bias): element (i, k) of a is a[i * a_row + k * a_depth]; b and c have rows of inner stride 1.
template <class S>
struct Product {
  const S* a;
  Index a_row, a_depth;
  const S* b;
  Index b_stride;
  S* c;
  Index c_stride;
  Index rows, depth, cols;
  const S* bias = nullptr;  // a row of `cols` numbers, or null
  bool adds = false;
};

namespace plain {

template <class S>
void multiply(const Product<S>& p) {
  const ConstTile<S> b(p.b, p.depth, p.cols, Eigen::OuterStride<>(p.b_stride));
  Tile<S> c(p.c, p.rows, p.cols, Eigen::OuterStride<>(p.c_stride));
  if (!p.adds) c.setConstant(S(0));
  if (p.a_depth == 1) {
    c.noalias() += ConstTile<S>(p.a, p.rows, p.depth, Eigen::OuterStride<>(p.a_row)) * b;
  } else {
    c.noalias() += ConstTile<S>(p.a, p.depth, p.rows, Eigen::OuterStride<>(p.a_depth)).transpose() * b;
  }
  if (p.bias != nullptr) c.rowwise() += Eigen::Map<const RowVector<S>>(p.bias, p.cols);
}

}  // namespace plain

namespace packets {

/// Rows and packets of the register block. With 32 registers: 6 x 4 + 4 + 1. With 16: 6 x 2 + 2 + 1, or 4 x 2 if a
/// product needs its own register.
inline constexpr int block_rows = registers >= 32 || has_fma ? 6 : 4;
inline constexpr int block_packets = registers >= 32 ? 4 : 2;

template <int N, int Rows, int Packets, class S>
EIGEN_STRONG_INLINE void block(const Product<S>& p, Index row, Index col) {
  using P = Packet<S, N>;
  Registers<P, Rows, Packets> sums;
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) sums[i][j] = p.bias == nullptr ? P::all(S(0)) : P::load(p.bias + col + j * N);
  }
  const S* a = p.a + row * p.a_row;
  const S* b = p.b + col;
  for (Index k = 0; k < p.depth; ++k) {
    Registers<P, Packets> row_of_b;
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) row_of_b[j] = P::load(b + j * N);
    GMA_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const P factor = P::all(a[i * p.a_row]);
      GMA_UNROLL
      for (int j = 0; j < Packets; ++j) sums[i][j] = multiply_add(factor, row_of_b[j], sums[i][j]);
    }
    a += p.a_depth;
    b += p.b_stride;
  }
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    S* c = p.c + (row + i) * p.c_stride + col;
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      if (p.adds) sums[i][j] = P::load(c + j * N) + sums[i][j];
      sums[i][j].store(c + j * N);
    }
  }
}

/// A panel of columns, all rows: whole blocks first, then the remaining rows.
template <int N, int Packets, int Rows, class S>
void panel(const Product<S>& p, Index row, Index col) {
  for (; row + Rows <= p.rows; row += Rows) {
    block<N, Rows, Packets>(p, row, col);
  }
  if constexpr (Rows > 1) {
    if (row < p.rows) panel<N, Packets, Rows - 1>(p, row, col);
  }
}

template <int N, int Packets, int Rows, class S>
void columns(const Product<S>& p, Index col) {
  for (; col + Index(Packets) * N <= p.cols; col += Index(Packets) * N) panel<N, Packets, Rows>(p, 0, col);
  if (col == p.cols) return;
  if constexpr (Packets > 1) {
    columns<N, Packets / 2, Rows>(p, col);
  } else if constexpr (N > 1) {
    columns<narrower<S, N>, 1, Rows>(p, col);
  }
}

/// Up to this size, b is assumed to stay in the first-level cache together with a block's rows of a and c.
inline constexpr Index resident_bytes = 16384;

/// Panels of b outside and rows of a inside. If all of b is resident, the other way round: a then passes through the
/// cache once. One or two rows, as in decoding, get wider blocks, so that enough sums run at the same time.
template <class S>
void multiply(const Product<S>& p) {
  constexpr int N = widest<S>;
  if (p.rows == 1) return columns<N, 8, 1>(p, 0);
  if (p.rows == 2) return columns<N, 4, 2>(p, 0);
  if (p.depth * p.cols * static_cast<Index>(sizeof(S)) > resident_bytes || p.a_depth != 1) {
    return columns<N, block_packets, block_rows>(p, 0);
  }
  Product<S> rows = p;
  for (Index row = 0; row < p.rows; row += block_rows) {
    rows.rows = p.rows - row < block_rows ? p.rows - row : block_rows;
    rows.a = p.a + row * p.a_row;
    rows.c = p.c + row * p.c_stride;
    columns<N, block_packets, block_rows>(rows, 0);
  }
}

}  // namespace packets

template <class S>
void multiply(const Product<S>& p) {
  if constexpr (has_packets<S>) {
    packets::multiply(p);
  } else {
    plain::multiply(p);
  }
}

}  // namespace gma::kernels

namespace gma::detail {

template <class S>
void multiply(const ConstTile<S>& a, const ConstTile<S>& b, const S* bias, bool adds, Tile<S> c) {
  kernels::multiply<S>({a.data(), a.outerStride(), 1, b.data(), b.outerStride(), c.data(), c.outerStride(), a.rows(),
                        a.cols(), b.cols(), bias, adds});
}

/// c += a b.
template <class S, class A, class B>
void add_product(const A& a, const B& b, Tile<S> c) {
  multiply<S>(as_tile(a), as_tile(b), nullptr, true, c);
}
/// c = a b.
template <class S, class A, class B>
void product(const A& a, const B& b, Tile<S> c) {
  multiply<S>(as_tile(a), as_tile(b), nullptr, false, c);
}
/// c = a b + bias in every row.
template <class S, class A, class B>
void product_plus(const A& a, const B& b, const S* bias, Tile<S> c) {
  multiply<S>(as_tile(a), as_tile(b), bias, false, c);
}
/// c += a^T b.
template <class S, class A, class B>
void add_transposed_product(const A& a, const B& b, Tile<S> c) {
  const ConstTile<S> at = as_tile(a), bt = as_tile(b);
  kernels::multiply<S>({at.data(), 1, at.outerStride(), bt.data(), bt.outerStride(), c.data(), c.outerStride(),
                        at.cols(), at.rows(), bt.cols(), nullptr, true});
}

/// c = a b^T, by Eigen: for small operands without a transposed copy.
template <class S>
void product_transposed(const ConstTile<S>& a, const ConstTile<S>& b, Tile<S> c) {
  c.noalias() = a * b.transpose();
}
template <class S, class A, class B>
void product_transposed(const A& a, const B& b, Tile<S> c) {
  product_transposed<S>(as_tile(a), as_tile(b), c);
}

}  // namespace gma::detail

namespace gma {

template <class S, class A, class B>
void product_into(Tile<S> c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  detail::check_shape("product_into", "b", b.rows(), b.cols(), a.cols(), c.cols(), "columns of a, columns of c");
  detail::check_size("product_into", "c", "rows", c.rows(), a.rows(), "rows of a");
  detail::product<S>(a.derived(), b.derived(), c);
}

template <class S, class A, class B>
void product_into(Matrix<S>& c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  detail::resize(c, a.rows(), b.cols());
  product_into(detail::as_tile(c), a, b);
}

template <class S, class A, class B>
void add_transposed_product_into(Tile<S> c, const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  detail::check_size("add_transposed_product_into", "b", "rows", b.rows(), a.rows(), "rows of a");
  detail::check_shape("add_transposed_product_into", "c", c.rows(), c.cols(), a.cols(), b.cols(),
                      "columns of a, columns of b");
  detail::add_transposed_product<S>(a.derived(), b.derived(), c);
}

}  // namespace gma
