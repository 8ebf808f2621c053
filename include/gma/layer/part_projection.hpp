// SPDX-License-Identifier: MIT
// A part of the layer: what one product makes of a token, queries, keys, values and the logits of all gates.
//
//   z  = x W^T         W: the weights of all projections one below the other, in the order of Projected
//   dW += dz^T x       dx = dz W
//
// x N x D, z N x projected columns. Cost 2 N D columns forward, twice that backward.
#pragma once

#include "gma/layer/layer_parameters.hpp"
#include "gma/layer/layer_rows.hpp"

namespace gma::detail {

template <class S>
struct Projection {
  const PassRows<S>& rows;

  /// in_weights is W^T, as compile() makes it.
  void forward(const Matrix<S>& x, const Matrix<S>& in_weights, Matrix<S>& z) const {
    product_of_rows(rows.executor, x, in_weights, z);
  }

  /// dx is assigned.
  template <class Layer>
  void backward(const Layer& layer, const Matrix<S>& x, const Matrix<S>& dz, Matrix<S>& dx, Layer& gradient) const {
    set_constant(dx, x.rows(), x.cols(), S(0));
    for_each_projection(rows.shape, [&](const auto& row) {
      const ColumnRange range = rows.shape.columns(row.columns);
      const ConstTile<S> d = columns(dz, range.begin, range.count);
      const Matrix<S>& weight = row.member(layer);
      add_product_over_rows(rows.executor, d, x, row.member(gradient));
      for_blocks(rows.executor, d.rows(), rows_of_task, [&](Index begin, Index count) {
        add_product(detail::rows(d, begin, count), weight, detail::rows(dx, begin, count));
      });
    });
  }
};

}  // namespace gma::detail
