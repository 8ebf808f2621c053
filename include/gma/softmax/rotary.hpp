// SPDX-License-Identifier: MIT
// Rotary positions: coordinates i and i + d/2 of a query or a key of d numbers at position p are turned by the angle p
// 10000^(-2i/d). Inner products then depend on differences of positions alone. The gradient is turned back.
#pragma once

#include <cmath>

#include "gma/core/checks.hpp"
#include "gma/core/tokens.hpp"
#include "gma/kernels/rows.hpp"

namespace gma {

/// Row p has the cosines, the sines and the negative sines of the d/2 angles of position p, for 0 <= p < positions: a
/// positions x 3 d/2 matrix. d = head_width is even. The angles are computed in double. Cost O(positions d).
template <class S>
Matrix<S> rotary_table(Index positions, Index head_width);

/// Turns every head of x, N x (heads d), in place: row t is at position first + t. The table is rotary_table(positions,
/// d) with positions >= first + N. Cost O(N heads d). Throws std::invalid_argument if x or the table has another shape.
template <class S>
void rotate_in_place(Tile<S> x, Index heads, const Matrix<S>& table, Index first = 0);

/// The gradient of the turned heads, N x (heads d), becomes the gradient of the heads before.
template <class S>
void rotate_backward_in_place(Tile<S> d, Index heads, const Matrix<S>& table, Index first = 0);

// Implementation -----------------------------------------------------------------------------------------------------

template <class S>
Matrix<S> rotary_table(Index positions, Index head_width) {
  if (positions < 0 || head_width < 0 || head_width % 2 != 0) {
    detail::invalid_argument("rotary_table", "positions is ", positions, " and head_width ", head_width,
                             ", expected no negative number and an even width");
  }
  const Index half = head_width / 2;
  Matrix<S> table(positions, 3 * half);
  for (Index i = 0; i < half; ++i) {
    const double rate = std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
    for (Index p = 0; p < positions; ++p) {
      const double angle = rate * static_cast<double>(p);
      table(p, i) = S(std::cos(angle));
      table(p, half + i) = S(std::sin(angle));
      table(p, 2 * half + i) = S(-std::sin(angle));
    }
  }
  return table;
}

namespace detail {

/// y (+)= x turned, or turned back, by a row of the table. x and y are rows of 2 half numbers that do not overlap.
template <class S>
void rotate(const S* x, const S* rotation, Index half, bool is_back, bool adds, S* y) {
  const S *cosines = rotation, *sines = rotation + (is_back ? 2 : 1) * half,
          *negative_sines = rotation + (is_back ? 1 : 2) * half;
  const S *first[] = {x, x + half}, *first_factors[] = {cosines, negative_sines};
  const S *second[] = {x, x + half}, *second_factors[] = {sines, cosines};
  kernels::sum_of_products(first, first_factors, 2, half, adds, y);
  kernels::sum_of_products(second, second_factors, 2, half, adds, y + half);
}

template <class S>
void rotate_rows(const char* function, Tile<S> x, Index heads, const Matrix<S>& table, Index first, bool is_back) {
  const Index width = table.cols() / 3 * 2;
  if (heads < 0 || table.cols() % 3 != 0 || x.cols() != heads * width) {
    invalid_argument(function, "x has ", x.cols(), " columns and the table ", table.cols(), ", expected ", heads,
                     " heads of d numbers and 3 d/2 columns");
  }
  if (first < 0 || x.rows() > table.rows() - first) {
    invalid_argument(function, "the table has ", table.rows(), " positions, expected at least ", first + x.rows(),
                     " (first + the rows of x) and first at least 0");
  }
  RowVector<S> head(width);
  for (Index t = 0; t < x.rows(); ++t) {
    for (Index h = 0; h < heads; ++h) {
      S* const row = x.data() + t * x.outerStride() + h * width;
      head = Eigen::Map<const RowVector<S>>(row, width);
      rotate(head.data(), table.data() + (first + t) * table.cols(), width / 2, is_back, false, row);
    }
  }
}

}  // namespace detail

template <class S>
void rotate_in_place(Tile<S> x, Index heads, const Matrix<S>& table, Index first) {
  detail::rotate_rows("rotate_in_place", x, heads, table, first, false);
}

template <class S>
void rotate_backward_in_place(Tile<S> d, Index heads, const Matrix<S>& table, Index first) {
  detail::rotate_rows("rotate_backward_in_place", d, heads, table, first, true);
}

}  // namespace gma
