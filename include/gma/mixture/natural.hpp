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
// with p = exp(-2 s) the precisions and everything in W and b divided by tau. Where the means lie far from the origin,
// x and mu are counted from a common centre, which changes no logit but by rounding.
#pragma once

#include <cmath>
#include <vector>

#include "gma/mixture/mixture.hpp"
#include "gma/mixture/natural_range.hpp"

namespace gma {

/// What a token is turned into before the matrix product.
enum class Features { linear, squared_norm, squares, whitened };

/// One factor of a compiled mixture. The same type holds the gradient with respect to it (weights, means and bias).
template <class S>
struct NaturalParameters {
  Features features = Features::linear;
  Matrix<S> weights;        ///< W, D x K; whitened: the K factors L_k stacked, K*d x d
  Matrix<S> means;          ///< whitened only: K x d
  RowVector<S> bias;        ///< b, K
  S temperature = S(1);     ///< tau
  S log_normalizer = S(0);  ///< the part of log p(x, k) that depends on neither token nor component
  Matrix<S> precisions;     ///< p = exp(-2 log_scales), but for whitened
  RowVector<S> center;      ///< c: tokens and means are counted from it, if is_centered; but for whitened
  bool is_centered = false;
  Matrix<S> transposed_weights;  ///< W^T, K x D, for the backward pass, but for whitened

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
    for (const NaturalParameters<S>& factor : factors)
      product = detail::product_of_counts(product, factor.components());
    return product;
  }
  Index dim() const {
    Index sum = 0;
    for (const NaturalParameters<S>& factor : factors) sum = detail::sum_of_counts(sum, factor.dim);
    return sum;
  }
};

/// Natural parameters of a mixture. Cost O(K d), for Full O(K d^2). A temperature, scale or weight so extreme that
/// logits would overflow counts as at a bound (natural_range.hpp), in gradients too. Throws std::invalid_argument if
/// the shapes of the parameters do not fit together, or if there are more than max_slots components.
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

/// log sum exp of the weight logits: log pi = logits - this.
template <class S>
S log_sum_exp(const Vector<S>& logits) {
  using std::log;
  const S largest = logits.maxCoeff();
  return largest + log((logits.array() - largest).exp().sum());
}

/// d log_temperature = -sum dl * l, where l is linear in (W, b): no sum over tokens is needed.
template <class S>
S log_temperature_gradient(const NaturalParameters<S>& natural, const NaturalParameters<S>& gradient) {
  const S share = natural.features == Features::whitened ? S(0.5) : S(1);  // whitened logits are quadratic in L
  return -(share * gradient.weights.cwiseProduct(natural.weights).sum() +
           gradient.bias.cwiseProduct(natural.bias).sum());
}

/// mu_ki as tokens are counted.
template <class S, class Covariance>
S centered_mean(const Mixture<S, Covariance>& mixture, const NaturalParameters<S>& natural, Index k, Index i) {
  return natural.is_centered ? S(mixture.means(k, i) - natural.center(i)) : mixture.means(k, i);
}

/// compile() and pull_back() of one covariance family, in plain loops: they run once a call and compile fast.
/// `beta` is 1 / tau. compile() finds bias, precisions and centre set; pull_back() gets what compile() made and the
/// gradients of the untempered W and b (so d l = beta d(W, b)), and finds the parts of `out` in size, out.log_scales
/// zero.
template <class S, class Covariance>
struct Family;

template <class S>
struct Family<S, Isotropic> {
  static void compile(const Mixture<S, Isotropic>& mixture, const S& beta, NaturalParameters<S>& natural) {
    const Index d = mixture.dim();
    const Matrix<S>& p = natural.precisions;
    natural.features = Features::squared_norm;
    resize(natural.weights, d + 1, mixture.components());
    for (Index k = 0; k < mixture.components(); ++k) {
      for (Index i = 0; i < d; ++i) {
        const S mu = centered_mean(mixture, natural, k, i);
        natural.weights(i, k) = mu * p(k, 0) * beta;
        natural.bias(k) -= mu * mu * p(k, 0) * S(0.5);
      }
      natural.weights(d, k) = p(k, 0) * S(-0.5) * beta;
      natural.bias(k) -= mixture.log_scales(k, 0) * S(static_cast<double>(d));
    }
  }

  // d mu_k = p_k (dW_k - mu_k db_k),  d s_k = p_k (-2 mu_k . dW_k + dW_sq,k + |mu_k|^2 db_k) - d db_k
  static void pull_back(const Mixture<S, Isotropic>& mixture, const NaturalParameters<S>& natural,
                        const NaturalParameters<S>& gradient, Mixture<S, Isotropic>& out) {
    const Index d = mixture.dim();
    const Matrix<S>& p = natural.precisions;
    for (Index k = 0; k < mixture.components(); ++k) {
      const S db = gradient.bias(k);
      S sum = gradient.weights(d, k);
      for (Index i = 0; i < d; ++i) {
        const S mu = centered_mean(mixture, natural, k, i), dw = gradient.weights(i, k);
        out.means(k, i) = p(k, 0) * (dw - mu * db);
        sum += mu * (mu * db - S(2) * dw);
      }
      out.log_scales(k, 0) = p(k, 0) * sum - db * S(static_cast<double>(d));
    }
  }
};

template <class S>
struct Family<S, Diagonal> {
  static void compile(const Mixture<S, Diagonal>& mixture, const S& beta, NaturalParameters<S>& natural) {
    const Index d = mixture.dim();
    const Matrix<S>& p = natural.precisions;
    natural.features = Features::squares;
    resize(natural.weights, 2 * d, mixture.components());
    for (Index k = 0; k < mixture.components(); ++k) {
      for (Index i = 0; i < d; ++i) {
        const S mu = centered_mean(mixture, natural, k, i);
        natural.weights(i, k) = mu * p(k, i) * beta;
        natural.weights(d + i, k) = p(k, i) * S(-0.5) * beta;
        natural.bias(k) -= mu * mu * p(k, i) * S(0.5) + mixture.log_scales(k, i);
      }
    }
  }

  // d mu = p (dW - mu db),  d s = p (-2 mu dW + dW_sq + mu^2 db) - db
  static void pull_back(const Mixture<S, Diagonal>& mixture, const NaturalParameters<S>& natural,
                        const NaturalParameters<S>& gradient, Mixture<S, Diagonal>& out) {
    const Index d = mixture.dim();
    const Matrix<S>& p = natural.precisions;
    for (Index k = 0; k < mixture.components(); ++k) {
      const S db = gradient.bias(k);
      for (Index i = 0; i < d; ++i) {
        const S mu = centered_mean(mixture, natural, k, i), dw = gradient.weights(i, k);
        out.means(k, i) = p(k, i) * (dw - mu * db);
        out.log_scales(k, i) = p(k, i) * (mu * (mu * db - S(2) * dw) + gradient.weights(d + i, k)) - db;
      }
    }
  }
};

template <class S>
struct Family<S, Tied> {
  static void compile(const Mixture<S, Tied>& mixture, const S& beta, NaturalParameters<S>& natural) {
    const Index d = mixture.dim();
    const Matrix<S>& p = natural.precisions;
    natural.features = Features::linear;
    resize(natural.weights, d, mixture.components());
    for (Index k = 0; k < mixture.components(); ++k) {
      for (Index i = 0; i < d; ++i) {
        const S mu = centered_mean(mixture, natural, k, i);
        natural.weights(i, k) = mu * p(0, i) * beta;
        natural.bias(k) -= mu * mu * p(0, i) * S(0.5);
      }
    }
    natural.log_normalizer -= mixture.log_scales.sum();
  }

  // d mu_k = p (dW_k - mu_k db_k),  d s = sum_k p (-2 mu_k dW_k + mu_k^2 db_k)
  static void pull_back(const Mixture<S, Tied>& mixture, const NaturalParameters<S>& natural,
                        const NaturalParameters<S>& gradient, Mixture<S, Tied>& out) {
    const Matrix<S>& p = natural.precisions;
    for (Index k = 0; k < mixture.components(); ++k) {
      const S db = gradient.bias(k);
      for (Index i = 0; i < mixture.dim(); ++i) {
        const S mu = centered_mean(mixture, natural, k, i), dw = gradient.weights(i, k);
        out.means(k, i) = p(0, i) * (dw - mu * db);
        out.log_scales(0, i) += p(0, i) * mu * (mu * db - S(2) * dw);
      }
    }
  }
};

template <class S>
struct Family<S, Full> {
  /// Entry (i, j) of L_k.
  static S lower(const Mixture<S, Full>& mixture, Index k, Index i, Index j) {
    using std::exp;
    const S entry = mixture.log_scales(k, i * mixture.dim() + j);
    return i == j ? S(exp(entry)) : i > j ? entry : S(0);
  }

  static void compile(const Mixture<S, Full>& mixture, const S& beta, NaturalParameters<S>& natural) {
    using std::sqrt;
    const Index d = mixture.dim();
    const S most = sqrt(largest_precision(reach_of(mixture.means, mixture.means.row(0)), beta));
    natural.features = Features::whitened;
    assign(natural.means, mixture.means);
    resize(natural.weights, mixture.components() * d, d);
    for (Index k = 0; k < mixture.components(); ++k) {
      for (Index i = 0; i < d; ++i) {
        for (Index j = 0; j < d; ++j) {
          natural.weights(k * d + i, j) = bounded(lower(mixture, k, i, j), S(-most), most);
        }
        natural.bias(k) += mixture.log_scales(k, i * d + i);  // log det L_k
      }
    }
  }

  // d L_k as gathered; d log L_k,ii = dL_ii L_ii + db_k. The gradient of L and mu is gathered tempered already.
  static void pull_back(const Mixture<S, Full>& mixture, const NaturalParameters<S>& natural,
                        const NaturalParameters<S>& gradient, Mixture<S, Full>& out) {
    const Index d = mixture.dim();
    assign(out.means, gradient.means);
    for (Index k = 0; k < mixture.components(); ++k) {
      for (Index i = 0; i < d; ++i) {
        for (Index j = 0; j < i; ++j) out.log_scales(k, i * d + j) = gradient.weights(k * d + i, j);
        out.log_scales(k, i * d + i) =
            gradient.weights(k * d + i, i) * natural.weights(k * d + i, i) + gradient.bias(k);
      }
    }
  }
};

/// Precisions and centre, which the families with features that are linear in W share.
template <class S, class Covariance>
void compile_scales(const Mixture<S, Covariance>& mixture, const S& beta, NaturalParameters<S>& natural) {
  assign(natural.precisions, (mixture.log_scales.array() * S(-2)).exp().matrix());
  natural.is_centered = choose_center(mixture.means, natural.precisions, beta, natural.bias, natural.center);
  const S most = largest_precision(reach_of(mixture.means, natural.center), beta);
  for (Index i = 0; i < natural.precisions.size(); ++i) {
    if (natural.precisions.data()[i] > most) natural.precisions.data()[i] = most;
  }
}

/// Into `natural`, whose memory is reused.
template <class S, class Covariance>
void compile_factor(const Mixture<S, Covariance>& mixture, NaturalParameters<S>& natural) {
  constexpr bool is_full = std::is_same_v<Covariance, Full>;
  natural.dim = mixture.dim();
  natural.temperature = bounded_temperature(mixture.log_temperature);
  const S beta = S(1) / natural.temperature;
  if constexpr (!is_full) compile_scales(mixture, beta, natural);
  natural.log_normalizer = S(-0.5 * log_two_pi * static_cast<double>(mixture.dim()));
  assign(natural.bias, (mixture.weight_logits.array() - log_sum_exp(mixture.weight_logits)).matrix().transpose());
  Family<S, Covariance>::compile(mixture, beta, natural);
  const S most = power_of_range<S>(0.96875);  // a logit has other terms
  for (Index k = 0; k < natural.bias.size(); ++k) natural.bias(k) = bounded(S(natural.bias(k) * beta), S(-most), most);
  if constexpr (!is_full) assign(natural.transposed_weights, natural.weights.transpose());
}

/// Into `out`, whose memory is reused; `gradient` is used up.
template <class S, class Covariance>
void pull_back_factor(const Mixture<S, Covariance>& mixture, const NaturalParameters<S>& natural,
                      NaturalParameters<S>& gradient, Mixture<S, Covariance>& out) {
  using std::exp;
  out.log_temperature = log_temperature_gradient(natural, gradient);
  const S beta = S(1) / natural.temperature;
  gradient.bias *= beta;
  if (natural.features != Features::whitened) gradient.weights *= beta;
  resize(out.means, mixture.components(), mixture.dim());
  set_constant(out.log_scales, mixture.log_scales.rows(), mixture.log_scales.cols(), S(0));
  Family<S, Covariance>::pull_back(mixture, natural, gradient, out);
  // d logits = d log pi - pi sum d log pi
  const S log_sum = log_sum_exp(mixture.weight_logits), total = gradient.bias.sum();
  assign(out.weight_logits,
         gradient.bias.transpose() - ((mixture.weight_logits.array() - log_sum).exp() * total).matrix());
}

template <class S, class Covariance>
void compile_into(CompiledMixture<S>& compiled, const Mixture<S, Covariance>& mixture) {
  compiled.factors.resize(1);
  compile_factor(mixture, compiled.factors.front());
}
template <class S, class Covariance>
void compile_into(CompiledMixture<S>& compiled, const ProductMixture<S, Covariance>& mixture) {
  compiled.factors.resize(mixture.factors.size());
  for (std::size_t m = 0; m < mixture.factors.size(); ++m) compile_factor(mixture.factors[m], compiled.factors[m]);
}

/// `gradient` becomes an accumulator for `natural`: weights, means and bias of the same shapes, all zero.
template <class S>
void set_zero_like(CompiledMixture<S>& gradient, const CompiledMixture<S>& natural) {
  gradient.factors.resize(natural.factors.size());
  for (std::size_t m = 0; m < natural.factors.size(); ++m) {
    NaturalParameters<S>& factor = gradient.factors[m];
    const NaturalParameters<S>& like = natural.factors[m];
    set_constant(factor.weights, like.weights.rows(), like.weights.cols(), S(0));
    set_constant(factor.means, like.means.rows(), like.means.cols(), S(0));
    set_constant(factor.bias, like.bias.size(), S(0));
  }
}

/// sum += part, of gradients.
template <class S>
void add_gradient(CompiledMixture<S>& sum, const CompiledMixture<S>& part) {
  for (std::size_t m = 0; m < sum.factors.size(); ++m) {
    sum.factors[m].weights += part.factors[m].weights;
    sum.factors[m].means += part.factors[m].means;
    sum.factors[m].bias += part.factors[m].bias;
  }
}

/// Gradient of the parameters, into `out`, from the gradient of the natural parameters, which is used up. Cost as
/// compile().
template <class S, class Covariance>
void pull_back(const Mixture<S, Covariance>& mixture, const CompiledMixture<S>& natural, CompiledMixture<S>& gradient,
               Mixture<S, Covariance>& out) {
  pull_back_factor(mixture, natural.factors.front(), gradient.factors.front(), out);
}
template <class S, class Covariance>
void pull_back(const ProductMixture<S, Covariance>& mixture, const CompiledMixture<S>& natural,
               CompiledMixture<S>& gradient, ProductMixture<S, Covariance>& out) {
  out.factors.resize(mixture.factors.size());
  for (std::size_t m = 0; m < mixture.factors.size(); ++m) {
    pull_back_factor(mixture.factors[m], natural.factors[m], gradient.factors[m], out.factors[m]);
  }
}

}  // namespace detail

template <class S, class Covariance>
CompiledMixture<S> compile(const Mixture<S, Covariance>& mixture) {
  detail::check_parameters("compile", mixture);
  CompiledMixture<S> compiled;
  detail::compile_into(compiled, mixture);
  return compiled;
}

template <class S, class Covariance>
CompiledMixture<S> compile(const ProductMixture<S, Covariance>& mixture) {
  detail::check_parameters("compile", mixture);
  CompiledMixture<S> compiled;
  detail::compile_into(compiled, mixture);
  return compiled;
}

}  // namespace gma
