// SPDX-License-Identifier: MIT
// The masses of a causal tile, token by token, and the coefficients that they turn responsibilities into: what makes
// one scan (scan.hpp) serve every normalisation, weights and forgetting. O(K) a token, beside the scan's O(K e).
#pragma once

#include "gma/core/numeric.hpp"
#include "gma/core/types.hpp"
#include "gma/kernels/rows.hpp"
#include "gma/kernels/scan.hpp"

namespace gma::kernels {

/// m <- lambda_t m + w_t rk_t, and what the scan reads and writes with, m with the base's part:
///   none  c_t = rq_t        slot  c_t = rq_t / m        row  c_t = rq_t / (rq_t . m)
///   reads_t = c_t Lambda_t        writes_t = w_t rk_t / Lambda_t
/// Lambda_t, `kept`, is the decay since the stretch of the scan began: the state is rescaled when it ends, not before.
template <class S>
struct Masses {
  Normalization normalization;
  Index tokens, cols;
  const S* weights;    // w, null: ones
  const S* decay;      // lambda, null: ones
  const S* kept;       // Lambda, where there is a decay
  const S* base;       // the mass of what is not in the scan's state, null: nothing
  const S* base_kept;  // its decay since the tile began, where there is a decay
  TokenPointer<const S> query_responsibilities, key_responsibilities;
  TokenPointer<S> reads, writes;  // may be the same memory as the responsibilities
  S* mass;                        // before the first token; becomes that after the last
  TokenPointer<S> masses;         // that after every token; data null: not kept

  S weight(Index t) const { return weights == nullptr ? S(1) : weights[t]; }
  S lambda(Index t) const { return decay == nullptr ? S(1) : decay[t]; }
  S since(Index t) const { return decay == nullptr ? S(1) : kept[t]; }
  S base_since(Index t) const { return decay == nullptr ? S(1) : base_kept[t]; }
};

/// The gradients of it, last token first: d_reads comes in as that of c and becomes that of the query's
/// responsibilities, d_writes is that of w rk and gets the masses' part, d_mass runs from after the last token to
/// before the first. Below tiny_mass a mass has no gradient.
///   slot  drq_k = a_k / m_k               dm_k = -rq_k a_k / m_k^2
///   row   drq_k = a_k / z - s m_k / z     dm_k = -s rq_k / z          with z = rq . m and s = (a . rq) / z
/// energy_t = c_t . dc_t + m . dm, what a common factor of slots and mass would gain: without rounding, since for slot
/// and row its parts cancel.
template <class S>
struct MassesBackward {
  Normalization normalization;
  Index tokens, cols;
  const S* decay;
  TokenPointer<const S> query_responsibilities, masses;
  TokenPointer<S> d_reads, d_writes;
  S* d_mass;
  S* energy;
};

namespace plain {

template <class S>
void masses(const Masses<S>& p) {
  for (Index t = 0; t < p.tokens; ++t) {
    const S* q = p.query_responsibilities.data + t * p.query_responsibilities.stride;
    const S* r = p.key_responsibilities.data + t * p.key_responsibilities.stride;
    S *reads = p.reads.data + t * p.reads.stride, *writes = p.writes.data + t * p.writes.stride;
    const S lambda = p.lambda(t), weight = p.weight(t), since = p.since(t), to_write = weight / since;
    const auto total = [&](Index k) {
      return p.base == nullptr ? p.mass[k] : S(p.mass[k] + p.base[k] * p.base_since(t));
    };
    S z(0);
    for (Index k = 0; k < p.cols; ++k) {
      const S before = lambda == S(0) ? S(0) : S(lambda * p.mass[k]);
      p.mass[k] = before + weight * r[k];
      if (p.masses.data != nullptr) p.masses.data[t * p.masses.stride + k] = p.mass[k];
      z += q[k] * total(k);
      writes[k] = r[k] * to_write;
    }
    const S of_row = p.normalization == Normalization::row ? S(since / gma::detail::divisor(z)) : since;
    for (Index k = 0; k < p.cols; ++k) {
      reads[k] = q[k] * of_row;
      if (p.normalization == Normalization::slot) reads[k] /= gma::detail::divisor(total(k));
    }
  }
}

template <class S>
void masses_backward(const MassesBackward<S>& p) {
  for (Index t = p.tokens - 1; t >= 0; --t) {
    const S* q = p.query_responsibilities.data + t * p.query_responsibilities.stride;
    const S* m = p.masses.data + t * p.masses.stride;
    S *a = p.d_reads.data + t * p.d_reads.stride, *d_writes = p.d_writes.data + t * p.d_writes.stride;
    const S lambda = p.decay == nullptr ? S(1) : p.decay[t];
    S z(0), inner(0), energy(0);
    for (Index k = 0; k < p.cols; ++k) {
      z += q[k] * m[k];
      inner += q[k] * a[k];
    }
    const S per_row = S(1) / gma::detail::divisor(z);
    const S share = z > S(tiny_mass) ? S(inner * per_row * per_row) : S(0);
    if (p.normalization == Normalization::none) energy = inner;
    if (p.normalization == Normalization::row && !(z > S(tiny_mass))) energy = inner * per_row;
    for (Index k = 0; k < p.cols; ++k) {
      if (p.normalization == Normalization::slot) {
        a[k] /= gma::detail::divisor(m[k]);
        if (m[k] > S(tiny_mass)) {
          p.d_mass[k] -= q[k] * a[k] / m[k];
        } else {
          energy += q[k] * a[k];
        }
      } else if (p.normalization == Normalization::row) {
        a[k] = a[k] * per_row - m[k] * share;
        p.d_mass[k] -= q[k] * share;
      }
      d_writes[k] += p.d_mass[k];
      p.d_mass[k] *= lambda;
    }
    if (p.energy != nullptr) p.energy[t] = energy;
  }
}

}  // namespace plain

namespace packets {

template <class S>
void masses(const Masses<S> p) {
  const bool scales = p.weights != nullptr || p.decay != nullptr || p.writes.data != p.key_responsibilities.data;
  for (Index t = 0; t < p.tokens; ++t) {
    const S* q = p.query_responsibilities.data + t * p.query_responsibilities.stride;
    const S* r = p.key_responsibilities.data + t * p.key_responsibilities.stride;
    S *reads = p.reads.data + t * p.reads.stride, *writes = p.writes.data + t * p.writes.stride;
    S* kept = p.masses.data == nullptr ? nullptr : p.masses.data + t * p.masses.stride;
    const S lambda = p.lambda(t), weight = p.weight(t), since = p.since(t), to_write = weight / since;
    if (lambda == S(0)) std::fill_n(p.mass, p.cols, S(0));
    for_each_packet<S>(p.cols, [&](Index k, auto width) {
      using P = Packet<S, width.value>;
      const P x = P::load(r + k);
      P m = P::load(p.mass + k);
      if (scales) {
        m = multiply_add(x, P::all(weight), m * P::all(lambda));
        (x * P::all(to_write)).store(writes + k);
      } else {
        m = m + x;
      }
      m.store(p.mass + k);
      if (kept != nullptr) m.store(kept + k);
      if (p.base != nullptr) m = multiply_add(P::load(p.base + k), P::all(p.base_since(t)), m);
      if (p.normalization == Normalization::slot) {
        const P over = reciprocal(larger(m, P::all(S(tiny_mass)))) * P::all(since);
        (P::load(q + k) * over).store(reads + k);
      }
    });
    if (p.normalization == Normalization::slot) continue;
    const bool by_row = p.normalization == Normalization::row;
    S factor = since;
    if (by_row) {
      S z = packets::dot(q, p.mass, p.cols);
      if (p.base != nullptr) z += p.base_since(t) * packets::dot(q, p.base, p.cols);
      factor /= gma::detail::divisor(z);
    }
    for_each_packet<S>(p.cols, [&](Index k, auto width) {
      using P = Packet<S, width.value>;
      (P::load(q + k) * P::all(factor)).store(reads + k);
    });
  }
}

template <class S>
void masses_backward(const MassesBackward<S> p) {
  for (Index t = p.tokens - 1; t >= 0; --t) {
    const S* q = p.query_responsibilities.data + t * p.query_responsibilities.stride;
    const S* m = p.masses.data + t * p.masses.stride;
    S *a = p.d_reads.data + t * p.d_reads.stride, *d_writes = p.d_writes.data + t * p.d_writes.stride;
    const S lambda = p.decay == nullptr ? S(1) : p.decay[t];
    S per_row(1), share(0), energy(0);
    if (p.normalization != Normalization::slot) {
      const S inner = packets::dot(q, a, p.cols);
      energy = inner;
      if (p.normalization == Normalization::row) {
        const S z = packets::dot(q, m, p.cols);
        per_row = S(1) / gma::detail::divisor(z);
        if (z > S(tiny_mass)) share = inner * per_row * per_row;
        energy = z > S(tiny_mass) ? S(0) : inner * per_row;
      }
    }
    for_each_packet<S>(p.cols, [&](Index k, auto width) {
      using P = Packet<S, width.value>;
      const P x = P::load(q + k), mass = P::load(m + k), tiny = P::all(S(tiny_mass));
      P d = P::load(a + k), d_mass = P::load(p.d_mass + k);
      if (p.normalization == Normalization::slot) {
        const P over = reciprocal(larger(mass, tiny));
        d = d * over;
        const P pull = x * d;
        d_mass = d_mass - where_greater(mass, tiny, pull * over);
        if (p.energy != nullptr) energy += where_greater(tiny, mass, pull).sum();
      } else {
        d = d * P::all(per_row) - mass * P::all(share);
        d_mass = d_mass - x * P::all(share);
      }
      d.store(a + k);
      (P::load(d_writes + k) + d_mass).store(d_writes + k);
      (d_mass * P::all(lambda)).store(p.d_mass + k);
    });
    if (p.energy != nullptr) p.energy[t] = energy;
  }
}

}  // namespace packets

template <class S>
void masses(const Masses<S>& p) {
  if constexpr (has_packets<S>) {
    packets::masses(p);
  } else {
    plain::masses(p);
  }
}

template <class S>
void masses_backward(const MassesBackward<S>& p) {
  if constexpr (has_packets<S>) {
    packets::masses_backward(p);
  } else {
    plain::masses_backward(p);
  }
}

}  // namespace gma::kernels
