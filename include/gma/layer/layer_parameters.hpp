// SPDX-License-Identifier: MIT
// The parameters of a layer: their struct, and their table with the name, shape and member of each. Everything that
// goes through the parameters goes through the table: the constructor, the checks, visit_parameters(), compile(), the
// widths of the projection, its gradient, and files.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <type_traits>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/core/counts.hpp"
#include "gma/core/resize.hpp"
#include "gma/layer/layer_config.hpp"
#include "gma/layer/layer_routing.hpp"

namespace gma {

/// Throws std::invalid_argument that names the member that does not fit. Besides what follows from their meaning there
/// are bounds that no layer in use comes near: max_slots (2^24) slots per head, a window of max_window (2^20) tokens,
/// and max_columns (2^24) columns of the input, of the projection, of the heads' outputs, and taps.
void validate(const LayerConfig& config);

/// What an optimiser may want to tell apart. Weight decay is for matrices. Mixtures learn better with five times the
/// learning rate and no decay.
enum class ParameterGroup { matrix, vector, mixture };

/// The vectors of a layer, and what else its parts read as it is. Its compiled form has them too.
template <class S>
struct LayerVectors {
  Vector<S> forget_bias;       ///< H
  Vector<S> forget_rate;       ///< H: a, the gates are scaled by exp(a)
  Matrix<S> slot_forget_rate;  ///< H R x K, the ranks of a head together: rho, the slots' rates are exp(rho)
  Vector<S> window_bias;       ///< Hq
  Vector<S> norm_gain;         ///< Hq e
};

/// Matrices are [out, in], as in torch.nn.Linear: y = x W^T. Filters are [channels, taps], the last tap for the present
/// token, as in a depthwise torch.nn.Conv1d. Parts that the config leaves out are empty.
template <class S, class Covariance = Diagonal>
struct AttentionLayer : LayerVectors<S> {
  using Scalar = S;

  AttentionLayer() = default;
  /// Zeros of the right shapes: a gradient to add to. See random_layer() for a layer to train. Throws as validate().
  explicit AttentionLayer(const LayerConfig& config);

  LayerConfig config;            ///< which parts there are, and their widths
  Matrix<S> query_weight;        ///< Hq d x D
  Matrix<S> key_weight;          ///< H d x D
  Matrix<S> value_weight;        ///< H e x D
  Matrix<S> query_filter;        ///< Hq d x taps
  Matrix<S> key_filter;          ///< H d x taps
  Matrix<S> value_filter;        ///< H e x taps
  Matrix<S> forget_weight;       ///< H x D
  Matrix<S> slot_forget_weight;  ///< H R x D
  Matrix<S> window_weight;       ///< Hq x D
  std::vector<typename detail::LayerRouting<S, Covariance>::Type> mixtures;  ///< H product mixtures
  Matrix<S> gate_weight;                                                     ///< Hq e x D
  Matrix<S> output_weight;                                                   ///< D x Hq e
};

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// What one product makes of a token, in the order of its columns. Gates are logits. `none` is the number of them.
enum class Projected { queries, keys, values, forgetting, slot_forgetting, output_gate, window_gate, none };

/// In cross attention these are made of the context, and all else of the tokens.
constexpr bool is_of_context(Projected part) { return part == Projected::keys || part == Projected::values; }

struct ColumnRange {
  Index begin, count;
};

/// The widths of a layer. Its config need not be valid.
struct LayerShape {
  Index width, query_heads, key_heads, head_width, value_width;
  Index queries, keys, values;  // columns of all heads
  Index taps;                   // of the convolution, 0 where there is none
  Index window_length, past;    // tokens that the window sees, and those of them before the present one
  std::array<Index, static_cast<std::size_t>(Projected::none)> counts{};  // columns of each part of the projection

  explicit LayerShape(const LayerConfig& config);

  bool has(Projected part) const { return counts[static_cast<std::size_t>(part)] > 0; }
  ColumnRange columns(Projected part) const {
    ColumnRange range{0, counts[static_cast<std::size_t>(part)]};
    for (std::size_t i = 0; i < static_cast<std::size_t>(part); ++i)
      range.begin = sum_of_counts(range.begin, counts[i]);
    return range;
  }
  Index projected() const {
    Index sum = 0;
    for (const Index count : counts) sum = sum_of_counts(sum, count);
    return sum;
  }
  Index mixed() const { return product_of_counts(query_heads, value_width); }  // outputs of all heads
  Index channels() const { return columns(Projected::forgetting).begin; }      // what the convolution runs over
};

/// A projection makes columns of the product of all tokens, which a filter convolves.
enum class ParameterRole { projection, filter, matrix, vector };

/// A line of the table.
template <ParameterRole Role, class Member>
struct ParameterRow {
  static constexpr ParameterRole role = Role;

  const char* name;  // in files; the member's has _ in the place of .
  ParameterGroup group;
  Index rows, cols;   // one of them 0: the config leaves it out, and the member is empty
  Projected columns;  // of projections and filters
  Member member;      // member(layer) is the parameter, whatever the layer's scalar

  bool is_left_out() const { return rows == 0 || cols == 0; }

  /// As files have it.
  std::vector<Index> shape() const {
    return role == ParameterRole::vector ? std::vector<Index>{rows} : std::vector<Index>{rows, cols};
  }
  std::string member_name() const {
    std::string result = std::string("layer.") + name;
    result[result.rfind('.')] = '_';
    return result;
  }
};
template <class Row>
inline constexpr ParameterRole role_of = std::remove_const_t<std::remove_reference_t<Row>>::role;

/// K of a head.
inline Index slots_of(const LayerConfig& config) {
  Index slots = 1;
  for (const Index count : config.components) slots = product_of_counts(slots, (std::max)(count, Index(0)));
  return slots;
}

/// f(row) for every parameter, in the order that users see, and mixtures("mixtures") where those of all heads come.
/// Needs the widths of `s`, but not its counts, which are those of the rows.
template <class F, class Mixtures>
void for_each_parameter(const LayerConfig& c, const LayerShape& s, const F& f, const Mixtures& mixtures) {
  using Part = Projected;
  using Role = ParameterRole;
  constexpr ParameterGroup in_matrices = ParameterGroup::matrix, in_vectors = ParameterGroup::vector;
  const auto projection = [&](const char* name, Part part, Index rows, auto member) {
    f(ParameterRow<Role::projection, decltype(member)>{name, in_matrices, rows, s.width, part, member});
  };
  const auto filter = [&](const char* name, Part part, Index rows, auto member) {
    f(ParameterRow<Role::filter, decltype(member)>{name, in_vectors, rows, s.taps, part, member});
  };
  const auto matrix = [&](const char* name, Index rows, Index cols, auto member) {
    f(ParameterRow<Role::matrix, decltype(member)>{name, in_matrices, rows, cols, Part::none, member});
  };
  const auto table = [&](const char* name, Index rows, Index cols, auto member) {
    f(ParameterRow<Role::matrix, decltype(member)>{name, in_vectors, rows, cols, Part::none, member});
  };
  const auto vector = [&](const char* name, Index size, auto member) {
    f(ParameterRow<Role::vector, decltype(member)>{name, in_vectors, size, 1, Part::none, member});
  };
  const auto if_there = [](bool is_there, Index count) { return is_there ? (std::max)(count, Index(0)) : 0; };
  const Index forgetting = if_there(c.has_forgetting, s.key_heads), window = if_there(c.window > 0, s.query_heads),
              by_slot = if_there(c.slot_forgetting_rank > 0, product_of_counts(s.key_heads, c.slot_forgetting_rank)),
              norm = if_there(c.has_output_norm, s.mixed()), gate = if_there(c.has_output_gate, s.mixed());
  // clang-format off
  projection("query.weight",  Part::queries,     s.queries,  [](auto& l) -> auto& { return l.query_weight; });
  projection("key.weight",    Part::keys,        s.keys,     [](auto& l) -> auto& { return l.key_weight; });
  projection("value.weight",  Part::values,      s.values,   [](auto& l) -> auto& { return l.value_weight; });
  filter(    "query.filter",  Part::queries,     s.queries,  [](auto& l) -> auto& { return l.query_filter; });
  filter(    "key.filter",    Part::keys,        s.keys,     [](auto& l) -> auto& { return l.key_filter; });
  filter(    "value.filter",  Part::values,      s.values,   [](auto& l) -> auto& { return l.value_filter; });
  projection("forget.weight", Part::forgetting,  forgetting, [](auto& l) -> auto& { return l.forget_weight; });
  vector(    "forget.bias",   forgetting,                    [](auto& l) -> auto& { return l.forget_bias; });
  vector(    "forget.rate",   forgetting,                    [](auto& l) -> auto& { return l.forget_rate; });
  projection("slot_forget.weight", Part::slot_forgetting, by_slot, [](auto& l) -> auto& { return l.slot_forget_weight; });
  table(     "slot_forget.rate", by_slot, slots_of(c), [](auto& l) -> auto& { return l.slot_forget_rate; });
  projection("window.weight", Part::window_gate, window,     [](auto& l) -> auto& { return l.window_weight; });
  vector(    "window.bias",   window,                        [](auto& l) -> auto& { return l.window_bias; });
  mixtures("mixtures");
  vector(    "norm.gain",     norm,                          [](auto& l) -> auto& { return l.norm_gain; });
  projection("gate.weight",   Part::output_gate, gate,       [](auto& l) -> auto& { return l.gate_weight; });
  matrix(    "output.weight", s.width,           s.mixed(),  [](auto& l) -> auto& { return l.output_weight; });
  // clang-format on
}
template <class F, class Mixtures>
void for_each_parameter(const LayerConfig& c, const F& f, const Mixtures& mixtures) {
  for_each_parameter(c, LayerShape(c), f, mixtures);
}
template <class F>
void for_each_parameter(const LayerConfig& c, const F& f) {
  for_each_parameter(c, f, [](const char*) {});
}

/// f(row) for the parameters of one role.
template <ParameterRole Role, class F>
void for_each_parameter_of(const LayerConfig& c, const F& f) {
  for_each_parameter(c, [&](const auto& row) {
    if constexpr (role_of<decltype(row)> == Role) f(row);
  });
}

/// f(row) for the projections that there are, in the order of their columns.
template <class F>
void for_each_projection(const LayerConfig& c, const F& f) {
  for (std::size_t part = 0; part < static_cast<std::size_t>(Projected::none); ++part) {
    for_each_parameter_of<ParameterRole::projection>(c, [&](const auto& row) {
      if (static_cast<std::size_t>(row.columns) == part && !row.is_left_out()) f(row);
    });
  }
}

inline LayerShape::LayerShape(const LayerConfig& c)
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
      taps(c.convolution > 1 ? c.convolution : 0),
      window_length((std::max)(c.window, Index(0))),
      past(c.window > 1 ? c.window - 1 : 0) {
  const auto count = [&](const auto& row) {
    if constexpr (role_of<decltype(row)> == ParameterRole::projection) {
      counts[static_cast<std::size_t>(row.columns)] = row.rows;
    }
  };
  for_each_parameter(c, *this, count, [](const char*) {});
}

/// Whether layers of two configs have the same parameters and compute the same. How they were initialised does not
/// matter, and neither does an activation without a gate.
inline bool are_alike(const LayerConfig& a, const LayerConfig& b) {
  const LayerShape s(a), t(b);  // members that may be 0 are compared by what follows
  bool result = s.key_heads == t.key_heads && s.head_width == t.head_width && s.value_width == t.value_width;
  for_each_member([&](const char*, auto member, const auto&...) {
    using C = LayerConfig;
    bool matters = true;
    if constexpr (std::is_same_v<decltype(member), Index C::*>) {
      matters = member != &C::key_value_heads && member != &C::head_width && member != &C::value_width;
    } else if constexpr (std::is_same_v<decltype(member), double C::*>) {
      matters = member != &C::shortest_time && member != &C::longest_time;
    } else if constexpr (std::is_same_v<decltype(member), GateActivation C::*>) {
      matters = a.has_output_gate;
    }
    result = result && (!matters || a.*member == b.*member);
  });
  return result;
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
  check_count("slot_forgetting_rank", config.slot_forgetting_rank, 0, max_columns);
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
  if (config.slot_forgetting_rank > 0 && !config.is_causal) {
    detail::invalid_argument(name, "slot_forgetting_rank is ", config.slot_forgetting_rank,
                             " for a bidirectional layer, expected 0, or is_causal");
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

template <class S, class Covariance>
AttentionLayer<S, Covariance>::AttentionLayer(const LayerConfig& c) : config(c) {
  validate(c);
  const detail::LayerShape shape(c);
  detail::for_each_parameter(
      c,
      [&](const auto& row) {
        if (!row.is_left_out()) detail::set_constant(row.member(*this), row.rows, row.cols, S(0));
      },
      [&](const char*) {
        mixtures.assign(static_cast<std::size_t>(shape.key_heads),
                        detail::LayerRouting<S, Covariance>::zeros(c, shape.head_width));
      });
}

}  // namespace gma
