// SPDX-License-Identifier: MIT
//
// Gradients of a model against differences, tensor by tensor: for the tests of everything that is built of the blocks.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "transformer/tensors.hpp"

namespace transformer {

// Initial parameters with noise on them, so that no branch is zero and no gain is one.
template <class S, template <class> class Model>
Vector<S> noisy_parameters(const Model<S>& model) {
  Vector<S> parameters = model.initial_parameters(3);
  Random random(5);
  for (Index i = 0; i < parameters.size(); ++i) parameters[i] += S(0.2 * random.normal());
  return parameters;
}

// Every tensor is checked along a random direction u of its own: the derivative of f(w + h u) at h = 0, by
// differences of fourth order, is <gradient, u>. loss(parameters) is f.
template <class Loss>
void check_gradients(const Layout& layout, Vector<double>& parameters, Vector<double>& gradients, const Loss& loss) {
  Random random(11);
  layout.for_each(parameters, gradients, [&](const std::string& name, auto value, auto gradient, Group) {
    const Matrix<double> before = value;
    const Matrix<double> u = Matrix<double>::NullaryExpr(value.rows(), value.cols(), [&] { return random.normal(); });
    const auto at = [&](double step) {
      value = before + step * u;
      return loss(parameters);
    };
    const double h = 1e-5;
    const double expected = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
    value = before;
    const double actual = gradient.cwiseProduct(u).sum();
    EXPECT_NEAR(actual, expected, 1e-6 * std::abs(expected) + 1e-9) << name;
    EXPECT_GT(gradient.norm(), 0) << name << " has no gradient at all";
  });
}

}  // namespace transformer
