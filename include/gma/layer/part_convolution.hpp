// SPDX-License-Identifier: MIT
// A part of the layer: the short causal depthwise convolution. Every channel sees its own last few values. The query,
// key and value of a token so depend on the tokens just before it.
//
//   y_t  = sum_{i < W} taps_i o x_{t-i}          taps W x C, row i for the token i back; no activation
//   dx_t = sum_{i < W} taps_i o dy_{t+i}         d_taps_i = sum_t dy_t o x_{t-i}
//
// The tokens before the first come from a history of W - 1 tokens, oldest first. They get gradients like all others.
#pragma once

#include <algorithm>

#include "gma/core/tokens.hpp"
#include "gma/kernels/rows.hpp"
#include "gma/layer/layer_rows.hpp"
#include "gma/layer/layer_state.hpp"

namespace gma {

/// y_t = sum_{i < W} taps_i o x_{t-i}: x and y are N x C, taps W x C, row i for the token i back; no activation.
/// `history` holds the W - 1 tokens before x, oldest first; without rows it stands for zeros. Cost: 2 N C W operations.
template <class S>
void short_convolution(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history, Tile<S> y);

/// dx_t = sum_i taps_i o dy_{t+i} is assigned, d_taps_i += sum_t dy_t o x_{t-i}. The history gets no gradient.
template <class S>
void short_convolution_backward(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history,
                                const ConstTile<S>& dy, Tile<S> dx, Tile<S> d_taps);
/// The same. It also adds the gradient of the history, W - 1 x C, to d_history.
template <class S>
void short_convolution_backward(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history,
                                const ConstTile<S>& dy, Tile<S> dx, Tile<S> d_taps, Tile<S> d_history);

/// Moves the history on past x, whose last rows become its last rows.
template <class S>
void advance_history(const ConstTile<S>& x, Tile<S> history);
/// d_after: the gradient of the history behind x. Adds to those of x and of the history before it.
template <class S>
void advance_history_backward(const ConstTile<S>& d_after, Tile<S> dx, Tile<S> d_before);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// x_{t-i}, from the history if it lies before x. Null stands for zeros.
template <class S>
const S* token_before(const ConstTile<S>& x, const ConstTile<S>& history, Index t, Index i) {
  if (t >= i) return x.data() + (t - i) * x.outerStride();
  return history.rows() == 0 ? nullptr : history.data() + (history.rows() + t - i) * history.outerStride();
}

/// y = sum_i taps_i o row_of(i) over the taps with a row_of(i) that is not null.
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

/// short_convolution() of tokens [begin, end) of x.
template <class S>
void convolve_tokens(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history, Index begin,
                     Index end, Tile<S> y) {
  for (Index t = begin; t < end; ++t) {
    weigh_tokens(
        taps, [&](Index i) { return token_before(x, history, t, i); }, y.data() + t * y.outerStride());
  }
}

}  // namespace detail

template <class S>
void short_convolution(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history, Tile<S> y) {
  detail::convolve_tokens(x, taps, history, Index(0), x.rows(), y);
}

namespace detail {

/// short_convolution_backward() of tokens [begin, end) of x.
template <class S>
void convolve_tokens_backward(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history,
                              const ConstTile<S>& dy, Index begin, Index end, Tile<S> dx, Tile<S> d_taps) {
  const auto later = [&](Index t, Index i) -> const S* {
    return t + i < dy.rows() ? dy.data() + (t + i) * dy.outerStride() : nullptr;
  };
  for (Index t = begin; t < end; ++t) {
    weigh_tokens(
        taps, [&](Index i) { return later(t, i); }, dx.data() + t * dx.outerStride());
    for (Index i = 0; i < taps.rows(); ++i) {
      const S* before = token_before(x, history, t, i);
      if (before == nullptr) continue;
      d_taps.row(i) += dy.row(t).cwiseProduct(Eigen::Map<const RowVector<S>>(before, x.cols()));
    }
  }
}

/// Adds the gradient of the history.
template <class S>
void convolve_history_backward(const ConstTile<S>& taps, const ConstTile<S>& dy, Tile<S> d_history) {
  for (Index t = 0; t < (std::min)(dy.rows(), taps.rows() - 1); ++t) {
    for (Index i = t + 1; i < taps.rows(); ++i) {
      d_history.row(d_history.rows() + t - i) += taps.row(i).cwiseProduct(dy.row(t));
    }
  }
}

}  // namespace detail

template <class S>
void short_convolution_backward(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history,
                                const ConstTile<S>& dy, Tile<S> dx, Tile<S> d_taps) {
  detail::convolve_tokens_backward(x, taps, history, dy, Index(0), x.rows(), dx, d_taps);
}

template <class S>
void short_convolution_backward(const ConstTile<S>& x, const ConstTile<S>& taps, const ConstTile<S>& history,
                                const ConstTile<S>& dy, Tile<S> dx, Tile<S> d_taps, Tile<S> d_history) {
  short_convolution_backward(x, taps, history, dy, dx, d_taps);
  detail::convolve_history_backward(taps, dy, d_history);
}

template <class S>
void advance_history(const ConstTile<S>& x, Tile<S> history) {
  const Index past = history.rows(), fresh = (std::min)(past, x.rows());
  for (Index i = 0; i < past - fresh; ++i) history.row(i) = history.row(i + fresh);
  if (fresh > 0) history.bottomRows(fresh) = x.bottomRows(fresh);
}

template <class S>
void advance_history_backward(const ConstTile<S>& d_after, Tile<S> dx, Tile<S> d_before) {
  const Index past = d_after.rows(), fresh = (std::min)(past, dx.rows());
  for (Index i = 0; i < past - fresh; ++i) d_before.row(i + fresh) += d_after.row(i);
  if (fresh > 0) dx.bottomRows(fresh) += d_after.bottomRows(fresh);
}

namespace detail {

/// The convolution over the packed rows of a pass. The projected tokens and the states have all channels.
template <class S>
struct Convolution {
  /// Rows of a task.
  static constexpr Index rows_of_part = 2048;

  const PassRows<S>& rows;

  /// y is assigned: channels `range` of the projection, convolved with the same columns of `taps`, W x all channels.
  void forward(ColumnRange range, const Matrix<S>& projected, const Matrix<S>& taps,
               const StatePointers<const LayerState<S>>& before, Matrix<S>& y) const {
    resize(y, projected.rows(), range.count);
    if (rows.shape.taps == 0) {
      y = columns(projected, range.begin, range.count);
      return;
    }
    for_each_part(range, [&](Index i, Index, Index begin, Index end, Index first, Index channels) {
      convolve_tokens(of(i, columns(projected, range.begin + first, channels)),
                      columns(taps, range.begin + first, channels), history(before[i], range.begin + first, channels),
                      begin, end, of(i, columns(y, first, channels)));
    });
  }

  /// Assigns the gradient of channels `range` of the projection. Adds that of their taps to the same columns of d_taps,
  /// and that of the states' histories to d_before.
  void backward(ColumnRange range, const Matrix<S>& projected, const Matrix<S>& taps,
                const StatePointers<const LayerState<S>>& before, const Matrix<S>& dy, Matrix<S>& d_projected,
                Matrix<S>& d_taps, const StatePointers<LayerState<S>>& d_before) const {
    if (rows.shape.taps == 0) {
      columns(d_projected, range.begin, range.count) = dy;
      return;
    }
    typename Workspace<S>::Frame frame(rows.workspace);
    Tile<S> part_taps = rows.workspace.take(parts() * taps.rows(), range.count);
    part_taps.setConstant(S(0));
    for_each_part(range, [&](Index i, Index part, Index begin, Index end, Index first, Index channels) {
      const Index column = range.begin + first;
      const ConstTile<S> w = columns(taps, column, channels), d = of(i, columns(dy, first, channels));
      const Tile<S> d_w(part_taps.data() + part * taps.rows() * range.count + first, taps.rows(), channels,
                        Eigen::OuterStride<>(range.count));
      convolve_tokens_backward(of(i, columns(projected, column, channels)), w, history(before[i], column, channels), d,
                               begin, end, of(i, columns(d_projected, column, channels)), d_w);
      if (begin > 0 || d_before[i] == nullptr) return;
      convolve_history_backward(w, d, columns(d_before[i]->history, column, channels));
    });
    Tile<S> d_w = columns(d_taps, range.begin, range.count);
    for (Index part = 0; part < parts(); ++part) d_w += detail::rows(part_taps, part * taps.rows(), taps.rows());
  }

  /// The states' histories move on past the tokens of the pass.
  void advance(const Matrix<S>& projected, const StatePointers<LayerState<S>>& states) const {
    for (Index i = 0; i < rows.sequences(); ++i) {
      advance_history(of(i, columns(projected, 0, rows.shape.channels())), as_tile(states[i]->history));
    }
  }

  /// Adds the gradients of the histories after the pass to those of the tokens and of the histories before it.
  void advance_backward(const StatePointers<const LayerState<S>>& d_after, Matrix<S>& d_projected,
                        const StatePointers<LayerState<S>>& d_before) const {
    for (Index i = 0; i < rows.sequences() && d_after[i] != nullptr; ++i) {
      advance_history_backward(as_tile(d_after[i]->history), of(i, columns(d_projected, 0, rows.shape.channels())),
                               as_tile(d_before[i]->history));
    }
  }

 private:
  template <class T>
  T of(Index sequence, const T& tile) const {
    return detail::rows(tile, rows.first(sequence), rows.count(sequence));
  }
  static ConstTile<S> history(const LayerState<S>* state, Index begin, Index count) {
    if (state == nullptr) return ConstTile<S>(nullptr, 0, count, Eigen::OuterStride<>(count));
    return columns(state->history, begin, count);
  }

  Index parts() const { return (rows.count() + rows_of_part - 1) / rows_of_part; }

  /// f(sequence, part of the rows, its first token in it, the token behind it, first channel of a block, its channels)
  /// for all of them, parts and blocks in parallel.
  template <class F>
  void for_each_part(ColumnRange range, const F& f) const {
    const Index blocks = (range.count + channels_of_task - 1) / channels_of_task;
    parallel_for(rows.executor, parts() * blocks, [&](Index task, Index) {
      const Index part = task / blocks, first = task % blocks * channels_of_task;
      for (Index i = 0; i < rows.sequences(); ++i) {
        const Index begin = (std::max)(part * rows_of_part - rows.first(i), Index(0));
        const Index end = (std::min)((part + 1) * rows_of_part - rows.first(i), rows.count(i));
        if (begin < end) f(i, part, begin, end, first, (std::min)(channels_of_task, range.count - first));
      }
    });
  }
};

}  // namespace detail
}  // namespace gma
