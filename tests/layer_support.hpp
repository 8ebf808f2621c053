// SPDX-License-Identifier: MIT
// What the tests of the attention layer begin with: a small config, and a layer of any config.
#pragma once

#include <vector>

#include "executors.hpp"
#include "gma/layer/layer_backward.hpp"
#include "gma/layer/layer_initialization.hpp"
#include "support.hpp"

namespace gma_test {

using gma::GateActivation;
using gma::LayerCache;
using gma::LayerConfig;
using gma::LayerOptions;
using gma::LayerState;
using gma::Sequences;
using Layer = gma::AttentionLayer<double>;

/// Grouped queries, and widths that no two dimensions share.
inline LayerConfig config_of_width(Index width) {
  LayerConfig config;
  config.width = width;
  config.heads = 4;
  config.key_value_heads = 2;
  config.head_width = 4;
  config.value_width = 3;
  config.components = {3, 2};
  config.shortest_time = 2;
  config.longest_time = 20;
  return config;
}

/// A layer in which no parameter is zero or one.
inline Layer layer_of(const LayerConfig& config, std::uint64_t seed = 1) {
  Layer layer = gma::random_layer<double>(config, seed);
  Random random(seed + 100);
  gma::visit_parameters(
      [&](const gma::Parameter&, Eigen::Map<Matrix<double>> values) {
        for (Index i = 0; i < values.size(); ++i) values.data()[i] += 0.2 * random.normal();
      },
      layer);
  return layer;
}

}  // namespace gma_test
