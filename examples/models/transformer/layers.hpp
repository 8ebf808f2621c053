// SPDX-License-Identifier: MIT
//
// The dense layers of a transformer block, each with its gradient next to it.
//
// A layer holds only the handles of its parameters. Values that the backward pass needs from the forward pass are named
// arguments. Parameter gradients are added; input gradients are added if the comment says so.
#pragma once

#include <gma/core/elementwise.hpp>
#include <gma/kernels/products.hpp>
#include <gma/layer/part_unit_rms.hpp>

#include <utility>

#include "tensors.hpp"

namespace transformer {

// Y = X W.   X [T, in], W [in, out], Y [T, out].
struct Linear {
  Tensor weight;

  static Linear make(Layout& layout, const std::string& name, Index in, Index out) {
    return {layout.add(name + ".weight", in, out, Group::matrix, {out, in}, true)};
  }

  template <class S>
  void forward(const Vector<S>& parameters, const Matrix<S>& x, Matrix<S>& y) const {
    gma::product_into(y, x, view(parameters, weight));
  }

  // dW += X^T dY;   dX = dY W^T.
  template <class S>
  void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& dy, Vector<S>& gradients,
                Matrix<S>& dx) const {
    gma::add_transposed_product_into(view(gradients, weight), x, dy);
    const Matrix<S> transposed = view(parameters, weight).transpose();
    gma::product_into(dx, dy, transposed);
  }
};

// slope = silu'(z) = s (1 + z (1 - s)) with s = sigmoid(z), number by number.
template <class S, class Z>
void silu_slope(const Eigen::MatrixBase<Z>& z, Matrix<S>& slope) {
  slope = z;
  gma::sigmoid(slope.data(), slope.size());
  slope.array() *= S(1) + z.array() * (S(1) - slope.array());
}

// y = gain o n, n = x / rms(x), token by token.   X, Y [T, D], gain [1, D].
struct RmsNorm {
  Tensor gain;

  static RmsNorm make(Layout& layout, const std::string& name, Index width) {
    return {layout.add(name + ".gain", 1, width, Group::gain, {width})};
  }

  template <class S>
  struct Cache {
    Matrix<S> normed, inverse;  // [T, D]: n;  [T, 1]: 1 / rms(x)
    Matrix<S> d;                // [T, D], scratch
  };

  template <class S>
  void forward(const Vector<S>& parameters, const Matrix<S>& x, Cache<S>& cache, Matrix<S>& y) const {
    cache.normed = x;
    cache.inverse.resize(x.rows(), 1);
    gma::unit_rms_in_place(columns(cache.normed, 0, x.cols()), columns(cache.inverse, 0, 1));
    y = cache.normed * view(parameters, gain).row(0).asDiagonal();
  }

  // dn = gain o dy, and dx += its gradient;   dgain += sum_t n o dy.
  template <class S>
  void backward(const Vector<S>& parameters, const Matrix<S>& dy, Cache<S>& cache, Vector<S>& gradients,
                Matrix<S>& dx) const {
    view(gradients, gain).row(0) += cache.normed.cwiseProduct(dy).colwise().sum();
    cache.d = dy * view(parameters, gain).row(0).asDiagonal();
    gma::unit_rms_backward_in_place(columns(std::as_const(cache.normed), 0, dy.cols()),
                                    columns(std::as_const(cache.inverse), 0, 1), columns(cache.d, 0, dy.cols()));
    dx += cache.d;
  }
};

// The feed-forward half of a block:
//   gated (SwiGLU)  Y = (silu(X W_gate) o X W_up) W_down        expand = [W_gate, W_up]  [D, 2F]
//   plain           Y = relu(X W_up)^2 W_down                   expand = W_up            [D, F]
struct Mlp {
  bool is_gated = true;
  Linear expand, down;

  template <class S>
  struct Cache {
    Matrix<S> expanded, hidden;  // [T, 2F] or [T, F];  [T, F]
    Matrix<S> d_expanded, d_hidden;
  };

  static Mlp make(Layout& layout, const std::string& name, Index width, Index hidden, bool is_gated) {
    Mlp mlp;
    mlp.is_gated = is_gated;
    mlp.expand = Linear::make(layout, name + ".expand", width, is_gated ? 2 * hidden : hidden);
    mlp.down = Linear::make(layout, name + ".down", hidden, width);
    return mlp;
  }

  template <class S>
  void forward(const Vector<S>& parameters, const Matrix<S>& x, Cache<S>& cache, Matrix<S>& y) const {
    expand.forward(parameters, x, cache.expanded);
    if (is_gated) {
      const Index width = down.weight.rows;
      cache.hidden = cache.expanded.leftCols(width);
      gma::silu(cache.hidden.data(), cache.hidden.size());
      cache.hidden.array() *= cache.expanded.rightCols(width).array();
    } else {
      cache.hidden = cache.expanded.array().max(S(0)).square();
    }
    down.forward(parameters, cache.hidden, y);
  }

  // silu(g) = g s with s = sigmoid(g), so silu'(g) = s (1 + g (1 - s)).
  template <class S>
  void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& dy, Cache<S>& cache,
                Vector<S>& gradients, Matrix<S>& dx) const {
    down.backward(parameters, cache.hidden, dy, gradients, cache.d_hidden);
    cache.d_expanded.resize(cache.expanded.rows(), cache.expanded.cols());
    if (is_gated) {
      const Index width = down.weight.rows;
      for (Index t = 0; t < x.rows(); ++t) {
        const auto gate = cache.expanded.row(t).head(width).array();
        const auto up = cache.expanded.row(t).tail(width).array();
        auto d_gate = cache.d_expanded.row(t).head(width).array();
        auto d_up = cache.d_expanded.row(t).tail(width).array();
        d_gate = gate;  // then s, until it is overwritten two lines below
        gma::sigmoid(d_gate.data(), width);
        d_up = cache.d_hidden.row(t).array() * gate * d_gate;
        d_gate = cache.d_hidden.row(t).array() * up * d_gate * (S(1) + gate * (S(1) - d_gate));
      }
    } else {
      cache.d_expanded = cache.d_hidden.array() * S(2) * cache.expanded.array().max(S(0));
    }
    expand.backward(parameters, x, cache.d_expanded, gradients, dx);
  }
};

// Tied embedding: tokens in, logits out, one matrix E [V, D].
struct TiedEmbedding {
  Tensor weight;

  static TiedEmbedding make(Layout& layout, Index vocabulary, Index width) {
    return {layout.add("embedding.weight", vocabulary, width, Group::matrix)};
  }

  // x_t = sqrt(D) E[token_t]: rows of E are small enough to give small logits, and still enter the stream at unit
  // scale.
  template <class S>
  void embed(const Vector<S>& parameters, const Token* tokens, Index count, Matrix<S>& x) const {
    const auto e = view(parameters, weight);
    x.resize(count, e.cols());
    for (Index t = 0; t < count; ++t) x.row(t) = std::sqrt(S(e.cols())) * e.row(tokens[t]);
  }

  template <class S>
  void embed_backward(const Token* tokens, const Matrix<S>& dx, Vector<S>& gradients) const {
    auto de = view(gradients, weight);
    for (Index t = 0; t < dx.rows(); ++t) de.row(tokens[t]) += std::sqrt(S(de.cols())) * dx.row(t);
  }

  // logits = X E^T.
  template <class S>
  void logits(const Vector<S>& parameters, const Matrix<S>& x, Matrix<S>& y) const {
    const Matrix<S> transposed = view(parameters, weight).transpose();
    gma::product_into(y, x, transposed);
  }

  template <class S>
  void logits_backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& dy, Vector<S>& gradients,
                       Matrix<S>& dx) const {
    gma::add_transposed_product_into(view(gradients, weight), dy, x);
    gma::product_into(dx, dy, view(parameters, weight));
  }
};

// Cross entropy. Replaces logits [T, V] by their softmax p and writes -log p_t[target_t] into losses [T], in nats.
template <class S>
void cross_entropy(Matrix<S>& logits, const Token* targets, Vector<S>& losses) {
  losses.resize(logits.rows());
  for (Index t = 0; t < logits.rows(); ++t) {
    auto row = logits.row(t).array();
    row -= row.maxCoeff();
    const S target = row[targets[t]];
    row = row.exp();
    const S sum = row.sum();
    row /= sum;
    losses[t] = std::log(sum) - target;
  }
}

// Its gradient: d logits = scale (p - onehot(target)), in place of the probabilities.
template <class S>
void cross_entropy_backward(Matrix<S>& probabilities, const Token* targets, S scale) {
  for (Index t = 0; t < probabilities.rows(); ++t) {
    probabilities(t, targets[t]) -= S(1);
    probabilities.row(t) *= scale;
  }
}

}  // namespace transformer
