// SPDX-License-Identifier: MIT
// The causal recurrence where every slot forgets at its own rate: at token t row k of the state is multiplied by
// lambda_tk before it is written and read,
//   s_k <- lambda_tk s_k + a_tk v_t        y_t = sum_k c_tk s_k
// A block of the state stays in registers over all tokens, as in scan.hpp. No factor is ever divided by, so that any
// lambda down to 0 is exact, and a token does the same operations wherever a stream is cut: the bits are the same.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "gma/core/numeric.hpp"
#include "gma/core/types.hpp"
#include "gma/kernels/decay.hpp"
#include "gma/kernels/packets.hpp"
#include "gma/kernels/rows.hpp"
#include "gma/kernels/scan.hpp"

namespace gma::kernels {

/// lambda = exp(l), l <= 0, as one number c, so that a row of them is read in packets. As in Decay, one above 1/2 is
/// stored as lambda - 1:
///   c <= 0       s <- s + c s      nothing is forgotten where c is 0
///   0 < c < 1    s <- c s
///   c = 2        s <- 0, NaN included
inline constexpr double restart_code = 2;
inline constexpr double log_half = -0.6931471805599453;

template <class S>
S slot_decay_of(const S& log_decay) {
  const Decay<S> decay = decay_of(log_decay);
  return decay.restarts() ? S(restart_code) : decay.factor;
}
template <class S>
S slot_decayed(const S& code, const S& s) {
  if (code > S(1)) return S(0);
  return code > S(0) ? S(code * s) : S(s + code * s);
}
/// lambda itself.
template <class S>
S slot_lambda(const S& code) {
  if (code > S(1)) return S(0);
  return code > S(0) ? code : S(S(1) + code);
}

/// The decays of a tile of tokens over `cols` slots. A token of weight 0 forgets nothing.
template <class S>
struct SlotDecays {
  Index tokens, cols;
  const S* weights;               // null: ones
  const S* common;                // g, which all slots have; null: zeros
  TokenPointer<const S> by_slot;  // l less g, `cols` numbers per token
  TokenPointer<S> codes;          // out
  S* is_far;                      // out, per token: 1 where a code is above 0, else 0
  S* largest;                     // out, per token: the largest l, that of the slot that forgets least
};

/// Masses and coefficients, as in Masses, without factors. A mass that falls below `vanished` becomes 0 with its slot:
/// the token's code is then a restart, and its write 0.
///   m <- lambda m + w rk        none  c = rq        slot  c = rq / m        row  c = rq / (rq . m)
template <class S>
struct SlotMasses {
  Normalization normalization;
  Index tokens, cols;
  const S* weights;                              // w, null: ones
  TokenPointer<S> codes;                         // of SlotDecays
  S* is_far;                                     // of SlotDecays
  TokenPointer<const S> query_responsibilities;  // data null: nothing is read
  TokenPointer<const S> key_responsibilities;
  TokenPointer<S> reads, writes;  // may be the memory of the responsibilities
  S *mass, *remainder;            // remainder null: none
  TokenPointer<S> masses;         // m after every token; data null: not stored
  double vanished;                // 0: no mass vanishes
};

/// The recurrence over at least one token.
template <class S>
struct SlotScan {
  Index tokens, rows, cols;
  TokenPointer<const S> writes, values, reads;  // as in Scan; the data of reads null: nothing is read
  TokenPointer<const S> codes;                  // `rows` numbers per token
  const S* is_far;                              // per token
  TokenPointer<S> out;                          // y, `cols` numbers per token, assigned
  S *state, *remainder;                         // rows x cols, without gaps; remainder null: none
};

namespace plain {

template <class S>
void slot_decays(const SlotDecays<S>& p) {
  for (Index t = 0; t < p.tokens; ++t) {
    const S* logs = p.by_slot.data + t * p.by_slot.stride;
    S* codes = p.codes.data + t * p.codes.stride;
    const bool is_present = p.weights == nullptr || p.weights[t] > S(0);
    p.is_far[t] = p.largest[t] = S(0);
    for (Index k = 0; k < p.cols; ++k) {
      const S log = is_present ? S(p.common == nullptr ? logs[k] : S(logs[k] + p.common[t])) : S(0);
      codes[k] = slot_decay_of(log);
      if (codes[k] > S(0)) p.is_far[t] = S(1);
      if (k == 0 || log > p.largest[t]) p.largest[t] = log;
    }
  }
}

/// high + low <- lambda (high + low) + change; low null: none. Where lambda is below 1/2, what low holds is below the
/// rounding of what comes and is dropped.
template <class S>
void slot_settle(const S& code, const S& change, S& high, S* low) {
  if (low == nullptr) {
    high = slot_decayed(code, high) + change;
    return;
  }
  const bool is_near = !(code > S(0));
  const S before = is_near ? high : slot_decayed(code, high);
  const S d = is_near ? S(high * code + S(change + *low)) : change;
  high = before + d;
  *low = d - (high - before);
}

/// Slots that vanish at a token. Where none does nothing is written.
template <class S>
void drop_vanished(const SlotMasses<S>& p, Index t) {
  S *codes = p.codes.data + t * p.codes.stride, *writes = p.writes.data + t * p.writes.stride;
  for (Index k = 0; k < p.cols; ++k) {
    if (!(p.mass[k] > S(0) && p.mass[k] < S(p.vanished))) continue;
    p.mass[k] = writes[k] = S(0);
    if (p.remainder != nullptr) p.remainder[k] = S(0);
    codes[k] = S(restart_code);
    p.is_far[t] = S(1);
  }
}

template <class S>
void slot_masses(const SlotMasses<S>& p) {
  for (Index t = 0; t < p.tokens; ++t) {
    const S* r = p.key_responsibilities.data + t * p.key_responsibilities.stride;
    S *codes = p.codes.data + t * p.codes.stride, *writes = p.writes.data + t * p.writes.stride;
    for (Index k = 0; k < p.cols; ++k) {
      writes[k] = p.weights == nullptr ? r[k] : S(r[k] * p.weights[t]);
      slot_settle(codes[k], writes[k], p.mass[k], p.remainder == nullptr ? nullptr : p.remainder + k);
    }
    if (p.vanished > 0) drop_vanished(p, t);
    if (p.masses.data != nullptr) std::copy_n(p.mass, p.cols, p.masses.data + t * p.masses.stride);
    if (p.query_responsibilities.data == nullptr) continue;
    const S* q = p.query_responsibilities.data + t * p.query_responsibilities.stride;
    S* reads = p.reads.data + t * p.reads.stride;
    S z(0);
    for (Index k = 0; k < p.cols; ++k) z += q[k] * p.mass[k];
    const S of_row = p.normalization == Normalization::row ? S(S(1) / gma::detail::divisor(z)) : S(1);
    for (Index k = 0; k < p.cols; ++k) {
      reads[k] = p.normalization == Normalization::slot ? S(q[k] / gma::detail::divisor(p.mass[k])) : S(q[k] * of_row);
    }
  }
}

template <class S>
void slot_scan(const SlotScan<S>& p) {
  for (Index t = 0; t < p.tokens; ++t) {
    const S *a = p.writes.data + t * p.writes.stride, *v = p.values.data + t * p.values.stride;
    const S* codes = p.codes.data + t * p.codes.stride;
    const S* c = p.reads.data == nullptr ? nullptr : p.reads.data + t * p.reads.stride;
    S* y = c == nullptr ? nullptr : p.out.data + t * p.out.stride;
    if (y != nullptr) std::fill_n(y, p.cols, S(0));
    for (Index k = 0; k < p.rows; ++k) {
      for (Index j = 0; j < p.cols; ++j) {
        const Index at = k * p.cols + j;
        slot_settle(codes[k], S(a[k] * v[j]), p.state[at], p.remainder == nullptr ? nullptr : p.remainder + at);
        if (y != nullptr) y[j] += c[k] * p.state[at];
      }
    }
  }
}

}  // namespace plain

namespace packets {

/// exp(l) - 1 for -log 2 <= l <= 0, to one unit in the last place: l times the series of (exp(l) - 1) / l.
template <class S, int N>
EIGEN_STRONG_INLINE Packet<S, N> exp_less_one(const Packet<S, N>& l) {
  constexpr int terms = std::is_same_v<S, float> ? 9 : 17;
  double coefficient = 1;
  for (int n = 2; n <= terms; ++n) coefficient /= n;
  Packet<S, N> sum = Packet<S, N>::all(S(coefficient));
  GMA_UNROLL
  for (int n = terms; n > 1; --n) {
    coefficient *= n;
    sum = multiply_add(sum, l, Packet<S, N>::all(S(coefficient)));
  }
  return sum * l;
}

/// Codes of a packet of logs, any of them. Below the normal numbers a decay is a restart.
template <class S, int N>
EIGEN_STRONG_INLINE Packet<S, N> slot_code(const Packet<S, N>& l) {
  using P = Packet<S, N>;
  const P half = P::all(S(log_half)), least = P::all(std::is_same_v<S, float> ? S(-87) : S(-708));
  const P near_one = where_greater(l, half, exp_less_one(larger(l, half)));
  const P e = exp_of_negative(larger(l, least));
  const P below = where_greater(l, least, e - where_greater(l, half, e));
  const P code = P::all(S(restart_code));
  return near_one + below + (code - where_greater(l, least, code));
}

template <class S>
void slot_decays(const SlotDecays<S>& p) {
  for (Index t = 0; t < p.tokens; ++t) {
    const S* logs = p.by_slot.data + t * p.by_slot.stride;
    S* codes = p.codes.data + t * p.codes.stride;
    p.is_far[t] = p.largest[t] = S(0);
    if (p.weights != nullptr && !(p.weights[t] > S(0))) {
      std::fill_n(codes, p.cols, S(0));
      continue;
    }
    const S common = p.common == nullptr ? S(0) : p.common[t];
    S largest = -std::numeric_limits<S>::infinity(), least = S(0);
    for_each_packet<S>(p.cols, [&](Index k, auto width) {
      using P = Packet<S, width.value>;
      const P l = P::load(logs + k) + P::all(common);
      l.store(codes + k);
      largest = (std::max)(largest, l.largest());
      least = (std::min)(least, -(P::all(S(0)) - l).largest());
    });
    p.largest[t] = largest;
    const bool is_near = least > S(log_half);
    p.is_far[t] = is_near ? S(0) : S(1);
    for_each_packet<S>(p.cols, [&](Index k, auto width) {
      using P = Packet<S, width.value>;
      const P l = P::load(codes + k);
      (is_near ? exp_less_one(l) : slot_code(l)).store(codes + k);
    });
  }
}

/// s where the code is near one, and what is multiplied by the code: s, or 0 at a restart.
template <class S, int N>
struct SlotParts {
  Packet<S, N> base, scaled;
};
template <class S, int N>
EIGEN_STRONG_INLINE SlotParts<S, N> slot_parts(const Packet<S, N>& code, const Packet<S, N>& s) {
  using P = Packet<S, N>;
  return {where_greater(P::all((std::numeric_limits<S>::min)()), code, s), where_greater(P::all(S(1)), code, s)};
}

template <class S>
void slot_masses(const SlotMasses<S>& p) {
  for (Index t = 0; t < p.tokens; ++t) {
    const S* r = p.key_responsibilities.data + t * p.key_responsibilities.stride;
    S *codes = p.codes.data + t * p.codes.stride, *writes = p.writes.data + t * p.writes.stride;
    const S weight = p.weights == nullptr ? S(1) : p.weights[t];
    for_each_packet<S>(p.cols, [&](Index k, auto width) {
      using P = Packet<S, width.value>;
      P change = P::load(r + k) * P::all(weight);
      change.round_here();
      change.store(writes + k);
      const P code = P::load(codes + k);
      const auto [base, scaled] = slot_parts(code, P::load(p.mass + k));
      if (p.remainder == nullptr) {
        (multiply_add(scaled, code, base) + change).store(p.mass + k);
        return;
      }
      const P d = multiply_add(scaled, code, change + slot_parts(code, P::load(p.remainder + k)).base);
      const P next = base + d;
      (d - (next - base)).store(p.remainder + k);
      next.store(p.mass + k);
    });
    if (p.vanished > 0 && any_between_zero_and(S(p.vanished), p.mass, p.cols)) plain::drop_vanished(p, t);
    if (p.masses.data != nullptr) std::copy_n(p.mass, p.cols, p.masses.data + t * p.masses.stride);
    if (p.query_responsibilities.data == nullptr) continue;
    const S* q = p.query_responsibilities.data + t * p.query_responsibilities.stride;
    S* reads = p.reads.data + t * p.reads.stride;
    const bool by_slot = p.normalization == Normalization::slot;
    S of_row(1);
    if (p.normalization == Normalization::row) of_row /= gma::detail::divisor(packets::dot(q, p.mass, p.cols));
    for_each_packet<S>(p.cols, [&](Index k, auto width) {
      using P = Packet<S, width.value>;
      const P over = by_slot ? reciprocal(larger(P::load(p.mass + k), P::all(S(tiny_mass)))) : P::all(of_row);
      (P::load(q + k) * over).store(reads + k);
    });
  }
}

/// One row of a block at one token, in registers. IsNear: the code is known to be 0 or less.
template <bool Remembers, int N, int Packets, class S>
EIGEN_STRONG_INLINE void slot_row(const S& code, bool is_near, const Packet<S, N>& write,
                                  const Registers<Packet<S, N>, Packets>& value,
                                  Registers<Packet<S, N>, Packets>& state,
                                  Registers<Packet<S, N>, Packets>& remainder) {
  using P = Packet<S, N>;
  const P factor = P::all(code);
  if (is_near) {
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      if constexpr (Remembers) {
        const P d = multiply_add(state[j], factor, multiply_add(write, value[j], remainder[j]));
        const P next = state[j] + d;
        remainder[j] = d - (next - state[j]);
        state[j] = next;
      } else {
        state[j] = multiply_add(write, value[j], multiply_add(state[j], factor, state[j]));
      }
    }
    return;
  }
  const bool is_restart = code > S(1);
  GMA_UNROLL
  for (int j = 0; j < Packets; ++j) {
    P left = is_restart ? P::all(S(0)) : state[j] * factor;
    left.round_here();
    if constexpr (Remembers) {
      P d = write * value[j];
      d.round_here();
      state[j] = left + d;
      remainder[j] = d - (state[j] - left);
    } else {
      state[j] = multiply_add(write, value[j], left);
    }
  }
}

template <bool Reads, bool Remembers, int N, int Rows, int Packets, class S>
EIGEN_STRONG_INLINE void slot_block(const SlotScan<S> p, Index row, Index col) {
  using P = Packet<S, N>;
  Registers<P, Rows, Packets> state, low;
  const Index start = row * p.cols + col;
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      state[i][j] = P::load(p.state + start + i * p.cols + j * N);
      if constexpr (Remembers) low[i][j] = P::load(p.remainder + start + i * p.cols + j * N);
    }
  }
  const S *a = p.writes.data + row, *v = p.values.data + col, *codes = p.codes.data + row;
  const S* c = Reads ? p.reads.data + row : nullptr;
  S* y = Reads ? p.out.data + col : nullptr;
  GMA_ROLLED
  for (Index t = 0; t < p.tokens; ++t) {
    Registers<P, Packets> value, sum;
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      value[j] = P::load(v + j * N);
      value[j].keep();
      if constexpr (Reads) sum[j] = row == 0 ? P::all(S(0)) : P::load(y + j * N);
    }
    const bool is_near = p.is_far[t] == S(0);
    if (is_near) {
      GMA_UNROLL
      for (int i = 0; i < Rows; ++i) {
        slot_row<Remembers, N, Packets>(codes[i], true, P::all(a[i]), value, state[i], low[i]);
      }
    } else {
      GMA_UNROLL
      for (int i = 0; i < Rows; ++i) {
        slot_row<Remembers, N, Packets>(codes[i], !(codes[i] > S(0)), P::all(a[i]), value, state[i], low[i]);
      }
    }
    if constexpr (Reads) {
      GMA_UNROLL
      for (int i = 0; i < Rows; ++i) {
        const P read = P::all(c[i]);
        GMA_UNROLL
        for (int j = 0; j < Packets; ++j) sum[j] = multiply_add(read, state[i][j], sum[j]);
      }
      GMA_UNROLL
      for (int j = 0; j < Packets; ++j) sum[j].store(y + j * N);
      c += p.reads.stride;
      y += p.out.stride;
    }
    a += p.writes.stride;
    v += p.values.stride;
    codes += p.codes.stride;
  }
  GMA_UNROLL
  for (int i = 0; i < Rows; ++i) {
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      state[i][j].store(p.state + start + i * p.cols + j * N);
      if constexpr (Remembers) low[i][j].store(p.remainder + start + i * p.cols + j * N);
    }
  }
}

template <bool Reads, bool Remembers, int N, int Packets, int Rows, class S>
void slot_panel(const SlotScan<S>& p, Index row, Index col) {
  for (; row + Rows <= p.rows; row += Rows) slot_block<Reads, Remembers, N, Rows, Packets>(p, row, col);
  if constexpr (Rows > 1) {
    if (row < p.rows) slot_panel<Reads, Remembers, N, Packets, Rows / 2>(p, row, col);
  }
}

template <bool Reads, bool Remembers, int N, int Packets, class S>
void slot_columns(const SlotScan<S>& p, Index col) {
  constexpr int rows = Remembers && registers < 32 ? scan_rows / 2 : scan_rows;
  for (; col + Index(Packets) * N <= p.cols; col += Index(Packets) * N) {
    slot_panel<Reads, Remembers, N, Packets, rows>(p, 0, col);
  }
  if (col == p.cols) return;
  if constexpr (Packets > 1) {
    slot_columns<Reads, Remembers, N, Packets / 2>(p, col);
  } else if constexpr (N > 1) {
    slot_columns<Reads, Remembers, narrower<S, N>, 1>(p, col);
  }
}

template <class S>
void slot_scan(const SlotScan<S>& p) {
  constexpr int packets = scan_packets, fewer = registers >= 32 ? scan_packets / 2 : scan_packets;
  SlotScan<S> part = p;
  for (Index begin = 0; begin < p.tokens; begin += scan_tokens) {
    part.tokens = (std::min)(scan_tokens, p.tokens - begin);
    if (p.reads.data == nullptr) {
      if (p.remainder == nullptr) {
        slot_columns<false, false, widest<S>, packets>(part, 0);
      } else {
        slot_columns<false, true, widest<S>, fewer>(part, 0);
      }
    } else if (p.remainder == nullptr) {
      slot_columns<true, false, widest<S>, packets>(part, 0);
    } else {
      slot_columns<true, true, widest<S>, fewer>(part, 0);
    }
    part.writes.data += scan_tokens * p.writes.stride;
    part.values.data += scan_tokens * p.values.stride;
    part.codes.data += scan_tokens * p.codes.stride;
    part.is_far += scan_tokens;
    if (p.reads.data == nullptr) continue;
    part.reads.data += scan_tokens * p.reads.stride;
    part.out.data += scan_tokens * p.out.stride;
  }
}

}  // namespace packets

template <class S>
void slot_decays(const SlotDecays<S>& p) {
  if constexpr (has_packets<S>) {
    packets::slot_decays(p);
  } else {
    plain::slot_decays(p);
  }
}

template <class S>
void slot_masses(const SlotMasses<S>& p) {
  if constexpr (has_packets<S>) {
    packets::slot_masses(p);
  } else {
    plain::slot_masses(p);
  }
}

template <class S>
void slot_scan(const SlotScan<S>& p) {
  if constexpr (has_packets<S>) {
    packets::slot_scan(p);
  } else {
    plain::slot_scan(p);
  }
}

}  // namespace gma::kernels
