// SPDX-License-Identifier: MIT
// Every tolerance of the tests, in one place. They are norm-wise, ||a - b|| / ||b||, for inputs of unit scale, and
// follow from the rounding unit eps of the scalar; a failing test is a bug to find, never a tolerance to widen.
#pragma once

#include <limits>
#include <type_traits>

namespace gma_test {

/// Forward values against the dense reference in double: double 1e-12 (4500 eps: sums of hundreds of terms), float 64
/// eps.
template <class S>
constexpr double forward_tolerance() {
  return std::is_same_v<S, float> ? 64 * static_cast<double>(std::numeric_limits<float>::epsilon()) : 1e-12;
}

/// Analytic gradients in double against an autodiff scalar through the forward operators.
constexpr double autodiff_tolerance = 1e-10;

/// Analytic gradients in double against central differences of the forward operators.
constexpr double difference_tolerance = 1e-7;

/// Gradients in float against gradients in double of the same numbers: a gradient is a product of about as many rounded
/// forward quantities as there are factors in it, four at most.
constexpr double float_gradient_tolerance = 4 * 64 * static_cast<double>(std::numeric_limits<float>::epsilon());

}  // namespace gma_test
