// SPDX-License-Identifier: MIT
// How full scales are fitted to samples: the covariance of a component is that of its samples, with eigenvalues below
// the floor raised to it. Takes Eigen's eigenvalue solver, and some time to compile.
#pragma once

#include <Eigen/Eigenvalues>
#include <Eigen/QR>

#include "gma/mixture/families/full.hpp"
#include "gma/mixture/family_fit.hpp"

namespace gma {
namespace detail {

/// Lower-triangular L of positive diagonal with covariance^-1 = L L^T, after eigenvalues of the covariance below the
/// floor were raised to it: the maximum of the likelihood under the floor. From the QR of Sigma^(-1/2), so that no
/// precision matrix with its squared condition number is ever formed.
inline Matrix<double> precision_factor(const Matrix<double>& covariance, double floor) {
  const Eigen::SelfAdjointEigenSolver<Matrix<double>> eigen(covariance);
  const Vector<double> scale = eigen.eigenvalues().cwiseMax(floor).array().rsqrt();
  const Matrix<double> root = scale.asDiagonal() * eigen.eigenvectors().transpose();  // root^T root = covariance^-1
  const Eigen::HouseholderQR<Matrix<double>> qr(root);
  Matrix<double> lower = qr.matrixQR().triangularView<Eigen::Upper>().toDenseMatrix().transpose();
  for (Index i = 0; i < lower.cols(); ++i) {
    if (lower(i, i) < 0) lower.col(i) = -lower.col(i);
  }
  return lower;
}

}  // namespace detail

/// The fit of Full.
template <>
struct FamilyFit<Full> {
  static constexpr bool needs_covariances = true;
  using M = Mixture<double, Full>;

  /// L_k.
  static Matrix<double> factor(const M& mixture, Index k) {
    const Index d = mixture.dim();
    const Eigen::Map<const Matrix<double>> stored(mixture.log_scales.row(k).data(), d, d);
    Matrix<double> lower = stored.triangularView<Eigen::StrictlyLower>();
    lower.diagonal() = stored.diagonal().array().exp();
    return lower;
  }
  static double standardize(const M& mixture, Index k, Matrix<double>& rows) {
    const Index d = mixture.dim();
    rows = (rows * factor(mixture, k)).eval();
    return Eigen::Map<const Matrix<double>>(mixture.log_scales.row(k).data(), d, d).trace();
  }
  static void displace(const M& mixture, Index k, Matrix<double>& row) {
    const Matrix<double> lower = factor(mixture, k);  // the row z becomes z L^-1, of covariance L^-T L^-1
    lower.triangularView<Eigen::Lower>().solveInPlace<Eigen::OnTheRight>(row);
  }
  static void maximize_scales(const FitMoments& moments, double floor, M& mixture) {
    const Index d = mixture.dim();
    for (Index k = 0; k < mixture.components(); ++k) {
      if (moments.is_dead(k)) continue;
      Matrix<double> lower =
          detail::precision_factor(Eigen::Map<const Matrix<double>>(moments.second.row(k).data(), d, d), floor);
      lower.diagonal() = lower.diagonal().array().log().eval();
      Eigen::Map<Matrix<double>>(mixture.log_scales.row(k).data(), d, d) = lower;
    }
  }
};

}  // namespace gma
