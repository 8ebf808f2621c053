// SPDX-License-Identifier: MIT
// Natural parameters: a mixture compiled, once per call or once for many, to the form in which a tile of tokens needs
// one matrix product. The gradient of the natural parameters is gathered over the tiles and pulled back to the
// parameters once. Forward and backward of each covariance family stand side by side below.
//
//   features phi(x)        D      tempered logits l(x), up to a constant of the token      log p(x, k) adds to tau l
//   linear        x        d      phi W + b                                                -1/2 sum_i x_i^2 p_i
//   squared_norm [x,|x|^2] d+1    phi W + b
//   squares      [x, x*x]  2d     phi W + b
//   whitened      x        d      -1/(2 tau) |(x - mu_k) L_k|^2 + b_k
//
// with p = exp(-2 s) the precisions and everything in W and b divided by tau.
#pragma once

#include <cmath>
#include <vector>

#include "gma/mixture/mixture.hpp"

namespace gma {

/// What a token is turned into before the matrix product.
enum class Features { linear, squared_norm, squares, whitened };

/// One factor of a compiled mixture. The same type holds the gradient with respect to it (weights, means and bias).
template <class S>
struct NaturalParameters {
  Features features = Features::linear;
  Matrix<S> weights;              ///< W, D x K; whitened: the K factors L_k stacked, K*d x d
  Matrix<S> means;                ///< whitened only: K x d
  RowVector<S> bias;              ///< b, K
  S temperature = S(1);           ///< tau
  S log_normalizer = S(0);        ///< the part of log p(x, k) that depends on neither token nor component
  RowVector<S> token_precisions;  ///< linear only: p, d; the quadratic term that cancels in the responsibilities

  Index dim = 0;
  Index components() const { return bias.size(); }
};

/// A mixture ready for use: goes wherever a mixture goes in a forward verb, at no cost per call. It holds copies, so
/// compile again after a parameter changed.
template <class S>
struct CompiledMixture {
  using Scalar = S;

  std::vector<NaturalParameters<S>> factors;

  Index components() const {
    Index product = factors.empty() ? 0 : 1;
    for (const NaturalParameters<S>& factor : factors) product *= factor.components();
    return product;
  }
  Index dim() const {
    Index sum = 0;
    for (const NaturalParameters<S>& factor : factors) sum += factor.dim;
    return sum;
  }
};

/// Natural parameters of a mixture. Cost O(K d), for Full O(K d^2). Throws std::invalid_argument if the shapes of the
/// parameters do not fit together.
template <class S, class Covariance>
CompiledMixture<S> compile(const Mixture<S, Covariance>& mixture);
template <class S, class Covariance>
CompiledMixture<S> compile(const ProductMixture<S, Covariance>& mixture);
template <class S>
const CompiledMixture<S>& compile(const CompiledMixture<S>& mixture) {
  return mixture;
}

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

inline constexpr double log_two_pi = 1.837877066409345483560659472811235279;

/// log softmax(logits), computed once per call.
template <class S>
RowVector<S> log_weights(const Vector<S>& logits) {
  using std::log;
  const S largest = logits.maxCoeff();
  const S log_sum = largest + log((logits.array() - largest).exp().sum());
  return (logits.array() - log_sum).matrix().transpose();
}

/// Gradient of log_weights: d_logits = d_log_weights - pi sum d_log_weights.
template <class S>
Vector<S> log_weights_backward(const Vector<S>& logits, const RowVector<S>& d_log_weights) {
  const Vector<S> weights = log_weights(logits).array().exp().matrix().transpose();
  return d_log_weights.transpose() - weights * d_log_weights.sum();
}

/// d log_temperature = -sum dl * l, where l is linear in (W, b): no sum over tokens is needed.
template <class S>
S log_temperature_gradient(const NaturalParameters<S>& natural, const NaturalParameters<S>& gradient) {
  const S share = natural.features == Features::whitened ? S(0.5) : S(1);  // whitened logits are quadratic in L
  return -(share * gradient.weights.cwiseProduct(natural.weights).sum() +
           gradient.bias.cwiseProduct(natural.bias).sum());
}

/// compile() and pull_back() of one covariance family. `log_pi` comes in, and its gradient goes out, as a row of K.
template <class S, class Covariance>
struct Family;

template <class S>
struct Family<S, Isotropic> {
  static void compile(const Mixture<S, Isotropic>& mixture, const RowVector<S>& log_pi, NaturalParameters<S>& natural) {
    const Index d = mixture.dim();
    const S beta = S(1) / natural.temperature;
    const RowVector<S> log_sigma = mixture.log_scales.col(0).transpose();
    const RowVector<S> precision = (log_sigma.array() * S(-2)).exp();
    const RowVector<S> mean_norm = mixture.means.rowwise().squaredNorm().transpose();
    natural.features = Features::squared_norm;
    natural.weights.resize(d + 1, mixture.components());
    natural.weights.topRows(d) = mixture.means.transpose() * (precision * beta).asDiagonal();
    natural.weights.row(d) = precision * (S(-0.5) * beta);
    natural.bias = (log_pi.array() - mean_norm.array() * precision.array() * S(0.5) - log_sigma.array() * S(d)) * beta;
  }

  // d mu_k = (dW_k - mu_k db_k) p_k,  d s_k = p_k (-2 mu_k . dW_k + dW_sq,k + |mu_k|^2 db_k) - d db_k
  static void pull_back(const Mixture<S, Isotropic>& mixture, const NaturalParameters<S>& gradient, const S& beta,
                        Mixture<S, Isotropic>& out) {
    const Index d = mixture.dim();
    const Vector<S> precision = (mixture.log_scales.col(0).array() * S(-2)).exp();
    const Matrix<S> d_linear = gradient.weights.topRows(d).transpose() * beta;
    const Vector<S> d_square = gradient.weights.row(d).transpose() * beta;
    const Vector<S> d_bias = gradient.bias.transpose() * beta;
    const Vector<S> mean_norm = mixture.means.rowwise().squaredNorm();
    const Vector<S> mean_dot = mixture.means.cwiseProduct(d_linear).rowwise().sum();
    out.means = precision.asDiagonal() * (d_linear - d_bias.asDiagonal() * mixture.means);
    out.log_scales =
        precision.array() * (mean_dot.array() * S(-2) + d_square.array() + mean_norm.array() * d_bias.array()) -
        d_bias.array() * S(d);
  }
};

template <class S>
struct Family<S, Diagonal> {
  static void compile(const Mixture<S, Diagonal>& mixture, const RowVector<S>& log_pi, NaturalParameters<S>& natural) {
    const Index d = mixture.dim();
    const S beta = S(1) / natural.temperature;
    const Matrix<S> precision = (mixture.log_scales.array() * S(-2)).exp();
    const Matrix<S> weighted_means = mixture.means.cwiseProduct(precision);
    const Vector<S> offset =
        weighted_means.cwiseProduct(mixture.means).rowwise().sum() * S(0.5) + mixture.log_scales.rowwise().sum();
    natural.features = Features::squares;
    natural.weights.resize(2 * d, mixture.components());
    natural.weights.topRows(d) = weighted_means.transpose() * beta;
    natural.weights.bottomRows(d) = precision.transpose() * (S(-0.5) * beta);
    natural.bias = (log_pi - offset.transpose()) * beta;
  }

  // d mu = (dW - mu db) p,  d s = p (-2 mu dW + dW_sq + mu^2 db) - db
  static void pull_back(const Mixture<S, Diagonal>& mixture, const NaturalParameters<S>& gradient, const S& beta,
                        Mixture<S, Diagonal>& out) {
    const Index d = mixture.dim();
    const Matrix<S> precision = (mixture.log_scales.array() * S(-2)).exp();
    const Matrix<S> d_linear = gradient.weights.topRows(d).transpose() * beta;
    const Matrix<S> d_square = gradient.weights.bottomRows(d).transpose() * beta;
    const Matrix<S> d_bias = (gradient.bias.transpose() * beta).replicate(1, d);
    const auto mu = mixture.means.array();
    out.means = precision.array() * (d_linear.array() - mu * d_bias.array());
    out.log_scales =
        precision.array() * (mu * d_linear.array() * S(-2) + d_square.array() + mu.square() * d_bias.array()) -
        d_bias.array();
  }
};

template <class S>
struct Family<S, Tied> {
  static void compile(const Mixture<S, Tied>& mixture, const RowVector<S>& log_pi, NaturalParameters<S>& natural) {
    const S beta = S(1) / natural.temperature;
    const RowVector<S> precision = (mixture.log_scales.row(0).array() * S(-2)).exp();
    const Matrix<S> weighted_means = mixture.means * precision.asDiagonal();
    const Vector<S> offset = weighted_means.cwiseProduct(mixture.means).rowwise().sum() * S(0.5);
    natural.features = Features::linear;
    natural.weights = weighted_means.transpose() * beta;
    natural.bias = (log_pi - offset.transpose()) * beta;
    natural.token_precisions = precision;
    natural.log_normalizer -= mixture.log_scales.sum();
  }

  // d mu_k = (dW_k - mu_k db_k) p,  d s = sum_k p (-2 mu_k dW_k + mu_k^2 db_k)
  static void pull_back(const Mixture<S, Tied>& mixture, const NaturalParameters<S>& gradient, const S& beta,
                        Mixture<S, Tied>& out) {
    const RowVector<S> precision = (mixture.log_scales.row(0).array() * S(-2)).exp();
    const Matrix<S> d_linear = gradient.weights.transpose() * beta;
    const Vector<S> d_bias = gradient.bias.transpose() * beta;
    const Matrix<S> mean_bias = d_bias.asDiagonal() * mixture.means;
    out.means = (d_linear - mean_bias) * precision.asDiagonal();
    const RowVector<S> d_precision = mixture.means.cwiseProduct(mean_bias - d_linear * S(2)).colwise().sum();
    out.log_scales = precision.cwiseProduct(d_precision);
  }
};

template <class S>
struct Family<S, Full> {
  static Matrix<S> factor(const Mixture<S, Full>& mixture, Index k) {
    const Index d = mixture.dim();
    Matrix<S> lower = Eigen::Map<const Matrix<S>>(mixture.log_scales.row(k).data(), d, d);
    lower.template triangularView<Eigen::StrictlyUpper>().setZero();
    lower.diagonal() = lower.diagonal().array().exp();
    return lower;
  }

  static void compile(const Mixture<S, Full>& mixture, const RowVector<S>& log_pi, NaturalParameters<S>& natural) {
    const Index d = mixture.dim();
    natural.features = Features::whitened;
    natural.means = mixture.means;
    natural.weights.resize(mixture.components() * d, d);
    natural.bias = log_pi;
    for (Index k = 0; k < mixture.components(); ++k) {
      natural.weights.middleRows(k * d, d) = factor(mixture, k);
      natural.bias(k) += Eigen::Map<const Matrix<S>>(mixture.log_scales.row(k).data(), d, d).diagonal().sum();
    }
    natural.bias *= S(1) / natural.temperature;
  }

  // d L below the diagonal as it is; d log diag = dL_ii L_ii + db_k (of log det L_k = sum log diag)
  static void pull_back(const Mixture<S, Full>& mixture, const NaturalParameters<S>& gradient, const S& beta,
                        Mixture<S, Full>& out) {
    const Index d = mixture.dim();
    out.means = gradient.means;
    out.log_scales.resize(mixture.components(), d * d);
    for (Index k = 0; k < mixture.components(); ++k) {
      Eigen::Map<Matrix<S>> d_lower(out.log_scales.row(k).data(), d, d);
      d_lower = gradient.weights.middleRows(k * d, d);
      d_lower.template triangularView<Eigen::StrictlyUpper>().setZero();
      d_lower.diagonal() = d_lower.diagonal().array() * factor(mixture, k).diagonal().array() + gradient.bias(k) * beta;
    }
  }
};

template <class S, class Covariance>
NaturalParameters<S> compile_factor(const Mixture<S, Covariance>& mixture) {
  using std::exp;
  NaturalParameters<S> natural;
  natural.dim = mixture.dim();
  natural.temperature = exp(mixture.log_temperature);
  natural.log_normalizer = S(-0.5 * log_two_pi * static_cast<double>(mixture.dim()));
  Family<S, Covariance>::compile(mixture, log_weights(mixture.weight_logits), natural);
  return natural;
}

template <class S, class Covariance>
Mixture<S, Covariance> pull_back_factor(const Mixture<S, Covariance>& mixture, const NaturalParameters<S>& natural,
                                        const NaturalParameters<S>& gradient) {
  const S beta = S(1) / natural.temperature;
  Mixture<S, Covariance> out;
  Family<S, Covariance>::pull_back(mixture, gradient, beta, out);
  out.weight_logits = log_weights_backward(mixture.weight_logits, RowVector<S>(gradient.bias * beta));
  out.log_temperature = log_temperature_gradient(natural, gradient);
  return out;
}

/// A gradient accumulator for `natural`: same shapes, all zero.
template <class S>
CompiledMixture<S> zeros_like(const CompiledMixture<S>& natural) {
  CompiledMixture<S> gradient = natural;
  for (NaturalParameters<S>& factor : gradient.factors) {
    factor.weights.setZero();
    factor.means.setZero();
    factor.bias.setZero();
  }
  return gradient;
}

/// Gradient of the parameters from the gradient of the natural parameters. Cost as compile().
template <class S, class Covariance>
Mixture<S, Covariance> pull_back(const Mixture<S, Covariance>& mixture, const CompiledMixture<S>& natural,
                                 const CompiledMixture<S>& gradient) {
  return pull_back_factor(mixture, natural.factors.front(), gradient.factors.front());
}
template <class S, class Covariance>
ProductMixture<S, Covariance> pull_back(const ProductMixture<S, Covariance>& mixture, const CompiledMixture<S>& natural,
                                        const CompiledMixture<S>& gradient) {
  ProductMixture<S, Covariance> out;
  for (std::size_t m = 0; m < mixture.factors.size(); ++m) {
    out.factors.push_back(pull_back_factor(mixture.factors[m], natural.factors[m], gradient.factors[m]));
  }
  return out;
}

}  // namespace detail

template <class S, class Covariance>
CompiledMixture<S> compile(const Mixture<S, Covariance>& mixture) {
  detail::check_parameters("compile", mixture);
  CompiledMixture<S> compiled;
  compiled.factors.push_back(detail::compile_factor(mixture));
  return compiled;
}

template <class S, class Covariance>
CompiledMixture<S> compile(const ProductMixture<S, Covariance>& mixture) {
  detail::check_parameters("compile", mixture);
  CompiledMixture<S> compiled;
  for (const Mixture<S, Covariance>& factor : mixture.factors)
    compiled.factors.push_back(detail::compile_factor(factor));
  return compiled;
}

}  // namespace gma
