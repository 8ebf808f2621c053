// SPDX-License-Identifier: MIT
//
// A language model with softmax attention as one with Gaussian mixture attention.
#pragma once

#include <string>
#include <vector>

#include "language_model/checkpoint.hpp"

namespace from_softmax {

using namespace language_model;

// What the new model takes from the old one. The rest has its usual start.
enum class Taken {
  nothing,       // a new model of the same shape
  surroundings,  // the embedding, all norms and all MLPs
  projections,   // and the projections of attention: queries, keys, values and output, and their convolution
};

struct Conversion {
  Vector<float> parameters;        // of the new model's layout
  std::vector<std::string> taken;  // names of its tensors that come from the old model, in the layout's order
};

// The config of the new model: that of `options`, with the shape of the old one (vocabulary, layers, width, heads, MLP,
// positions, and the taps of its convolution if it has one). Throws std::invalid_argument unless the old mixer is sdpa.
ModelConfig converted(const ModelConfig& softmax, const ModelConfig& options);

// `gma`: what converted() gave. The seed is for what is not taken over.
Conversion convert(const Checkpoint& softmax, const ModelConfig& gma, Taken taken, std::uint64_t seed);

}  // namespace from_softmax
