// SPDX-License-Identifier: MIT
// All three normalisations as one coefficient a token and slot, y_i = sum_k c_ik M_k, forward and backward.
#pragma once

#include "gma/attention/options.hpp"
#include "gma/core/numeric.hpp"
#include "gma/core/types.hpp"

namespace gma::detail {

/// Responsibilities q (T x K) become coefficients:
///   none  c = q        slot  c_k = q_k / m_k        row  c_k = q_k / sum_k q_k m_k
/// `mass` is T x K, the mass each token reads; a division is by max(., tiny_mass).
template <class S, class Mass>
void coefficients(Normalization normalization, const Eigen::MatrixBase<Mass>& mass, Tile<S> q) {
  if (normalization == Normalization::slot) {
    q = q.cwiseProduct(reciprocal_mass(mass));
  } else if (normalization == Normalization::row) {
    for (Index i = 0; i < q.rows(); ++i) q.row(i) *= S(1) / divisor(S(q.row(i).dot(mass.row(i))));
  }
}

/// From a = d c (T x K) to d q, in place, and d m, assigned. Below tiny_mass the mass has no gradient.
///   slot  dq_k = a_k / m_k               dm_k = -q_k a_k / m_k^2
///   row   dq_k = a_k / z - s m_k / z     dm_k = -s q_k / z          with z = q . m and s = (a . q) / z
template <class S, class Mass>
void coefficients_backward(Normalization normalization, const Eigen::MatrixBase<Mass>& mass, const Tile<S>& q,
                           Tile<S> a, Tile<S> d_mass) {
  if (normalization == Normalization::none) {
    d_mass.setConstant(S(0));
  } else if (normalization == Normalization::slot) {
    a = a.cwiseProduct(reciprocal_mass(mass));
    for (Index i = 0; i < q.rows(); ++i) {
      for (Index k = 0; k < q.cols(); ++k) {
        const S m = mass.derived().coeff(i, k);
        d_mass(i, k) = m > S(tiny_mass) ? S(-q(i, k) * a(i, k) / m) : S(0);
      }
    }
  } else {
    for (Index i = 0; i < q.rows(); ++i) {
      const S z = q.row(i).dot(mass.row(i));
      const S scale = S(1) / divisor(z);
      const S share = z > S(tiny_mass) ? S(a.row(i).dot(q.row(i)) * scale * scale) : S(0);
      d_mass.row(i) = q.row(i) * (-share);
      a.row(i) = a.row(i) * scale - mass.row(i) * share;
    }
  }
}

}  // namespace gma::detail
