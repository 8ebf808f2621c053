// SPDX-License-Identifier: MIT
// The short causal depthwise convolution: every channel sees its own last few values, so that a token's query, key and
// value depend on the tokens just before it. Forward and backward of one sequence.
#pragma once

#include <algorithm>

#include "gma/core/tokens.hpp"
#include "gma/kernels/rows.hpp"

namespace gma {

/// y_t = sum_{i < W} taps_i o x_{t-i}: x and y are N x C, taps W x C, row i for the token i back; no activation.
/// `history` holds the W - 1 tokens before x, oldest first; with no rows it stands for zeros. Cost 2 N C W.
template <class S>
void short_convolution(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history, Tile<S> y);

/// dx_t = sum_i taps_i o dy_{t+i} is assigned, d_taps_i += sum_t dy_t o x_{t-i}. The history gets no gradient.
template <class S>
void short_convolution_backward(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history,
                                const ConstTile<S>& dy, Tile<S> dx, Tile<S> d_taps);

/// Moves the history on past x: its last rows are x's.
template <class S>
void advance_history(const ConstTile<S>& x, Tile<S> history);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// x_{t-i}, or the history's where that lies before x; null: zeros.
template <class S>
const S* token_before(const ConstTile<S>& x, const ConstTile<S>& history, Index t, Index i) {
  if (t >= i) return x.data() + (t - i) * x.outerStride();
  return history.rows() == 0 ? nullptr : history.data() + (history.rows() + t - i) * history.outerStride();
}

/// y = sum_i taps_i o row_of(i) over the taps whose row_of(i) is not null.
template <class S, class RowOf>
void weigh_tokens(const ConstTile<S>& taps, const RowOf& row_of, S* y) {
  constexpr int most = 8;
  const S *rows[most], *weights[most];
  int terms = 0;
  bool adds = false;
  for (Index i = 0; i < taps.rows(); ++i) {
    const S* row = row_of(i);
    if (row != nullptr) {
      rows[terms] = row;
      weights[terms++] = taps.data() + i * taps.outerStride();
    }
    if (terms == most || i + 1 == taps.rows()) {
      kernels::sum_of_products(rows, weights, terms, taps.cols(), adds, y);
      adds = true;
      terms = 0;
    }
  }
}

}  // namespace detail

template <class S>
void short_convolution(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history, Tile<S> y) {
  for (Index t = 0; t < x.rows(); ++t) {
    detail::weigh_tokens(
        taps, [&](Index i) { return detail::token_before(x, history, t, i); }, y.data() + t * y.outerStride());
  }
}

template <class S>
void short_convolution_backward(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history,
                                const ConstTile<S>& dy, Tile<S> dx, Tile<S> d_taps) {
  const auto later = [&](Index t, Index i) -> const S* {
    return t + i < dy.rows() ? dy.data() + (t + i) * dy.outerStride() : nullptr;
  };
  for (Index t = 0; t < x.rows(); ++t) {
    detail::weigh_tokens(
        taps, [&](Index i) { return later(t, i); }, dx.data() + t * dx.outerStride());
    for (Index i = 0; i < taps.rows(); ++i) {
      const S* before = detail::token_before(x, history, t, i);
      if (before == nullptr) continue;
      d_taps.row(i) += dy.row(t).cwiseProduct(Eigen::Map<const RowVector<S>>(before, x.cols()));
    }
  }
}

template <class S>
void advance_history(const ConstTile<S>& x, Tile<S> history) {
  const Index past = history.rows(), fresh = (std::min)(past, x.rows());
  for (Index i = 0; i < past - fresh; ++i) history.row(i) = history.row(i + fresh);
  if (fresh > 0) history.bottomRows(fresh) = x.bottomRows(fresh);
}

}  // namespace gma
