// SPDX-License-Identifier: MIT
// The types every other header speaks: signed indices, row-major matrices (one token is one contiguous row), and views.
//
// Shape letters, used in every doc comment of the library:
//   N  tokens (Nq queries, Nk keys)      K  mixture components, which are the slots of a memory
//   d  routing width: columns of queries and keys      e  value width: columns of values and outputs
//   T  tokens in a tile      D  features of a token that one matrix product turns into logits
#pragma once

#if __cplusplus < 201703L && (!defined(_MSVC_LANG) || _MSVC_LANG < 201703L)
#error "gma needs C++17 or newer: compile with -std=c++17 (MSVC: /std:c++17)"
#endif

// The library tells numbers that are not finite from others, and restarts memories by minus infinity: under
// -ffast-math (-ffinite-math-only, -Ofast, /fp:fast) its checks are compiled away and restarts give wrong numbers.
#if ((defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(_M_FP_FAST)) && !defined(GMA_ALLOW_FAST_MATH)
#error \
    "gma needs NaN and infinity: compile without -ffast-math, or add -fno-finite-math-only (MSVC: /fp:precise). \
Whoever defines GMA_ALLOW_FAST_MATH goes without checks of numbers and without restarts by minus infinity."
#endif

#include <Eigen/Core>

namespace gma {

/// Every count and position: signed, of the size of a pointer.
using Index = Eigen::Index;

/// Row-major matrix: a [N, d] buffer of another framework maps in without a copy.
template <class S>
using Matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Column vector: one number a token, or one a component.
template <class S>
using Vector = Eigen::Matrix<S, Eigen::Dynamic, 1>;

/// Row vector: one token, or one component's mean.
template <class S>
using RowVector = Eigen::Matrix<S, 1, Eigen::Dynamic, Eigen::RowMajor>;

/// Writable view of consecutive token rows: the currency of the inner loops, which depend on the scalar alone.
template <class S>
using Tile = Eigen::Map<Matrix<S>, 0, Eigen::OuterStride<>>;

/// Read-only view of consecutive token rows.
template <class S>
using ConstTile = Eigen::Map<const Matrix<S>, 0, Eigen::OuterStride<>>;

/// How a read divides by the mass (equations 4 to 6):
///   none   y_i = sum_k q_k M_k
///   slot   y_i = sum_k q_k M_k / m_k                a mixture of slot means
///   row    y_i = sum_k q_k M_k / sum_k q_k m_k      rows of the affinity sum to 1
enum class Normalization { none, slot, row };

/// A mass or normaliser is divided by after max(mass, tiny_mass), for every scalar: a slot or row without mass reads as
/// zero, never NaN, and float stays close to double. Below it the mass has no gradient.
inline constexpr double tiny_mass = 0x1p-40;

}  // namespace gma
