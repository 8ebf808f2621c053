// SPDX-License-Identifier: MIT
// Every tolerance of the tests; those that users' tests share are at home in gma/testing/comparisons.hpp. They are
// norm-wise, ||a - b|| / ||b||, for inputs of unit scale, and follow from the rounding unit eps of the scalar; a
// failing test is a bug to find, never a tolerance to widen.
#pragma once

#include <limits>

#include "gma/testing/comparisons.hpp"

namespace gma_test {

/// Forward values against the dense reference in double, and analytic gradients in double against central differences
/// of the forward operators: what users' own families and feature maps are held to as well.
using gma::testing::difference_tolerance;
using gma::testing::forward_tolerance;

/// Analytic gradients in double against an autodiff scalar through the forward operators.
constexpr double autodiff_tolerance = 1e-10;

/// Gradients in float against gradients in double of the same numbers: a gradient is a product of about as many rounded
/// forward quantities as there are factors in it, four at most.
constexpr double float_gradient_tolerance = 4 * 64 * static_cast<double>(std::numeric_limits<float>::epsilon());

}  // namespace gma_test
