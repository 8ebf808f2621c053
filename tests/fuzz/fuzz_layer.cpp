// SPDX-License-Identifier: MIT
// What read_layer() makes of a file: std::runtime_error, or a layer that is valid, can be written, and takes tokens, in
// one pass and step by step.
#include <cstddef>
#include <cstdint>
#include <gma/baselines/layer_features.hpp>
#include <gma/io/layer_safetensors.hpp>
#include <gma/layer/layer_forward.hpp>
#include <gma/layer/layer_initialization.hpp>
#include <stdexcept>
#include <string>

#include "fuzz.hpp"

namespace {

/// Memories and windows that no tensor of the file stands for may be large: allowed, and too slow to run here.
bool is_small(const gma::LayerConfig& config) {
  gma::Index slots = 1;
  for (const gma::Index count : config.components) slots = slots > 4096 ? slots : slots * count;
  return slots <= 4096 && config.window <= 4096;
}

template <class Covariance>
void use(const gma::AttentionLayer<float, Covariance>& layer) {
  const gma::Matrix<float> x = gma::Matrix<float>::Random(3, layer.config.width);
  const auto ready = gma::compile(layer);
  try {
    require(gma::forward(ready, x).rows() == 3, "an output a token");
    if (!layer.config.is_causal) return;
    gma::LayerState<float> state = gma::begin_stream(ready);
    gma::step(ready, x.row(0), state);
    require(state.position == 1, "a step takes one token in");
  } catch (const std::invalid_argument&) {  // numbers so large that a gate is not one
  }
}

template <class Covariance>
void try_family(const gma::io::SafeTensors& file) {
  gma::AttentionLayer<float, Covariance> layer;
  try {
    layer = gma::io::detail::described_layer<float, Covariance>("gma::io::read_layer: ", file);
  } catch (const std::runtime_error&) {
    return;
  }
  gma::validate(layer);
  gma::io::SafeTensors again;
  gma::io::put_layer(again, layer);
  if (is_small(layer.config)) use(layer);
}

/// The file of a small layer, with another config: one that no change of a byte leads to from a whole file.
gma::io::SafeTensors with_config(const std::string& config) {
  static const gma::io::SafeTensors layer = [] {
    gma::LayerConfig small;
    small.width = small.head_width = 2;
    small.heads = 2;
    small.key_value_heads = 1;
    small.components = {2};
    small.convolution = 2;
    gma::io::SafeTensors file;
    gma::io::put_layer(file, gma::random_layer<float>(small, 1));
    file.metadata = {{"format", "gma attention layer 1"}, {"covariance", "diagonal"}};
    return file;
  }();
  gma::io::SafeTensors file = layer;
  file.metadata["config"] = config;
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 0 && data[0] == '{') {
    try_family<gma::Diagonal>(with_config(std::string(data, data + size)));
    return 0;
  }
  gma::io::SafeTensors file;
  try {
    file = gma::io::parse_safetensors(data, size);
  } catch (const std::runtime_error&) {
    return 0;
  }
  try_family<gma::Diagonal>(file);
  try_family<gma::Full>(file);
  try_family<gma::Tied>(file);
  try_family<gma::baselines::RandomFeatures>(file);
  return 0;
}
