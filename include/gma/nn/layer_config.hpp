// SPDX-License-Identifier: MIT
// What an attention layer is made of, and the widths that follow.
#pragma once

#include <vector>

#include "gma/attention/options.hpp"
#include "gma/core/checks.hpp"
#include "gma/core/types.hpp"

namespace gma {

/// The default is the recommended causal layer: product mixtures of diagonal Gaussians, slot normalisation, forgetting
/// from the token, a short convolution. Zeros stand for what follows from the rest.
struct LayerConfig {
  Index width = 0;            ///< D: columns of the layer's input and output
  Index heads = 1;            ///< Hq: query heads
  Index key_value_heads = 0;  ///< H: heads of keys, values, mixtures and memories, which divides heads; 0: as many
  Index head_width = 0;       ///< d: routing width of a head; 0: width / heads
  Index value_width = 0;      ///< e: value width of a head; 0: head_width

  /// Slots of each factor of a head's product mixture, which share d equally. One number: an ordinary mixture.
  std::vector<Index> components = {8, 8};

  bool is_causal = true;  ///< else bidirectional
  Normalization normalization = Normalization::slot;
  Index convolution = 4;         ///< taps of the short causal convolution on queries, keys and values; 1: none
  bool has_forgetting = true;    ///< a gate per key head; causal layers only
  Index window = 0;              ///< tokens, the present one too, that heads also attend to exactly; causal layers only
  bool has_output_norm = false;  ///< unit root mean square of every head's output, with a gain
  bool has_output_gate = false;  ///< the outputs times sigmoid(x W^T)

  /// What random_layer() starts the gates from: time constants in tokens, spread over the heads.
  double shortest_time = 16, longest_time = 512;
};

/// Throws std::invalid_argument that names the member that does not fit.
void validate(const LayerConfig& config);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// The widths of a layer, and where each part of a token lies in the columns of the one product that makes them all:
/// queries, keys, values, the logits of forgetting, those of the output gate, those of the window's gate.
struct LayerShape {
  Index width, query_heads, key_heads, head_width, value_width;
  Index queries, keys, values, forgetting, gate, window;  // columns of each
  Index past;                                             // tokens that the window sees before the present one

  explicit LayerShape(const LayerConfig& c)
      : width(c.width),
        query_heads(c.heads),
        key_heads(c.key_value_heads > 0 ? c.key_value_heads : c.heads),
        head_width(c.head_width > 0 ? c.head_width
                   : c.heads > 0    ? c.width / c.heads
                                    : 0),
        value_width(c.value_width > 0 ? c.value_width : head_width),
        queries(query_heads * head_width),
        keys(key_heads * head_width),
        values(key_heads * value_width),
        forgetting(c.has_forgetting ? key_heads : 0),
        gate(c.has_output_gate ? query_heads * value_width : 0),
        window(c.window > 0 ? query_heads : 0),
        past(c.window > 1 ? c.window - 1 : 0) {}

  Index channels() const { return queries + keys + values; }  // what the convolution runs over
  Index window_begin() const { return channels() + forgetting + gate; }
  Index projected() const { return channels() + forgetting + gate + window; }
  Index mixed() const { return query_heads * value_width; }
};

inline void check_at_least(const char* member, Index value, Index least) {
  if (value < least) invalid_argument("LayerConfig", member, " is ", value, ", expected at least ", least);
}

}  // namespace detail

inline void validate(const LayerConfig& config) {
  constexpr const char* name = "LayerConfig";
  detail::check_at_least("width", config.width, 1);
  detail::check_at_least("heads", config.heads, 1);
  detail::check_at_least("key_value_heads", config.key_value_heads, 0);
  detail::check_at_least("head_width", config.head_width, 0);
  detail::check_at_least("value_width", config.value_width, 0);
  detail::check_at_least("convolution", config.convolution, 1);
  const detail::LayerShape shape(config);
  if (config.head_width == 0 && config.width % config.heads != 0) {
    detail::invalid_argument(name, "width is ", config.width, " for ", config.heads,
                             " heads, expected a multiple of them, or a head_width");
  }
  if (config.heads % shape.key_heads != 0) {
    detail::invalid_argument(name, "key_value_heads is ", shape.key_heads, ", expected a divisor of heads (",
                             config.heads, ")");
  }
  const Index factors = static_cast<Index>(config.components.size());
  if (factors < 1 || shape.head_width < factors || shape.head_width % factors != 0) {
    detail::invalid_argument(name, "components has ", factors, " factors for a head_width of ", shape.head_width,
                             ", expected a number of factors that divides it");
  }
  for (const Index count : config.components) detail::check_at_least("components", count, 1);
  if (config.has_forgetting && !config.is_causal) {
    detail::invalid_argument(name, "has_forgetting is set for a bidirectional layer, expected it with is_causal only");
  }
  detail::check_at_least("window", config.window, 0);
  if (config.window > 0 && !config.is_causal) {
    detail::invalid_argument(name, "window is ", config.window, " for a bidirectional layer, expected 0, or is_causal");
  }
  if (config.window > 0 && shape.head_width % 2 != 0) {
    detail::invalid_argument(name, "head_width is ", shape.head_width, " with a window of ", config.window,
                             ", expected an even one for its rotary positions");
  }
  if (!(config.shortest_time >= 1 && config.longest_time >= config.shortest_time)) {
    detail::invalid_argument(name, "shortest_time and longest_time are ", config.shortest_time, " and ",
                             config.longest_time, ", expected 1 <= shortest <= longest");
  }
}

}  // namespace gma
