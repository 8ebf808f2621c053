// SPDX-License-Identifier: MIT
// My program uses libtorch. How does gma come into it, without Python?
//
// As an operator with gradients, torch.ops.gma.attention, and as a torch::nn::Module whose parameters are the numbers
// of a gma::AttentionLayer. Here a small model with both learns to repeat a number that it saw two tokens before.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/optim/adamw.h>

#include <atomic>
#include <chrono>
#include <iostream>
#include <string>
#include <vector>

#include "attention_layer.hpp"

using gma_torch::Tensor;

/// torch.ops.gma.attention, from the library that the program is linked with.
Tensor attention(const Tensor& queries, const Tensor& keys, const Tensor& values, at::TensorList mixtures) {
  using Function = Tensor(const Tensor&, const Tensor&, const Tensor&, at::TensorList, const c10::optional<Tensor>&,
                          bool, std::string);
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("gma::attention", "").typed<Function>();
  return op.call(queries, keys, values, mixtures, {}, /*is_causal=*/true, "slot");
}

int main() {
  torch::manual_seed(1);
  const std::int64_t batch = 4, tokens = 60, width = 16, heads = 2, components = 8;
  const Tensor x = at::randn({batch, tokens, width});
  const Tensor target = at::constant_pad_nd(x, {0, 0, 2, 0}).narrow(1, 0, tokens);  // x, two tokens later

  // 1. The module. The numbers are those of a gma::AttentionLayer.
  gma::LayerConfig config;
  config.width = width;
  config.heads = heads;
  gma_torch::AttentionLayer<float> layer(gma::random_layer<float>(config, 1));

  // 2. The operator, between heads [B, H, N, d] that lie in a token's columns, with a mixture per head.
  std::vector<Tensor> mixtures = {at::zeros({heads, components}), at::randn({heads, components, width / heads}),
                                  at::zeros({heads, components, width / heads}), at::zeros({heads})};
  const auto with_operator = [&](const Tensor& z) {
    const Tensor split = z.view({batch, tokens, heads, width / heads}).transpose(1, 2);
    return attention(split, split, split, mixtures).transpose(1, 2).reshape({batch, tokens, width});
  };

  std::vector<Tensor> parameters = layer.parameters();
  for (Tensor& mixture : mixtures) parameters.push_back(mixture.requires_grad_());
  torch::optim::AdamW optimizer(parameters, torch::optim::AdamWOptions(0.02));
  const auto loss = [&] { return at::mse_loss(layer.forward(x) + with_operator(x), target); };
  const float before = loss().item<float>();
  for (int step = 0; step < 60; ++step) {
    optimizer.zero_grad();
    loss().backward();
    optimizer.step();
  }
  const float after = loss().item<float>();

  // The optimiser has stepped gma's layer itself, which also runs without torch.
  const gma::Matrix<float> y = gma::forward(layer.layer(), gma_torch::matrix<float>(x[0]));
  const Tensor same = layer.forward(x[0]);
  const float difference = (gma_torch::matrix<float>(same) - y).cwiseAbs().maxCoeff();

  // torch's threads run gma's tasks: two tasks that wait for each other both come to their end.
  at::set_num_threads(2);
  std::atomic<int> arrived{0};
  std::atomic<bool> met{true};
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  gma_torch::Threads().run(2, gma::Task([&](gma::Index, gma::Index) {
                             for (++arrived; arrived < 2 && met;) met = std::chrono::steady_clock::now() < patience;
                           }));

  std::cout << "The loss fell from " << before << " to " << after << " in 60 steps.\n"
            << "Without torch the trained layer gives outputs that differ by " << difference << ".\n"
            << "Two threads ran gma's tasks at the same time: " << std::boolalpha << met.load() << ".\n";
  return after < 0.5f * before && difference == 0 && met.load() ? 0 : 1;
}
