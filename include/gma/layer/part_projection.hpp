// SPDX-License-Identifier: MIT
// A part of the layer: one product makes the queries, keys, values and the logits of all gates of a token.
//
//   z  = x W^T         W: the weights of all projections one below the other, in the order of Projected
//   dW += dz^T x       dx = dz W
//
// x is N x D, z is N x columns. Cost: 2 N D columns operations forward, twice that backward.
#pragma once

#include "gma/layer/layer_rows.hpp"

namespace gma::detail {

/// The input of one side, tokens or context, and its gradients.
template <class S>
struct ProjectionSide {
  const Matrix<S>& x;
  const Matrix<S>& dz;
  Matrix<S>& dx;
};

template <class S>
struct Projection {
  const PassRows<S>& rows;

  /// in_weights is W^T, as compile() makes it.
  void forward(const Matrix<S>& x, const Matrix<S>& in_weights, Matrix<S>& z) const {
    product_of_rows(rows.executor, x, in_weights, z);
  }
  /// Cross attention: z_context gets what is made of the context, z all else. Both have columns for all.
  void forward(const Matrix<S>& x, const Matrix<S>& context, const Matrix<S>& in_weights, Matrix<S>& z,
               Matrix<S>& z_context) const {
    resize(z, x.rows(), in_weights.cols());
    resize(z_context, context.rows(), in_weights.cols());
    for (std::size_t i = 0; i < rows.shape.counts.size(); ++i) {
      const Projected part = static_cast<Projected>(i);
      const bool is_context = is_of_context(part);
      product_of_rows(rows.executor, is_context ? context : x, in_weights, rows.shape.columns(part),
                      is_context ? z_context : z);
    }
  }

  /// Assigns dx of both sides, which are the same one except in cross attention. Adds the gradients of the weights.
  template <class Layer>
  void backward(const Layer& layer, const ProjectionSide<S>& tokens, const ProjectionSide<S>& context,
                Layer& gradient) const {
    for (const ProjectionSide<S>* side : {&tokens, &context}) {
      set_constant(side->dx, side->x.rows(), side->x.cols(), S(0));
    }
    for_each_projection(rows.config, [&](const auto& row) {
      const ProjectionSide<S>& side = is_of_context(row.columns) ? context : tokens;
      const ColumnRange range = rows.shape.columns(row.columns);
      const ConstTile<S> d = columns(side.dz, range.begin, range.count);
      const Matrix<S>& weight = row.member(layer);
      add_product_over_rows(rows.executor, d, side.x, row.member(gradient));
      for_blocks(rows.executor, d.rows(), rows_of_task, [&](Index begin, Index count) {
        add_product(detail::rows(d, begin, count), weight, detail::rows(side.dx, begin, count));
      });
    });
  }
};

}  // namespace gma::detail
