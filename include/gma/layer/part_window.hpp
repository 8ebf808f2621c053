// SPDX-License-Identifier: MIT
// A part of the layer: the window and its gate. Every head of a causal layer attends exactly to its last tokens
// (softmax/window.hpp), and the gate mixes the outputs of the window and of the mixture. Query t sees the tokens j with
// t - W < j <= t. R_p x is the vector x turned by the rotary angles of position p:
//
//   w_t = sum_j a_tj v_j        a_tj = softmax_j(<R_t q_t, R_j k_j> / sqrt(d))
//   y'  = s w + (1 - s) y       s = sigmoid(z + b), z: the logits of the projection, one per query head
//
//   dw  = s dy'                 dy = (1 - s) dy'           dz = s (1 - s) <dy', w - y> = s <dy', w - y'>
//   dv_j += sum_t a_tj dw_t     da_tj = <dw_t, v_j>        ds_tj = a_tj (da_tj - <dw_t, w_t>)
//   dq_t += sum_j ds_tj R_{j-t} k_j / sqrt(d)              dk_j += sum_t ds_tj R_{t-j} q_t / sqrt(d)
//
// A state holds the last W - 1 keys and values. They get gradients like those of the pass. The mixing is in place: y'
// replaces y, and dy replaces dy'. Without a window the functions do nothing.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "gma/core/elementwise.hpp"
#include "gma/layer/layer_rows.hpp"
#include "gma/layer/layer_state.hpp"
#include "gma/softmax/window.hpp"

namespace gma {

/// What its forward keeps for its backward.
template <class S>
struct WindowCache {
  Matrix<S> output;       ///< N x Hq e
  Matrix<S> log_sum_exp;  ///< Hq x N: of the scores
  Matrix<S> gate;         ///< N x Hq: the window's share of the outputs
};

namespace detail {

template <class S>
struct Window {
  const PassRows<S>& rows;
  const Matrix<S>& rotations;               // set_rotations()
  const Matrix<S>&queries, &keys, &values;  // of unit root mean square, except the values
  WindowCache<S>& cache;

  bool is_there() const { return rows.shape.window_length > 0; }

  void attend(const StatePointers<const LayerState<S>>& before) const {
    if (!is_there()) return;
    const Index d = rows.shape.head_width, e = rows.shape.value_width;
    resize(cache.output, queries.rows(), rows.shape.mixed());
    resize(cache.log_sum_exp, rows.shape.query_heads, queries.rows());
    resize(cache.gate, queries.rows(), rows.shape.query_heads);
    for_each_head(before, [&](const WindowHead<S>& head, Index, Index first, Index group, Index row) {
      const Index count = head.keys.rows();
      head.forward(
          group, [&](Index g) { return part(queries, first + g, d, row, count); },
          [&](Index g) { return part(cache.output, first + g, e, row, count); },
          [&](Index g) { return cache.log_sum_exp.row(first + g).data() + row; });
    });
  }

  /// Adds to the gradients of queries, keys and values, and of those in the states before the pass.
  void attend_backward(const StatePointers<const LayerState<S>>& before, const Matrix<S>& dw, Matrix<S>& d_queries,
                       Matrix<S>& d_keys, Matrix<S>& d_values, const StatePointers<LayerState<S>>& d_before) const {
    if (!is_there()) return;
    const Index d = rows.shape.head_width, e = rows.shape.value_width;
    for_each_head(before, [&](const WindowHead<S>& head, Index i, Index first, Index group, Index row) {
      const Index count = head.keys.rows(), key_head = first / group;
      const WindowPastGradient<S> d_past = gradient_of_past(d_before[i], key_head);
      for (Index h = first; h < first + group; ++h) {
        head.backward(part(queries, h, d, row, count), part(std::as_const(cache.output), h, e, row, count),
                      cache.log_sum_exp.row(h).data() + row, part(dw, h, e, row, count),
                      part(d_queries, h, d, row, count), part(d_keys, key_head, d, row, count),
                      part(d_values, key_head, e, row, count), d_past);
      }
    });
  }

  /// `mixed` holds y and becomes y'.
  void mix_in_place(const Matrix<S>& projected, const Vector<S>& bias, Matrix<S>& mixed) const {
    if (!is_there()) return;
    Matrix<S>& share = cache.gate;
    const ColumnRange range = rows.shape.columns(Projected::window_gate);
    assign(share, columns(projected, range.begin, range.count));
    for (Index t = 0; t < share.rows(); ++t) share.row(t) += bias.transpose();
    sigmoid(share.data(), share.size());
    for_each_output([&](Index t, Index h, Index at) {
      move_towards(cache.output.row(t).data() + at, share(t, h), rows.shape.value_width, mixed.row(t).data() + at);
    });
  }

  /// `mixed` holds y'; `d` holds dy' and becomes dy. dw and the logits' columns of d_projected are assigned.
  void mix_backward_in_place(const Matrix<S>& mixed, Matrix<S>& d, Matrix<S>& dw, Matrix<S>& d_projected,
                             Vector<S>& d_bias) const {
    if (!is_there()) return;
    const Index e = rows.shape.value_width;
    const ColumnRange range = rows.shape.columns(Projected::window_gate);
    resize(dw, mixed.rows(), mixed.cols());
    Tile<S> dz = columns(d_projected, range.begin, range.count);
    for_each_output([&](Index t, Index h, Index at) {
      const S share = cache.gate(t, h), rest = S(1) - share;
      Eigen::Map<RowVector<S>> dy(d.row(t).data() + at, e);
      const S along_window = kernels::dot(dy.data(), cache.output.row(t).data() + at, e);
      dz(t, h) = share * (along_window - kernels::dot(dy.data(), mixed.row(t).data() + at, e));
      dw.row(t).segment(at, e) = share * dy;
      dy *= rest;
    });
    if (dz.rows() > 0) d_bias += dz.colwise().sum().transpose();
  }

  /// The states take in the last keys and values of the pass.
  void advance(const StatePointers<LayerState<S>>& states) const {
    for (Index i = 0; i < rows.sequences(); ++i) {
      for_each_kept(i, states[i]->position, [&](Index row, Index place) {
        states[i]->window_keys.row(place) = keys.row(row);
        states[i]->window_values.row(place) = values.row(row);
      });
    }
  }

  /// Adds the gradients of the states after the pass to those of keys and values, and assigns the gradients of the
  /// states before it. These were at `positions`; empty: 0. Call it before attend_backward().
  void advance_backward(const StatePointers<const LayerState<S>>& d_after, const std::vector<Index>& positions,
                        Matrix<S>& d_keys, Matrix<S>& d_values, const StatePointers<LayerState<S>>& d_before) const {
    for (Index i = 0; i < rows.sequences() && d_after[i] != nullptr && rows.shape.past > 0; ++i) {
      d_before[i]->window_keys = d_after[i]->window_keys;
      d_before[i]->window_values = d_after[i]->window_values;
      const Index position = positions.empty() ? 0 : positions[static_cast<std::size_t>(i)];
      for_each_kept(i, position, [&](Index row, Index place) {  // which replaced what was there
        d_keys.row(row) += d_after[i]->window_keys.row(place);
        d_values.row(row) += d_after[i]->window_values.row(place);
        d_before[i]->window_keys.row(place).setConstant(S(0));
        d_before[i]->window_values.row(place).setConstant(S(0));
      });
    }
  }

 private:
  /// Rows of one head. They are writable if the matrix is.
  template <class M>
  static auto part(M& matrix, Index head, Index width, Index row, Index count) {
    return detail::rows(columns(matrix, head * width, width), row, count);
  }

  /// f(row, its place in the state) for the tokens of a sequence that its state keeps.
  template <class F>
  void for_each_kept(Index sequence, Index position, const F& f) const {
    const Index past = rows.shape.past, count = rows.count(sequence);
    for (Index t = (std::max)(Index(0), count - past); t < count && past > 0; ++t) {
      f(rows.first(sequence) + t, (position + t) % past);
    }
  }

  WindowPast<S> past_of(const LayerState<S>* state, Index head) const {
    const Index d = rows.shape.head_width, e = rows.shape.value_width;
    if (state == nullptr || rows.shape.past == 0) {
      const auto none = [](Index width) { return ConstTile<S>(nullptr, 0, width, Eigen::OuterStride<>(width)); };
      return {none(d), none(e), 0};
    }
    return {columns(state->window_keys, head * d, d), columns(state->window_values, head * e, e), state->position};
  }
  WindowPastGradient<S> gradient_of_past(LayerState<S>* state, Index head) const {
    const Index d = rows.shape.head_width, e = rows.shape.value_width;
    if (state == nullptr || rows.shape.past == 0) {
      const auto none = [](Index width) { return Tile<S>(nullptr, 0, width, Eigen::OuterStride<>(width)); };
      return {none(d), none(e)};
    }
    return {columns(state->window_keys, head * d, d), columns(state->window_values, head * e, e)};
  }

  /// f(key head in a sequence, the sequence, its first query head, the number of query heads, first row) for all of
  /// them in parallel.
  template <class F>
  void for_each_head(const StatePointers<const LayerState<S>>& before, const F& f) const {
    const Index heads = rows.shape.key_heads, group = rows.shape.query_heads / heads;
    rows.workspace.prepare_workers(workers(rows.executor));
    parallel_for(rows.executor, rows.sequences() * heads, [&](Index job, Index worker) {
      const Index i = job / heads, h = job % heads, row = rows.first(i), count = rows.count(i);
      const WindowHead<S> head{rotations,
                               rows.shape.window_length,
                               part(keys, h, rows.shape.head_width, row, count),
                               part(values, h, rows.shape.value_width, row, count),
                               past_of(before[i], h),
                               rows.workspace.worker(worker)};
      f(head, i, h * group, group, row);
    });
  }

  /// f(row, query head, its first column) for all of them.
  template <class F>
  void for_each_output(const F& f) const {
    rows.for_each([&](Index t) {
      for (Index h = 0; h < rows.shape.query_heads; ++h) f(t, h, h * rows.shape.value_width);
    });
  }
};

}  // namespace detail
}  // namespace gma
