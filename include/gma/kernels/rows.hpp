// SPDX-License-Identifier: MIT
// Loops over the rows of a tile that lies in cache: softmax and its gradient, sums, dots and scalings. Each in two
// forms that compute the same, on packets and in plain Eigen expressions; the functions at the end choose.
#pragma once

#include <algorithm>
#include <limits>

#include "gma/core/types.hpp"
#include "gma/kernels/packets.hpp"

namespace gma::kernels {

namespace plain {

template <class S>
void softmax_rows(Tile<S> logits) {
  for (Index i = 0; i < logits.rows(); ++i) {
    Eigen::Map<RowVector<S>> row(logits.row(i).data(), logits.cols());
    const S largest = row.maxCoeff();
    row = (row.array() - largest).exp();
    const S scale = S(1) / row.sum();
    row *= scale;
  }
}

template <class S>
void softmax_backward_rows(const Tile<S>& r, Tile<S> d_r) {
  for (Index i = 0; i < r.rows(); ++i) {
    const S mean = r.row(i).dot(d_r.row(i));
    d_r.row(i) = r.row(i).array() * (d_r.row(i).array() - mean);
  }
}

template <class S>
void add_column_sums(const Tile<S>& tile, S* sums) {
  Eigen::Map<RowVector<S>>(sums, tile.cols()) += tile.colwise().sum();
}

template <class S>
void scale_rows(Tile<S> tile, const S* factors) {
  for (Index i = 0; i < tile.rows(); ++i) tile.row(i) *= factors[i];
}

template <class S>
S dot(const S* a, const S* b, Index count) {
  using Row = Eigen::Map<const RowVector<S>>;
  return count == 0 ? S(0) : Row(a, count).dot(Row(b, count));
}

template <class S>
void outer_product(const S* a, Index rows, const S* b, Index cols, S* out) {
  for (Index i = rows - 1; i >= 0; --i) {  // a may lie at the start of out
    const S factor = a[i];
    Eigen::Map<RowVector<S>>(out + i * cols, cols) = Eigen::Map<const RowVector<S>>(b, cols) * factor;
  }
}

/// See the function of this name at the end.
template <class S>
void contract(const S* a, Index rows, const S* b, Index cols, S* d, S* d_b) {
  Eigen::Map<RowVector<S>> sum(d_b, cols);
  const Eigen::Map<const RowVector<S>> other(b, cols);
  sum.setConstant(S(0));
  for (Index i = 0; i < rows; ++i) {
    const Eigen::Map<const RowVector<S>> row(d + i * cols, cols);
    sum += row * a[i];
    const S inner = row.dot(other);
    d[i] = inner;
  }
}

}  // namespace plain

namespace packets {

/// f(offset, width) for every packet of a row of `count` numbers: `Packets` at a time of N, then narrower ones, then
/// single numbers. `width` is an std::integral_constant.
template <class S, int N = widest<S>, class F>
EIGEN_STRONG_INLINE void for_each_packet(Index count, F&& f, Index offset = 0) {
  for (; offset + N <= count; offset += N) f(offset, std::integral_constant<int, N>());
  if constexpr (N > 1) {
    if (offset < count) for_each_packet<S, narrower<S, N>>(count, f, offset);
  }
}

/// The last numbers of a row, fewer than a packet, as a packet filled up with `fill`.
template <class S>
struct Tail {
  using P = Packet<S>;
  static constexpr Index N = widest<S>;
  S* at;
  Index count;
  S buffer[N];

  Tail(S* row, Index cols, S fill) : at(row + cols / N * N), count(cols % N) {
    std::fill_n(buffer, N, fill);
    std::copy_n(at, count, buffer);
  }
  P load() const { return P::load(buffer); }
  void store(const P& x) {
    x.store(buffer);
    std::copy_n(buffer, count, at);
  }
};

/// Softmax of a row of exactly Packets packets, which stays in registers.
template <int Packets, class S>
EIGEN_STRONG_INLINE void softmax_row(S* row) {
  using P = Packet<S>;
  constexpr Index N = widest<S>;
  P x[Packets];
  GMA_UNROLL
  for (int j = 0; j < Packets; ++j) x[j] = P::load(row + j * N);
  P top = x[0];
  GMA_UNROLL
  for (int j = 1; j < Packets; ++j) top = larger(x[j], top);
  const P largest = P::all(top.largest());
  GMA_UNROLL
  for (int j = 0; j < Packets; ++j) x[j] = exp_of_negative(x[j] - largest);
  P total = x[0];
  GMA_UNROLL
  for (int j = 1; j < Packets; ++j) total = total + x[j];
  const P scale = P::all(S(1) / total.sum());
  GMA_UNROLL
  for (int j = 0; j < Packets; ++j) (x[j] * scale).store(row + j * N);
}

/// Softmax of a row of any length.
template <class S>
void softmax_row(S* row, Index cols) {
  using P = Packet<S>;
  constexpr Index N = widest<S>;
  Tail<S> tail(row, cols, -std::numeric_limits<S>::infinity());
  const Index whole = cols / N * N;
  P top = tail.load();
  for (Index j = 0; j < whole; j += N) top = larger(P::load(row + j), top);
  const P largest = P::all(top.largest());
  const P last = exp_of_negative(tail.load() - largest);
  P total = last;
  for (Index j = 0; j < whole; j += N) {
    const P x = exp_of_negative(P::load(row + j) - largest);
    x.store(row + j);
    total = total + x;
  }
  const P scale = P::all(S(1) / total.sum());
  for (Index j = 0; j < whole; j += N) (P::load(row + j) * scale).store(row + j);
  tail.store(last * scale);
}

template <class S>
void softmax_rows(Tile<S> logits) {
  constexpr Index N = widest<S>;
  const Index cols = logits.cols(), stride = logits.outerStride();
  S* row = logits.data();
  const auto each = [&](auto packets) {
    for (Index i = 0; i < logits.rows(); ++i, row += stride) softmax_row<packets.value>(row);
  };
  switch (cols % N == 0 ? cols / N : 0) {
    case 1:
      return each(std::integral_constant<int, 1>());
    case 2:
      return each(std::integral_constant<int, 2>());
    case 4:
      return each(std::integral_constant<int, 4>());
    case 8:
      return each(std::integral_constant<int, 8>());
    default:
      for (Index i = 0; i < logits.rows(); ++i, row += stride) softmax_row(row, cols);
  }
}

template <class S>
S dot(const S* a, const S* b, Index count) {
  using P = Packet<S>;
  constexpr Index N = widest<S>;
  P sums[2] = {P::all(S(0)), P::all(S(0))};
  Index j = 0;
  for (; j + 2 * N <= count; j += 2 * N) {
    sums[0] = multiply_add(P::load(a + j), P::load(b + j), sums[0]);
    sums[1] = multiply_add(P::load(a + j + N), P::load(b + j + N), sums[1]);
  }
  S total(0);
  if (j > 0) total = (sums[0] + sums[1]).sum();
  for_each_packet<S>(
      count,
      [&](Index k, auto width) {
        using Q = Packet<S, width.value>;
        total += (Q::load(a + k) * Q::load(b + k)).sum();
      },
      j);
  return total;
}

template <class S>
void softmax_backward_rows(const Tile<S>& r, Tile<S> d_r) {
  for (Index i = 0; i < r.rows(); ++i) {
    const S* x = r.data() + i * r.outerStride();
    S* d = d_r.data() + i * d_r.outerStride();
    const S mean = packets::dot(x, d, r.cols());
    for_each_packet<S>(r.cols(), [&](Index j, auto width) {
      using P = Packet<S, width.value>;
      (P::load(x + j) * (P::load(d + j) - P::all(mean))).store(d + j);
    });
  }
}

template <class S>
void add_column_sums(const Tile<S>& tile, S* sums) {
  for_each_packet<S>(tile.cols(), [&](Index j, auto width) {
    using P = Packet<S, width.value>;
    P total = P::all(S(0));
    const S* from = tile.data() + j;
    for (Index i = 0; i < tile.rows(); ++i, from += tile.outerStride()) total = total + P::load(from);
    (P::load(sums + j) + total).store(sums + j);
  });
}

template <class S>
void scale_rows(Tile<S> tile, const S* factors) {
  for (Index i = 0; i < tile.rows(); ++i) {
    S* row = tile.data() + i * tile.outerStride();
    for_each_packet<S>(tile.cols(), [&](Index j, auto width) {
      using P = Packet<S, width.value>;
      (P::load(row + j) * P::all(factors[i])).store(row + j);
    });
  }
}

template <class S>
void outer_product(const S* a, Index rows, const S* b, Index cols, S* out) {
  for (Index i = rows - 1; i >= 0; --i) {
    const S factor = a[i];
    for_each_packet<S>(cols, [&](Index j, auto width) {
      using P = Packet<S, width.value>;
      (P::load(b + j) * P::all(factor)).store(out + i * cols + j);
    });
  }
}

template <class S>
void contract(const S* a, Index rows, const S* b, Index cols, S* d, S* d_b) {
  std::fill_n(d_b, cols, S(0));
  for (Index i = 0; i < rows; ++i) {
    const S* row = d + i * cols;
    for_each_packet<S>(cols, [&](Index j, auto width) {
      using P = Packet<S, width.value>;
      multiply_add(P::load(row + j), P::all(a[i]), P::load(d_b + j)).store(d_b + j);
    });
    d[i] = packets::dot(row, b, cols);
  }
}

}  // namespace packets

/// Rows become exp(row - max) / sum: (2) of the derivation. Cost O(T K).
template <class S>
void softmax_rows(Tile<S> logits) {
  if constexpr (has_packets<S>) {
    packets::softmax_rows(logits);
  } else {
    plain::softmax_rows(logits);
  }
}

/// d_logits = r (d_r - sum r d_r), row by row; d_r becomes d_logits.
template <class S>
void softmax_backward_rows(const Tile<S>& r, Tile<S> d_r) {
  if constexpr (has_packets<S>) {
    packets::softmax_backward_rows(r, d_r);
  } else {
    plain::softmax_backward_rows(r, d_r);
  }
}

/// sums += the sum of every column; summed from zero and added once.
template <class S>
void add_column_sums(const Tile<S>& tile, S* sums) {
  if constexpr (has_packets<S>) {
    packets::add_column_sums(tile, sums);
  } else {
    plain::add_column_sums(tile, sums);
  }
}

/// Row i times factors[i].
template <class S>
void scale_rows(Tile<S> tile, const S* factors) {
  if constexpr (has_packets<S>) {
    packets::scale_rows(tile, factors);
  } else {
    plain::scale_rows(tile, factors);
  }
}

template <class S>
S dot(const S* a, const S* b, Index count) {
  if constexpr (has_packets<S>) {
    return packets::dot(a, b, count);
  } else {
    return plain::dot(a, b, count);
  }
}

/// out[i cols + j] = a[i] b[j]; a may lie at the start of out.
template <class S>
void outer_product(const S* a, Index rows, const S* b, Index cols, S* out) {
  if constexpr (has_packets<S>) {
    packets::outer_product(a, rows, b, cols, out);
  } else {
    plain::outer_product(a, rows, b, cols, out);
  }
}

/// The gradients of an outer product a b^T, from that of the product, d, rows x cols without gaps: d_b = a^T d, and the
/// first `rows` numbers of d become d b.
template <class S>
void contract(const S* a, Index rows, const S* b, Index cols, S* d, S* d_b) {
  if constexpr (has_packets<S>) {
    packets::contract(a, rows, b, cols, d, d_b);
  } else {
    plain::contract(a, rows, b, cols, d, d_b);
  }
}

}  // namespace gma::kernels
