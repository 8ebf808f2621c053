// SPDX-License-Identifier: MIT
// Attention layers in safetensors files, so that a layer trained elsewhere runs here and the other way round. Needs
// nlohmann_json (CMake target gma::io).
//
// Tensors are named and shaped as visit_parameters() presents them, after a prefix such as "layers.0.attention.":
//
//   query.weight   [Hq d, D]     key.weight [H d, D]     value.weight [H e, D]     output.weight [D, Hq e]
//   query.filter   [Hq d, taps]  key.filter [H d, taps]  value.filter [H e, taps]  the last tap is the present token
//   forget.weight  [H, D]        forget.bias [H]         forget.rate [H]
//   window.weight  [Hq, D]       window.bias [Hq]
//   mixtures.h.factors.m.weight_logits [K], .means [K, d], .log_scales [as the family says], .log_temperature []
//   norm.gain      [Hq e]        gate.weight [Hq e, D]
//
// In PyTorch: query.weight is a torch.nn.Linear(D, Hq d, bias=False).weight; a filter is a depthwise
// torch.nn.Conv1d(C, C, taps, groups=C, bias=False).weight of shape [C, 1, taps], of which the 1 may stay.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "gma/io/safetensors.hpp"
#include "gma/nn/layer.hpp"

namespace gma::io {

/// Adds the parameters of a layer to `file` under prefix + name, as `type` (f32, f64, or 16 bits, which round). A name
/// that is there already is replaced.
template <class S, class Covariance>
void put_layer(SafeTensors& file, const AttentionLayer<S, Covariance>& layer, const std::string& prefix = "",
               DataType type = data_type_of<S>());

/// Sets every parameter of `layer`, whose config says what is expected, from the tensors under `prefix`: floating types
/// of any width, shapes as above. Throws std::runtime_error that names the tensor if one is missing, superfluous
/// (begins with a non-empty prefix, or is any other tensor where there is none), of another shape or type, or not
/// finite; the layer is then as it was.
template <class S, class Covariance>
void get_layer(const SafeTensors& file, AttentionLayer<S, Covariance>& layer, const std::string& prefix = "");

/// A file of one layer, its config included, as metadata; read_layer() gives it back, to the bit if `type` is that of
/// S. Throws as write_safetensors().
template <class S, class Covariance>
void write_layer(const std::filesystem::path& path, const AttentionLayer<S, Covariance>& layer,
                 DataType type = data_type_of<S>());

/// Throws std::runtime_error on a file that is not of one layer of this covariance family.
template <class S, class Covariance = Diagonal>
AttentionLayer<S, Covariance> read_layer(const std::filesystem::path& path);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

template <class... Parts>
[[noreturn]] void bad_layer(const char* function, const Parts&... parts) {
  gma::detail::raise<std::runtime_error>(gma::detail::concatenate("gma::io::", function, ": ", parts...));
}

inline bool is_floating(DataType type) {
  return type == DataType::f64 || type == DataType::f32 || type == DataType::f16 || type == DataType::bf16;
}

/// The shape without the 1 that a depthwise Conv1d has in its middle.
inline bool fits(const std::vector<Index>& found, const std::vector<Index>& expected, bool is_filter) {
  if (found == expected) return true;
  return is_filter && found.size() == 3 && found[1] == 1 && std::vector<Index>{found[0], found[2]} == expected;
}

/// f(name, member) for every member of a config.
template <class Config, class F>
void visit_config(Config& config, const F& f) {
  f("width", config.width);
  f("heads", config.heads);
  f("key_value_heads", config.key_value_heads);
  f("head_width", config.head_width);
  f("value_width", config.value_width);
  f("components", config.components);
  f("is_causal", config.is_causal);
  f("normalization", config.normalization);
  f("convolution", config.convolution);
  f("has_forgetting", config.has_forgetting);
  f("window", config.window);
  f("has_output_norm", config.has_output_norm);
  f("has_output_gate", config.has_output_gate);
  f("shortest_time", config.shortest_time);
  f("longest_time", config.longest_time);
}

inline constexpr const char* names_of_normalizations[] = {"none", "slot", "row"};

template <class T>
nlohmann::json json_of(const T& value) {
  return value;
}
inline nlohmann::json json_of(Normalization value) { return names_of_normalizations[static_cast<int>(value)]; }

/// Whether `json` is a value of the member's kind; sets it if so.
inline bool from_json(const nlohmann::json& json, bool& value) {
  if (json.is_boolean()) value = json.get<bool>();
  return json.is_boolean();
}
inline bool from_json(const nlohmann::json& json, Index& value) {
  const bool fits = json.is_number_unsigned() && json.get<std::uint64_t>() <= (std::uint64_t{1} << 24);
  if (fits) value = static_cast<Index>(json.get<std::uint64_t>());
  return fits;
}
inline bool from_json(const nlohmann::json& json, double& value) {
  if (json.is_number()) value = json.get<double>();
  return json.is_number();
}
inline bool from_json(const nlohmann::json& json, Normalization& value) {
  for (int i = 0; i < 3 && json.is_string(); ++i) {
    if (json.get_ref<const std::string&>() != names_of_normalizations[i]) continue;
    value = static_cast<Normalization>(i);
    return true;
  }
  return false;
}
inline bool from_json(const nlohmann::json& json, std::vector<Index>& value) {
  if (!json.is_array() || json.empty() || json.size() > 64) return false;
  value.assign(json.size(), 0);
  for (std::size_t i = 0; i < json.size(); ++i) {
    if (!from_json(json[i], value[i])) return false;
  }
  return true;
}

inline constexpr const char* layer_format = "gma attention layer 1";

inline LayerConfig config_of(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) bad_layer("read_layer", "the metadata's config is no JSON object");
  LayerConfig config;
  std::size_t members = 0;
  visit_config(config, [&](const char* name, auto& member) {
    const auto found = json.find(name);
    if (found == json.end() && std::string(name) == "window") return;  // older files have none
    if (found == json.end()) bad_layer("read_layer", "the metadata's config lacks ", name);
    if (!from_json(*found, member)) bad_layer("read_layer", "the metadata's config has a bad value for ", name);
    ++members;
  });
  if (members != json.size()) bad_layer("read_layer", "the metadata's config has members that are not known");
  return config;
}

/// The parameters that a layer of this config is to have must fit what the file holds before anything is allocated.
template <class Covariance>
void check_config_size(const LayerConfig& config, const SafeTensors& file) {
  const gma::detail::LayerShape shape(config);
  const auto expect = [&](const char* name, Index rows, Index cols) {
    const auto found = file.tensors.find(name);
    const std::vector<Index> expected{rows, cols};
    if (found == file.tensors.end()) bad_layer("read_layer", "the file lacks the tensor ", name);
    if (found->second.shape != expected) {
      bad_layer("read_layer", "tensor ", name, " has the shape ", text_of(found->second.shape), ", expected ",
                text_of(expected), " from the metadata's config");
    }
  };
  expect("query.weight", shape.queries, shape.width);
  expect("key.weight", shape.keys, shape.width);
  expect("value.weight", shape.values, shape.width);
  const Index factors = static_cast<Index>(config.components.size());
  for (std::size_t m = 0; m < config.components.size(); ++m) {
    expect(gma::detail::concatenate("mixtures.0.factors.", m, ".means").c_str(), config.components[m],
           shape.head_width / factors);
  }
  if (config.convolution > 1) expect("key.filter", shape.keys, config.convolution);
}

}  // namespace detail

template <class S, class Covariance>
void put_layer(SafeTensors& file, const AttentionLayer<S, Covariance>& layer, const std::string& prefix,
               DataType type) {
  visit_parameters(
      [&](const Parameter& parameter, const auto& values) {
        file.tensors[prefix + parameter.name] = make_tensor(values, parameter.shape, type);
      },
      layer);
}

template <class S, class Covariance>
void get_layer(const SafeTensors& file, AttentionLayer<S, Covariance>& layer, const std::string& prefix) {
  constexpr const char* function = "get_layer";
  AttentionLayer<S, Covariance> loaded(layer.config);
  std::set<std::string> known;
  visit_parameters(
      [&](const Parameter& parameter, Eigen::Map<Matrix<S>> values) {
        const std::string name = prefix + parameter.name;
        const auto found = file.tensors.find(name);
        if (found == file.tensors.end()) detail::bad_layer(function, "the file lacks the tensor ", name);
        const Tensor& tensor = found->second;
        const std::string suffix = ".filter";
        const bool is_filter =
            name.size() > suffix.size() && name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0;
        if (!detail::fits(tensor.shape, parameter.shape, is_filter)) {
          detail::bad_layer(function, "tensor ", name, " has the shape ", detail::text_of(tensor.shape), ", expected ",
                            detail::text_of(parameter.shape));
        }
        if (!detail::is_floating(tensor.type)) {
          detail::bad_layer(function, "tensor ", name, " is of integers, expected floating-point numbers");
        }
        const Matrix<S> numbers = tensor.template matrix<S>();
        if (!numbers.array().isFinite().all()) {
          detail::bad_layer(function, "tensor ", name, " has a number that is not finite");
        }
        values = Eigen::Map<const Matrix<S>>(numbers.data(), values.rows(), values.cols());
        known.insert(name);
      },
      loaded);
  for (const auto& [name, tensor] : file.tensors) {
    if (name.compare(0, prefix.size(), prefix) == 0 && known.count(name) == 0) {
      detail::bad_layer(function, "tensor ", name, " is no parameter of this layer");
    }
  }
  layer = std::move(loaded);
}

template <class S, class Covariance>
void write_layer(const std::filesystem::path& path, const AttentionLayer<S, Covariance>& layer, DataType type) {
  gma::detail::check_layer("io::write_layer", layer);
  SafeTensors file;
  put_layer(file, layer, "", type);
  nlohmann::json config = nlohmann::json::object();
  detail::visit_config(layer.config,
                       [&](const char* name, const auto& member) { config[name] = detail::json_of(member); });
  file.metadata = {{"format", detail::layer_format}, {"covariance", Covariance::name}, {"config", config.dump()}};
  write_safetensors(path, file);
}

template <class S, class Covariance>
AttentionLayer<S, Covariance> read_layer(const std::filesystem::path& path) {
  const SafeTensors file = read_safetensors(path);
  const auto text = [&](const char* key) -> std::string {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  if (text("format") != detail::layer_format) {
    detail::bad_layer("read_layer", path.string(), " has the format \"", text("format"),
                      "\" in its metadata, expected \"", detail::layer_format, "\"");
  }
  if (text("covariance") != Covariance::name) {
    detail::bad_layer("read_layer", path.string(), " has ", text("covariance"), " covariances, expected ",
                      Covariance::name);
  }
  const LayerConfig config = detail::config_of(text("config"));
  validate(config);
  detail::check_config_size<Covariance>(config, file);
  AttentionLayer<S, Covariance> layer(config);
  get_layer(file, layer);
  return layer;
}

}  // namespace gma::io
