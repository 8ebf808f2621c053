// SPDX-License-Identifier: MIT
// layer_files write FOLDER   a folder in it for every kind of layer, with a layer and a forward pass of it:
//                            x and y [B, N, D]. The file has float32, the pass is computed in double.
#include <exception>
#include <filesystem>
#include <functional>
#include <gma/baselines/layer_features.hpp>
#include <gma/gma.hpp>
#include <gma/io/layer_safetensors.hpp>
#include <gma/mixture/families/full.hpp>
#include <gma/mixture/families/isotropic.hpp>
#include <gma/mixture/families/tied.hpp>
#include <iostream>
#include <string>

namespace {

using gma::Index;
using gma::LayerConfig;
using gma::Matrix;
using Path = std::filesystem::path;

constexpr Index batch = 2, tokens = 200;

/// Numbers that float holds.
Matrix<double> normal(gma::Random& random, Index rows, Index cols) {
  Matrix<double> numbers(rows, cols);
  random.fill_normal(numbers);
  return numbers.cast<float>().cast<double>();
}

template <class Covariance>
void write_case(const Path& folder, const LayerConfig& config) {
  auto layer = gma::random_layer<double, Covariance>(config, 1);
  gma::Random random(2);
  // No parameter stays at a start of 0 or 1, so that none goes unnoticed.
  gma::visit_parameters(
      [&](const gma::Parameter&, Eigen::Map<Matrix<double>> values) {
        values += 0.1 * normal(random, values.rows(), values.cols());
      },
      layer);
  const Matrix<double> x = normal(random, batch * tokens, config.width);
  std::filesystem::create_directories(folder);
  gma::io::write_layer(folder / "layer.safetensors", layer, gma::io::DataType::f32);
  const auto exact = gma::io::read_layer<double, Covariance>(folder / "layer.safetensors");
  const Matrix<double> y = gma::forward(exact, x, gma::Sequences::packed({0, tokens, 2 * tokens}));
  gma::io::SafeTensors pass;
  pass.tensors["x"] = gma::io::make_tensor(x, {batch, tokens, config.width});
  pass.tensors["y"] = gma::io::make_tensor(y, {batch, tokens, config.width});
  gma::io::write_safetensors(folder / "pass.safetensors", pass);
}

void write_all(const Path& all) {
  const auto config = [](const std::function<void(LayerConfig&)>& change) {
    LayerConfig c;
    c.width = 24;
    c.heads = 4;
    c.key_value_heads = 2;
    c.head_width = 8;
    c.value_width = 5;
    c.components = {4, 3};
    c.shortest_time = 2;
    c.longest_time = 50;
    change(c);
    return c;
  };
  const auto one = [&](const std::string& name, const std::function<void(LayerConfig&)>& change) {
    write_case<gma::Diagonal>(all / name, config(change));
  };
  const auto bidirectional = [](LayerConfig& c) { c.is_causal = c.has_forgetting = false; };
  const auto row = [](LayerConfig& c) { c.normalization = gma::Normalization::row; };
  const auto none = [](LayerConfig& c) { c.normalization = gma::Normalization::none; };
  one("default", [](LayerConfig&) {});
  one("no_groups", [](LayerConfig& c) { c.key_value_heads = 0; });
  one("one_key_head", [](LayerConfig& c) { c.key_value_heads = 1; });
  one("larger", [](LayerConfig& c) {
    c = LayerConfig();
    c.width = 128;
    c.heads = 4;
  });
  one("no_forgetting", [](LayerConfig& c) { c.has_forgetting = false; });
  one("fast_forgetting", [](LayerConfig& c) { c.shortest_time = c.longest_time = 1; });
  one("no_convolution", [](LayerConfig& c) { c.convolution = 1; });
  one("two_taps", [](LayerConfig& c) { c.convolution = 2; });
  one("one_factor", [](LayerConfig& c) { c.components = {7}; });
  one("four_factors", [](LayerConfig& c) { c.components = {2, 3, 2, 2}; });
  one("row", row);
  one("none", none);
  one("slot_forgetting", [](LayerConfig& c) { c.slot_forgetting_rank = 3; });
  one("slot_forgetting_row", [&](LayerConfig& c) {
    row(c);
    c.slot_forgetting_rank = 1;
    c.has_forgetting = false;
  });
  one("window", [](LayerConfig& c) { c.window = 16; });
  one("window_longer_than_the_text", [](LayerConfig& c) { c.window = 300; });
  one("window_of_one", [](LayerConfig& c) { c.window = 1; });
  one("no_norm_no_gate", [](LayerConfig& c) { c.has_output_norm = c.has_output_gate = false; });
  one("norm", [](LayerConfig& c) { c.has_output_gate = false; });
  one("gate", [](LayerConfig& c) { c.has_output_norm = false; });
  one("sigmoid_gate", [](LayerConfig& c) { c.gate_activation = gma::GateActivation::sigmoid; });
  one("bidirectional", bidirectional);
  one("bidirectional_row", [&](LayerConfig& c) { bidirectional(c), row(c); });
  one("bidirectional_none", [&](LayerConfig& c) { bidirectional(c), none(c); });
  one("bidirectional_bare", [&](LayerConfig& c) {
    bidirectional(c);
    c.convolution = 1;
    c.has_output_norm = c.has_output_gate = false;
  });
  write_case<gma::Isotropic>(all / "isotropic", config([](LayerConfig&) {}));
  write_case<gma::Tied>(all / "tied", config([](LayerConfig&) {}));
  write_case<gma::Full>(all / "full", config([](LayerConfig&) {}));
  write_case<gma::baselines::Elu>(all / "refused_elu", config([](LayerConfig&) {}));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 3 && std::string(argv[1]) == "write") {
      write_all(argv[2]);
      return 0;
    }
    std::cerr << "usage: " << argv[0] << " write FOLDER\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
  }
  return 1;
}
