// SPDX-License-Identifier: MIT
// A part of the layer: the forgetting gate, one log-forgetting g <= 0 per token and key head.
//
//   g  = -softplus(z + b) exp(a)           z: the logits of the projection, N x H
//   dz = -dg sigmoid(z + b) exp(a)         db = sum_t dz        da = sum_t dg g
//
// The cache is g itself, HeadInputs::log_forgetting. Without the gate g is empty.
#pragma once

#include <cmath>

#include "gma/core/checks.hpp"
#include "gma/core/elementwise.hpp"
#include "gma/layer/layer_rows.hpp"

namespace gma::detail {

template <class S>
struct Forgetting {
  const PassRows<S>& rows;

  ConstTile<S> logits(const Matrix<S>& projected) const {
    const ColumnRange range = rows.shape.columns(Projected::forgetting);
    return columns(projected, range.begin, range.count);
  }

  bool is_there() const { return rows.shape.has(Projected::forgetting); }

  void forward(const Matrix<S>& projected, const Vector<S>& bias, const Vector<S>& rate, Matrix<S>& g) const {
    using std::exp;
    if (!is_there()) return resize(g, 0, 0);
    const typename Workspace<S>::Frame frame(rows.workspace);
    Tile<S> factor = rows.workspace.take(1, rate.size());
    for (Index h = 0; h < rate.size(); ++h) factor(0, h) = -exp(rate(h));
    assign(g, logits(projected));
    for (Index t = 0; t < g.rows(); ++t) g.row(t) += bias.transpose();
    softplus(g.data(), g.size());
    for (Index t = 0; t < g.rows(); ++t) g.row(t).array() *= factor.row(0).array();
  }

  /// Assigns the gradient of the logits, and adds the gradients of a and b.
  void backward(const Matrix<S>& projected, const Vector<S>& bias, const Vector<S>& rate, const Matrix<S>& g,
                const Matrix<S>& dg, Matrix<S>& d_projected, Vector<S>& d_bias, Vector<S>& d_rate) const {
    if (!is_there() || dg.rows() == 0) return;
    const typename Workspace<S>::Frame frame(rows.workspace);
    Tile<S> slope = rows.workspace.take(dg.rows(), dg.cols());
    slope = logits(projected);
    for (Index t = 0; t < slope.rows(); ++t) slope.row(t) += bias.transpose();
    sigmoid(slope.data(), slope.size());
    const ColumnRange range = rows.shape.columns(Projected::forgetting);
    Tile<S> dz = columns(d_projected, range.begin, range.count);
    for (Index t = 0; t < dg.rows(); ++t) {
      dz.row(t) = -(dg.row(t).array() * rate.transpose().array().exp() * slope.row(t).array()).matrix();
    }
    d_rate += dg.cwiseProduct(g).colwise().sum().transpose();
    d_bias += dz.colwise().sum().transpose();
  }

  /// Throws at the first g that is not <= 0, which is a NaN, and names the row of the caller's x. `x` is packed, N x D.
  void check(const Matrix<S>& g, const Matrix<S>& x, const Placement& placement) const {
    for (Index t = 0; t < g.rows(); ++t) {
      for (Index h = 0; h < g.cols(); ++h) {
        if (!(g(t, h) <= S(0))) report(g(t, h), t, h, x, placement);
      }
    }
  }

 private:
  [[noreturn]] void report(const S& g, Index t, Index head, const Matrix<S>& x, const Placement& placement) const {
    Index sequence = 0;
    while (rows.first(sequence + 1) <= t) ++sequence;
    const Index row = placement.row(placement[sequence].begin + t - rows.first(sequence));
    for (Index column = 0; column < x.cols(); ++column) {
      if (is_finite(x(t, column))) continue;
      invalid_argument("forward", "x is ", x(t, column), " at row ", row, ", column ", column,
                       ", expected finite numbers: log_forgetting is ", g, " there for head ", head);
    }
    invalid_argument("forward", "log_forgetting is ", g, " at row ", row, " of x for head ", head,
                     ", expected a number <= 0: gma::validate(layer) finds parameters that are not finite");
  }
};

}  // namespace gma::detail
