// SPDX-License-Identifier: MIT
// A part of the layer: it scales the query and key of every head to unit root mean square, which gives the means and
// temperatures of mixtures a fixed scale. The output norm does the same to the heads' outputs.
//
//   n  = i z        i = 1 / sqrt(|z|^2 / width + 1e-5)
//   dz = i (dn - n <n, dn> / width)
//
// No later part needs z. So n replaces z in place, and dz replaces dn.
#pragma once

#include <cmath>

#include "gma/core/checks.hpp"
#include "gma/kernels/rows.hpp"
#include "gma/layer/layer_rows.hpp"

namespace gma {

/// n in the place of z, head by head: z is N x (heads d). Leaves i in `inverse`, N x heads, for the gradient. Cost O(N
/// heads d). Throws std::invalid_argument if the shapes do not fit.
template <class S>
void unit_rms_in_place(Tile<S> z, Tile<S> inverse);

/// dz in the place of dn: n and d are N x (heads d).
template <class S>
void unit_rms_backward_in_place(const ConstTile<S>& n, const ConstTile<S>& inverse, Tile<S> d);

// Implementation -----------------------------------------------------------------------------------------------------

/// What its forward keeps for its backward.
template <class S>
struct UnitRmsCache {
  Matrix<S> queries, keys;  ///< i of each, N x Hq and N x H
};

namespace detail {

/// Added under the root of every root mean square.
inline constexpr double rms_epsilon = 1e-5;

/// Scales one row of `heads` heads. `inverse` gets i of each.
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

/// The part for a matrix of heads side by side, N x heads n.
template <class S>
struct UnitRms {
  const PassRows<S>& rows;
  Index heads;

  void forward_in_place(Matrix<S>& z, Matrix<S>& inverse) const {
    resize(inverse, rows.count(), heads);
    rows.for_each(
        [&](Index t) { unit_rms_in_place(z.row(t).data(), heads, rows.shape.head_width, inverse.row(t).data()); });
  }

  void backward_in_place(const Matrix<S>& n, const Matrix<S>& inverse, Matrix<S>& d) const {
    rows.for_each([&](Index t) {
      unit_rms_backward_in_place(n.row(t).data(), heads, rows.shape.head_width, inverse.row(t).data(), d.row(t).data());
    });
  }
};

inline void check_heads(const char* function, Index rows, Index cols, Index inverse_rows, Index heads) {
  if (rows == inverse_rows && (heads > 0 ? cols % heads == 0 : cols == 0)) return;
  invalid_argument(function, "inverse is ", inverse_rows, " x ", heads, ", expected ", rows,
                   " rows (one per token) and heads that divide ", cols, " columns");
}

}  // namespace detail

template <class S>
void unit_rms_in_place(Tile<S> z, Tile<S> inverse) {
  const Index heads = inverse.cols();
  detail::check_heads("unit_rms_in_place", z.rows(), z.cols(), inverse.rows(), heads);
  for (Index t = 0; t < z.rows() && heads > 0; ++t) {
    detail::unit_rms_in_place(z.row(t).data(), heads, z.cols() / heads, inverse.row(t).data());
  }
}

template <class S>
void unit_rms_backward_in_place(const ConstTile<S>& n, const ConstTile<S>& inverse, Tile<S> d) {
  const Index heads = inverse.cols();
  detail::check_heads("unit_rms_backward_in_place", n.rows(), n.cols(), inverse.rows(), heads);
  detail::check_shape("unit_rms_backward_in_place", "d", d.rows(), d.cols(), n.rows(), n.cols(), "the shape of n");
  for (Index t = 0; t < n.rows() && heads > 0; ++t) {
    detail::unit_rms_backward_in_place(n.row(t).data(), heads, n.cols() / heads, inverse.row(t).data(),
                                       d.row(t).data());
  }
}

}  // namespace gma
