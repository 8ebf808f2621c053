// SPDX-License-Identifier: MIT
// Linear attention and Performer as attention layers: AttentionLayer<S, Elu> and AttentionLayer<S, RandomFeatures> are
// the layer of gma/layer/layer.hpp, projections, convolution, forgetting and all, with another feature map in the place
// of its mixtures. Their config's normalization is to be Normalization::row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gma/baselines/feature_maps.hpp"
#include "gma/layer/layer_routing.hpp"
#include "gma/mixture/initialization.hpp"

namespace gma::baselines {

/// elu(x) + 1. config.components is not used.
struct Elu {
  static constexpr const char* name = "elu";  ///< in files
};

/// Performer's positive orthogonal random features, as many a head as the product of config.components.
struct RandomFeatures {
  static constexpr const char* name = "random features";  ///< in files
};

}  // namespace gma::baselines

// Implementation -----------------------------------------------------------------------------------------------------

namespace gma {

template <class S>
struct LayerRouting<S, baselines::Elu> : FixedRouting<baselines::EluFeatures<S>> {
  using Map = baselines::EluFeatures<S>;
  static Map zeros(const LayerConfig&, Index head_width) { return Map(head_width); }
  template <class Random>
  static Map start(const LayerConfig&, Index head_width, Random&) {
    return Map(head_width);
  }
};

template <class S>
struct LayerRouting<S, baselines::RandomFeatures> : FixedRouting<baselines::PositiveRandomFeatures<S>> {
  using Map = baselines::PositiveRandomFeatures<S>;

  static Index slots(const LayerConfig& config) { return detail::slots_of(config.components); }

  /// A gradient has features too, which nothing reads: the fewest.
  static Map zeros(const LayerConfig&, Index head_width) { return Map(1, head_width, 0); }
  template <class Random>
  static Map start(const LayerConfig& config, Index head_width, Random& random) {
    return Map(slots(config), head_width, static_cast<std::uint64_t>(random.uniform() * 0x1p53));
  }

  template <class Expect>
  static void visit_shapes(const LayerConfig& config, Index head_width, const Expect& expect) {
    expect(std::string("directions"), std::vector<Index>{slots(config), head_width});
  }
  template <class Put>
  static void put_constants(const Put& put, const Map& map) {
    put(std::string("directions"), map.directions());
  }
  template <class Get>
  static void get_constants(const Get& get, const LayerConfig& config, Index head_width, Map& map) {
    visit_shapes(config, head_width, [&](const std::string& name, const auto& shape) { map = Map(get(name, shape)); });
  }
};

}  // namespace gma
