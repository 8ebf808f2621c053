// SPDX-License-Identifier: MIT
// make_files FOLDER: a folder in it for every kind of layer, each with a layer and an input.
#include <exception>
#include <filesystem>
#include <functional>
#include <gma/gma.hpp>
#include <gma/io/layer_safetensors.hpp>
#include <gma/io/npy.hpp>
#include <iostream>
#include <string>

namespace {

using gma::Index;
using gma::LayerConfig;

void make_case(const std::filesystem::path& folder, const std::function<void(LayerConfig&)>& change,
               gma::io::DataType type = gma::io::DataType::f32) {
  LayerConfig config;
  config.width = 24;
  config.heads = 4;
  config.key_value_heads = 2;
  config.head_width = 8;
  config.value_width = 5;
  config.components = {4, 3};
  config.shortest_time = 2;
  config.longest_time = 50;
  change(config);
  gma::AttentionLayer<float> layer = gma::random_layer<float>(config, 1);
  // No parameter stays at a start of 0 or 1, so that none goes unnoticed.
  gma::visit_parameters(
      [](const gma::Parameter&, Eigen::Map<gma::Matrix<float>> values) {
        values += 0.2f * gma::Matrix<float>::Random(values.rows(), values.cols());
      },
      layer);
  std::filesystem::create_directories(folder);
  gma::io::write_layer(folder / "layer.safetensors", layer, type);
  gma::io::write_npy(folder / "x.npy", gma::io::make_tensor(gma::Matrix<float>::Random(300, config.width)));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const std::filesystem::path folder = argv[1];
  try {
    make_case(folder / "default", [](LayerConfig&) {});
    make_case(folder / "no_groups", [](LayerConfig& c) { c.key_value_heads = 0; });
    make_case(folder / "widths_that_follow", [](LayerConfig& c) { c.head_width = c.value_width = 0, c.heads = 2; });
    make_case(folder / "no_forgetting", [](LayerConfig& c) { c.has_forgetting = false; });
    make_case(folder / "no_convolution", [](LayerConfig& c) { c.convolution = 1; });
    make_case(folder / "two_taps", [](LayerConfig& c) { c.convolution = 2; });
    make_case(folder / "one_factor", [](LayerConfig& c) { c.components = {7}; });
    make_case(folder / "four_factors", [](LayerConfig& c) { c.components = {2, 3, 2, 2}; });
    make_case(folder / "row", [](LayerConfig& c) { c.normalization = gma::Normalization::row; });
    make_case(folder / "none", [](LayerConfig& c) { c.normalization = gma::Normalization::none; });
    make_case(folder / "slot_forgetting", [](LayerConfig& c) { c.slot_forgetting_rank = 3; });
    make_case(folder / "window", [](LayerConfig& c) { c.window = 64; });
    make_case(folder / "window_no_groups", [](LayerConfig& c) {
      c.window = 7;
      c.key_value_heads = 0;
    });
    make_case(folder / "no_norm_no_gate", [](LayerConfig& c) { c.has_output_norm = c.has_output_gate = false; });
    make_case(folder / "norm", [](LayerConfig& c) { c.has_output_gate = false; });
    make_case(folder / "silu_gate", [](LayerConfig& c) { c.has_output_norm = false; });
    make_case(folder / "norm_and_sigmoid_gate",
              [](LayerConfig& c) { c.gate_activation = gma::GateActivation::sigmoid; });
    make_case(folder / "sigmoid_gate", [](LayerConfig& c) {
      c.has_output_norm = false;
      c.gate_activation = gma::GateActivation::sigmoid;
    });
    for (const bool is_row : {false, true}) {
      make_case(folder / (is_row ? "bidirectional_row" : "bidirectional_slot"), [&](LayerConfig& c) {
        c.is_causal = c.has_forgetting = false;
        c.normalization = is_row ? gma::Normalization::row : gma::Normalization::slot;
      });
    }
    make_case(
        folder / "float64", [](LayerConfig&) {}, gma::io::DataType::f64);
    make_case(
        folder / "float16", [](LayerConfig&) {}, gma::io::DataType::f16);
    make_case(
        folder / "bfloat16", [](LayerConfig&) {}, gma::io::DataType::bf16);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
