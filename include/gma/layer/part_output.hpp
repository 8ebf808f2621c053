// SPDX-License-Identifier: MIT
// A part of the layer: from the heads' outputs y, N x Hq e, to the layer's, N x D. The config says whether there are a
// norm and a gate, and what the gate's activation is.
//
//   u   = gain o n      n = y / rms(y), head by head (part_unit_rms.hpp); without a norm u = y
//   f   = u o a         a = sigmoid(z) or z o sigmoid(z), z: the gate's logits of the projection; without a gate f = u
//   out = f Wo^T
//
//   dWo += d_out^T f    df = d_out Wo
//   du  = df o a                                  s = sigmoid(z)
//   dz  = df o f o (1 - s)                        for sigmoid, whose slope is s (1 - s)
//   dz  = df o (u o s + f o (1 - s))              for silu, whose slope is s + z s (1 - s)
//   d_gain += sum_t du o n        dn = du o gain        dy from dn as of every unit root mean square
#pragma once

#include "gma/core/elementwise.hpp"
#include "gma/layer/layer_rows.hpp"
#include "gma/layer/part_unit_rms.hpp"

namespace gma {

/// What its forward keeps for its backward.
template <class S>
struct OutputCache {
  Matrix<S> inverse_rms;  ///< N x Hq, of y; if there is a norm
  Matrix<S> finished;     ///< f, N x Hq e; if there is a norm or a gate, else f is y
};

namespace detail {

template <class S>
struct Output {
  /// Rows whose gradients of the gain are one sum.
  static constexpr Index rows_of_sum = 384;

  const PassRows<S>& rows;
  OutputCache<S>& cache;

  bool has_norm() const { return rows.config.has_output_norm; }
  bool has_gate() const { return rows.config.has_output_gate; }
  bool is_silu() const { return has_gate() && rows.config.gate_activation == GateActivation::silu; }
  const Matrix<S>& finished(const Matrix<S>& y) const { return has_norm() || has_gate() ? cache.finished : y; }

  /// So that forward() allocates nothing.
  void reserve(Matrix<S>& out) const {
    if (has_norm()) resize(cache.inverse_rms, rows.count(), rows.shape.query_heads);
    if (has_norm() || has_gate()) resize(cache.finished, rows.count(), rows.shape.mixed());
    resize(out, rows.count(), rows.shape.width);
  }

  void forward(const Matrix<S>& y, const Matrix<S>& projected, const Vector<S>& gain, const Matrix<S>& out_weights,
               Matrix<S>& out) const {
    const LayerShape& shape = rows.shape;
    const ColumnRange gate = shape.columns(Projected::output_gate);
    if (has_norm() || has_gate()) {
      Matrix<S>& f = cache.finished;
      f = y;
      rows.for_each([&](Index t) {
        if (has_norm()) {
          unit_rms_in_place(f.row(t).data(), shape.query_heads, shape.value_width, cache.inverse_rms.row(t).data());
          f.row(t).array() *= gain.transpose().array();
        }
        if (has_gate()) multiply_by_sigmoid(projected.row(t).data() + gate.begin, gate.count, f.row(t).data());
        if (is_silu()) f.row(t).array() *= projected.row(t).segment(gate.begin, gate.count).array();
      });
    }
    product_of_rows(rows.executor, finished(y), out_weights, out);
  }

  /// Assigns dy and the gate's columns of d_projected. Adds the gradients of gain and Wo.
  void backward(const Matrix<S>& y, const Matrix<S>& projected, const Vector<S>& gain, const Matrix<S>& output_weight,
                const Matrix<S>& d_out, Matrix<S>& dy, Matrix<S>& d_projected, Vector<S>& d_gain,
                Matrix<S>& d_output_weight) const {
    add_product_over_rows(rows.executor, as_tile(d_out), finished(y), d_output_weight);
    product_of_rows(rows.executor, d_out, output_weight, dy);
    if (!has_norm() && !has_gate()) return;
    const typename Workspace<S>::Frame frame(rows.workspace);
    const Index blocks = (rows.count() + rows_of_sum - 1) / rows_of_sum;
    Tile<S> d_gains = rows.workspace.take(has_norm() ? blocks : Index(0), rows.shape.mixed());
    d_gains.setConstant(S(0));
    rows.workspace.prepare_workers(workers(rows.executor));
    parallel_for(rows.executor, blocks, [&](Index block, Index worker) {
      Workspace<S>& own = rows.workspace.worker(worker);
      const typename Workspace<S>::Frame own_frame(own);
      Tile<S> n = own.take(1, rows.shape.mixed()), s = own.take(1, rows.shape.mixed());
      const Index end = (std::min)(rows.count(), (block + 1) * rows_of_sum);
      for (Index t = block * rows_of_sum; t < end; ++t) {
        n.row(0) = y.row(t);
        if (has_norm()) normalize(t, n);
        if (has_gate()) gate_backward_in_place(t, projected, n, gain, s, dy, d_projected);
        if (has_norm()) norm_backward_in_place(t, n, gain, dy, gma::detail::rows(d_gains, block, 1));
      }
    });
    for (Index block = 0; block < d_gains.rows(); ++block) d_gain += d_gains.row(block).transpose();
  }

 private:
  /// Row t of y becomes that of n.
  void normalize(Index t, Tile<S>& y) const {
    const Index e = rows.shape.value_width;
    for (Index h = 0; h < rows.shape.query_heads; ++h) y.row(0).segment(h * e, e) *= cache.inverse_rms(t, h);
  }

  /// Row t of `d` holds df and becomes du. `n` holds y if there is no norm. `s` is scratch.
  void gate_backward_in_place(Index t, const Matrix<S>& projected, const Tile<S>& n, const Vector<S>& gain, Tile<S>& s,
                              Matrix<S>& d, Matrix<S>& d_projected) const {
    const ColumnRange gate = rows.shape.columns(Projected::output_gate);
    s = projected.row(t).segment(gate.begin, gate.count);
    sigmoid(s.data(), s.size());
    Eigen::Map<RowVector<S>> dz(d_projected.row(t).data() + gate.begin, gate.count);
    dz = d.row(t).array() * cache.finished.row(t).array() * (S(1) - s.array());
    if (is_silu()) {
      if (has_norm()) dz.array() += d.row(t).array() * n.array() * gain.transpose().array() * s.array();
      if (!has_norm()) dz.array() += d.row(t).array() * n.array() * s.array();
      s.array() *= projected.row(t).segment(gate.begin, gate.count).array();
    }
    d.row(t).array() *= s.array();
  }

  /// Row t of `d` holds du and becomes dy.
  void norm_backward_in_place(Index t, const Tile<S>& n, const Vector<S>& gain, Matrix<S>& d, Tile<S> d_gain) const {
    const Index heads = rows.shape.query_heads, e = rows.shape.value_width;
    d_gain.row(0) += d.row(t).cwiseProduct(n.row(0));
    d.row(t).array() *= gain.transpose().array();
    unit_rms_backward_in_place(n.data(), heads, e, cache.inverse_rms.row(t).data(), d.row(t).data());
  }
};

}  // namespace detail
}  // namespace gma
