// SPDX-License-Identifier: MIT
// Loops over the rows of a tile that is in cache: softmax and its gradient, sums, dot products and scalings. Each has
// two forms that compute the same: on packets, and as plain Eigen expressions. The functions at the end choose.
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
  for (Index i = rows - 1; i >= 0; --i) {  // a may be at the start of out
    const S factor = a[i];
    Eigen::Map<RowVector<S>>(out + i * cols, cols) = Eigen::Map<const RowVector<S>>(b, cols) * factor;
  }
}

/// See the function of the same name at the end of the file.
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

template <class S>
void sum_of_products(const S* const* a, const S* const* b, int terms, Index cols, bool adds, S* out) {
  using Row = Eigen::Map<const RowVector<S>>;
  Eigen::Map<RowVector<S>> sum(out, cols);
  if (!adds) sum.setConstant(S(0));
  for (int i = 0; i < terms; ++i) sum += Row(a[i], cols).cwiseProduct(Row(b[i], cols));
}

}  // namespace plain

namespace packets {

/// Calls f(offset, width) for every packet of a row of `count` numbers from `offset` on: the widest packets first, then
/// narrower ones, then single numbers. `width` is a std::integral_constant.
template <class S, int N = widest<S>, class F>
EIGEN_STRONG_INLINE void for_each_packet(Index count, F&& f, Index offset = 0) {
  for (; offset + N <= count; offset += N) f(offset, std::integral_constant<int, N>());
  if constexpr (N > 1) {
    if (offset < count) for_each_packet<S, narrower<S, N>>(count, f, offset);
  }
}

/// Softmax of Rows rows at once, which hides the latency of the reductions. If the row does not fill the last packet,
/// minus infinity fills it, so that it is computed like the others.
template <int Rows, class S>
void softmax_block(S* rows, Index stride, Index cols) {
  using P = Packet<S>;
  constexpr Index N = widest<S>;
  const Index whole = cols / N * N, rest = cols - whole;
  Registers<P, Rows> top, total;
  Registers<S, Rows, N> last;
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    if (rest > 0) {
      std::fill_n(last[i], N, -std::numeric_limits<S>::infinity());
      std::copy_n(rows + i * stride + whole, rest, last[i]);
    }
    top[i] = P::load(rest > 0 ? last[i] : rows + i * stride);
    total[i] = P::all(S(0));
  }
  for (Index j = 0; j < whole; j += N) {
    GMA_UNROLL
    for (int i = 0; i < Rows; ++i) top[i] = larger(P::load(rows + i * stride + j), top[i]);
  }
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) top[i] = P::all(top[i].largest());
  const auto exponentials = [&](S* row, int i) {
    const P x = exp_of_negative(P::load(row) - top[i]);
    x.store(row);
    total[i] = total[i] + x;
  };
  for (Index j = 0; j < whole; j += N) {
    GMA_UNROLL
    for (int i = 0; i < Rows; ++i) exponentials(rows + i * stride + j, i);
  }
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    if (rest > 0) exponentials(last[i], i);
    total[i] = P::all(S(1) / total[i].sum());
  }
  for (Index j = 0; j < whole; j += N) {
    GMA_UNROLL
    for (int i = 0; i < Rows; ++i) {
      S* at = rows + i * stride + j;
      (P::load(at) * total[i]).store(at);
    }
  }
  for (int i = 0; i < Rows && rest > 0; ++i) {
    (P::load(last[i]) * total[i]).store(last[i]);
    std::copy_n(last[i], rest, rows + i * stride + whole);
  }
}

template <class S>
void softmax_rows(Tile<S> logits) {
  constexpr Index at_once = 4;
  const Index stride = logits.outerStride();
  Index i = 0;
  for (; i + at_once <= logits.rows(); i += at_once) {
    softmax_block<at_once>(logits.data() + i * stride, stride, logits.cols());
  }
  for (; i < logits.rows(); ++i) softmax_block<1>(logits.data() + i * stride, stride, logits.cols());
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

/// Sums of Packets packets of columns from `begin` on, then of the remaining columns.
template <int N, int Packets, class S>
void add_column_sums(const Tile<S>& tile, S* sums, Index begin) {
  using P = Packet<S, N>;
  for (; begin + Index(Packets) * N <= tile.cols(); begin += Index(Packets) * N) {
    Registers<P, Packets> total;
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) total[j] = P::all(S(0));
    const S* from = tile.data() + begin;
    for (Index i = 0; i < tile.rows(); ++i, from += tile.outerStride()) {
      GMA_UNROLL
      for (int j = 0; j < Packets; ++j) total[j] = total[j] + P::load(from + j * N);
    }
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      S* at = sums + begin + j * N;
      (P::load(at) + total[j]).store(at);
    }
  }
  if (begin == tile.cols()) return;
  if constexpr (Packets > 1) {
    add_column_sums<N, 1>(tile, sums, begin);
  } else if constexpr (N > 1) {
    add_column_sums<narrower<S, N>, 1>(tile, sums, begin);
  }
}

template <class S>
void add_column_sums(const Tile<S>& tile, S* sums) {
  add_column_sums<widest<S>, 4>(tile, sums, 0);
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

template <class S>
void sum_of_products(const S* const* a, const S* const* b, int terms, Index cols, bool adds, S* out) {
  for_each_packet<S>(cols, [&](Index j, auto width) {
    using P = Packet<S, width.value>;
    P sum = adds ? P::load(out + j) : P::all(S(0));
    for (int i = 0; i < terms; ++i) sum = multiply_add(P::load(a[i] + j), P::load(b[i] + j), sum);
    sum.store(out + j);
  });
}

}  // namespace packets

/// Rows become exp(row - max) / sum: equation (2) of the derivation. Cost O(T K).
template <class S>
void softmax_rows(Tile<S> logits) {
  if constexpr (has_packets<S>) {
    packets::softmax_rows(logits);
  } else {
    plain::softmax_rows(logits);
  }
}

/// d_logits = r (d_r - sum r d_r), row by row. d_r becomes d_logits.
template <class S>
void softmax_backward_rows(const Tile<S>& r, Tile<S> d_r) {
  if constexpr (has_packets<S>) {
    packets::softmax_backward_rows(r, d_r);
  } else {
    plain::softmax_backward_rows(r, d_r);
  }
}

/// sums += the sum of every column. It is summed from zero and added once.
template <class S>
void add_column_sums(const Tile<S>& tile, S* sums) {
  if constexpr (has_packets<S>) {
    packets::add_column_sums(tile, sums);
  } else {
    plain::add_column_sums(tile, sums);
  }
}

/// Multiplies row i by factors[i].
template <class S>
void scale_rows(Tile<S> tile, const S* factors) {
  if constexpr (has_packets<S>) {
    packets::scale_rows(tile, factors);
  } else {
    plain::scale_rows(tile, factors);
  }
}

/// out (+)= the sum over the terms of a_i o b_i; rows of `cols` numbers. Every number is computed by the same sequence
/// of operations at any position.
template <class S>
void sum_of_products(const S* const* a, const S* const* b, int terms, Index cols, bool adds, S* out) {
  if constexpr (has_packets<S>) {
    packets::sum_of_products(a, b, terms, cols, adds, out);
  } else {
    plain::sum_of_products(a, b, terms, cols, adds, out);
  }
}

/// The sum of a[j] b[j].
template <class S>
S dot(const S* a, const S* b, Index count) {
  if constexpr (has_packets<S>) {
    return packets::dot(a, b, count);
  } else {
    return plain::dot(a, b, count);
  }
}

/// Whether any of `count` numbers lies strictly between zero and `limit`.
template <class S>
bool any_between_zero_and(const S& limit, const S* values, Index count) {
  if constexpr (has_packets<S>) {
    S found(0);
    packets::for_each_packet<S>(count, [&](Index k, auto width) {
      using P = Packet<S, width.value>;
      const P x = P::load(values + k);
      found += where_greater(P::all(limit), x, where_greater(x, P::all(S(0)), P::all(S(1)))).sum();
    });
    return found > S(0);
  } else {
    return std::any_of(values, values + count, [&](const S& x) { return x > S(0) && x < limit; });
  }
}

/// out[i cols + j] = a[i] b[j]; a may be at the start of out.
template <class S>
void outer_product(const S* a, Index rows, const S* b, Index cols, S* out) {
  if constexpr (has_packets<S>) {
    packets::outer_product(a, rows, b, cols, out);
  } else {
    plain::outer_product(a, rows, b, cols, out);
  }
}

/// The gradients of an outer product a b^T. d is the gradient of the product, rows x cols without gaps. On return d_b =
/// a^T d, and the first `rows` numbers of d are d b.
template <class S>
void contract(const S* a, Index rows, const S* b, Index cols, S* d, S* d_b) {
  if constexpr (has_packets<S>) {
    packets::contract(a, rows, b, cols, d, d_b);
  } else {
    plain::contract(a, rows, b, cols, d, d_b);
  }
}

}  // namespace gma::kernels
