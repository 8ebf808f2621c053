// SPDX-License-Identifier: MIT
// The table of a layer's parameters: name, group, shape, member, and what the projection or the convolution makes of
// it. Whoever goes through the parameters goes through it: the constructor, the checks, visit_parameters(), compile(),
// the gradient of the projection, and files.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "gma/layer/layer_config.hpp"

namespace gma {

/// What an optimiser may want to tell apart: weight decay is for matrices, and mixtures like a larger learning rate (5
/// times) and no decay.
enum class ParameterGroup { matrix, vector, mixture };

namespace detail {

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

/// f(row) for every parameter, in the order that users see, and mixtures("mixtures") where those of all heads come.
template <class F, class Mixtures>
void for_each_parameter(const LayerShape& s, const F& f, const Mixtures& mixtures) {
  using Part = Projected;
  using Role = ParameterRole;
  constexpr ParameterGroup in_matrices = ParameterGroup::matrix, in_vectors = ParameterGroup::vector;
  const auto projection = [&](const char* name, Part part, auto member) {
    using Row = ParameterRow<Role::projection, decltype(member)>;
    f(Row{name, in_matrices, s.columns(part).count, s.width, part, member});
  };
  const auto filter = [&](const char* name, Part part, auto member) {
    f(ParameterRow<Role::filter, decltype(member)>{name, in_vectors, s.columns(part).count, s.taps, part, member});
  };
  const auto matrix = [&](const char* name, Index rows, Index cols, auto member) {
    f(ParameterRow<Role::matrix, decltype(member)>{name, in_matrices, rows, cols, Part::queries, member});
  };
  const auto vector = [&](const char* name, Index size, auto member) {
    f(ParameterRow<Role::vector, decltype(member)>{name, in_vectors, size, 1, Part::queries, member});
  };
  // clang-format off
  projection("query.weight",  Part::queries,      [](auto& l) -> auto& { return l.query_weight; });
  projection("key.weight",    Part::keys,         [](auto& l) -> auto& { return l.key_weight; });
  projection("value.weight",  Part::values,       [](auto& l) -> auto& { return l.value_weight; });
  filter(    "query.filter",  Part::queries,      [](auto& l) -> auto& { return l.query_filter; });
  filter(    "key.filter",    Part::keys,         [](auto& l) -> auto& { return l.key_filter; });
  filter(    "value.filter",  Part::values,       [](auto& l) -> auto& { return l.value_filter; });
  projection("forget.weight", Part::forgetting,   [](auto& l) -> auto& { return l.forget_weight; });
  vector(    "forget.bias",   s.forgetting,       [](auto& l) -> auto& { return l.forget_bias; });
  vector(    "forget.rate",   s.forgetting,       [](auto& l) -> auto& { return l.forget_rate; });
  projection("window.weight", Part::window_gate,  [](auto& l) -> auto& { return l.window_weight; });
  vector(    "window.bias",   s.window,           [](auto& l) -> auto& { return l.window_bias; });
  mixtures("mixtures");
  vector(    "norm.gain",     s.norm,             [](auto& l) -> auto& { return l.norm_gain; });
  projection("gate.weight",   Part::output_gate,  [](auto& l) -> auto& { return l.gate_weight; });
  matrix(    "output.weight", s.width, s.mixed(), [](auto& l) -> auto& { return l.output_weight; });
  // clang-format on
}
template <class F>
void for_each_parameter(const LayerShape& s, const F& f) {
  for_each_parameter(s, f, [](const char*) {});
}

/// f(row) for the parameters of one role.
template <ParameterRole Role, class F>
void for_each_parameter_of(const LayerShape& s, const F& f) {
  for_each_parameter(s, [&](const auto& row) {
    if constexpr (role_of<decltype(row)> == Role) f(row);
  });
}

/// f(row) for the projections that there are, in the order of their columns.
template <class F>
void for_each_projection(const LayerShape& s, const F& f) {
  for (std::size_t part = 0; part < projected_parts; ++part) {
    for_each_parameter_of<ParameterRole::projection>(s, [&](const auto& row) {
      if (static_cast<std::size_t>(row.columns) == part && !row.is_left_out()) f(row);
    });
  }
}

}  // namespace detail
}  // namespace gma
