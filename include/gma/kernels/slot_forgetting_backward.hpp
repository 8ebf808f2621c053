// SPDX-License-Identifier: MIT
// Backward of the recurrence in slot_forgetting.hpp. States are transposed here, one row per value's number and one
// column per slot, so that what is summed over a value comes in packets of slots. Forward the state after every token
// is kept; on the way back a token needs the states before and after it and the running gradient D of the state.
#pragma once

#include <algorithm>

#include "gma/kernels/slot_forgetting.hpp"

namespace gma::kernels {

/// The recurrence again: state number t + 1 is that after token t, or, unless they are kept, one state is overwritten.
template <class S>
struct SlotReplay {
  Index tokens, rows, cols;                     // rows: numbers of a value; cols: slots
  TokenPointer<const S> writes, values, codes;  // as in SlotScan
  const S* is_far;
  S* states;  // rows x cols each, without gaps
  bool keeps;
};

/// One token, with M its state, M' that before it, and D + D' the gradient of M, D' the remainder, as the token after
/// it left them. With D <- lambda_k D + dy c^T, lambda the decays of the token after, it gives, over all slots k,
///   dc_k = M_k . dy       dw_k = D_k . v       da_k = M'_k . D_k       dv = sum_k a_k D_k
/// dv is assigned.
template <class S>
struct SlotTokenBackward {
  Index rows, cols;
  const S *before, *after;                        // M' and M, rows x cols
  const S *reads, *writes, *codes, *value, *d_y;  // c, a, `cols` each; codes of the token after; v and dy, `rows`
  S *gradient, *remainder;                        // D and D', rows x cols; D' null: none
  S *d_reads, *d_writes, *d_decays, *d_value;     // dc, dw, da and dv
};

/// The masses' part of a token, with E + E' the gradient of the mass m as the token after it left it, e what the token
/// reads of it, and m' the mass before the token:
///   dw_k += lambda'_k E_k        E_k <- lambda'_k E_k + e_k        da_k <- lambda_k (da_k + m'_k E_k)
/// lambda is the token's, lambda' that of the token after it. da is then the gradient of the log-forgetting.
template <class S>
struct SlotMassBackward {
  Index cols;
  const S *next_codes, *codes, *added, *mass;  // of lambda' and lambda; e; m'
  S *d_mass, *remainder;                       // E and E'; E' null: none
  S *d_writes, *d_decays;                      // dw less e, and da
};

namespace plain {

template <class S>
void slot_mass_backward(const SlotMassBackward<S>& p) {
  for (Index k = 0; k < p.cols; ++k) {
    p.d_writes[k] += slot_decayed(p.next_codes[k], p.d_mass[k]);
    slot_settle(p.next_codes[k], p.added[k], p.d_mass[k], p.remainder == nullptr ? nullptr : p.remainder + k);
    const S product = p.d_decays[k] + p.mass[k] * p.d_mass[k];
    p.d_decays[k] = p.codes[k] > S(1) ? S(0) : S(slot_lambda(p.codes[k]) * product);
  }
}

template <class S>
void slot_replay(const SlotReplay<S>& p) {
  for (Index t = 0; t < p.tokens; ++t) {
    const S *from = p.keeps ? p.states + t * p.rows * p.cols : p.states, *a = p.writes.data + t * p.writes.stride;
    const S *v = p.values.data + t * p.values.stride, *codes = p.codes.data + t * p.codes.stride;
    S* to = p.keeps ? p.states + (t + 1) * p.rows * p.cols : p.states;
    for (Index i = 0; i < p.rows; ++i) {
      for (Index k = 0; k < p.cols; ++k)
        to[i * p.cols + k] = slot_decayed(codes[k], from[i * p.cols + k]) + v[i] * a[k];
    }
  }
}

template <class S>
void slot_token_backward(const SlotTokenBackward<S>& p) {
  for (S* sums : {p.d_reads, p.d_writes, p.d_decays}) std::fill_n(sums, p.cols, S(0));
  for (Index i = 0; i < p.rows; ++i) {
    S d_value(0);
    for (Index k = 0; k < p.cols; ++k) {
      const Index at = i * p.cols + k;
      S& d = p.gradient[at];
      slot_settle(p.codes[k], S(p.d_y[i] * p.reads[k]), d, p.remainder == nullptr ? nullptr : p.remainder + at);
      p.d_reads[k] += p.after[at] * p.d_y[i];
      p.d_writes[k] += d * p.value[i];
      p.d_decays[k] += p.before[at] * d;
      d_value += p.writes[k] * d;
    }
    p.d_value[i] = d_value;
  }
}

}  // namespace plain

namespace packets {

/// A packet of states after their decays.
template <class S, int N>
EIGEN_STRONG_INLINE Packet<S, N> slot_decayed(const Packet<S, N>& code, const Packet<S, N>& s, bool is_near) {
  if (is_near) return multiply_add(s, code, s);
  const SlotParts<S, N> parts = slot_parts(code, s);
  return multiply_add(parts.scaled, code, parts.base);
}

template <int N, int Packets, class S>
EIGEN_STRONG_INLINE void slot_replay_columns(const SlotReplay<S> p, Index t, Index col) {
  using P = Packet<S, N>;
  const Index size = p.rows * p.cols;
  const S* from = (p.keeps ? p.states + t * size : p.states) + col;
  S* to = (p.keeps ? p.states + (t + 1) * size : p.states) + col;
  const S *a = p.writes.data + t * p.writes.stride + col, *v = p.values.data + t * p.values.stride;
  const S* codes = p.codes.data + t * p.codes.stride + col;
  const bool is_near = p.is_far[t] == S(0);
  Registers<P, Packets> write, code;
  GMA_UNROLL
  for (int j = 0; j < Packets; ++j) {
    write[j] = P::load(a + j * N);
    code[j] = P::load(codes + j * N);
  }
  for (Index i = 0; i < p.rows; ++i, from += p.cols, to += p.cols) {
    const P value = P::all(v[i]);
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      multiply_add(value, write[j], slot_decayed(code[j], P::load(from + j * N), is_near)).store(to + j * N);
    }
  }
}

template <int N, int Packets, class S>
void slot_replay_token(const SlotReplay<S>& p, Index t, Index col) {
  for (; col + Index(Packets) * N <= p.cols; col += Index(Packets) * N) slot_replay_columns<N, Packets>(p, t, col);
  if (col == p.cols) return;
  if constexpr (Packets > 1) {
    slot_replay_token<N, Packets / 2>(p, t, col);
  } else if constexpr (N > 1) {
    slot_replay_token<narrower<S, N>, 1>(p, t, col);
  }
}

/// D <- lambda D + a b, and its remainder.
template <bool Remembers, class S, int N>
EIGEN_STRONG_INLINE Packet<S, N> slot_gradient(const Packet<S, N>& code, const Packet<S, N>& a, const Packet<S, N>& b,
                                               S* gradient, S* remainder, bool is_near) {
  using P = Packet<S, N>;
  const P old = P::load(gradient);
  if constexpr (!Remembers) {
    const P next = multiply_add(a, b, slot_decayed(code, old, is_near));
    next.store(gradient);
    return next;
  } else {
    P base = old, scaled = old, low = P::load(remainder);
    if (!is_near) {
      const SlotParts<S, N> parts = slot_parts(code, old);
      base = parts.base;
      scaled = parts.scaled;
      low = slot_parts(code, low).base;
    }
    const P d = multiply_add(scaled, code, multiply_add(a, b, low));
    const P next = base + d;
    (d - (next - base)).store(remainder);
    next.store(gradient);
    return next;
  }
}

/// Slots [col, col + Packets N) of the token: six rows of packets in registers and the sums over the value.
template <bool Remembers, int N, int Packets, class S>
EIGEN_STRONG_INLINE void slot_backward_columns(const SlotTokenBackward<S> p, Index col, bool is_near) {
  using P = Packet<S, N>;
  Registers<P, Packets> read, write, code, d_read, d_write, d_decay;
  GMA_UNROLL
  for (int j = 0; j < Packets; ++j) {
    read[j] = P::load(p.reads + col + j * N);
    write[j] = P::load(p.writes + col + j * N);
    code[j] = P::load(p.codes + col + j * N);
    d_read[j] = d_write[j] = d_decay[j] = P::all(S(0));
  }
  const S *after = p.after + col, *before = p.before + col;
  S *gradient = p.gradient + col, *remainder = Remembers ? p.remainder + col : nullptr;
  for (Index i = 0; i < p.rows; ++i, after += p.cols, before += p.cols, gradient += p.cols) {
    const P d_y = P::all(p.d_y[i]), value = P::all(p.value[i]);
    P sum = P::all(S(0));
    GMA_UNROLL
    for (int j = 0; j < Packets; ++j) {
      const P d = slot_gradient<Remembers>(code[j], d_y, read[j], gradient + j * N, remainder + j * N, is_near);
      d_read[j] = multiply_add(P::load(after + j * N), d_y, d_read[j]);
      d_write[j] = multiply_add(d, value, d_write[j]);
      d_decay[j] = multiply_add(P::load(before + j * N), d, d_decay[j]);
      sum = multiply_add(write[j], d, sum);
    }
    if constexpr (Remembers) remainder += p.cols;
    p.d_value[i] = (col == 0 ? S(0) : p.d_value[i]) + sum.sum();
  }
  GMA_UNROLL
  for (int j = 0; j < Packets; ++j) {
    d_read[j].store(p.d_reads + col + j * N);
    d_write[j].store(p.d_writes + col + j * N);
    d_decay[j].store(p.d_decays + col + j * N);
  }
}

template <bool Remembers, int N, int Packets, class S>
void slot_token_backward(const SlotTokenBackward<S>& p, Index col, bool is_near) {
  for (; col + Index(Packets) * N <= p.cols; col += Index(Packets) * N) {
    slot_backward_columns<Remembers, N, Packets>(p, col, is_near);
  }
  if (col == p.cols) return;
  if constexpr (Packets > 1) {
    slot_token_backward<Remembers, N, Packets / 2>(p, col, is_near);
  } else if constexpr (N > 1) {
    slot_token_backward<Remembers, narrower<S, N>, 1>(p, col, is_near);
  }
}

template <class S>
void slot_mass_backward(const SlotMassBackward<S>& p) {
  for_each_packet<S>(p.cols, [&](Index k, auto width) {
    using P = Packet<S, width.value>;
    const P next = P::load(p.next_codes + k), code = P::load(p.codes + k), added = P::load(p.added + k);
    const auto [base, scaled] = slot_parts(next, P::load(p.d_mass + k));
    const P before = multiply_add(scaled, next, base);
    (P::load(p.d_writes + k) + before).store(p.d_writes + k);
    P d_mass = before + added;
    if (p.remainder != nullptr) {
      const P d = multiply_add(scaled, next, added + slot_parts(next, P::load(p.remainder + k)).base);
      d_mass = base + d;
      (d - (d_mass - base)).store(p.remainder + k);
    }
    d_mass.store(p.d_mass + k);
    const auto [one, factor] = slot_parts(code, P::all(S(1)));
    const P product = multiply_add(P::load(p.mass + k), d_mass, P::load(p.d_decays + k));
    (multiply_add(factor, code, one) * slot_parts(code, product).scaled).store(p.d_decays + k);
  });
}

inline constexpr int slot_backward_packets = registers >= 32 ? 4 : 1;

}  // namespace packets

template <class S>
void slot_replay(const SlotReplay<S>& p) {
  if constexpr (has_packets<S>) {
    for (Index t = 0; t < p.tokens; ++t) packets::slot_replay_token<widest<S>, packets::slot_backward_packets>(p, t, 0);
  } else {
    plain::slot_replay(p);
  }
}

template <class S>
void slot_mass_backward(const SlotMassBackward<S>& p) {
  if constexpr (has_packets<S>) {
    packets::slot_mass_backward(p);
  } else {
    plain::slot_mass_backward(p);
  }
}

/// `is_near`: no code is above 0.
template <class S>
void slot_token_backward(const SlotTokenBackward<S>& p, bool is_near) {
  if constexpr (has_packets<S>) {
    if (p.remainder == nullptr) {
      packets::slot_token_backward<false, widest<S>, packets::slot_backward_packets>(p, 0, is_near);
    } else {
      packets::slot_token_backward<true, widest<S>, packets::slot_backward_packets>(p, 0, is_near);
    }
  } else {
    plain::slot_token_backward(p);
  }
}

}  // namespace gma::kernels
