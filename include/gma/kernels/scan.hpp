// SPDX-License-Identifier: MIT
// The causal recurrence, without any work that grows with the tile. A block of the state stays in registers over all
// tokens; each token writes to it and then reads it,
//   s <- s + a_t^T v_t        y_t = c_t s
// The cost is 2 K e multiply-adds per token and the loads. With other rows in the three roles, and the tokens in
// reverse order, the same loop is each part of the backward pass (gma/attention/DERIVATION.md).
#pragma once

#include <algorithm>

#include "gma/core/types.hpp"
#include "gma/kernels/decay.hpp"
#include "gma/kernels/packets.hpp"
#include "gma/kernels/rows.hpp"

namespace gma::kernels {

/// Rows of a token matrix. A negative stride runs from the last token to the first.
template <class S>
struct TokenPointer {
  S* data;
  Index stride;
};

/// One run of tokens, at least one, over a state of rows x cols numbers.
template <class S>
struct Scan {
  Index tokens, rows, cols;
  TokenPointer<const S> writes;  // a, `rows` numbers per token
  TokenPointer<const S> values;  // v, `cols` numbers per token
  TokenPointer<const S> reads;   // c, `rows` numbers per token
  TokenPointer<S> out;           // y, `cols` numbers per token
  S* state;                      // rows x cols, without gaps
  Decay<S> before = {};          // applied to the state on entry; 0 clears it, NaN included
  Decay<S> after = {};           // applied to the state on exit
  bool adds = false;             // adds to y; else y is assigned
};

namespace plain {

template <class S>
void scan(const Scan<S>& p) {
  Eigen::Map<Matrix<S>> state(p.state, p.rows, p.cols);
  using Row = Eigen::Map<const RowVector<S>>;
  const auto scale = [&](const Decay<S>& decay) {
    if (!decay.is_one()) state = state.unaryExpr([&](const S& s) { return decay.of(s); });
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

template <class S>
void decay_all(const Decay<S>& decay, S* values, Index count) {
  for (Index k = 0; k < count && !decay.is_one(); ++k) values[k] = decay.of(values[k]);
}

template <class S>
void settle(const Decay<S>& decay, const S* change, Index count, S* high, S* low) {
  for (Index i = 0; i < count; ++i) {
    const S before = decay.near_one ? high[i] : decay.of(high[i]);
    const S d = decay.of(low[i]) + (decay.near_one ? S(high[i] * decay.factor + change[i]) : change[i]);
    high[i] = before + d;
    low[i] = d - (high[i] - before);
  }
}

template <class S>
void compensated_step(const Scan<S>& p, S* remainder, const S& left) {
  plain::decay_all(p.before.restarts() ? p.before : Decay<S>(), p.state, p.rows * p.cols);
  Eigen::Map<Matrix<S>> state(p.state, p.rows, p.cols);
  Eigen::Map<RowVector<S>> y(p.out.data, p.cols);
  const Eigen::Map<const RowVector<S>> a(p.writes.data, p.rows), v(p.values.data, p.cols), c(p.reads.data, p.rows);
  const Matrix<S> change = a.transpose() * v;
  y = c * change + (c * state) * left;
  plain::settle(p.before, change.data(), change.size(), p.state, remainder);
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
  const P before = P::all(p.before.factor), after = P::all(p.after.factor);
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      state[i][j] =
          p.before.restarts() ? P::all(S(0)) : decayed(P::load(at + i * p.cols + j * N), before, p.before.near_one);
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
      const P x = p.after.restarts() ? P::all(S(0)) : decayed(state[i][j], after, p.after.near_one);
      x.store(at + i * p.cols + j * N);
    }
  }
}

/// A panel of columns, all rows of the state: whole blocks first, then half blocks.
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

/// A single token. All rows of the state pass through registers once, and y stays there. Decays: the state is
/// multiplied by `before`.
template <int N, int Packets, bool Decays, class S>
void step_columns(const Scan<S> p, Index col) {
  using P = Packet<S, N>;
  const bool near_one = p.before.near_one;
  const P factor = P::all(p.before.factor);
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
        if constexpr (Decays) x = decayed(x, factor, near_one);
        x = multiply_add(write, value[j], x);
        sum[j] = multiply_add(read, x, sum[j]);
        x.store(at + j * N);
      }
    }
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) sum[j].store(y + j * N);
  }
  if (col == p.cols) return;
  if constexpr (Packets > 1) {
    step_columns<N, Packets / 2, Decays>(p, col);
  } else if constexpr (N > 1) {
    step_columns<narrower<S, N>, 1, Decays>(p, col);
  }
}

/// A single token and a state of two parts, state + remainder. y is what the token itself adds, plus the old state
/// after the decay, read. The operations, and so the bits, are those of a scan from zero and a product with the state.
template <int N, int Packets, bool Decays, class S>
void compensated_columns(const Scan<S> p, S* remainder, const S& left, Index col) {
  using P = Packet<S, N>;
  [[maybe_unused]] const bool near_one = p.before.near_one;
  [[maybe_unused]] const P factor = P::all(p.before.factor);
  for (; col + Index(Packets) * N <= p.cols; col += Index(Packets) * N) {
    Registers<P, Packets> value, old, own;
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      value[j] = P::load(p.values.data + col + j * N);
      old[j] = own[j] = P::all(S(0));
    }
    S *at = p.state + col, *low = remainder + col;
    for (Index i = 0; i < p.rows; ++i, at += p.cols, low += p.cols) {
      const P write = P::all(p.writes.data[i]), read = P::all(p.reads.data[i]);
      GMA_UNROLL
      for (int j = 0; j < Packets; ++j) {
        P x = P::load(at + j * N), rest = P::load(low + j * N);
        const P change = multiply_add(write, value[j], P::all(S(0)));
        old[j] = multiply_add(read, x, old[j]);
        own[j] = multiply_add(read, change, own[j]);
        if constexpr (Decays) rest = near_one ? multiply_add(x, factor, decayed(rest, factor, true)) : rest * factor;
        const P d = rest + change;
        if constexpr (Decays) x = near_one ? x : x * factor;
        const P next = x + d;
        (d - (next - x)).store(low + j * N);
        next.store(at + j * N);
      }
    }
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      if constexpr (Decays) old[j] = old[j] * P::all(left);
      old[j].round_here();
      (own[j] + old[j]).store(p.out.data + col + j * N);
    }
  }
  if (col == p.cols) return;
  if constexpr (Packets > 1) {
    compensated_columns<N, Packets / 2, Decays>(p, remainder, left, col);
  } else if constexpr (N > 1) {
    compensated_columns<narrower<S, N>, 1, Decays>(p, remainder, left, col);
  }
}

inline constexpr int step_packets = registers >= 32 ? 8 : 4;

template <class S>
void step(const Scan<S>& p) {
  if (p.before.restarts()) std::fill_n(p.state, p.rows * p.cols, S(0));
  if (p.before.is_one()) {
    step_columns<widest<S>, step_packets, false>(p, 0);
  } else {
    step_columns<widest<S>, step_packets, true>(p, 0);
  }
}

template <class S>
void compensated_step(const Scan<S>& p, S* remainder, const S& left) {
  if (p.before.restarts()) {
    std::fill_n(p.state, p.rows * p.cols, S(0));
    std::fill_n(remainder, p.rows * p.cols, S(0));
  }
  if (p.before.is_one()) {
    compensated_columns<widest<S>, step_packets / 2, false>(p, remainder, left, 0);
  } else {
    compensated_columns<widest<S>, step_packets / 2, true>(p, remainder, left, 0);
  }
}

template <class S>
void decay_all(const Decay<S>& decay, S* values, Index count) {
  if (decay.is_one()) return;
  if (decay.restarts()) {
    std::fill_n(values, count, S(0));
    return;
  }
  for_each_packet<S>(count, [&](Index k, auto width) {
    using P = Packet<S, width.value>;
    decayed(P::load(values + k), P::all(decay.factor), decay.near_one).store(values + k);
  });
}

template <int N, class S>
EIGEN_STRONG_INLINE void settle(const Decay<S>& decay, const S* change, Index i, S* high, S* low) {
  using P = Packet<S, N>;
  const P factor = P::all(decay.factor);
  P x = P::load(high + i);
  P d = decayed(P::load(low + i), factor, decay.near_one) + P::load(change + i);
  if (decay.near_one) {
    d = multiply_add(x, factor, d);
  } else {
    x = x * factor;
  }
  const P next = x + d;
  (d - (next - x)).store(low + i);
  next.store(high + i);
}

template <class S>
void settle(const Decay<S>& decay, const S* change, Index count, S* high, S* low) {
  if (decay.restarts()) {
    std::copy_n(change, count, high);
    std::fill_n(low, count, S(0));
    return;
  }
  for_each_packet<S>(count, [&](Index i, auto width) { settle<width.value>(decay, change, i, high, low); });
}

/// Tokens whose four rows stay in the first-level cache while the blocks of the state pass over them.
inline constexpr Index scan_tokens = registers >= 32 ? 64 : 48;

template <class S>
void scan(const Scan<S>& p) {
  Scan<S> part = p;
  for (Index begin = 0; begin < p.tokens; begin += scan_tokens) {
    part.tokens = p.tokens - begin < scan_tokens ? p.tokens - begin : scan_tokens;
    part.before = begin == 0 ? p.before : Decay<S>();
    part.after = begin + part.tokens == p.tokens ? p.after : Decay<S>();
    scan_columns<widest<S>, scan_packets>(part, 0);
    part.writes.data += scan_tokens * p.writes.stride;
    part.values.data += scan_tokens * p.values.stride;
    part.reads.data += scan_tokens * p.reads.stride;
    part.out.data += scan_tokens * p.out.stride;
  }
}

}  // namespace packets

/// s <- before s, then the recurrence over the tokens, then s <- after s.
template <class S>
void scan(const Scan<S>& p) {
  if (p.rows == 0) {  // y is an empty sum, and no block of the state would assign it
    for (Index t = 0; t < p.tokens && !p.adds; ++t) std::fill_n(p.out.data + t * p.out.stride, p.cols, S(0));
    return;
  }
  if constexpr (has_packets<S>) {
    if (p.tokens == 1 && p.after.is_one()) {
      packets::step(p);
    } else {
      packets::scan(p);
    }
  } else {
    plain::scan(p);
  }
}

/// The same for a single token and a state of two parts, state + remainder (rows x cols, without gaps). `after` is one,
/// and y is assigned. `left` is `before` as one number: the part of the old state that is left when it is read.
template <class S>
void compensated_step(const Scan<S>& p, S* remainder, const S& left) {
  if constexpr (has_packets<S>) {
    packets::compensated_step(p, remainder, left);
  } else {
    plain::compensated_step(p, remainder, left);
  }
}

/// values *= decay, for `count` numbers.
template <class S>
void decay_all(const Decay<S>& decay, S* values, Index count) {
  if constexpr (has_packets<S>) {
    packets::decay_all(decay, values, count);
  } else {
    plain::decay_all(decay, values, count);
  }
}

/// high + low <- decay (high + low) + change, for `count` numbers each. It is the sum of two numbers that a long stream
/// needs; its error is about the square of one number's rounding error.
template <class S>
void settle(const Decay<S>& decay, const S* change, Index count, S* high, S* low) {
  if constexpr (has_packets<S>) {
    packets::settle(decay, change, count, high, low);
  } else {
    plain::settle(decay, change, count, high, low);
  }
}

}  // namespace gma::kernels
