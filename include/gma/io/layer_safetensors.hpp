// SPDX-License-Identifier: MIT
// Attention layers in safetensors files, so that a layer trained elsewhere runs here, and a layer trained here runs
// elsewhere. Needs nlohmann_json (CMake target gma::io).
//
// Names and shapes of tensors are those of visit_parameters(), after a prefix such as "layers.0.attention.":
//
//   query.weight   [Hq d, D]     key.weight [H d, D]     value.weight [H e, D]     output.weight [D, Hq e]
//   query.filter   [Hq d, taps]  key.filter [H d, taps]  value.filter [H e, taps]  the last tap is the present token
//   forget.weight  [H, D]        forget.bias [H]         forget.rate [H]
//   slot_forget.weight [H R, D]  slot_forget.rate [H R, K]    R: slot_forgetting_rank
//   window.weight  [Hq, D]       window.bias [Hq]
//   mixtures.h.factors.m.weight_logits [K], .means [K, d], .log_scales [as the family says], .log_temperature []
//   norm.gain      [Hq e]        gate.weight [Hq e, D]
//
// A layer of fixed features (gma/baselines/layer_features.hpp) has no mixtures. The file of a layer of Performer's
// features has their directions, mixtures.h.directions [K, d], which are not parameters.
//
// In PyTorch: query.weight is a torch.nn.Linear(D, Hq d, bias=False).weight. A filter is a depthwise torch.nn.Conv1d(C,
// C, taps, groups=C, bias=False).weight of shape [C, 1, taps]; the 1 may stay in the shape.
#pragma once

#include <filesystem>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gma/io/layer_safetensors_config.hpp"
#include "gma/io/lazy_safetensors.hpp"
#include "gma/io/safetensors.hpp"
#include "gma/layer/layer.hpp"

namespace gma::io {

/// Adds all tensors of a layer to `file` under prefix + name, as `type` (f32, f64, or 16 bits, which round). They
/// replace those of another layer: with a prefix that ends with a dot, everything that begins with the prefix, else
/// everything named as a part of a layer. Throws std::invalid_argument for what get_layer() would refuse: a layer whose
/// shapes are not those of its config, and numbers that are not finite or do not fit into `type`. `file` is then
/// unchanged.
template <class S, class Covariance>
void put_layer(SafeTensors& file, const AttentionLayer<S, Covariance>& layer, const std::string& prefix = "",
               DataType type = data_type_of<S>());

/// Sets all tensors of `layer` from those under `prefix`: floating types of any width, shapes as above. The layer's
/// config says what is expected. Throws std::runtime_error that names the tensor if one is missing, has another shape
/// or type, is not finite, or is superfluous; the layer is then unchanged. A tensor is superfluous if it is no part of
/// the layer and
///   with a prefix that ends with a dot     its name begins with the prefix
///   without a prefix                       always
///   with a prefix that ends without a dot  its name is that of a part of a layer (other prefixes may begin so)
template <class S, class Covariance>
void get_layer(const SafeTensors& file, AttentionLayer<S, Covariance>& layer, const std::string& prefix = "");

/// Writes a file of one layer, with its config as metadata. read_layer() reads it back, bit-identical if `type` is that
/// of S. Throws as put_layer() and write_safetensors() do: read_layer() accepts every file that it writes.
///   format = pt, which other programs look for; gma_format = gma attention layer 1; covariance = the family's name;
///   config = a JSON object of the config's members
template <class S, class Covariance>
void write_layer(const std::filesystem::path& path, const AttentionLayer<S, Covariance>& layer,
                 DataType type = data_type_of<S>());

/// Reads a file of one layer of this covariance family. Throws std::runtime_error that names the file and the fault on
/// every other file. The config's counts and every tensor's shape are checked before anything is allocated for the
/// layer, which takes a small multiple of the file's size. Files of earlier versions, whose `format` is today's
/// gma_format, are read too.
template <class S, class Covariance = Diagonal>
AttentionLayer<S, Covariance> read_layer(const std::filesystem::path& path);

/// Reads one layer out of a larger model: a safetensors file, an index or a folder of shards (as for LazySafeTensors)
/// in which the layer's tensors lie under `prefix`. `config` says what is expected. Only these tensors are read, and
/// only their shards are opened; memory is a small multiple of the layer. Throws std::runtime_error as
/// LazySafeTensors and get_layer() do; shapes are checked before any number is read.
///   auto layer = gma::io::read_layer<float>("Model-7B", config, "layers.3.attention.");
template <class S, class Covariance = Diagonal>
AttentionLayer<S, Covariance> read_layer(const std::filesystem::path& path, const LayerConfig& config,
                                         const std::string& prefix = "");

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

inline constexpr const char* layer_format = "gma attention layer 1";

inline bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Whether a tensor of this name, under a prefix, can be a part of any layer.
inline bool is_layer_part(const std::string& name, const std::string& prefix) {
  if (name.compare(0, prefix.size(), prefix) != 0) return false;
  bool result = false;
  const auto is_of = [&](const std::string& part) {
    result = result || name.compare(prefix.size(), part.size(), part) == 0;
  };
  gma::detail::for_each_parameter(
      LayerConfig(), [&](const auto& row) { is_of(std::string(row.name, std::string(row.name).find('.') + 1)); },
      [&](const char* mixtures) { is_of(std::string(mixtures) + "."); });
  return result;
}

/// Whether the name belongs to the layer under this prefix, and to nothing else.
inline bool is_of_layer(const std::string& name, const std::string& prefix) {
  if (!ends_with(prefix, ".")) return is_layer_part(name, prefix);
  return name.compare(0, prefix.size(), prefix) == 0;
}

/// The fault of a tensor that must have this shape; "" if there is none. The 1 in the middle of a depthwise Conv1d's
/// shape may stay.
inline std::string layer_tensor_fault(const SafeTensors& file, const std::string& name,
                                      const std::vector<Index>& expected) {
  const auto found = file.tensors.find(name);
  if (found == file.tensors.end()) return "the file lacks the tensor " + name;
  const std::vector<Index>& shape = found->second.shape;
  const bool is_filter = ends_with(name, ".filter") && shape.size() == 3 && shape[1] == 1 && expected.size() == 2 &&
                         shape[0] == expected[0] && shape[2] == expected[1];
  if (shape != expected && !is_filter) {
    return "tensor " + name + " has the shape " + text_of(shape) + ", expected " + text_of(expected);
  }
  const Tensor& tensor = found->second;
  for (const DataType type : {DataType::f64, DataType::f32, DataType::f16, DataType::bf16}) {
    if (tensor.type == type) return "";
  }
  const std::string found_type = tensor.type == DataType::other ? "the type " + shown(tensor.other_type) : "integers";
  return "tensor " + name + " is of " + found_type + ", expected floating-point numbers";
}

/// The fault of a file that must hold the layer of this config, numbers excluded; "" if there is none. Allocates no
/// more than the names of the tensors in the file.
template <class S, class Covariance>
std::string layer_fault(const SafeTensors& file, const LayerConfig& config, const std::string& prefix) {
  std::string fault;
  std::set<std::string> known;
  const auto expect = [&](const std::string& member, const std::vector<Index>& shape) {
    if (!fault.empty()) return;
    fault = layer_tensor_fault(file, prefix + member, shape);
    if (fault.empty()) known.insert(prefix + member);
  };
  const gma::detail::LayerShape shape(config);
  gma::detail::for_each_parameter(
      config,
      [&](const auto& row) {
        if (!row.is_left_out()) expect(row.name, row.shape());
      },
      [&](const std::string& mixtures) {
        for (Index h = 0; h < shape.key_heads && fault.empty(); ++h) {
          const std::string head = mixtures + "." + std::to_string(h) + ".";
          gma::detail::LayerRouting<S, Covariance>::visit_shapes(
              config, shape.head_width,
              [&](const std::string& name, const std::vector<Index>& expected) { expect(head + name, expected); });
        }
      });
  for (const auto& [name, tensor] : file.tensors) {
    const bool is_superfluous = (prefix.empty() || is_of_layer(name, prefix)) && known.count(name) == 0;
    if (fault.empty() && is_superfluous) fault = "tensor " + name + " is no parameter of this layer";
  }
  return fault;
}

/// `values` as a tensor of finite numbers.
template <class S>
Tensor layer_tensor(const char* function, const std::string& name, const Eigen::Ref<const Matrix<S>>& values,
                    const std::vector<Index>& shape, DataType type) {
  with_type(type, [&](auto zero) {
    using To = decltype(zero);
    for (Index i = 0; i < (is_float<To> ? values.rows() : 0); ++i) {
      for (Index j = 0; j < values.cols(); ++j) {
        if (gma::detail::is_finite(convert<double>(convert<To>(values(i, j))))) continue;
        gma::detail::invalid_argument(function, "parameter ", name, " is ", values(i, j), " at row ", i, ", column ", j,
                                      ", expected a finite number that ", name_of(type), " holds");
      }
    }
  });
  return make_tensor(values, shape, type);
}

/// The tensors of a layer in a form that the reader accepts, by their names without a prefix.
template <class S, class Covariance>
SafeTensors tensors_of(const char* function, const AttentionLayer<S, Covariance>& layer, DataType type) {
  validate(layer.config);
  gma::detail::check_layer(function, layer);
  SafeTensors file;
  visit_parameters(
      [&](const Parameter& parameter, const Eigen::Map<const Matrix<S>>& values) {
        file.tensors[parameter.name] = layer_tensor<S>(function, parameter.name, values, parameter.shape, type);
      },
      layer);
  for (std::size_t h = 0; h < layer.mixtures.size(); ++h) {
    const auto put = [&](const std::string& member, const Matrix<S>& values) {
      const std::string name = "mixtures." + std::to_string(h) + "." + member;
      file.tensors[name] = layer_tensor<S>(function, name, values, {values.rows(), values.cols()}, type);
    };
    gma::detail::LayerRouting<S, Covariance>::put_constants(put, layer.mixtures[h]);
  }
  const std::string fault = layer_fault<S, Covariance>(file, layer.config, "");
  if (!fault.empty()) gma::detail::invalid_argument(function, "layer is not of its config: ", fault);
  return file;
}

/// The layer that a file holds. `origin` begins the message of every fault.
template <class S, class Covariance>
AttentionLayer<S, Covariance> layer_of(const std::string& origin, const SafeTensors& file, const LayerConfig& config,
                                       const std::string& prefix) {
  const auto refuse = [&](const std::string& fault) { gma::detail::raise<std::runtime_error>(origin + fault); };
  const std::string fault = layer_fault<S, Covariance>(file, config, prefix);
  if (!fault.empty()) refuse(fault);
  const auto numbers_of = [&](const std::string& name) -> Matrix<S> {
    const Matrix<S> numbers = file.tensors.at(name).template matrix<S>();
    if (!numbers.array().isFinite().all()) refuse("tensor " + name + " has a number that is not finite");
    return numbers;
  };
  AttentionLayer<S, Covariance> layer(config);
  visit_parameters(
      [&](const Parameter& parameter, Eigen::Map<Matrix<S>> values) {
        const Matrix<S> numbers = numbers_of(prefix + parameter.name);
        values = Eigen::Map<const Matrix<S>>(numbers.data(), values.rows(), values.cols());
      },
      layer);
  for (std::size_t h = 0; h < layer.mixtures.size(); ++h) {
    const std::string of_head = prefix + "mixtures." + std::to_string(h) + ".";
    const auto get = [&](const std::string& member, const std::vector<Index>&) { return numbers_of(of_head + member); };
    gma::detail::LayerRouting<S, Covariance>::get_constants(get, config, gma::detail::LayerShape(config).head_width,
                                                            layer.mixtures[h]);
  }
  return layer;
}

/// validate(config) for a config from a file: the error names the file.
inline void validate_from_file(const std::string& origin, const LayerConfig& config) {
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
  try {
    validate(config);
  } catch (const std::invalid_argument& error) {
    gma::detail::raise<std::runtime_error>(origin + error.what());
  }
#else
  static_cast<void>(origin);
  validate(config);
#endif
}

/// The layer that a file holds and describes.
template <class S, class Covariance>
AttentionLayer<S, Covariance> described_layer(const std::string& origin, const SafeTensors& file) {
  const auto refuse = [&](const std::string& fault) { gma::detail::raise<std::runtime_error>(origin + fault); };
  const auto text = [&](const char* key) -> std::string {
    const auto found = file.metadata.find(key);
    return found == file.metadata.end() ? std::string() : found->second;
  };
  const std::string format = text(file.metadata.count("gma_format") > 0 ? "gma_format" : "format");
  if (format != layer_format) {
    refuse("it has the format \"" + shown(format) + "\" in its metadata, expected \"" + layer_format + "\"");
  }
  if (text("covariance") != Covariance::name) {
    refuse("it has " + shown(text("covariance")) + " covariances, expected " + Covariance::name);
  }
  LayerConfig config;
  const std::string fault = read_config(text("config"), config);
  if (!fault.empty()) refuse(fault);
  validate_from_file(origin, config);
  return layer_of<S, Covariance>(origin, file, config, "");
}

}  // namespace detail

template <class S, class Covariance>
void put_layer(SafeTensors& file, const AttentionLayer<S, Covariance>& layer, const std::string& prefix,
               DataType type) {
  SafeTensors fresh = detail::tensors_of("io::put_layer", layer, type);
  std::map<std::string, Tensor> tensors;
  for (auto& [name, tensor] : fresh.tensors) tensors[prefix + name] = std::move(tensor);
  for (auto old = file.tensors.begin(); old != file.tensors.end();) {
    old = detail::is_of_layer(old->first, prefix) ? file.tensors.erase(old) : std::next(old);
  }
  file.tensors.merge(tensors);  // allocates nothing
}

template <class S, class Covariance>
void get_layer(const SafeTensors& file, AttentionLayer<S, Covariance>& layer, const std::string& prefix) {
  validate(layer.config);
  layer = detail::layer_of<S, Covariance>("gma::io::get_layer: ", file, layer.config, prefix);
}

template <class S, class Covariance>
void write_layer(const std::filesystem::path& path, const AttentionLayer<S, Covariance>& layer, DataType type) {
  SafeTensors file = detail::tensors_of("io::write_layer", layer, type);
  const std::string config = detail::config_text(layer.config);
  LayerConfig again;
  const std::string fault = detail::read_config(config, again);
  if (!fault.empty()) gma::detail::invalid_argument("io::write_layer", "layer.config cannot be read again: ", fault);
  file.metadata = {
      {"format", "pt"}, {"gma_format", detail::layer_format}, {"covariance", Covariance::name}, {"config", config}};
  write_safetensors(path, file);
}

template <class S, class Covariance>
AttentionLayer<S, Covariance> read_layer(const std::filesystem::path& path) {
  const SafeTensors file = read_safetensors(path);
  return detail::described_layer<S, Covariance>("gma::io::read_layer: " + detail::shown_path(path) + ": ", file);
}

template <class S, class Covariance>
AttentionLayer<S, Covariance> read_layer(const std::filesystem::path& path, const LayerConfig& config,
                                         const std::string& prefix) {
  validate(config);
  const std::string origin = "gma::io::read_layer: " + detail::shown_path(path) + ": ";
  const LazySafeTensors model(path);
  SafeTensors file;
  for (const std::string& name : model.names()) {
    if (!prefix.empty() && !detail::is_of_layer(name, prefix)) continue;
    TensorInfo info = model.info(name);
    file.tensors[name] = {info.type, std::move(info.shape), {}, std::move(info.other_type)};
  }
  const std::string fault = detail::layer_fault<S, Covariance>(file, config, prefix);
  if (!fault.empty()) gma::detail::raise<std::runtime_error>(origin + fault);
  for (auto& [name, tensor] : file.tensors) tensor = model.read(name);
  return detail::layer_of<S, Covariance>(origin, file, config, prefix);
}

}  // namespace gma::io
