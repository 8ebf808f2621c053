// SPDX-License-Identifier: MIT
// How do I load a layer that was trained elsewhere, and how do I know that it is the same layer here?
//
//   load_weights LAYER.safetensors X.npy Y.npy    runs the layer on X, one row per token, and writes its outputs
//   load_weights                                  makes a layer and an input, writes them, and checks the outputs
//
// For a layer that was trained in Python, layer.py in this folder is the same layer in NumPy: write the layer's
// parameters with the names and shapes that gma/io/layer_safetensors.hpp lists, run this program, and let layer.py
// check Y.
#include <exception>
#include <filesystem>
#include <gma/gma.hpp>
#include <gma/io/layer_safetensors.hpp>
#include <gma/io/npy.hpp>
#include <iostream>
#include <random>
#include <string>

using Path = std::filesystem::path;

void run(const Path& layer_path, const Path& x_path, const Path& y_path) {
  // The file contains the layer's config. Any floating type in the file is converted. Errors name the file and the
  // tensor.
  const gma::AttentionLayer<float> layer = gma::io::read_layer<float>(layer_path);
  const gma::Matrix<float> x = gma::io::read_npy(x_path).matrix<float>();
  gma::io::write_npy(y_path, gma::io::make_tensor(gma::forward(layer, x)));
  std::cout << gma::parameter_count(layer) << " parameters, " << x.rows() << " tokens of width " << x.cols() << '\n';
}

bool check_own_files() {
  const Path folder =
      std::filesystem::temp_directory_path() / ("gma_load_weights" + std::to_string(std::random_device()()));
  std::filesystem::create_directories(folder);
  gma::LayerConfig config;
  config.width = 32;
  config.heads = 4;
  config.key_value_heads = 2;
  const gma::AttentionLayer<float> layer = gma::random_layer<float>(config, 1);
  const gma::Matrix<float> x = gma::Matrix<float>::Random(100, config.width);
  gma::io::write_layer(folder / "layer.safetensors", layer);
  gma::io::write_npy(folder / "x.npy", gma::io::make_tensor(x));

  run(folder / "layer.safetensors", folder / "x.npy", folder / "y.npy");

  const gma::Matrix<float> y = gma::io::read_npy(folder / "y.npy").matrix<float>();
  std::filesystem::remove_all(folder);
  const bool same = y == gma::forward(layer, x);
  std::cout << "through files, the outputs are " << (same ? "bit-identical" : "DIFFERENT") << '\n';
  return same;
}

int main(int argc, char** argv) {
  try {
    if (argc == 1) return check_own_files() ? 0 : 1;
    if (argc == 4) {
      run(argv[1], argv[2], argv[3]);
      return 0;
    }
    std::cerr << "usage: " << argv[0] << " [LAYER.safetensors X.npy Y.npy]\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
  }
  return 1;
}
