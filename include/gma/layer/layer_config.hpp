// SPDX-License-Identifier: MIT
// What an attention layer is made of, and the widths that follow.
#pragma once

#include <algorithm>
#include <array>
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

/// f(name, member, whether the earliest files have it) for every member of a config, in the order of files.
template <class Config, class F>
void for_each_member(Config& config, const F& f) {
  f("width", config.width, true);
  f("heads", config.heads, true);
  f("key_value_heads", config.key_value_heads, true);
  f("head_width", config.head_width, true);
  f("value_width", config.value_width, true);
  f("components", config.components, true);
  f("is_causal", config.is_causal, true);
  f("normalization", config.normalization, true);
  f("convolution", config.convolution, true);
  f("has_forgetting", config.has_forgetting, true);
  f("window", config.window, false);
  f("has_output_norm", config.has_output_norm, true);
  f("has_output_gate", config.has_output_gate, true);
  f("shortest_time", config.shortest_time, true);
  f("longest_time", config.longest_time, true);
}

/// What one product makes of a token, in the order of its columns: gates as logits.
enum class Projected { queries, keys, values, forgetting, output_gate, window_gate };
inline constexpr std::size_t projected_parts = 6;

/// In cross attention these are made of the context, and all else of the tokens.
constexpr bool is_of_context(Projected part) { return part == Projected::keys || part == Projected::values; }

struct ColumnRange {
  Index begin, count;
};

/// The widths of a layer, whether its config is valid or not.
struct LayerShape {
  Index width, query_heads, key_heads, head_width, value_width;
  Index queries, keys, values;           // columns of all heads
  Index forgetting, gate, window, norm;  // numbers of a token in each of these parts, 0 where there is no such part
  Index taps;                            // of the convolution, 0 where there is none
  Index window_length, past;             // tokens that the window sees, and those of them before the present one

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
        norm(c.has_output_norm ? mixed() : 0),
        taps(c.convolution > 1 ? c.convolution : 0),
        window_length((std::max)(c.window, Index(0))),
        past(c.window > 1 ? c.window - 1 : 0) {}

  /// Columns of each part of the projection, by Projected.
  std::array<Index, projected_parts> counts() const { return {queries, keys, values, forgetting, gate, window}; }

  ColumnRange columns(Projected part) const {
    const std::array<Index, projected_parts> all = counts();
    ColumnRange range{0, all[static_cast<std::size_t>(part)]};
    for (std::size_t i = 0; i < static_cast<std::size_t>(part); ++i) range.begin = sum_of_counts(range.begin, all[i]);
    return range;
  }
  Index projected() const {
    Index sum = 0;
    for (const Index count : counts()) sum = sum_of_counts(sum, count);
    return sum;
  }
  Index mixed() const { return product_of_counts(query_heads, value_width); }  // outputs of all heads
  Index channels() const { return columns(Projected::forgetting).begin; }      // what the convolution runs over

  bool operator==(const LayerShape& o) const {
    return width == o.width && query_heads == o.query_heads && key_heads == o.key_heads && head_width == o.head_width &&
           value_width == o.value_width && counts() == o.counts() && norm == o.norm && taps == o.taps &&
           window_length == o.window_length;
  }
};

/// Whether layers of two configs have the same parameters and compute the same: all but how they were initialised.
inline bool are_alike(const LayerConfig& a, const LayerConfig& b) {
  return LayerShape(a) == LayerShape(b) && a.components == b.components && a.is_causal == b.is_causal &&
         a.normalization == b.normalization;
}

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
