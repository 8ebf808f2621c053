// SPDX-License-Identifier: MIT
// Numeric helpers for float, double and autodiff scalars. They rely on NaN and infinity (see types.hpp).
#pragma once

#include <cmath>
#include <type_traits>

#include "gma/core/types.hpp"

namespace gma::detail {

/// The type in which long sums of S are computed: double for float, else S.
template <class S>
using Wide = std::conditional_t<std::is_same_v<S, float>, double, S>;

/// x - x is zero for finite x and NaN otherwise. A comparison of autodiff scalars compares their values.
template <class S>
bool is_finite(const S& x) {
  const S difference = x - x;
  return difference == S(0);
}

/// max(mass, tiny_mass): the divisor of every normalisation.
template <class S>
S divisor(const S& mass) {
  return mass > S(tiny_mass) ? mass : S(tiny_mass);
}

/// 1 / divisor(mass), coefficient by coefficient.
template <class Derived>
auto reciprocal_mass(const Eigen::MatrixBase<Derived>& mass) {
  using S = typename Derived::Scalar;
  return mass.unaryExpr([](const S& m) -> S { return S(1) / divisor(m); });
}

/// log sum exp of every row, into `out`. Cost O(T K).
template <class S, class Out>
void log_sum_exp_rows(Tile<S> logits, Out&& out) {
  using std::log;
  for (Index i = 0; i < logits.rows(); ++i) {
    const S largest = logits.row(i).maxCoeff();
    const S sum = (logits.row(i).array() - largest).exp().sum();
    out(i) = largest + log(sum);
  }
}

}  // namespace gma::detail
