// SPDX-License-Identifier: MIT
// The causal recurrence without any work that grows with the tile: a block of the state stays in registers while the
// tokens run by, each writing to it and then reading it,
//   s <- s + a_t^T v_t        y_t = c_t s
// 2 K e multiply-adds a token, and nothing else but loads. With other rows in the three roles, and the tokens in the
// opposite order, the same loop is each part of the backward pass (DERIVATION.md).
#pragma once

#include <algorithm>

#include "gma/core/types.hpp"
#include "gma/kernels/packets.hpp"

namespace gma::kernels {

/// Rows of a token matrix; a negative stride runs from the last token to the first.
template <class S>
struct TokenPointer {
  S* data;
  Index stride;
};

/// One stretch of tokens, at least one, through a state of rows x cols numbers.
template <class S>
struct Scan {
  Index tokens, rows, cols;
  TokenPointer<const S> writes;  // a, `rows` numbers a token
  TokenPointer<const S> values;  // v, `cols` numbers a token
  TokenPointer<const S> reads;   // c, `rows` numbers a token
  TokenPointer<S> out;           // y, `cols` numbers a token
  S* state;                      // rows x cols, without gaps
  S before = S(1);               // the state is multiplied by this as it comes in, 0: whatever it holds becomes zero
  S after = S(1);                // and by this as it goes out
  bool adds = false;             // to y, else it is assigned
};

namespace plain {

template <class S>
void scan(const Scan<S>& p) {
  Eigen::Map<Matrix<S>> state(p.state, p.rows, p.cols);
  using Row = Eigen::Map<const RowVector<S>>;
  const auto scale = [&](const S& factor) {
    if (factor == S(0)) {
      state.setConstant(S(0));
    } else if (!(factor == S(1))) {
      state *= factor;
    }
  };
  scale(p.before);
  for (Index t = 0; t < p.tokens; ++t) {
    const Row a(p.writes.data + t * p.writes.stride, p.rows), v(p.values.data + t * p.values.stride, p.cols);
    const Row c(p.reads.data + t * p.reads.stride, p.rows);
    state.noalias() += a.transpose() * v;
    Eigen::Map<RowVector<S>> y(p.out.data + t * p.out.stride, p.cols);
    if (!p.adds) y.setConstant(S(0));
    y.noalias() += c * state;
  }
  scale(p.after);
}

}  // namespace plain

namespace packets {

/// State rows and packets in registers: 16 + 4 + 4 + 2 of 32, or 8 + 2 + 2 + 2 of 16.
inline constexpr int scan_rows = 4;
inline constexpr int scan_packets = registers >= 32 ? 4 : 2;

template <int N, int Rows, int Packets, class S>
EIGEN_STRONG_INLINE void scan_block(const Scan<S> p, Index row, Index col) {
  using P = Packet<S, N>;
  Registers<P, Rows, Packets> state;
  S* at = p.state + row * p.cols + col;
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      state[i][j] = p.before == S(0) ? P::all(S(0)) : P::load(at + i * p.cols + j * N) * P::all(p.before);
    }
  }
  const S *a = p.writes.data + row, *v = p.values.data + col, *c = p.reads.data + row;
  S* y = p.out.data + col;
  const bool first = row == 0 && !p.adds;
  GMA_ROLLED
  for (Index t = 0; t < p.tokens; ++t) {
    Registers<P, Packets> value, sum;
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      value[j] = P::load(v + j * N);
      value[j].keep();
      sum[j] = first ? P::all(S(0)) : P::load(y + j * N);
    }
    GMA_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const P write = P::all(a[i]), read = P::all(c[i]);
      GMA_UNROLL
      for (int j = 0; j < Packets; ++j) {
        state[i][j] = multiply_add(write, value[j], state[i][j]);
        sum[j] = multiply_add(read, state[i][j], sum[j]);
      }
    }
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) sum[j].store(y + j * N);
    a += p.writes.stride;
    v += p.values.stride;
    c += p.reads.stride;
    y += p.out.stride;
  }
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      const P x = p.after == S(0) ? P::all(S(0)) : state[i][j] * P::all(p.after);
      x.store(at + i * p.cols + j * N);
    }
  }
}

/// A panel of columns, all rows of the state: whole blocks, then halves of them.
template <int N, int Packets, int Rows, class S>
void scan_panel(const Scan<S>& p, Index row, Index col) {
  for (; row + Rows <= p.rows; row += Rows) scan_block<N, Rows, Packets>(p, row, col);
  if constexpr (Rows > 1) {
    if (row < p.rows) scan_panel<N, Packets, Rows / 2>(p, row, col);
  }
}

template <int N, int Packets, class S>
void scan_columns(const Scan<S>& p, Index col) {
  for (; col + Index(Packets) * N <= p.cols; col += Index(Packets) * N) scan_panel<N, Packets, scan_rows>(p, 0, col);
  if (col == p.cols) return;
  if constexpr (Packets > 1) {
    scan_columns<N, Packets / 2>(p, col);
  } else if constexpr (N > 1) {
    scan_columns<narrower<S, N>, 1>(p, col);
  }
}

/// A single token: all rows of the state pass through registers once, and y stays there.
/// The state is multiplied by `before` and `after` if Scales.
template <int N, int Packets, bool Scales, class S>
void step_columns(const Scan<S> p, Index col) {
  using P = Packet<S, N>;
  const P before = P::all(p.before), after = P::all(p.after);
  for (; col + Index(Packets) * N <= p.cols; col += Index(Packets) * N) {
    Registers<P, Packets> value, sum;
    S* y = p.out.data + col;
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      value[j] = P::load(p.values.data + col + j * N);
      sum[j] = p.adds ? P::load(y + j * N) : P::all(S(0));
    }
    S* at = p.state + col;
    for (Index i = 0; i < p.rows; ++i, at += p.cols) {
      const P write = P::all(p.writes.data[i]), read = P::all(p.reads.data[i]);
      GMA_UNROLL
      for (int j = 0; j < Packets; ++j) {
        P x = P::load(at + j * N);
        if constexpr (Scales) x = x * before;
        x = multiply_add(write, value[j], x);
        sum[j] = multiply_add(read, x, sum[j]);
        if constexpr (Scales) x = x * after;
        x.store(at + j * N);
      }
    }
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) sum[j].store(y + j * N);
  }
  if (col == p.cols) return;
  if constexpr (Packets > 1) {
    step_columns<N, Packets / 2, Scales>(p, col);
  } else if constexpr (N > 1) {
    step_columns<narrower<S, N>, 1, Scales>(p, col);
  }
}

inline constexpr int step_packets = registers >= 32 ? 8 : 4;

template <class S>
void step(const Scan<S>& p) {
  if (p.before == S(0)) std::fill_n(p.state, p.rows * p.cols, S(0));
  if (!(p.before == S(1) && p.after == S(1))) {
    step_columns<widest<S>, step_packets, true>(p, 0);
    if (p.after == S(0)) std::fill_n(p.state, p.rows * p.cols, S(0));
  } else {
    step_columns<widest<S>, step_packets, false>(p, 0);
  }
}

/// Tokens of which the four rows stay in the first-level cache while the blocks of the state pass over them.
inline constexpr Index scan_tokens = registers >= 32 ? 64 : 48;

template <class S>
void scan(const Scan<S>& p) {
  Scan<S> part = p;
  for (Index begin = 0; begin < p.tokens; begin += scan_tokens) {
    part.tokens = p.tokens - begin < scan_tokens ? p.tokens - begin : scan_tokens;
    part.before = begin == 0 ? p.before : S(1);
    part.after = begin + part.tokens == p.tokens ? p.after : S(1);
    scan_columns<widest<S>, scan_packets>(part, 0);
    part.writes.data += scan_tokens * p.writes.stride;
    part.values.data += scan_tokens * p.values.stride;
    part.reads.data += scan_tokens * p.reads.stride;
    part.out.data += scan_tokens * p.out.stride;
  }
}

}  // namespace packets

template <class S>
void scan(const Scan<S>& p) {
  if constexpr (has_packets<S>) {
    if (p.tokens == 1) {
      packets::step(p);
    } else {
      packets::scan(p);
    }
  } else {
    plain::scan(p);
  }
}

}  // namespace gma::kernels
