// SPDX-License-Identifier: MIT
// The part of the gated delta rule that runs from token to token within a tile: each row of errors needs the writes of
// all rows before it, and each row of outputs those up to its own,
//   e_i = base_i - sum_{j < i} a_ij u_j        u_i = b_i e_i        y_i = kept_i + sum_{j <= i} p_ij u_j
// It is the solution of a unit lower triangle and one product, in one pass over the writes. A block of rows and columns
// stays in registers while the rows before it pass by.
#pragma once

#include <algorithm>

#include "gma/core/types.hpp"
#include "gma/kernels/packets.hpp"

namespace gma::kernels {

/// T rows of `cols` numbers without gaps, except that y has a stride. Row i sees rows first[i] to i.
template <class S>
struct DeltaRows {
  Index tokens, cols;
  const S *overlaps, *reads;  // a and p, T x T without gaps; above the diagonal they are not used
  const S* strengths;         // b, T
  const Index* first;         // T, not decreasing
  const S* kept;              // T x cols
  S *errors, *writes;         // base, which becomes e; u; T x cols
  S* out;                     // y, T x cols
  Index out_stride;
};

namespace plain {

template <class S>
void delta_rows(const DeltaRows<S>& p) {
  using Row = Eigen::Map<RowVector<S>>;
  using ConstRow = Eigen::Map<const RowVector<S>>;
  for (Index i = 0; i < p.tokens; ++i) {
    Row e(p.errors + i * p.cols, p.cols), u(p.writes + i * p.cols, p.cols), y(p.out + i * p.out_stride, p.cols);
    y = ConstRow(p.kept + i * p.cols, p.cols);
    for (Index j = p.first[i]; j < i; ++j) {
      const ConstRow before(p.writes + j * p.cols, p.cols);
      e -= p.overlaps[i * p.tokens + j] * before;
      y += p.reads[i * p.tokens + j] * before;
    }
    u = p.strengths[i] * e;
    y += p.reads[i * p.tokens + i] * u;
  }
}

}  // namespace plain

namespace packets {

/// Rows and packets of a block: 2 x 4 x 2 + 4 x 2 + 2 + 2 of 32 registers, or 2 x 2 x 2 + 2 x 2 + 2 of 16.
inline constexpr int delta_block_rows = registers >= 32 ? 4 : 2;
inline constexpr int delta_block_packets = 2;

template <int N, int Rows, int Packets, class S>
EIGEN_STRONG_INLINE void delta_block(const DeltaRows<S>& p, Index row, Index col) {
  using P = Packet<S, N>;
  Registers<P, Rows, Packets> error, out, write;
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      error[i][j] = P::load(p.errors + (row + i) * p.cols + col + j * N);
      out[i][j] = P::load(p.kept + (row + i) * p.cols + col + j * N);
    }
  }
  const S *a = p.overlaps + row * p.tokens, *c = p.reads + row * p.tokens;
  const S* u = p.writes + p.first[row] * p.cols + col;
  for (Index s = p.first[row]; s < row; ++s, u += p.cols) {
    Registers<P, Packets> before;
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) before[j] = P::load(u + j * N);
    GMA_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const P overlap = P::all(-a[i * p.tokens + s]), read = P::all(c[i * p.tokens + s]);
      GMA_UNROLL
      for (int j = 0; j < Packets; ++j) {
        error[i][j] = multiply_add(overlap, before[j], error[i][j]);
        out[i][j] = multiply_add(read, before[j], out[i][j]);
      }
    }
  }
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    GMA_UNROLL
    for (int s = 0; s < i; ++s) {
      const P overlap = P::all(-a[i * p.tokens + row + s]), read = P::all(c[i * p.tokens + row + s]);
      GMA_UNROLL
      for (int j = 0; j < Packets; ++j) {
        error[i][j] = multiply_add(overlap, write[s][j], error[i][j]);
        out[i][j] = multiply_add(read, write[s][j], out[i][j]);
      }
    }
    const P strength = P::all(p.strengths[row + i]), read = P::all(c[i * p.tokens + row + i]);
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      write[i][j] = strength * error[i][j];
      write[i][j].round_here();
      const Index at = (row + i) * p.cols + col + j * N;
      error[i][j].store(p.errors + at);
      write[i][j].store(p.writes + at);
      multiply_add(read, write[i][j], out[i][j]).store(p.out + (row + i) * p.out_stride + col + j * N);
    }
  }
}

/// Whole blocks; rows one by one where they do not all see the same rows before them, with the same bits.
template <int N, int Packets, class S>
void delta_panel(const DeltaRows<S>& p, Index col) {
  for (Index row = 0; row < p.tokens;) {
    const bool is_whole = row + delta_block_rows <= p.tokens && p.first[row + delta_block_rows - 1] == p.first[row];
    if (is_whole) {
      delta_block<N, delta_block_rows, Packets>(p, row, col);
      row += delta_block_rows;
    } else {
      delta_block<N, 1, Packets>(p, row, col);
      ++row;
    }
  }
}

template <int N, int Packets, class S>
void delta_columns(const DeltaRows<S>& p, Index col) {
  for (; col + Index(Packets) * N <= p.cols; col += Index(Packets) * N) delta_panel<N, Packets>(p, col);
  if (col == p.cols) return;
  if constexpr (Packets > 1) {
    delta_columns<N, Packets / 2>(p, col);
  } else if constexpr (N > 1) {
    delta_columns<narrower<S, N>, 1>(p, col);
  }
}

}  // namespace packets

template <class S>
void delta_rows(const DeltaRows<S>& p) {
  if constexpr (has_packets<S>) {
    packets::delta_columns<widest<S>, packets::delta_block_packets>(p, 0);
  } else {
    plain::delta_rows(p);
  }
}

}  // namespace gma::kernels
