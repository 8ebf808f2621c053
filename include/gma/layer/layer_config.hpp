// SPDX-License-Identifier: MIT
// What an attention layer is made of, and the widths that follow.
#pragma once

#include <algorithm>
#include <vector>

#include "gma/attention/options.hpp"
#include "gma/core/checks.hpp"
#include "gma/core/counts.hpp"
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

/// Throws std::invalid_argument that names the member that does not fit. Besides what follows from their meaning there
/// are bounds that no layer in use comes near: max_slots (2^24) slots a head, a window of max_window (2^20) tokens, and
/// max_columns (2^24) columns of the input, of all that is made of a token, of the heads' outputs, and taps.
void validate(const LayerConfig& config);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// The widths of a layer, whether its config is valid or not, and where each part of a token lies in the columns of the
/// one product that makes them all: queries, keys, values, the logits of forgetting, those of the output gate, those of
/// the window's gate.
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
        queries(product_of_counts(query_heads, head_width)),
        keys(product_of_counts(key_heads, head_width)),
        values(product_of_counts(key_heads, value_width)),
        forgetting(c.has_forgetting ? (std::max)(key_heads, Index(0)) : 0),
        gate(c.has_output_gate ? mixed() : 0),
        window(c.window > 0 ? (std::max)(query_heads, Index(0)) : 0),
        past(c.window > 1 ? c.window - 1 : 0) {}

  Index channels() const { return sum_of_counts(queries, keys, values); }  // what the convolution runs over
  Index window_begin() const { return sum_of_counts(channels(), forgetting, gate); }
  Index projected() const { return sum_of_counts(window_begin(), window); }
  Index mixed() const { return product_of_counts(query_heads, value_width); }
};

inline void check_count(const char* member, Index value, Index least, Index most) {
  if (value < least) invalid_argument("LayerConfig", member, " is ", value, ", expected at least ", least);
  if (value > most) invalid_argument("LayerConfig", member, " is ", value, ", expected at most ", most);
}

/// The members that others are computed from, one by one: products of two of them then fit an Index.
inline void check_counts(const LayerConfig& config) {
  check_count("width", config.width, 1, max_columns);
  check_count("heads", config.heads, 1, max_columns);
  check_count("key_value_heads", config.key_value_heads, 0, max_columns);
  check_count("head_width", config.head_width, 0, max_columns);
  check_count("value_width", config.value_width, 0, max_columns);
  check_count("convolution", config.convolution, 1, max_columns);
  check_count("window", config.window, 0, max_window);
  Index slots = 1;
  for (const Index count : config.components) {
    check_count("components", count, 1, max_slots);
    slots = product_of_counts(slots, count);
  }
  if (slots > max_slots) {
    invalid_argument("LayerConfig", "components multiply to ", slots == max_index ? "at least " : "", slots,
                     " slots, expected at most ", max_slots);
  }
}

inline void check_columns(const LayerShape& shape) {
  const Index columns = (std::max)(shape.projected(), shape.mixed());
  if (columns > max_columns) {
    invalid_argument("LayerConfig", "heads, head_width and value_width make ", columns,
                     " columns of a token, expected at most ", max_columns);
  }
}

}  // namespace detail

inline void validate(const LayerConfig& config) {
  constexpr const char* name = "LayerConfig";
  detail::check_counts(config);
  const detail::LayerShape shape(config);
  detail::check_columns(shape);
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
  if (config.has_forgetting && !config.is_causal) {
    detail::invalid_argument(name, "has_forgetting is set for a bidirectional layer, expected it with is_causal only");
  }
  if (config.window > 0 && !config.is_causal) {
    detail::invalid_argument(name, "window is ", config.window, " for a bidirectional layer, expected 0, or is_causal");
  }
  if (config.window > 0 && shape.head_width % 2 != 0) {
    detail::invalid_argument(name, "head_width is ", shape.head_width, " with a window of ", config.window,
                             ", expected an even one for its rotary positions");
  }
  if (!(config.shortest_time >= 1 && config.longest_time >= config.shortest_time &&
        detail::is_finite(config.longest_time))) {
    detail::invalid_argument(name, "shortest_time and longest_time are ", config.shortest_time, " and ",
                             config.longest_time, ", expected finite times, 1 <= shortest <= longest");
  }
}

}  // namespace gma
