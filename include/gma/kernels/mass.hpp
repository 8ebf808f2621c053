// SPDX-License-Identifier: MIT
// The masses of a causal tile, token by token, and the coefficients that follow from responsibilities and masses. With
// them one scan (scan.hpp) serves every normalisation, weights and forgetting. Cost O(K) per token; the scan's is O(K
// e).
#pragma once

#include "gma/core/numeric.hpp"
#include "gma/core/types.hpp"
#include "gma/kernels/rows.hpp"
#include "gma/kernels/scan.hpp"

namespace gma::kernels {

/// Tokens of one run of the scan, at least one. The mass is carried like the scan's state, m~ = m / Lambda_t, where
/// Lambda_t, `kept`, is the decay since the run began:
///   m~ <- m~ + w_t rk_t / Lambda_t          m = Lambda_t m~ + the base's part
///   none  c_t = rq_t        slot  c_t = rq_t / m        row  c_t = rq_t / (rq_t . m)
///   reads_t = c_t Lambda_t        writes_t = w_t rk_t / Lambda_t
template <class S>
struct Masses {
  Normalization normalization;
  Index tokens, cols;
  const S* weights;    // w, null: ones
  const S* kept;       // Lambda, null: ones
  const S* base;       // the mass that is not in the scan's state, null: none
  const S* base_kept;  // its decay since the tile began, null: ones
  TokenPointer<const S> query_responsibilities, key_responsibilities;
  TokenPointer<S> reads, writes;          // may be the memory of the responsibilities
  S* mass;                                // in: before the first token; out: after the last
  Decay<S> before = {};                   // applied to the mass on entry
  Decay<S> after = {};                    // applied to the mass on exit
  TokenPointer<S> masses = {nullptr, 0};  // m after every token; data null: not stored

  S weight(Index t) const { return weights == nullptr ? S(1) : weights[t]; }
  S since(Index t) const { return kept == nullptr ? S(1) : kept[t]; }
  S base_since(Index t) const { return base_kept == nullptr ? S(1) : base_kept[t]; }
  /// The base as token t sees it; null if nothing is left of it.
  const S* base_at(Index t) const { return base == nullptr || base_since(t) == S(0) ? nullptr : base; }
};

/// The gradients of Masses, last token first. In and out:
///   d_reads    in: the gradient of c Lambda, from the scan; out: that of the query's responsibilities
///   d_writes   in: the gradient of w rk / Lambda without the masses' part; out: that of w rk
///   d_mass     in: the gradient after the last token; out: before the first. Within the run: Lambda_t d_mass
/// A mass below tiny_mass has no gradient.
///   slot  drq_k = a_k / m_k               dm_k = -rq_k a_k / m_k^2          a = dc
///   row   drq_k = a_k / z - s m_k / z     dm_k = -s rq_k / z                with z = rq . m and s = (a . rq) / z
/// If a constant v0 was subtracted from the values, b_t = v0 . dy_t. The gradients of slot and row do not change,
/// except at masses below tiny_mass, which add
///   slot  drq_k += b (m_k / tiny - 1)     dm_k += b rq_k / tiny
///   row   drq_k += b m_k / tiny           dm_k += b rq_k / tiny
/// (slot: less a b that is the same for all k, which a softmax ignores). energy_t = c_t . dc_t + m . dm is the
/// derivative with respect to a common scale of slots and masses. For slot and row normalisation its parts cancel,
/// except at masses below tiny_mass; the parts that cancel are not computed.
template <class S>
struct MassesBackward {
  Normalization normalization;
  Index tokens, cols;
  const S* kept;       // Lambda, null: ones
  const S* base;       // the gradient of the mass after the tile, which d_mass does not include; null: none
  const S* base_kept;  // the decay from the token to the end of the tile, times Lambda
  const S* shift;      // b, null: zeros
  TokenPointer<const S> query_responsibilities, masses;
  TokenPointer<S> d_reads, d_writes;
  S* d_mass;
  Decay<S> before = {};  // applied to d_mass on entry: Lambda of the last token
  Decay<S> after = {};   // applied to d_mass on exit
  S* energy;             // null: not computed

  S since(Index t) const { return kept == nullptr ? S(1) : kept[t]; }
  const S* base_at(Index t) const { return base == nullptr || base_kept[t] == S(0) ? nullptr : base; }
};

namespace plain {

template <class S>
void masses(const Masses<S>& p) {
  plain::decay_all(p.before, p.mass, p.cols);
  for (Index t = 0; t < p.tokens; ++t) {
    const S* q = p.query_responsibilities.data + t * p.query_responsibilities.stride;
    const S* r = p.key_responsibilities.data + t * p.key_responsibilities.stride;
    S *reads = p.reads.data + t * p.reads.stride, *writes = p.writes.data + t * p.writes.stride;
    const S since = p.since(t), to_write = p.weight(t) / since;
    const S* base = p.base_at(t);
    const auto total = [&](Index k) {
      return base == nullptr ? S(p.mass[k] * since) : S(p.mass[k] * since + base[k] * p.base_since(t));
    };
    S z(0);
    for (Index k = 0; k < p.cols; ++k) {
      const S write = r[k] * to_write;
      p.mass[k] += write;
      if (p.masses.data != nullptr) p.masses.data[t * p.masses.stride + k] = total(k);
      z += q[k] * total(k);
      writes[k] = write;
    }
    const S of_row = p.normalization == Normalization::row ? S(since / gma::detail::divisor(z)) : since;
    for (Index k = 0; k < p.cols; ++k) {
      reads[k] = q[k] * of_row;
      if (p.normalization == Normalization::slot) reads[k] /= gma::detail::divisor(total(k));
    }
  }
  plain::decay_all(p.after, p.mass, p.cols);
}

template <class S>
void masses_backward(const MassesBackward<S>& p) {
  plain::decay_all(p.before, p.d_mass, p.cols);
  for (Index t = p.tokens - 1; t >= 0; --t) {
    const S* q = p.query_responsibilities.data + t * p.query_responsibilities.stride;
    const S* m = p.masses.data + t * p.masses.stride;
    S *a = p.d_reads.data + t * p.d_reads.stride, *d_writes = p.d_writes.data + t * p.d_writes.stride;
    const S since = p.since(t), shift = p.shift == nullptr ? S(0) : p.shift[t];
    S z(0), inner(0), energy(0);
    for (Index k = 0; k < p.cols; ++k) {
      a[k] *= since;
      z += q[k] * m[k];
      inner += q[k] * a[k];
    }
    const S per_row = S(1) / gma::detail::divisor(z);
    const bool has_row = z > S(tiny_mass);
    const S share = has_row ? S(inner * per_row * per_row) : S(-shift * per_row);
    if (p.normalization == Normalization::none) energy = inner;
    if (p.normalization == Normalization::row && !has_row) energy = inner * per_row + shift * z * per_row;
    for (Index k = 0; k < p.cols; ++k) {
      S d(0);  // gradient of the mass
      if (p.normalization == Normalization::slot) {
        const S over = S(1) / gma::detail::divisor(m[k]);
        a[k] *= over;
        if (m[k] > S(tiny_mass)) {
          d = -q[k] * a[k] * over;
        } else {
          energy += q[k] * (a[k] + shift * (m[k] * over));
          a[k] += shift * (m[k] * over - S(1));
          d = shift * q[k] * over;
        }
      } else if (p.normalization == Normalization::row) {
        a[k] = a[k] * per_row - m[k] * share;
        d = -q[k] * share;
      }
      p.d_mass[k] += since * d;
      const S base = p.base_at(t) == nullptr ? S(0) : S(p.base[k] * p.base_kept[t]);
      d_writes[k] = (d_writes[k] + p.d_mass[k] + base) / since;
    }
    if (p.energy != nullptr) p.energy[t] = energy;
  }
  plain::decay_all(p.after, p.d_mass, p.cols);
}

}  // namespace plain

namespace packets {

template <class S>
void masses(const Masses<S> p) {
  packets::decay_all(p.before, p.mass, p.cols);
  const bool scales = p.weights != nullptr || p.kept != nullptr || p.writes.data != p.key_responsibilities.data;
  for (Index t = 0; t < p.tokens; ++t) {
    const S* q = p.query_responsibilities.data + t * p.query_responsibilities.stride;
    const S* r = p.key_responsibilities.data + t * p.key_responsibilities.stride;
    S *reads = p.reads.data + t * p.reads.stride, *writes = p.writes.data + t * p.writes.stride;
    S* kept = p.masses.data == nullptr ? nullptr : p.masses.data + t * p.masses.stride;
    const S* base = p.base_at(t);
    const S since = p.since(t), to_write = p.weight(t) / since;
    for_each_packet<S>(p.cols, [&](Index k, auto width) {
      using P = Packet<S, width.value>;
      P write = P::load(r + k);
      if (scales) {
        write = write * P::all(to_write);
        write.store(writes + k);
      }
      P m = P::load(p.mass + k) + write;
      m.store(p.mass + k);
      if (p.kept != nullptr) m = m * P::all(since);
      if (base != nullptr) m = multiply_add(P::load(base + k), P::all(p.base_since(t)), m);
      if (kept != nullptr) m.store(kept + k);
      if (p.normalization == Normalization::slot) {
        const P over = reciprocal(larger(m, P::all(S(tiny_mass)))) * P::all(since);
        (P::load(q + k) * over).store(reads + k);
      }
    });
    if (p.normalization == Normalization::slot) continue;
    S factor = since;
    if (p.normalization == Normalization::row) {
      S z = since * packets::dot(q, p.mass, p.cols);
      if (base != nullptr) z += p.base_since(t) * packets::dot(q, base, p.cols);
      factor /= gma::detail::divisor(z);
    }
    for_each_packet<S>(p.cols, [&](Index k, auto width) {
      using P = Packet<S, width.value>;
      (P::load(q + k) * P::all(factor)).store(reads + k);
    });
  }
  packets::decay_all(p.after, p.mass, p.cols);
}

template <class S>
void masses_backward(const MassesBackward<S> p) {
  packets::decay_all(p.before, p.d_mass, p.cols);
  for (Index t = p.tokens - 1; t >= 0; --t) {
    const S* q = p.query_responsibilities.data + t * p.query_responsibilities.stride;
    const S* m = p.masses.data + t * p.masses.stride;
    S *a = p.d_reads.data + t * p.d_reads.stride, *d_writes = p.d_writes.data + t * p.d_writes.stride;
    const S* base = p.base_at(t);
    const S since = p.since(t), over_since = S(1) / since, shift = p.shift == nullptr ? S(0) : p.shift[t];
    S per_row(1), share(0), energy(0);
    if (p.normalization != Normalization::slot) {
      const S inner = since * packets::dot(q, a, p.cols);
      energy = inner;
      if (p.normalization == Normalization::row) {
        const S z = packets::dot(q, m, p.cols);
        const bool has_row = z > S(tiny_mass);
        per_row = S(1) / gma::detail::divisor(z);
        share = has_row ? S(inner * per_row * per_row) : S(-shift * per_row);
        energy = has_row ? S(0) : S((inner + shift * z) * per_row);
      }
    }
    for_each_packet<S>(p.cols, [&](Index k, auto width) {
      using P = Packet<S, width.value>;
      const P x = P::load(q + k), mass = P::load(m + k), tiny = P::all(S(tiny_mass));
      P d = P::load(a + k) * P::all(since), d_mass = P::load(p.d_mass + k);
      if (p.normalization == Normalization::slot) {
        const P over = reciprocal(larger(mass, tiny));
        d = d * over;
        const P pull = x * d;
        d_mass = d_mass - where_greater(mass, tiny, pull * over * P::all(since));
        if (p.shift != nullptr || p.energy != nullptr) {  // masses below tiny_mass
          const P part = mass * over, b = P::all(shift);
          if (p.energy != nullptr) energy += where_greater(tiny, mass, multiply_add(x * b, part, pull)).sum();
          d = d + where_greater(tiny, mass, b * (part - P::all(S(1))));
          d_mass = d_mass + where_greater(tiny, mass, b * x * over * P::all(since));
        }
      } else {
        d = d * P::all(per_row) - mass * P::all(share);
        d_mass = d_mass - x * P::all(share * since);
      }
      d.store(a + k);
      d_mass.store(p.d_mass + k);
      if (base != nullptr) d_mass = multiply_add(P::load(base + k), P::all(p.base_kept[t]), d_mass);
      ((P::load(d_writes + k) + d_mass) * P::all(over_since)).store(d_writes + k);
    });
    if (p.energy != nullptr) p.energy[t] = energy;
  }
  packets::decay_all(p.after, p.d_mass, p.cols);
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
