// SPDX-License-Identifier: MIT
// What tests compare with, on GoogleTest: relative errors by norm, difference quotients, and tolerances that follow
// from the rounding unit.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "gma/core/types.hpp"

namespace gma::testing {

/// Values against a reference in double: double 1e-12 (4500 eps: sums of hundreds of terms), float 64 eps.
template <class S>
constexpr double forward_tolerance() {
  return std::is_same_v<S, float> ? 64 * static_cast<double>(std::numeric_limits<float>::epsilon()) : 1e-12;
}

/// Gradients in double against difference quotients.
inline constexpr double difference_tolerance = 1e-7;

/// ||a - b|| / ||b||, the norm of a where b is zero; infinite if something is not finite.
template <class A, class B>
double relative_error(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  const Matrix<double> x = a.template cast<double>(), y = b.template cast<double>();
  if (x.size() == 0 && y.size() == 0) return 0;
  const double difference = (x - y).norm(), scale = y.norm();
  const double error = scale > 0 ? difference / scale : difference;
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

/// Of the same size, and the relative error within the tolerance.
template <class A, class B>
::testing::AssertionResult close(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b, double tolerance) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) {
    return ::testing::AssertionFailure() << "sizes " << a.rows() << " x " << a.cols() << " and " << b.rows() << " x "
                                         << b.cols();
  }
  const double error = relative_error(a, b);
  if (error <= tolerance) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "relative error " << error << " exceeds " << tolerance;
}

/// The same bits, NaN included.
template <class A, class B>
bool same_bits(const Eigen::MatrixBase<A>& a, const Eigen::MatrixBase<B>& b) {
  using S = typename A::Scalar;
  const Matrix<S> x = a, y = b;
  return x.rows() == y.rows() && x.cols() == y.cols() &&
         (x.size() == 0 || std::memcmp(x.data(), y.data(), sizeof(S) * static_cast<std::size_t>(x.size())) == 0);
}

/// The slope of loss() in `number` by fourth-order central differences. The error is of the order of step^4, and of
/// rounding by loss / step.
template <class Loss>
double difference_quotient(double& number, double step, const Loss& loss) {
  const double kept = number;
  const auto at = [&](double offset) -> double {
    number = kept + offset;
    const double value = loss();
    number = kept;
    return value;
  };
  return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step);
}

/// The slopes of loss() in all of `numbers`.
template <class Derived, class Loss>
Matrix<double> difference_quotients(Eigen::MatrixBase<Derived>& numbers, double step, const Loss& loss) {
  Matrix<double> result(numbers.rows(), numbers.cols());
  for (Index i = 0; i < numbers.rows(); ++i) {
    for (Index j = 0; j < numbers.cols(); ++j) {
      result(i, j) = difference_quotient(numbers.derived()(i, j), step, loss);
    }
  }
  return result;
}

}  // namespace gma::testing
