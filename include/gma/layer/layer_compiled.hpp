// SPDX-License-Identifier: MIT
// The layer that a forward call runs on: the caller's if it is compiled, else one that is compiled into the cache.
#pragma once

#include <cstring>
#include <type_traits>

#include "gma/layer/layer_cache.hpp"

namespace gma::detail {

/// Whether two layers of the same config have bit-identical numbers. False if that cannot be told.
template <class S, class Covariance>
bool have_same_numbers(const AttentionLayer<S, Covariance>& a, const AttentionLayer<S, Covariance>& b) {
  if constexpr (!std::is_arithmetic_v<S> || is_feature_map<typename LayerRouting<S, Covariance>::Type>) {
    return false;
  } else {
    const auto same = [](const auto& x, const auto& y) {
      const std::size_t bytes = static_cast<std::size_t>(x.size()) * sizeof(S);
      return x.size() == y.size() && (bytes == 0 || std::memcmp(x.data(), y.data(), bytes) == 0);
    };
    bool are_same = true;
    for_each_parameter(a.config, [&](const auto& row) { are_same = are_same && same(row.member(a), row.member(b)); });
    if (!are_same) return false;
    for (std::size_t h = 0; h < a.mixtures.size(); ++h) {
      for (std::size_t m = 0; m < a.mixtures[h].factors.size(); ++m) {
        const auto &x = a.mixtures[h].factors[m], &y = b.mixtures[h].factors[m];
        if (!same(x.weight_logits, y.weight_logits) || !same(x.means, y.means) || !same(x.log_scales, y.log_scales) ||
            !(x.log_temperature == y.log_temperature)) {
          return false;
        }
      }
    }
    return true;
  }
}

template <class S, class Map>
const CompiledLayer<S, Map>& compiled_layer(const char*, const CompiledLayer<S, Map>& layer, Index, LayerCache<S>&) {
  return layer;
}
/// A compiled layer. After a call of few tokens, also the parameters from which it was compiled.
template <class S, class Covariance>
struct CompiledOnce {
  CompiledLayer<S, LayerMap<S, Covariance>> compiled;
  AttentionLayer<S, Covariance> source;
  bool has_source = false;
};

template <class S, class Covariance>
const CompiledLayer<S, LayerMap<S, Covariance>>& compiled_layer(const char* function,
                                                                const AttentionLayer<S, Covariance>& layer, Index rows,
                                                                LayerCache<S>& cache) {
  check_layer(function, layer);
  CompiledOnce<S, Covariance>& once = cache.workspace.template keep<CompiledOnce<S, Covariance>>();
  if (once.has_source && are_alike(once.source.config, layer.config) && have_same_numbers(once.source, layer)) {
    return once.compiled;
  }
  once.has_source = false;
  compile_into(once.compiled, layer);
  if (rows < many_tokens) {
    once.source = AttentionLayer<S, Covariance>(layer);
    once.has_source = true;
  }
  return once.compiled;
}

}  // namespace gma::detail
