// SPDX-License-Identifier: MIT
// Multiplication of a state by the decay: the part of it that forgetting leaves.
#pragma once

#include <cmath>
#include <type_traits>

#include "gma/core/types.hpp"
#include "gma/kernels/packets.hpp"

namespace gma::kernels {

/// The factor lambda = exp(g), g <= 0, in the form that a long stream needs. A lambda near 1 that is rounded to a
/// number is wrong by half a unit in its last place. A state that is multiplied by it for 1 / (1 - lambda) tokens is
/// then wrong by as many halves. So a lambda above 1/2 is stored as lambda - 1, which is exact to its own last place,
/// and s becomes s + (lambda - 1) s. Any other lambda is stored directly. 0 restarts the state, even if it holds NaN.
template <class S>
struct Decay {
  S factor = S(0);  // lambda - 1 if near_one, else lambda
  bool near_one = true;

  bool is_one() const { return near_one && factor == S(0); }
  bool restarts() const { return !near_one && factor == S(0); }
  S of(const S& s) const {
    if (restarts()) return S(0);
    return near_one ? S(s + factor * s) : S(factor * s);
  }
};

/// exp(log_decay) in that form. log_decay is <= 0 or minus infinity.
template <class S>
Decay<S> decay_of(const S& log_decay) {
  using std::exp;
  if (!(log_decay > S(-0.6931471805599453))) return {S(exp(log_decay)), false};
  if constexpr (std::is_same_v<S, float>) {
    const float g = log_decay;  // five terms of the series, to 1e-8
    if (g > -0.0625F) return {g * (1 + g * (1 / 2.0F + g * (1 / 6.0F + g * (1 / 24.0F + g * (1 / 120.0F))))), true};
  }
  if constexpr (std::is_floating_point_v<S>) {
    return {std::expm1(log_decay), true};
  } else {
    return {S(exp(log_decay) - S(1)), true};
  }
}

/// The decay that leaves nothing of the state.
template <class S>
Decay<S> restart() {
  return {S(0), false};
}

/// The same for a packet. `near_one` is the decay's and is constant in the loop around it. The caller handles a
/// restart.
template <class S, int N>
EIGEN_STRONG_INLINE Packet<S, N> decayed(const Packet<S, N>& s, const Packet<S, N>& factor, bool near_one) {
  return near_one ? multiply_add(s, factor, s) : s * factor;
}

}  // namespace gma::kernels
