// SPDX-License-Identifier: MIT
// A mixture compiled to its natural parameters, once per call or once for many calls. The gradient of the natural
// parameters is gathered over the tiles of tokens and pulled back to the parameters once. What differs between
// covariance families is in the files of the families; what they share is here.
#pragma once

#include <cmath>

#include "gma/mixture/mixture.hpp"
#include "gma/mixture/natural_parameters.hpp"
#include "gma/mixture/natural_range.hpp"

namespace gma {

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

/// The shape of `natural`: the numbers of each form.
template <class Covariance, class S>
void set_form(Index components, Index dim, NaturalParameters<S>& natural) {
  natural.features = Covariance::features;
  natural.dim = dim;
  if constexpr (Covariance::features == Features::linear) {
    resize(natural.weights, dim, components);
  } else if constexpr (Covariance::features == Features::squared_norm) {
    resize(natural.weights, dim + 1, components);
  } else if constexpr (Covariance::features == Features::squares) {
    resize(natural.weights, 2 * dim, components);
  } else {
    resize(natural.weights, components * dim, dim);
  }
}

/// Precisions within their bound, and the centre, for every form but the whitened one.
template <class S, class Covariance>
void compile_scales(const Mixture<S, Covariance>& mixture, const S& beta, NaturalParameters<S>& natural) {
  if constexpr (Covariance::log_scales_are_log_deviations) {
    assign(natural.precisions, (mixture.log_scales.array() * S(-2)).exp().matrix());
  } else {
    Covariance::precisions(mixture, natural.precisions);
  }
  natural.is_centered = choose_center(mixture.means, natural.precisions, beta, natural.bias, natural.center);
  const S most = largest_precision(reach_of(mixture.means, natural.center), beta);
  for (Index i = 0; i < natural.precisions.size(); ++i) {
    if (natural.precisions.data()[i] > most) natural.precisions.data()[i] = most;
  }
}

/// Into `natural`, whose memory is reused.
template <class S, class Covariance>
void compile_factor(const Mixture<S, Covariance>& mixture, NaturalParameters<S>& natural) {
  static_assert(check_family<Covariance>());
  constexpr bool is_whitened = Covariance::features == Features::whitened;
  set_form<Covariance>(mixture.components(), mixture.dim(), natural);
  natural.temperature = bounded_temperature(mixture.log_temperature);
  const S beta = S(1) / natural.temperature;
  if constexpr (is_whitened) {
    assign(natural.means, mixture.means);
  } else {
    compile_scales(mixture, beta, natural);
  }
  natural.log_normalizer = S(-0.5 * log_two_pi * static_cast<double>(mixture.dim()));
  assign(natural.bias, (mixture.weight_logits.array() - log_sum_exp(mixture.weight_logits)).matrix().transpose());
  Covariance::compile(mixture, beta, natural);
  const S most = power_of_range<S>(0.96875);  // a logit has other terms
  for (Index k = 0; k < natural.bias.size(); ++k) natural.bias(k) = bounded(S(natural.bias(k) * beta), S(-most), most);
  if constexpr (!is_whitened) assign(natural.transposed_weights, natural.weights.transpose());
}

/// Into `out`, whose memory is reused; `gradient` is used up.
template <class S, class Covariance>
void pull_back_factor(const Mixture<S, Covariance>& mixture, const NaturalParameters<S>& natural,
                      NaturalParameters<S>& gradient, Mixture<S, Covariance>& out) {
  static_assert(check_family<Covariance>());
  out.log_temperature = log_temperature_gradient(natural, gradient);
  const S beta = S(1) / natural.temperature;
  gradient.bias *= beta;
  if constexpr (Covariance::features == Features::whitened) {  // L and mu gather a gradient that is tempered already
    assign(out.means, gradient.means);
  } else {
    gradient.weights *= beta;
    resize(out.means, mixture.components(), mixture.dim());
  }
  set_constant(out.log_scales, mixture.log_scales.rows(), mixture.log_scales.cols(), S(0));
  Covariance::pull_back(mixture, natural, gradient, out);
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
