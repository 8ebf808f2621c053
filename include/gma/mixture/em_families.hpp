// SPDX-License-Identifier: MIT
// What expectation-maximisation needs to know of each covariance family: how to standardise, and which scales maximise
// the likelihood of given moments when no variance may fall below a floor. Each of these maxima is exact under its
// floor, and that is why the likelihood cannot fall.
#pragma once

#include <Eigen/Eigenvalues>
#include <Eigen/QR>
#include <cmath>

#include "gma/mixture/mixture.hpp"

namespace gma::detail {

/// Moments of every component about its mean: mass sum_j w_j r_jk, and, per unit of mass, the covariance: its diagonal
/// (K x d) or, for Full, all of it (K x d*d). A component below `dead_mass` has none and keeps its parameters.
struct Moments {
  Vector<double> mass;
  Matrix<double> first;   ///< K x d
  Matrix<double> second;  ///< K x d or K x d*d
  double dead_mass = 0;

  bool is_dead(Index k) const { return !(mass(k) > dead_mass); }
};

/// Rows x - mu_k become Sigma_k^(-1/2) (x - mu_k); returns log det Sigma_k^(-1/2). `displace` goes the other way and
/// turns a standard normal row into one of covariance Sigma_k. `maximize_scales` is the M step of log_scales.
template <class Covariance>
struct FitFamily;

template <>
struct FitFamily<Isotropic> {
  using M = Mixture<double, Isotropic>;
  static double standardize(const M& mixture, Index k, Matrix<double>& rows) {
    rows *= std::exp(-mixture.log_scales(k, 0));
    return -mixture.log_scales(k, 0) * static_cast<double>(mixture.dim());
  }
  static void displace(const M& mixture, Index k, Matrix<double>& row) { row *= std::exp(mixture.log_scales(k, 0)); }
  static Index second_cols(Index dim) { return dim; }
  static void maximize_scales(const Moments& moments, double floor, M& mixture) {
    for (Index k = 0; k < mixture.components(); ++k) {
      if (!moments.is_dead(k))
        mixture.log_scales(k, 0) = 0.5 * std::log((std::max)(floor, moments.second.row(k).mean()));
    }
  }
};

template <>
struct FitFamily<Diagonal> {
  using M = Mixture<double, Diagonal>;
  static double standardize(const M& mixture, Index k, Matrix<double>& rows) {
    rows.array().rowwise() *= (-mixture.log_scales.row(k).array()).exp();
    return -mixture.log_scales.row(k).sum();
  }
  static void displace(const M& mixture, Index k, Matrix<double>& row) {
    row.array() *= mixture.log_scales.row(k).array().exp();
  }
  static Index second_cols(Index dim) { return dim; }
  static void maximize_scales(const Moments& moments, double floor, M& mixture) {
    for (Index k = 0; k < mixture.components(); ++k) {
      if (!moments.is_dead(k)) mixture.log_scales.row(k) = 0.5 * moments.second.row(k).cwiseMax(floor).array().log();
    }
  }
};

template <>
struct FitFamily<Tied> {
  using M = Mixture<double, Tied>;
  static double standardize(const M& mixture, Index /*k*/, Matrix<double>& rows) {
    rows.array().rowwise() *= (-mixture.log_scales.row(0).array()).exp();
    return -mixture.log_scales.sum();
  }
  static void displace(const M& mixture, Index /*k*/, Matrix<double>& row) {
    row.array() *= mixture.log_scales.row(0).array().exp();
  }
  static Index second_cols(Index dim) { return dim; }
  static void maximize_scales(const Moments& moments, double floor, M& mixture) {
    RowVector<double> sum = RowVector<double>::Zero(mixture.dim());
    double mass = 0;
    for (Index k = 0; k < mixture.components(); ++k) {
      if (moments.is_dead(k)) continue;
      sum += moments.mass(k) * moments.second.row(k);
      mass += moments.mass(k);
    }
    if (mass > 0) mixture.log_scales.row(0) = 0.5 * (sum / mass).cwiseMax(floor).array().log();
  }
};

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

template <>
struct FitFamily<Full> {
  using M = Mixture<double, Full>;
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
  static Index second_cols(Index dim) { return product_of_counts(dim, dim); }
  static void maximize_scales(const Moments& moments, double floor, M& mixture) {
    const Index d = mixture.dim();
    for (Index k = 0; k < mixture.components(); ++k) {
      if (moments.is_dead(k)) continue;
      Matrix<double> lower =
          precision_factor(Eigen::Map<const Matrix<double>>(moments.second.row(k).data(), d, d), floor);
      lower.diagonal() = lower.diagonal().array().log().eval();
      Eigen::Map<Matrix<double>>(mixture.log_scales.row(k).data(), d, d) = lower;
    }
  }
};

}  // namespace gma::detail
