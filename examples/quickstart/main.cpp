// SPDX-License-Identifier: MIT
// How do I run an attention layer, on a whole sequence and as a stream?
#include <gma/gma.hpp>
#include <iostream>

int main() {
  gma::LayerConfig config;  // the defaults are the recommended causal layer; only the widths must be set
  config.width = 64;
  config.heads = 4;
  const gma::AttentionLayer<float> layer = gma::random_layer<float>(config, 1);

  // A whole sequence, one row per token: row t of y depends on rows 0..t of x.
  const gma::Matrix<float> x = gma::Matrix<float>::Random(500, config.width);
  const gma::Matrix<float> y = gma::forward(layer, x);

  // The same, one token at a time. The state is everything that is kept of the past, and its size is constant.
  const gma::CompiledLayer<float> ready = gma::compile(layer);  // once, not in every step
  gma::LayerState<float> state = gma::begin_stream(ready);
  gma::Matrix<float> steps(x.rows(), x.cols());
  for (gma::Index t = 0; t < x.rows(); ++t) steps.row(t) = gma::step(ready, x.row(t), state);

  const float difference = (steps - y).norm() / y.norm();
  std::cout << "One pass over " << state.position << " tokens and as many steps differ by " << difference << ".\n"
            << "The state of the stream takes " << gma::bytes(state)
            << " bytes after one token and after all tokens.\n";
  return difference < 1e-5f ? 0 : 1;
}
