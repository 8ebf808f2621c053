// SPDX-License-Identifier: MIT
// A part of the layer: from the heads' outputs y, N x Hq e, to its own, N x D. Norm and gate are where they are asked
// for.
//
//   u   = gain o n      n = y / rms(y), head by head (part_unit_rms.hpp)
//   f   = u o s         s = sigmoid(z), z: the gate's logits of the projection
//   out = f Wo^T
//
//   dWo += d_out^T f    df = d_out Wo
//   dz  = df o f o (1 - s)        du = df o s
//   d_gain += sum_t du o n        dn = du o gain        dy from dn as of every unit root mean square
#pragma once

#include "gma/core/elementwise.hpp"
#include "gma/layer/layer_rows.hpp"
#include "gma/layer/part_unit_rms.hpp"

namespace gma {

/// What a forward pass leaves of it for the backward pass.
template <class S>
struct OutputCache {
  Matrix<S> inverse_rms;  ///< N x Hq, of y, where there is a norm
  Matrix<S> finished;     ///< f, N x Hq e, where there is a norm or a gate; else f is y
};

namespace detail {

template <class S>
struct Output {
  const PassRows<S>& rows;
  OutputCache<S>& cache;

  bool has_norm() const { return rows.config.has_output_norm; }
  bool has_gate() const { return rows.config.has_output_gate; }
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
      });
    }
    product_of_rows(rows.executor, finished(y), out_weights, out);
  }

  /// dy is assigned, and so are the gate's columns of d_projected; the gradients of gain and Wo are added to.
  void backward(const Matrix<S>& y, const Matrix<S>& projected, const Vector<S>& gain, const Matrix<S>& output_weight,
                const Matrix<S>& d_out, Matrix<S>& dy, Matrix<S>& d_projected, Vector<S>& d_gain,
                Matrix<S>& d_output_weight) const {
    add_product_over_rows(rows.executor, as_tile(d_out), finished(y), d_output_weight);
    product_of_rows(rows.executor, d_out, output_weight, dy);
    if (!has_norm() && !has_gate()) return;
    const typename Workspace<S>::Frame frame(rows.workspace);
    Tile<S> scratch = rows.workspace.take(1, rows.shape.mixed());
    for (Index t = 0; t < rows.count(); ++t) {
      if (has_gate()) gate_backward_in_place(t, projected, scratch, dy, d_projected);
      if (has_norm()) norm_backward_in_place(t, y, gain, scratch, dy, d_gain);
    }
  }

 private:
  /// Row t of `d` holds df and becomes du.
  void gate_backward_in_place(Index t, const Matrix<S>& projected, Tile<S>& s, Matrix<S>& d,
                              Matrix<S>& d_projected) const {
    const ColumnRange gate = rows.shape.columns(Projected::output_gate);
    s = projected.row(t).segment(gate.begin, gate.count);
    sigmoid(s.data(), s.size());
    d_projected.row(t).segment(gate.begin, gate.count) =
        d.row(t).array() * cache.finished.row(t).array() * (S(1) - s.array());
    d.row(t).array() *= s.array();
  }

  /// Row t of `d` holds du and becomes dy.
  void norm_backward_in_place(Index t, const Matrix<S>& y, const Vector<S>& gain, Tile<S>& n, Matrix<S>& d,
                              Vector<S>& d_gain) const {
    const Index heads = rows.shape.query_heads, e = rows.shape.value_width;
    for (Index h = 0; h < heads; ++h) {
      n.row(0).segment(h * e, e) = y.row(t).segment(h * e, e) * cache.inverse_rms(t, h);
    }
    d_gain += d.row(t).cwiseProduct(n.row(0)).transpose();
    d.row(t).array() *= gain.transpose().array();
    unit_rms_backward_in_place(n.data(), heads, e, cache.inverse_rms.row(t).data(), d.row(t).data());
  }
};

}  // namespace detail
}  // namespace gma
