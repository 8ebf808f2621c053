// SPDX-License-Identifier: MIT
// What an attention layer routes its queries and keys through: a product mixture of a covariance family, or one of the
// feature maps that it is compared with. The layer knows no more of either than what is here.
#pragma once

#include <string>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/layer/layer_config.hpp"
#include "gma/mixture/feature_map.hpp"
#include "gma/mixture/initialization.hpp"

namespace gma::detail {

/// For a covariance family. Specialise it for another tag that is to stand in its place (see
/// baselines/layer_features.hpp).
template <class S, class Covariance>
struct LayerRouting {
  using Type = ProductMixture<S, Covariance>;

  /// Parameters all zero, which is what a gradient begins with.
  static Type zeros(const LayerConfig& config, Index head_width) {
    Type mixture;
    const Index factors = static_cast<Index>(config.components.size());
    for (const Index count : config.components) mixture.factors.emplace_back(count, head_width / factors);
    return mixture;
  }

  static Type start(const LayerConfig& config, Index head_width, Random& random) {
    Type mixture;
    const Index factors = static_cast<Index>(config.components.size());
    for (const Index count : config.components) {
      mixture.factors.push_back(random_mixture<S, Covariance>(count, head_width / factors, random));
    }
    return mixture;
  }

  static void check(const char* function, const Type& mixture) { check_parameters(function, mixture); }

  /// expect(name, shape) for everything that a file holds of one head.
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

  /// What a file holds of one head besides parameters, fixed numbers that nobody learns: put(name, matrix) for each,
  /// and get(name, shape), which gives the matrix, for a map that then has them. A mixture has parameters alone.
  template <class Put>
  static void put_constants(const Put&, const Type&) {}
  template <class Get>
  static void get_constants(const Get&, const LayerConfig&, Index, Type&) {}

  /// Throws where a checked mixture does not fit the config.
  static void check_config(const char* function, const Type& mixture, const LayerConfig& config) {
    check_size(function, "layer.mixtures", "factors", static_cast<Index>(mixture.factors.size()),
               static_cast<Index>(config.components.size()), "from layer.config");
    for (std::size_t m = 0; m < mixture.factors.size(); ++m) {
      check_size(function, "layer.mixtures", "components in a factor", mixture.factors[m].components(),
                 config.components[m], "from layer.config");
    }
  }

  /// visit(name, matrix or number, the same of every other) for every parameter of one head.
  template <class Visitor, class First, class... Others>
  static void visit(const Visitor& visit, First& first, Others&... others) {
    (check_size("visit_parameters", "layer.mixtures", "factors", static_cast<Index>(others.factors.size()),
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

/// What the layer's operators run on.
template <class S, class Covariance>
using LayerMap = FeatureMapOf<typename LayerRouting<S, Covariance>::Type>;

}  // namespace gma::detail
