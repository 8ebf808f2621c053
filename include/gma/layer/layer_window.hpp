// SPDX-License-Identifier: MIT
// The window of a causal layer: what every head attends to exactly (window.hpp), and the gate that shares out its
// outputs between the window and the mixture. Forward and backward over the packed rows of a pass.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "gma/layer/layer_rows.hpp"
#include "gma/layer/layer_state.hpp"
#include "gma/softmax/window.hpp"

namespace gma {

/// What a forward pass leaves of its window for the backward pass.
template <class S>
struct WindowCache {
  Matrix<S> output;       ///< N x Hq e
  Matrix<S> log_sum_exp;  ///< Hq x N: of the scores
  Matrix<S> gate;         ///< N x Hq: the window's share of the outputs
};

namespace detail {

/// In the functions that take `state_of`, state_of(i) is the address of the state from which sequence i goes on, or
/// null.
template <class S>
struct LayerWindow {
  const LayerShape& shape;
  Index window;
  const Matrix<S>& rotations;
  const std::vector<std::int64_t>& offsets;  // of the sequences
  const Matrix<S>&queries, &keys, &values;   // of unit root mean square, but for the values
  WindowCache<S>& cache;
  const Executor* executor;
  Workspace<S>& workspace;

  template <class StateOf>
  void attend(const StateOf& state_of) const {
    const Index d = shape.head_width, e = shape.value_width;
    resize(cache.output, queries.rows(), shape.mixed());
    resize(cache.log_sum_exp, shape.query_heads, queries.rows());
    resize(cache.gate, queries.rows(), shape.window);
    for_each_head(state_of, [&](const WindowHead<S>& head, Index first, Index group, Index row) {
      const Index count = head.keys.rows();
      head.forward(
          group, [&](Index g) { return part(queries, first + g, d, row, count); },
          [&](Index g) { return part(cache.output, first + g, e, row, count); },
          [&](Index g) { return cache.log_sum_exp.row(first + g).data() + row; });
    });
  }

  /// Adds to the gradients of queries, keys and values.
  template <class StateOf>
  void attend_backward(const StateOf& state_of, const Matrix<S>& d_output, Matrix<S>& d_queries, Matrix<S>& d_keys,
                       Matrix<S>& d_values) const {
    const Index d = shape.head_width, e = shape.value_width;
    for_each_head(state_of, [&](const WindowHead<S>& head, Index first, Index group, Index row) {
      const Index count = head.keys.rows(), key_head = first / group;
      for (Index h = first; h < first + group; ++h) {
        head.backward(part(queries, h, d, row, count), part(std::as_const(cache.output), h, e, row, count),
                      cache.log_sum_exp.row(h).data() + row, part(d_output, h, e, row, count),
                      part(d_queries, h, d, row, count), part(d_keys, key_head, d, row, count),
                      part(d_values, key_head, e, row, count));
      }
    });
  }

  /// y = s w + (1 - s) y with s = sigmoid(z + bias), z the logits in the projected tokens.
  void mix(const Matrix<S>& projected, const RowVector<S>& bias, Matrix<S>& mixed) const {
    Matrix<S>& share = cache.gate;
    assign(share, columns(projected, shape.columns(Projected::window_gate).begin, shape.window));
    for (Index t = 0; t < share.rows(); ++t) share.row(t) += bias;
    in_chunks(share.data(), share.size(), [](Chunk<S>& z) { z = (S(1) + (-z).exp()).inverse(); });
    for_each_output([&](Index t, Index h, Index at) {
      move_towards(cache.output.row(t).data() + at, share(t, h), shape.value_width, mixed.row(t).data() + at);
    });
  }

  /// z gets s (1 - s) dy (w - y') = s dy (w - y), where y' was mixed into y; w gets s dy; y' gets (1 - s) dy, in place.
  void mix_backward(const Matrix<S>& mixed, Matrix<S>& d_mixed, Matrix<S>& d_output, Matrix<S>& d_projected,
                    Vector<S>& d_bias) const {
    const Index e = shape.value_width;
    resize(d_output, mixed.rows(), mixed.cols());
    Tile<S> d_logits = columns(d_projected, shape.columns(Projected::window_gate).begin, shape.window);
    for_each_output([&](Index t, Index h, Index at) {
      const S share = cache.gate(t, h), rest = S(1) - share;
      Eigen::Map<RowVector<S>> d(d_mixed.row(t).data() + at, e);
      const S along_window = kernels::dot(d.data(), cache.output.row(t).data() + at, e);
      d_logits(t, h) = share * (along_window - kernels::dot(d.data(), mixed.row(t).data() + at, e));
      d_output.row(t).segment(at, e) = share * d;
      d *= rest;
    });
    if (d_logits.rows() > 0) d_bias += d_logits.colwise().sum().transpose();
  }

  /// Rows [row, row + count) are what a stream goes on from.
  void advance(LayerState<S>& state, Index row, Index count) const {
    for (Index t = (std::max)(Index(0), count - shape.past); t < count && shape.past > 0; ++t) {
      const Index to = (state.position + t) % shape.past;
      state.window_keys.row(to) = keys.row(row + t);
      state.window_values.row(to) = values.row(row + t);
    }
  }

 private:
  /// Rows of one head, a tile where the matrix is not const.
  template <class M>
  static auto part(M& matrix, Index head, Index width, Index row, Index count) {
    return rows(columns(matrix, head * width, width), row, count);
  }

  WindowPast<S> past_of(const LayerState<S>* state, Index head) const {
    const Index d = shape.head_width, e = shape.value_width;
    if (state == nullptr || shape.past == 0) {
      const auto none = [](Index width) { return ConstTile<S>(nullptr, 0, width, Eigen::OuterStride<>(width)); };
      return {none(d), none(e), 0};
    }
    return {columns(state->window_keys, head * d, d), columns(state->window_values, head * e, e), state->position};
  }

  /// f(key head in a sequence, its first query head, how many there are, first row) for all of them side by side.
  template <class StateOf, class F>
  void for_each_head(const StateOf& state_of, const F& f) const {
    const Index heads = shape.key_heads, group = shape.query_heads / heads;
    workspace.prepare_workers(workers(executor));
    parallel_for(executor, (static_cast<Index>(offsets.size()) - 1) * heads, [&](Index job, Index worker) {
      const Index i = job / heads, h = job % heads, row = static_cast<Index>(offsets[static_cast<std::size_t>(i)]);
      const Index count = static_cast<Index>(offsets[static_cast<std::size_t>(i) + 1]) - row;
      const WindowHead<S> head{rotations,
                               window,
                               part(keys, h, shape.head_width, row, count),
                               part(values, h, shape.value_width, row, count),
                               past_of(state_of(i), h),
                               workspace.worker(worker)};
      f(head, h * group, group, row);
    });
  }

  /// f(row, query head, its first column) for all of them.
  template <class F>
  void for_each_output(const F& f) const {
    for_blocks(executor, cache.output.rows(), rows_of_task, [&](Index begin, Index count) {
      for (Index t = begin; t < begin + count; ++t) {
        for (Index h = 0; h < shape.query_heads; ++h) f(t, h, h * shape.value_width);
      }
    });
  }
};

}  // namespace detail
}  // namespace gma
