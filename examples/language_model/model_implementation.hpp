// SPDX-License-Identifier: MIT
//
// Definitions of Model; include this only where a Model<S> is instantiated.
#pragma once

#include <string>
#include <utility>

#include "make_mixer.hpp"
#include "model.hpp"

namespace language_model {

template <class S>
Model<S>::Model(const ModelConfig& config) : config_(config) {
  validate(config);
  embedding_ = TiedEmbedding::make(layout_, config.width);
  for (Index l = 0; l < config.layers; ++l) {
    const std::string name = "block" + std::to_string(l);
    Block block;
    block.norm_mixer = RmsNorm::make(layout_, name + ".norm_mixer", config.width);
    block.mixer = make_mixer<S>(config, layout_, name + ".mixer");
    block.norm_mlp = RmsNorm::make(layout_, name + ".norm_mlp", config.width);
    block.mlp = Mlp::make(layout_, name + ".mlp", config.width, config.mlp_width, config.mlp == MlpKind::gated);
    blocks_.push_back(std::move(block));
  }
  norm_output_ = RmsNorm::make(layout_, "norm_output", config.width);
}

template <class S>
Vector<S> Model<S>::initial_parameters(std::uint64_t seed) const {
  Vector<S> parameters = Vector<S>::Zero(layout_.size());
  Random random(seed, 1);
  const double width = double(config_.width);
  fill_normal(parameters, embedding_.weight, 0.5 / std::sqrt(width), random);
  for (const Block& block : blocks_) {
    view(parameters, block.norm_mixer.gain).setOnes();
    view(parameters, block.norm_mlp.gain).setOnes();
    block.mixer->initialize(parameters, random);
    fill_normal(parameters, block.mlp.expand.weight, 1 / std::sqrt(width), random);
  }
  view(parameters, norm_output_.gain).setOnes();
  return parameters;
}

template <class S>
typename Model<S>::Cache Model<S>::make_cache() const {
  Cache cache;
  cache.blocks.resize(blocks_.size());
  for (std::size_t l = 0; l < blocks_.size(); ++l) cache.blocks[l].mixer = blocks_[l].mixer->make_cache();
  return cache;
}

template <class S>
typename Model<S>::State Model<S>::make_state() const {
  State state;
  for (const Block& block : blocks_) state.blocks.push_back(block.mixer->make_state());
  return state;
}

template <class S>
Index Model<S>::State::bytes() const {
  Index total = 0;
  for (const auto& block : blocks) total += block->bytes();
  return total;
}

template <class S>
void Model<S>::prepare(const Vector<S>& parameters) {
  for (Block& block : blocks_) block.mixer->prepare(parameters);
}

template <class S>
void Model<S>::forward(const Vector<S>& parameters, const std::uint8_t* bytes, Index count, State* state,
                       Cache& cache) const {
  for (std::size_t l = 0; l < blocks_.size(); ++l) {
    const Block& block = blocks_[l];
    BlockCache& c = cache.blocks[l];
    if (l == 0)
      embedding_.embed(parameters, bytes, count, c.input);
    else
      c.input = cache.blocks[l - 1].middle + cache.branch;
    block.norm_mixer.forward(parameters, c.input, c.inverse_rms, c.normed);
    block.mixer->forward(parameters, c.normed, state ? state->blocks[l].get() : nullptr, *c.mixer, cache.branch);
    c.middle = c.input + cache.branch;
    block.norm_mlp.forward(parameters, c.middle, c.inverse_rms_middle, c.normed_middle);
    block.mlp.forward(parameters, c.normed_middle, c.mlp, cache.branch);
  }
  cache.output = cache.blocks.back().middle + cache.branch;
  norm_output_.forward(parameters, cache.output, cache.inverse_rms, cache.normed_output);
  embedding_.logits(parameters, cache.normed_output, cache.logits);
}

template <class S>
double Model<S>::losses(const std::uint8_t* targets, Cache& cache) const {
  cross_entropy(cache.logits, targets, cache.losses);
  return cache.losses.template cast<double>().sum();
}

template <class S>
void Model<S>::backward(const Vector<S>& parameters, const std::uint8_t* bytes, const std::uint8_t* targets, S scale,
                        Cache& cache, Vector<S>& gradients) const {
  cross_entropy_backward(cache.logits, targets, scale);
  embedding_.logits_backward(parameters, cache.normed_output, cache.logits, gradients, cache.d_normed);
  Matrix<S>& dx = cache.d_stream;  // gradient of the residual stream, from the top down to the embedding
  dx.setZero(cache.output.rows(), cache.output.cols());
  norm_output_.backward(parameters, cache.output, cache.inverse_rms, cache.d_normed, gradients, dx);
  for (std::size_t l = blocks_.size(); l-- > 0;) {
    const Block& block = blocks_[l];
    BlockCache& c = cache.blocks[l];
    block.mlp.backward(parameters, c.normed_middle, dx, c.mlp, gradients, cache.d_normed);
    block.norm_mlp.backward(parameters, c.middle, c.inverse_rms_middle, cache.d_normed, gradients, dx);
    block.mixer->backward(parameters, c.normed, dx, *c.mixer, gradients, cache.d_normed);
    block.norm_mixer.backward(parameters, c.input, c.inverse_rms, cache.d_normed, gradients, dx);
  }
  embedding_.embed_backward(bytes, dx, gradients);
}

}  // namespace language_model
