// SPDX-License-Identifier: MIT
// layer_files write FOLDER   a folder in it for every kind of layer, with a layer and a forward and backward pass of it
// layer_files check FOLDER   runs the layers that Python wrote beside them, and compares the outputs with Python's
//
// A pass is x [B, N, D], y, d_y and d_x of the same shape, and the gradient of every parameter under "gradient."; for
// cross attention also context [B, M, D] and d_context.
#include <exception>
#include <filesystem>
#include <functional>
#include <gma/gma.hpp>
#include <gma/io/layer_safetensors.hpp>
#include <gma/mixture/families/full.hpp>
#include <gma/mixture/families/isotropic.hpp>
#include <gma/mixture/families/tied.hpp>
#include <iostream>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace {

using gma::Index;
using gma::LayerConfig;
using gma::Matrix;
using Path = std::filesystem::path;

constexpr Index batch = 2, tokens = 150, context_tokens = 90;

gma::Sequences sequences(Index length) { return gma::Sequences::packed({0, length, 2 * length}); }

template <class S>
Matrix<S> normal(gma::Random& random, Index rows, Index cols) {
  Matrix<double> numbers(rows, cols);
  random.fill_normal(numbers);
  return numbers.cast<S>();
}

template <class S>
void put(gma::io::SafeTensors& file, const char* name, const Matrix<S>& values) {
  file.tensors[name] = gma::io::make_tensor(values, {batch, values.rows() / batch, values.cols()});
}

template <class S, class Covariance>
void write_case(const Path& folder, const LayerConfig& config, bool has_context) {
  gma::AttentionLayer<S, Covariance> layer = gma::random_layer<S, Covariance>(config, 1);
  gma::Random random(2);
  // No parameter stays at a start of 0 or 1, so that none goes unnoticed.
  gma::visit_parameters(
      [&](const gma::Parameter&, Eigen::Map<Matrix<S>> values) {
        values += S(0.1) * normal<S>(random, values.rows(), values.cols());
      },
      layer);
  const Matrix<S> x = normal<S>(random, batch * tokens, config.width);
  const Matrix<S> d_y = normal<S>(random, batch * tokens, config.width);
  const gma::Sequences rows = sequences(tokens);
  Matrix<S> y(x.rows(), x.cols()), d_x(x.rows(), x.cols());
  gma::AttentionLayer<S, Covariance> gradient(config);
  gma::LayerCache<S> cache;
  gma::LayerGradientCache<S, Covariance> scratch;
  gma::io::SafeTensors pass;
  if (has_context) {
    const Matrix<S> context = normal<S>(random, batch * context_tokens, config.width);
    Matrix<S> d_context(context.rows(), context.cols());
    gma::forward_into(y, layer, x, context, cache, rows, sequences(context_tokens));
    gma::backward_into(d_x, d_context, gradient, layer, d_y, cache, scratch);
    put(pass, "context", context);
    put(pass, "d_context", d_context);
  } else {
    gma::forward_into(y, layer, x, cache, rows);
    gma::backward_into(d_x, gradient, layer, d_y, cache, scratch);
  }
  put(pass, "x", x);
  put(pass, "y", y);
  put(pass, "d_y", d_y);
  put(pass, "d_x", d_x);
  gma::io::put_layer(pass, gradient, "gradient.");
  std::filesystem::create_directories(folder);
  gma::io::write_layer(folder / "layer.safetensors", layer);
  gma::io::write_safetensors(folder / "pass.safetensors", pass);
}

template <class S>
Matrix<S> rows_of(const gma::io::SafeTensors& file, const char* name) {
  gma::io::Tensor tensor = file.tensors.at(name);
  tensor.shape = {tensor.shape.at(0) * tensor.shape.at(1), tensor.shape.at(2)};
  return tensor.matrix<S>();
}

template <class S, class Covariance>
void check_case(const Path& folder, bool has_context) {
  const auto layer = gma::io::read_layer<S, Covariance>(folder / "python_layer.safetensors");
  const gma::io::SafeTensors pass = gma::io::read_safetensors(folder / "pass.safetensors");
  const Matrix<S> x = rows_of<S>(pass, "x");
  const Matrix<S> y =
      has_context ? gma::forward(layer, x, rows_of<S>(pass, "context"), sequences(tokens), sequences(context_tokens))
                  : gma::forward(layer, x, sequences(tokens));
  const Matrix<S> expected = rows_of<S>(gma::io::read_safetensors(folder / "python_y.safetensors"), "y");
  const double error = static_cast<double>((y - expected).norm() / expected.norm());
  std::cout << folder.filename().string() << ": " << error << '\n';
  if (!(error <= (std::is_same_v<S, float> ? 1e-6 : 1e-12))) throw std::runtime_error(folder.string() + ": differs");
}

/// f(folder, config, whether there is a context, a scalar, a covariance) for every kind of layer.
template <class F>
void for_each_case(const Path& all, const F& f) {
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
  const auto one = [&](const std::string& name, const std::function<void(LayerConfig&)>& change,
                       bool has_context = false) {
    f(all / name, config(change), has_context, double(), gma::Diagonal());
    f(all / (name + "_float"), config(change), has_context, float(), gma::Diagonal());
  };
  const auto bidirectional = [](LayerConfig& c) { c.is_causal = c.has_forgetting = false; };
  one("default", [](LayerConfig&) {});
  one("no_groups", [](LayerConfig& c) { c.key_value_heads = 0; });
  one("widths_that_follow", [](LayerConfig& c) { c.head_width = c.value_width = 0, c.heads = 2; });
  one("no_forgetting", [](LayerConfig& c) { c.has_forgetting = false; });
  one("fast_forgetting", [](LayerConfig& c) { c.shortest_time = c.longest_time = 1; });
  one("no_convolution", [](LayerConfig& c) { c.convolution = 1; });
  one("one_factor", [](LayerConfig& c) { c.components = {7}; });
  one("four_factors", [](LayerConfig& c) { c.components = {2, 3, 2, 2}; });
  one("row", [](LayerConfig& c) { c.normalization = gma::Normalization::row; });
  one("none", [](LayerConfig& c) { c.normalization = gma::Normalization::none; });
  one("slot_forgetting", [](LayerConfig& c) { c.slot_forgetting_rank = 3; });
  one("slot_forgetting_row", [](LayerConfig& c) {
    c.slot_forgetting_rank = 1;
    c.has_forgetting = false;
    c.normalization = gma::Normalization::row;
  });
  one("window", [](LayerConfig& c) { c.window = 64; });
  one("window_longer_than_the_text", [](LayerConfig& c) { c.window = 1000; });
  one("window_no_groups", [](LayerConfig& c) {
    c.window = 7;
    c.key_value_heads = 0;
  });
  one("no_norm_no_gate", [](LayerConfig& c) { c.has_output_norm = c.has_output_gate = false; });
  one("norm", [](LayerConfig& c) { c.has_output_gate = false; });
  one("gate", [](LayerConfig& c) { c.has_output_norm = false; });
  one("sigmoid_gate", [](LayerConfig& c) { c.gate_activation = gma::GateActivation::sigmoid; });
  one("bidirectional", bidirectional);
  one("bidirectional_row", [&](LayerConfig& c) {
    bidirectional(c);
    c.normalization = gma::Normalization::row;
  });
  one("cross", bidirectional, true);
  f(all / "isotropic", config([](LayerConfig&) {}), false, double(), gma::Isotropic());
  f(all / "tied", config([](LayerConfig&) {}), false, double(), gma::Tied());
  f(all / "full", config([](LayerConfig&) {}), false, double(), gma::Full());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc == 3 ? argv[1] : "";
  try {
    if (verb == "write" || verb == "check") {
      for_each_case(argv[2],
                    [&](const Path& folder, const LayerConfig& config, bool has_context, auto scalar, auto covariance) {
                      using S = decltype(scalar);
                      using Covariance = decltype(covariance);
                      if (verb == "write") {
                        write_case<S, Covariance>(folder, config, has_context);
                      } else {
                        check_case<S, Covariance>(folder, has_context);
                      }
                    });
      return 0;
    }
    std::cerr << "usage: " << argv[0] << " write|check FOLDER\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
  }
  return 1;
}
