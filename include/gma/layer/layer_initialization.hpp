// SPDX-License-Identifier: MIT
// A layer to start training from, made from a seed alone. It is bit-identical on all platforms, except for the rounding
// of their log and sqrt.
#pragma once

#include <cmath>
#include <cstdint>

#include "gma/layer/layer.hpp"
#include "gma/mixture/initialization.hpp"

namespace gma {

/// The start of every parameter:
///   projections and the output gate   Normal(0, 1 / inputs)
///   filters                           they almost pass the present token on
///   mixtures                          as random_product_mixture()
///   forgetting gate                   exp(bf) = 1 / T, with T from config.shortest_time to longest_time, evenly in its
///                                     logarithm over the heads; weights a tenth of a projection's; a = 0
///   forgetting of slots               exp(rho) = 1 / (R T log 2), with T from 32 to 2,048 tokens, at random, evenly in
///                                     its logarithm; weights a tenth of a projection's
///   gate of the window                bs = -2, a share of an eighth, so that the mixture learns from the beginning;
///                                     weights a tenth of a projection's
///   gains                             one
/// Throws as validate(config).
template <class S, class Covariance = Diagonal>
AttentionLayer<S, Covariance> random_layer(const LayerConfig& config, std::uint64_t seed);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

template <class S>
void fill_normal(Matrix<S>& matrix, double deviation, Random& random) {
  for (Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = S(deviation * random.normal());
}

template <class S>
void fill_filter(Matrix<S>& filter, Random& random) {
  fill_normal(filter, 0.2, random);
  if (filter.size() != 0) filter.col(filter.cols() - 1).array() += S(1);
}

/// log(2) is softplus(0), what every rank begins with.
template <class S>
void fill_slot_rates(const LayerConfig& config, Matrix<S>& rates, Random& random) {
  const double rank = static_cast<double>(config.slot_forgetting_rank), log_2 = 0.6931471805599453;
  for (Index i = 0; i < rates.size(); ++i) {
    const double time = 32 * std::exp(random.uniform() * std::log(64.0));
    rates.data()[i] = S(-std::log(time * rank * log_2));
  }
}

}  // namespace detail

template <class S, class Covariance>
AttentionLayer<S, Covariance> random_layer(const LayerConfig& config, std::uint64_t seed) {
  AttentionLayer<S, Covariance> layer(config);
  const detail::LayerShape shape(config);
  Random random(seed);
  const double scale = 1 / std::sqrt(static_cast<double>(shape.width));
  for (Matrix<S>* weight : {&layer.query_weight, &layer.key_weight, &layer.value_weight, &layer.gate_weight}) {
    detail::fill_normal(*weight, scale, random);
  }
  detail::fill_normal(layer.output_weight, 1 / std::sqrt(static_cast<double>(shape.mixed())), random);
  for (Matrix<S>* filter : {&layer.query_filter, &layer.key_filter, &layer.value_filter}) {
    detail::fill_filter(*filter, random);
  }
  detail::fill_normal(layer.forget_weight, 0.1 * scale, random);
  detail::fill_normal(layer.window_weight, 0.1 * scale, random);
  detail::fill_normal(layer.slot_forget_weight, 0.1 * scale, random);
  layer.window_bias.setConstant(S(-2));
  for (Index h = 0; h < layer.forget_bias.size(); ++h) {
    const double last = static_cast<double>(shape.key_heads - 1), at = static_cast<double>(h);
    const double position = last > 0 ? at / last : 0.5;
    layer.forget_bias(h) =
        S(-std::log(config.shortest_time) - position * std::log(config.longest_time / config.shortest_time));
  }
  detail::fill_slot_rates(config, layer.slot_forget_rate, random);
  for (auto& mixture : layer.mixtures) {
    mixture = detail::LayerRouting<S, Covariance>::start(config, shape.head_width, random);
  }
  if (config.has_output_norm) layer.norm_gain.setOnes();
  return layer;
}

}  // namespace gma
