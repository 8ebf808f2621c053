// SPDX-License-Identifier: MIT
// The full covariance family: any covariance per component, through the triangular factor of its inverse. Logits are
// computed component by component, for d times the price of the other families.
#pragma once

#include <cmath>
#include <limits>
#include <utility>

#include "gma/mixture/family.hpp"

namespace gma {

/// A full covariance per component: row k of the K x d*d log_scales is L_k, flattened row by row, the lower-triangular
/// factor of the PRECISION, Sigma_k^-1 = L_k L_k^T, its diagonal stored as logarithms. The strict upper triangle is
/// ignored and has zero gradient.
struct Full {
  static constexpr const char* name = "full";
  static constexpr bool shares_scales = false;
  static constexpr bool log_scales_are_log_deviations = false;
  static constexpr Features features = Features::whitened;
  static Index scale_cols(Index dim) { return families::product_of_counts(dim, dim); }

  /// Entry (i, j) of L_k.
  template <class S>
  static S lower(const Mixture<S, Full>& mixture, Index k, Index i, Index j) {
    using std::exp;
    const S entry = mixture.log_scales(k, i * mixture.dim() + j);
    return i == j ? S(exp(entry)) : i > j ? entry : S(0);
  }

  /// b_k = (log pi_k + log det L_k) / tau.
  template <class S>
  static void compile(const Mixture<S, Full>& mixture, const S& beta, NaturalParameters<S>& natural) {
    const Index d = mixture.dim();
    const S most = families::largest_factor(mixture, beta);
    for (Index k = 0; k < mixture.components(); ++k) {
      for (Index i = 0; i < d; ++i) {
        for (Index j = 0; j < d; ++j) {
          natural.weights(k * d + i, j) = families::bounded(lower(mixture, k, i, j), S(-most), most);
        }
        natural.bias(k) += mixture.log_scales(k, i * d + i);
      }
    }
  }

  /// d L_k as gathered; d log L_k,ii = dL_ii L_ii + db_k.
  template <class S>
  static void pull_back(const Mixture<S, Full>& mixture, const NaturalParameters<S>& natural,
                        const NaturalParameters<S>& gradient, Mixture<S, Full>& out) {
    const Index d = mixture.dim();
    for (Index k = 0; k < mixture.components(); ++k) {
      for (Index i = 0; i < d; ++i) {
        for (Index j = 0; j < i; ++j) out.log_scales(k, i * d + j) = gradient.weights(k * d + i, j);
        out.log_scales(k, i * d + i) =
            gradient.weights(k * d + i, i) * natural.weights(k * d + i, i) + gradient.bias(k);
      }
    }
  }

  /// The eigenvalues of every covariance, from the singular values of L_k.
  template <class S, class F>
  static void for_each_variance(const Mixture<S, Full>& mixture, const F& f);
};

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// The singular values of a square matrix, which is used up: its rows are rotated until they are orthogonal.
inline Vector<double> singular_values(Matrix<double> a) {
  const double tolerance = std::numeric_limits<double>::epsilon() * static_cast<double>(a.rows());
  RowVector<double> kept;
  bool rotated = true;
  for (int sweep = 0; rotated && sweep < 60; ++sweep) {
    rotated = false;
    for (Index p = 0; p < a.rows(); ++p) {
      for (Index q = p + 1; q < a.rows(); ++q) {
        const double aa = a.row(p).squaredNorm(), bb = a.row(q).squaredNorm(), ab = a.row(p).dot(a.row(q));
        if (!(std::abs(ab) > tolerance * std::sqrt(aa) * std::sqrt(bb))) continue;
        rotated = true;
        const double zeta = (bb - aa) / (2 * ab);
        const double tangent = (zeta < 0 ? -1 : 1) / (std::abs(zeta) + std::hypot(1.0, zeta));
        const double cosine = 1 / std::hypot(1.0, tangent), sine = cosine * tangent;
        kept = a.row(p);
        a.row(p) = cosine * kept - sine * a.row(q);
        a.row(q) = sine * kept + cosine * a.row(q);
      }
    }
  }
  return a.rowwise().norm();
}

}  // namespace detail

template <class S, class F>
void Full::for_each_variance(const Mixture<S, Full>& mixture, const F& f) {
  const Index d = mixture.dim();
  for (Index k = 0; k < mixture.components(); ++k) {
    Matrix<double> factor(d, d);
    for (Index i = 0; i < d; ++i) {
      for (Index j = 0; j < d; ++j) factor(i, j) = static_cast<double>(lower(mixture, k, i, j));
    }
    const Vector<double> values = detail::singular_values(std::move(factor));
    for (Index i = 0; i < d; ++i) f(1 / (values(i) * values(i)));
  }
}

}  // namespace gma
