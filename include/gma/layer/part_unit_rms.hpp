// SPDX-License-Identifier: MIT
// A part of the layer: every head's query and key to unit root mean square, so that means and temperature have a scale
// to live on. The output norm does the same to the heads' outputs.
//
//   n  = i z        i = 1 / sqrt(|z|^2 / width + 1e-5)
//   dz = i (dn - n <n, dn> / width)
//
// Nothing needs z behind it: n takes the place of z, and dz that of dn, as the names say.
#pragma once

#include <cmath>

#include "gma/kernels/rows.hpp"
#include "gma/layer/layer_rows.hpp"

namespace gma {

/// What a forward pass leaves of it for the backward pass.
template <class S>
struct UnitRmsCache {
  Matrix<S> inverse;  ///< i, N x (Hq + H): of queries, then keys
};

namespace detail {

/// Under the root of every root mean square.
inline constexpr double rms_epsilon = 1e-5;

/// One row of `heads` heads; leaves i of each in `inverse`.
template <class S>
void unit_rms_in_place(S* row, Index heads, Index width, S* inverse) {
  using std::sqrt;
  for (Index h = 0; h < heads; ++h) {
    Eigen::Map<RowVector<S>> z(row + h * width, width);
    const S squares = kernels::dot(z.data(), z.data(), width);
    inverse[h] = S(1) / sqrt(squares / S(static_cast<double>(width)) + S(rms_epsilon));
    z *= inverse[h];
  }
}

/// `row` holds n; d_row holds dn and becomes dz.
template <class S>
void unit_rms_backward_in_place(const S* row, Index heads, Index width, const S* inverse, S* d_row) {
  for (Index h = 0; h < heads; ++h) {
    const Eigen::Map<const RowVector<S>> n(row + h * width, width);
    Eigen::Map<RowVector<S>> d(d_row + h * width, width);
    const S inner = n.dot(d) / S(static_cast<double>(width));
    d = inverse[h] * (d - inner * n);
  }
}

template <class S>
struct UnitRms {
  const PassRows<S>& rows;

  void forward_in_place(Matrix<S>& queries, Matrix<S>& keys, UnitRmsCache<S>& cache) const {
    const LayerShape& shape = rows.shape;
    resize(cache.inverse, rows.count(), shape.query_heads + shape.key_heads);
    rows.for_each([&](Index t) {
      S* inverse = cache.inverse.row(t).data();
      unit_rms_in_place(queries.row(t).data(), shape.query_heads, shape.head_width, inverse);
      unit_rms_in_place(keys.row(t).data(), shape.key_heads, shape.head_width, inverse + shape.query_heads);
    });
  }

  void backward_in_place(const Matrix<S>& queries, const Matrix<S>& keys, const UnitRmsCache<S>& cache,
                         Matrix<S>& d_queries, Matrix<S>& d_keys) const {
    const LayerShape& shape = rows.shape;
    rows.for_each([&](Index t) {
      const S* inverse = cache.inverse.row(t).data();
      unit_rms_backward_in_place(queries.row(t).data(), shape.query_heads, shape.head_width, inverse,
                                 d_queries.row(t).data());
      unit_rms_backward_in_place(keys.row(t).data(), shape.key_heads, shape.head_width, inverse + shape.query_heads,
                                 d_keys.row(t).data());
    });
  }
};

}  // namespace detail
}  // namespace gma
