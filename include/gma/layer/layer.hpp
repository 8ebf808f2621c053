// SPDX-License-Identifier: MIT
// The attention layer: its equations, and what can be done with its parameters. For x, N x D, token by token:
//
//   q, k, v = x Wq^T, x Wk^T, x Wv^T                then the short convolution of each
//   q, k    = q / rms(q), k / rms(k)                head by head
//   g       = -softplus(x Wf^T + bf) exp(af)        log-forgetting, one per key head
//   y       = causal or bidirectional attention of every head, with one product mixture per key head
//   y       = s w + (1 - s) y                       s = sigmoid(x Ws^T + bs), one per query head, if there is a window
//   y       = gain o y / rms(y)                     head by head, if the config has the norm
//   y       = y o silu(x Wg^T)                      or sigmoid, if the config has the gate
//   out     = y Wo^T
//
// w is softmax attention with the same q, k and v over the last tokens, with rotary positions (softmax/window.hpp). Its
// scores are at most sqrt(d) for any weights. Nothing else depends on positions: the convolution and the forgetting
// tell the layer the order of tokens. The verbs are in layer_forward.hpp and layer_backward.hpp. layer_pass.hpp lists
// the parts; each part and its gradients are one file part_*.hpp. layer_parameters.hpp has the parameters,
// layer_initialization.hpp their start, and gma/io/layer_safetensors.hpp files of layers.
#pragma once

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "gma/core/resize.hpp"
#include "gma/layer/layer_parameters.hpp"
#include "gma/mixture/natural.hpp"
#include "gma/softmax/window.hpp"

namespace gma {

/// What a visitor is told about a parameter: its name in files, its group, and its shape in files.
struct Parameter {
  std::string name;          ///< such as query.weight, or mixtures.0.factors.1.means
  ParameterGroup group;      ///< for the optimiser
  std::vector<Index> shape;  ///< of the tensor in files
};

/// visit(const Parameter&, Eigen::Map<Matrix<S>> values, ...) for every parameter of the layer, in the order of the
/// table in layer_parameters.hpp. Further layers of the same config, such as a gradient or the moments of an optimiser,
/// give the same parameter of theirs. A vector comes as one column, a number as 1 x 1. Maps of const layers are const.
/// Throws std::invalid_argument if a parameter of a further layer has another shape.
template <class Visitor, class Layer, class... Others>
void visit_parameters(const Visitor& visit, Layer& layer, Others&... others);

/// The number of parameters.
template <class S, class Covariance>
Index parameter_count(const AttentionLayer<S, Covariance>& layer);

/// Sets all parameters, or gradients, to zero.
template <class S, class Covariance>
void set_zero(AttentionLayer<S, Covariance>& layer);

/// Throws std::invalid_argument that names the parameter if a shape is not the config's or a number is not finite.
template <class S, class Covariance>
void validate(const AttentionLayer<S, Covariance>& layer);

/// A layer that is ready for forward verbs: its projections are one matrix, and its mixtures are compiled. Every
/// forward verb takes it in place of a layer and then compiles nothing. It holds copies: compile again after a
/// parameter has changed.
template <class S, class Map = CompiledMixture<S>>
struct CompiledLayer : LayerVectors<S> {
  using Scalar = S;

  LayerConfig config;         ///< of the layer that was compiled
  Matrix<S> in_weights;       ///< D x all columns of the projection
  Matrix<S> taps;             ///< taps x channels, the present token first
  Matrix<S> rotations;        ///< of the window's queries and keys, position by position
  std::vector<Map> mixtures;  ///< H
  Matrix<S> out_weights;      ///< Hq e x D
};
template <class S, class Covariance>
auto compile(const AttentionLayer<S, Covariance>& layer) -> CompiledLayer<S, detail::LayerMap<S, Covariance>>;

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// A matrix, vector or number as a map. It is const if the value is.
template <class M>
auto parameter_map(M& value) {
  if constexpr (std::is_class_v<std::remove_const_t<M>>) {
    using S = typename std::remove_const_t<M>::Scalar;
    using Plain = std::conditional_t<std::is_const_v<M>, const Matrix<S>, Matrix<S>>;
    return Eigen::Map<Plain>(value.data(), value.rows(), value.cols());
  } else {
    using Plain = std::conditional_t<std::is_const_v<M>, const Matrix<std::remove_const_t<M>>, Matrix<M>>;
    return Eigen::Map<Plain>(&value, 1, 1);
  }
}

template <class M>
std::vector<Index> shape_of(const M& value) {
  if constexpr (!std::is_class_v<M>) {
    return {};
  } else if constexpr (M::ColsAtCompileTime == 1) {
    return {value.rows()};
  } else {
    return {value.rows(), value.cols()};
  }
}

/// Throws unless all have the shape of the first.
template <class First, class... Others>
void check_shapes_alike(const std::string& name, const First& first, const Others&... others) {
  if constexpr (std::is_class_v<First>) {
    (check_shape("visit_parameters", name.c_str(), others.rows(), others.cols(), first.rows(), first.cols(),
                 "as of the first layer"),
     ...);
  }
}

template <class Visitor, class S, class Covariance, class Layer, class... Others>
void visit_mixtures(const Visitor& visit, const std::string& all, const AttentionLayer<S, Covariance>*, Layer& layer,
                    Others&... others) {
  (check_size("visit_parameters", "layer.mixtures", "entries", static_cast<Index>(others.mixtures.size()),
              static_cast<Index>(layer.mixtures.size()), "as of the first layer"),
   ...);
  for (std::size_t h = 0; h < layer.mixtures.size(); ++h) {
    const std::string name = all + "." + std::to_string(h) + ".";
    const auto one = [&](const std::string& member, auto& first, auto&... rest) {
      check_shapes_alike(name + member, first, rest...);
      visit(Parameter{name + member, ParameterGroup::mixture, shape_of(first)}, parameter_map(first),
            parameter_map(rest)...);
    };
    LayerRouting<S, Covariance>::visit(one, layer.mixtures[h], others.mixtures[h]...);
  }
}

}  // namespace detail

template <class Visitor, class Layer, class... Others>
void visit_parameters(const Visitor& visit, Layer& layer, Others&... others) {
  detail::for_each_parameter(
      layer.config,
      [&](const auto& row) {
        auto& first = row.member(layer);
        detail::check_shapes_alike(row.name, first, row.member(others)...);
        if (first.size() == 0) return;
        visit(Parameter{row.name, row.group, detail::shape_of(first)}, detail::parameter_map(first),
              detail::parameter_map(row.member(others))...);
      },
      [&](const std::string& name) { detail::visit_mixtures(visit, name, &layer, layer, others...); });
}

template <class S, class Covariance>
Index parameter_count(const AttentionLayer<S, Covariance>& layer) {
  Index count = 0;
  visit_parameters([&](const Parameter&, const Eigen::Map<const Matrix<S>>& values) { count += values.size(); }, layer);
  return count;
}

template <class S, class Covariance>
void set_zero(AttentionLayer<S, Covariance>& layer) {
  visit_parameters([](const Parameter&, Eigen::Map<Matrix<S>> values) { values.setConstant(S(0)); }, layer);
}

namespace detail {

/// Throws unless the shape of every parameter is the config's.
template <class S, class Covariance>
void check_layer(const char* function, const AttentionLayer<S, Covariance>& layer) {
  const LayerShape shape(layer.config);
  if (shape.width < 1) invalid_argument(function, "layer is empty, expected one made from a LayerConfig");
  for_each_parameter(layer.config, [&](const auto& row) {
    const auto& values = row.member(layer);
    const Index rows = row.is_left_out() ? 0 : row.rows, cols = row.is_left_out() ? 0 : row.cols;
    if constexpr (role_of<decltype(row)> == ParameterRole::vector) {
      if (values.size() == rows) return;
      check_size(function, row.member_name().c_str(), "coefficients", values.size(), rows, "from layer.config");
    } else {
      if (values.rows() == rows && values.cols() == cols) return;
      check_shape(function, row.member_name().c_str(), values.rows(), values.cols(), rows, cols, "from layer.config");
    }
  });
  check_size(function, "layer.mixtures", "entries", static_cast<Index>(layer.mixtures.size()), shape.key_heads,
             "one per key head");
  for (const typename LayerRouting<S, Covariance>::Type& mixture : layer.mixtures) {
    LayerRouting<S, Covariance>::check(function, mixture);
    check_size(function, "layer.mixtures", "dimensions", mixture.dim(), shape.head_width, "the head width");
    if constexpr (!is_feature_map<typename LayerRouting<S, Covariance>::Type>) {
      LayerRouting<S, Covariance>::check_config(function, mixture, layer.config);
    }
  }
}

/// The filters in the form that the convolution takes: taps x channels, the present token first.
template <class S, class Covariance>
void compile_taps(const AttentionLayer<S, Covariance>& layer, Matrix<S>& taps) {
  const LayerShape shape(layer.config);
  resize(taps, shape.taps, shape.taps == 0 ? 0 : shape.channels());
  for_each_parameter_of<ParameterRole::filter>(layer.config, [&](const auto& row) {
    const ColumnRange columns = shape.columns(row.columns);
    const Matrix<S>& filter = row.member(layer);
    for (Index i = 0; i < filter.cols(); ++i) {
      taps.row(i).segment(columns.begin, columns.count) = filter.col(filter.cols() - 1 - i).transpose();
    }
  });
}
template <class S, class Covariance>
void add_gradient_of_taps(const Matrix<S>& d_taps, AttentionLayer<S, Covariance>& gradient) {
  const LayerShape shape(gradient.config);
  for_each_parameter_of<ParameterRole::filter>(gradient.config, [&](const auto& row) {
    const ColumnRange columns = shape.columns(row.columns);
    Matrix<S>& filter = row.member(gradient);
    for (Index i = 0; i < filter.cols(); ++i) {
      filter.col(filter.cols() - 1 - i) += d_taps.row(i).segment(columns.begin, columns.count).transpose();
    }
  });
}

/// Reuses the memory of `compiled`.
template <class S, class Covariance>
void compile_into(CompiledLayer<S, LayerMap<S, Covariance>>& compiled, const AttentionLayer<S, Covariance>& layer) {
  const LayerShape shape(layer.config);
  compiled.config = layer.config;
  static_cast<LayerVectors<S>&>(compiled) = layer;
  resize(compiled.in_weights, shape.width, shape.projected());
  for_each_projection(layer.config, [&](const auto& row) {
    const ColumnRange columns = shape.columns(row.columns);
    compiled.in_weights.middleCols(columns.begin, columns.count) = row.member(layer).transpose();
  });
  compile_taps(layer, compiled.taps);
  if (layer.config.window > 0) set_rotations(compiled.rotations, layer.config.window, shape.head_width);
  assign(compiled.out_weights, layer.output_weight.transpose());
  compiled.mixtures.resize(layer.mixtures.size());
  for (std::size_t h = 0; h < layer.mixtures.size(); ++h) compile_into(compiled.mixtures[h], layer.mixtures[h]);
}

}  // namespace detail

template <class S, class Covariance>
void validate(const AttentionLayer<S, Covariance>& layer) {
  validate(layer.config);
  detail::check_layer("validate", layer);
  visit_parameters(
      [](const Parameter& parameter, const Eigen::Map<const Matrix<S>>& values) {
        detail::check_finite("validate", "layer." + parameter.name, values);
      },
      layer);
}

template <class S, class Covariance>
auto compile(const AttentionLayer<S, Covariance>& layer) -> CompiledLayer<S, detail::LayerMap<S, Covariance>> {
  detail::check_layer("compile", layer);
  CompiledLayer<S, detail::LayerMap<S, Covariance>> compiled;
  detail::compile_into(compiled, layer);
  return compiled;
}

}  // namespace gma
