// SPDX-License-Identifier: MIT
// The attention layer once more, one sequence in double, from its definition and the dense attention: loops that are
// read, not run fast.
#pragma once

#include "gma/layer/layer.hpp"
#include "support.hpp"

namespace gma_test {

/// x W^T, then y_t = sum_i filter(c, taps - 1 - i) x_{t-i}.
inline Matrix<double> projected(const Matrix<double>& x, const Matrix<double>& weight, const Matrix<double>& filter) {
  const Matrix<double> z = x * weight.transpose();
  if (filter.size() == 0) return z;
  Matrix<double> y = Matrix<double>::Zero(z.rows(), z.cols());
  for (Index t = 0; t < z.rows(); ++t) {
    for (Index i = 0; i < filter.cols() && i <= t; ++i) {
      for (Index c = 0; c < z.cols(); ++c) y(t, c) += filter(c, filter.cols() - 1 - i) * z(t - i, c);
    }
  }
  return y;
}

inline Matrix<double> unit_rms(Matrix<double> x) {
  for (Index t = 0; t < x.rows(); ++t) {
    x.row(t) /= std::sqrt(x.row(t).squaredNorm() / static_cast<double>(x.cols()) + 1e-5);
  }
  return x;
}

/// Coordinates i and i + d/2 of row p as a complex number times exp(i p 10000^(-2i/d)).
inline Matrix<double> rotated(const Matrix<double>& x) {
  Matrix<double> y(x.rows(), x.cols());
  const Index half = x.cols() / 2;
  for (Index p = 0; p < x.rows(); ++p) {
    for (Index i = 0; i < half; ++i) {
      const double angle =
          static_cast<double>(p) * std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(x.cols()));
      y(p, i) = x(p, i) * std::cos(angle) - x(p, half + i) * std::sin(angle);
      y(p, half + i) = x(p, i) * std::sin(angle) + x(p, half + i) * std::cos(angle);
    }
  }
  return y;
}

/// Row t: softmax over tokens t - window + 1 to t of rotated q_t . k_j / sqrt(d), of the values.
inline Matrix<double> window_attention(Matrix<double> q, Matrix<double> k, const Matrix<double>& v, Index window) {
  q = rotated(q);
  k = rotated(k);
  Matrix<double> y = Matrix<double>::Zero(v.rows(), v.cols());
  for (Index t = 0; t < v.rows(); ++t) {
    double total = 0;
    for (Index j = std::max(Index(0), t - window + 1); j <= t; ++j) {
      const double weight = std::exp(q.row(t).dot(k.row(j)) / std::sqrt(static_cast<double>(q.cols())));
      y.row(t) += weight * v.row(j);
      total += weight;
    }
    y.row(t) /= total;
  }
  return y;
}

/// The heads' outputs times the gate's activation of its logits.
inline Matrix<double> gated(const Matrix<double>& y, const Matrix<double>& logits, gma::GateActivation activation) {
  Matrix<double> result = y;
  for (Index i = 0; i < y.size(); ++i) {
    const double z = logits.data()[i], sigmoid = 1 / (1 + std::exp(-z));
    result.data()[i] *= activation == gma::GateActivation::silu ? z * sigmoid : sigmoid;
  }
  return result;
}

template <class Covariance>
Matrix<double> reference_layer(const gma::AttentionLayer<double, Covariance>& layer, const Matrix<double>& x) {
  const gma::detail::LayerShape shape(layer.config);
  const Index d = shape.head_width, e = shape.value_width, n = x.rows();
  Matrix<double> q = projected(x, layer.query_weight, layer.query_filter);
  Matrix<double> k = projected(x, layer.key_weight, layer.key_filter);
  const Matrix<double> v = projected(x, layer.value_weight, layer.value_filter);
  for (Index h = 0; h < shape.query_heads; ++h) q.middleCols(h * d, d) = unit_rms(q.middleCols(h * d, d)).eval();
  for (Index h = 0; h < shape.key_heads; ++h) k.middleCols(h * d, d) = unit_rms(k.middleCols(h * d, d)).eval();
  Matrix<double> y(n, shape.mixed());
  for (Index h = 0; h < shape.query_heads; ++h) {
    const Index kh = h / (shape.query_heads / shape.key_heads);
    TokenInputs<double> tokens;
    if (layer.config.has_forgetting) {
      const Vector<double> z = x * layer.forget_weight.row(kh).transpose();
      tokens.log_forgetting = -(z.array() + layer.forget_bias(kh)).exp().log1p() * std::exp(layer.forget_rate(kh));
    }
    if (layer.config.slot_forgetting_rank > 0) {
      const Index rank = layer.config.slot_forgetting_rank;
      const Matrix<double> z = x * layer.slot_forget_weight.middleRows(kh * rank, rank).transpose();
      tokens.slot_log_forgetting = -(z.array().exp().log1p().matrix() *
                                     layer.slot_forget_rate.middleRows(kh * rank, rank).array().exp().matrix());
    }
    Options options;
    options.normalization = layer.config.normalization;
    const Matrix<double> queries = q.middleCols(h * d, d), keys = k.middleCols(kh * d, d),
                         values = v.middleCols(kh * e, e);
    Matrix<double> out = gma::reference::attention(layer.mixtures[static_cast<std::size_t>(kh)], queries, keys, values,
                                                   options, layer.config.is_causal, tokens);
    if (layer.config.window > 0) {
      const Matrix<double> local = window_attention(queries, keys, values, layer.config.window);
      for (Index t = 0; t < n; ++t) {
        const double s = 1 / (1 + std::exp(-x.row(t).dot(layer.window_weight.row(h)) - layer.window_bias(h)));
        out.row(t) = s * local.row(t) + (1 - s) * out.row(t);
      }
    }
    if (layer.config.has_output_norm) {
      out = unit_rms(out);
      out.array().rowwise() *= layer.norm_gain.segment(h * e, e).transpose().array();
    }
    y.middleCols(h * e, e) = out;
  }
  if (layer.config.has_output_gate) y = gated(y, x * layer.gate_weight.transpose(), layer.config.gate_activation);
  return y * layer.output_weight.transpose();
}

}  // namespace gma_test
