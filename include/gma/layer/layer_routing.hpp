// SPDX-License-Identifier: MIT
// What an attention layer routes its queries and keys through, and how to add another routing. AttentionLayer<S,
// Routing> asks LayerRouting<S, Routing> for all that it needs to know. A covariance family routes through a product
// mixture and needs no code. For a feature map, make an empty struct with a name, which is the Routing, and specialise
// LayerRouting for it on top of FixedRouting; gma/baselines/layer_features.hpp is the model:
//
//   struct MyRouting { static constexpr const char* name = "my features"; };
//
//   template <class S>
//   struct gma::LayerRouting<S, MyRouting> : gma::FixedRouting<MyFeatures<S>> {
//     static MyFeatures<S> zeros(const LayerConfig& config, Index head_width);          what a gradient begins with
//     template <class Random>                                                          random.uniform() is in [0, 1)
//     static MyFeatures<S> start(const LayerConfig& config, Index head_width, Random& random);
//   };
#pragma once

#include <string>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/layer/layer_config.hpp"
#include "gma/mixture/feature_map.hpp"
#include "gma/mixture/initialization.hpp"

namespace gma {

/// The routing through a covariance family: what a layer and its file need to know of the map of one head.
template <class S, class Covariance>
struct LayerRouting {
  using Type = ProductMixture<S, Covariance>;

  /// All parameters are zero: the start of a gradient.
  static Type zeros(const LayerConfig& config, Index head_width) {
    Type mixture;
    const Index factors = static_cast<Index>(config.components.size());
    for (const Index count : config.components) mixture.factors.emplace_back(count, head_width / factors);
    return mixture;
  }

  /// The start of training.
  static Type start(const LayerConfig& config, Index head_width, Random& random) {
    Type mixture;
    const Index factors = static_cast<Index>(config.components.size());
    for (const Index count : config.components) {
      mixture.factors.push_back(detail::random_mixture<S, Covariance>(count, head_width / factors, random));
    }
    return mixture;
  }

  /// Throws, naming `function`, if a mixture is not fit for use.
  static void check(const char* function, const Type& mixture) { detail::check_parameters(function, mixture); }

  /// expect(name, shape) for every tensor of one head in a file.
  template <class Expect>
  static void visit_shapes(const LayerConfig& config, Index head_width, const Expect& expect) {
    const Index dim = head_width / static_cast<Index>(config.components.size());
    for (std::size_t m = 0; m < config.components.size(); ++m) {
      const std::string name = "factors." + std::to_string(m) + ".";
      const Index components = config.components[m];
      expect(name + "means", std::vector<Index>{components, dim});
      expect(name + "weight_logits", std::vector<Index>{components});
      expect(name + "log_scales",
             std::vector<Index>{families::scale_rows<Covariance>(components), Covariance::scale_cols(dim)});
      expect(name + "log_temperature", std::vector<Index>{});
    }
  }

  /// The numbers of one head in a file that are not parameters: put(name, matrix) writes each, and get(name, shape)
  /// returns it, to be set in the map. A mixture has none.
  template <class Put>
  static void put_constants(const Put&, const Type&) {}
  template <class Get>
  static void get_constants(const Get&, const LayerConfig&, Index, Type&) {}

  /// Throws if a checked mixture does not fit the config.
  static void check_config(const char* function, const Type& mixture, const LayerConfig& config) {
    detail::check_size(function, "layer.mixtures", "factors", static_cast<Index>(mixture.factors.size()),
                       static_cast<Index>(config.components.size()), "from layer.config");
    for (std::size_t m = 0; m < mixture.factors.size(); ++m) {
      detail::check_size(function, "layer.mixtures", "components in a factor", mixture.factors[m].components(),
                         config.components[m], "from layer.config");
    }
  }

  /// visit(name, matrix or number, the same of every other) for every parameter of one head.
  template <class Visitor, class First, class... Others>
  static void visit(const Visitor& visit, First& first, Others&... others) {
    (detail::check_size("visit_parameters", "layer.mixtures", "factors", static_cast<Index>(others.factors.size()),
                        static_cast<Index>(first.factors.size()), "as of the first layer"),
     ...);
    for (std::size_t m = 0; m < first.factors.size(); ++m) {
      const std::string name = "factors." + std::to_string(m) + ".";
      visit(name + "weight_logits", first.factors[m].weight_logits, others.factors[m].weight_logits...);
      visit(name + "means", first.factors[m].means, others.factors[m].means...);
      visit(name + "log_scales", first.factors[m].log_scales, others.factors[m].log_scales...);
      visit(name + "log_temperature", first.factors[m].log_temperature, others.factors[m].log_temperature...);
    }
  }
};

/// The base of routings through a feature map, which has no parameters and no tensors in files. A map whose numbers
/// belong into files replaces visit_shapes(), put_constants() and get_constants().
template <class Map>
struct FixedRouting {
  using Type = Map;
  static void check(const char* function, const Type& map) { map.check(function); }
  template <class Expect>
  static void visit_shapes(const LayerConfig&, Index, const Expect&) {}
  template <class Put>
  static void put_constants(const Put&, const Type&) {}
  template <class Get>
  static void get_constants(const Get&, const LayerConfig&, Index, Type&) {}
  template <class Visitor, class First, class... Others>
  static void visit(const Visitor&, First&, Others&...) {}
};

namespace detail {

using gma::LayerRouting;

/// What the layer's operators run on.
template <class S, class Covariance>
using LayerMap = FeatureMapOf<typename LayerRouting<S, Covariance>::Type>;

}  // namespace detail
}  // namespace gma
