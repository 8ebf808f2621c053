// SPDX-License-Identifier: MIT
//
// How much each head forgets before it takes in a token, decided from the token:
//
//   g_th = -softplus(x_t . w_h + b_h) exp(a_h)  <= 0         X [T, D], w [D, H], b, a [1, H], g [T, H]
//
// The memory is multiplied by exp(g_t). In the experiments behind this example nothing else improved a causal Gaussian
// mixture memory as much.
#pragma once

#include "mixer.hpp"

namespace language_model {

struct ForgettingGate {
  Tensor weight, bias, log_rate;

  static ForgettingGate make(Layout& layout, const std::string& name, Index width, Index heads) {
    return {layout.add(name + ".weight", width, heads, Group::matrix),
            layout.add(name + ".bias", 1, heads, Group::gain), layout.add(name + ".log_rate", 1, heads, Group::gain)};
  }

  // Small w and a = 0, and biases at which the heads forget at rates from `fastest` to `slowest` per token, spread
  // evenly in the logarithm (softplus(b) is about exp(b) here).
  template <class S>
  void initialize(Vector<S>& parameters, double fastest, double slowest, Random& random) const {
    fill_normal(parameters, weight, 0.1 / std::sqrt(double(weight.rows)), random);
    for (Index h = 0; h < bias.cols; ++h) {
      const double position = bias.cols > 1 ? double(h) / double(bias.cols - 1) : 0.5;
      view(parameters, bias)(0, h) = S(std::log(fastest) + position * (std::log(slowest) - std::log(fastest)));
    }
  }

  // `logits` [T, H], x . w + b, are kept for the backward pass.
  template <class S>
  void forward(const Vector<S>& parameters, const Matrix<S>& x, Matrix<S>& logits, Matrix<S>& g) const {
    logits.noalias() = x * view(parameters, weight);
    logits.rowwise() += view(parameters, bias).row(0);
    const auto a = view(parameters, log_rate);
    // softplus(z) = max(z, 0) + log(1 + exp(-|z|)), which never overflows.
    g = -(logits.array().max(S(0)) + (S(1) + (-logits.array().abs()).exp()).log()).matrix();
    g.array().rowwise() *= a.row(0).array().exp();
  }

  // dz = -dg sigmoid(z) exp(a);   da = sum_t dg g;   dx += dz w^T.
  template <class S>
  void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& logits, const Matrix<S>& g,
                const Matrix<S>& dg, Vector<S>& gradients, Matrix<S>& dx) const {
    Matrix<S> dz = -(dg.array() / (S(1) + (-logits.array()).exp())).matrix();
    dz.array().rowwise() *= view(parameters, log_rate).row(0).array().exp();
    view(gradients, log_rate).row(0) += dg.cwiseProduct(g).colwise().sum();
    view(gradients, bias).row(0) += dz.colwise().sum();
    view(gradients, weight).noalias() += x.transpose() * dz;
    dx.noalias() += dz * view(parameters, weight).transpose();
  }
};

}  // namespace language_model
