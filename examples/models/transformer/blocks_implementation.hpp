// SPDX-License-Identifier: MIT
//
// Definitions of Blocks; include this only where a Blocks<S> is instantiated.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "blocks.hpp"
#include "make_mixer.hpp"

namespace transformer {

template <class S>
Blocks<S>::Blocks(const ModelConfig& config, Layout& layout) : config_(config) {
  validate(config);
  if (config.has_positions) position_gain_ = layout.add("positions.gain", 1, config.width, Group::gain, {config.width});
  for (Index l = 0; l < config.layers; ++l) {
    const std::string name = "blocks." + std::to_string(l);
    Block block;
    block.norm_mixer = RmsNorm::make(layout, name + ".norm_mixer", config.width);
    block.mixer = make_mixer<S>(config, layout, name + ".mixer");
    if (has_mlp()) {
      block.norm_mlp = RmsNorm::make(layout, name + ".norm_mlp", config.width);
      block.mlp = Mlp::make(layout, name + ".mlp", config.width, config.mlp_width, config.mlp == MlpKind::gated);
    }
    blocks_.push_back(std::move(block));
  }
  norm_output_ = RmsNorm::make(layout, "norm_output", config.width);
}

template <class S>
void Blocks<S>::initialize(Vector<S>& parameters, Random& random) const {
  // Tokens of the language model begin with the same amplitude (see TiedEmbedding).
  if (config_.has_positions) view(parameters, position_gain_).setConstant(S(0.5));
  for (const Block& block : blocks_) {
    view(parameters, block.norm_mixer.gain).setOnes();
    block.mixer->initialize(parameters, random);
    if (!has_mlp()) continue;
    view(parameters, block.norm_mlp.gain).setOnes();
    fill_normal(parameters, block.mlp.expand.weight, 1 / std::sqrt(double(config_.width)), random);
    view(parameters, block.mlp.down.weight).setZero();
  }
  view(parameters, norm_output_.gain).setOnes();
}

template <class S>
typename Blocks<S>::Cache Blocks<S>::make_cache() const {
  Cache cache;
  cache.blocks.resize(blocks_.size());
  for (std::size_t l = 0; l < blocks_.size(); ++l) cache.blocks[l].mixer = blocks_[l].mixer->make_cache();
  return cache;
}

template <class S>
typename Blocks<S>::State Blocks<S>::make_state() const {
  State state;
  for (const Block& block : blocks_) state.blocks.push_back(block.mixer->make_state());
  return state;
}

template <class S>
Index Blocks<S>::State::bytes() const {
  Index total = 0;
  for (const auto& block : blocks) total += block->bytes();
  return total;
}

template <class S>
void Blocks<S>::State::save(std::ostream& out) const {
  const std::int64_t sizes[] = {position, Index(blocks.size())};
  out.write(reinterpret_cast<const char*>(sizes), sizeof sizes);
  for (const auto& block : blocks) block->save(out);
  if (!out) throw std::runtime_error("the state of the model could not be written");
}

template <class S>
void Blocks<S>::State::load(std::istream& in) {
  std::int64_t sizes[2] = {};
  in.read(reinterpret_cast<char*>(sizes), sizeof sizes);
  if (!in || sizes[0] < 0 || sizes[1] != Index(blocks.size()))
    throw std::runtime_error("the saved state is damaged, or of another model");
  position = sizes[0];
  for (const auto& block : blocks) block->load(in);
}

template <class S>
void Blocks<S>::prepare(const Vector<S>& parameters) {
  for (Block& block : blocks_) block.mixer->prepare(parameters);
}

// The sinusoids are computed again only if the positions are others than in the last call.
template <class S>
void Blocks<S>::add_positions(const Vector<S>& parameters, Index first, Cache& cache) const {
  Matrix<S>& x = input(cache);
  Matrix<S>& p = cache.positions;
  if (p.rows() != x.rows() || cache.first_position != first) {
    p.resize(x.rows(), x.cols());
    const Index waves = (x.cols() + 1) / 2;
    for (Index i = 0; i < waves; ++i) {
      const double frequency = std::pow(10000.0, -2.0 * double(i) / double(x.cols()));
      for (Index t = 0; t < x.rows(); ++t) {
        const double angle = frequency * double(first + t);
        p(t, i) = S(std::sin(angle));
        if (waves + i < x.cols()) p(t, waves + i) = S(std::cos(angle));
      }
    }
    cache.first_position = first;
  }
  x += p * view(parameters, position_gain_).row(0).asDiagonal();
}

template <class S>
const Matrix<S>& Blocks<S>::forward(const Vector<S>& parameters, State* state, Cache& cache) const {
  begin(parameters, state, cache);
  for (Index l = 0; l < size(); ++l) forward_block(parameters, l, state, cache);
  return finish(parameters, cache);
}

template <class S>
void Blocks<S>::begin(const Vector<S>& parameters, State* state, Cache& cache) const {
  if (config_.has_positions) add_positions(parameters, state ? state->position : 0, cache);
  if (state) state->position += input(cache).rows();
}

template <class S>
void Blocks<S>::forward_block(const Vector<S>& parameters, Index index, State* state, Cache& cache) const {
  const std::size_t l = std::size_t(index);
  const Block& block = blocks_[l];
  BlockCache& c = cache.blocks[l];
  if (l > 0) c.input = cache.blocks[l - 1].middle + cache.branch;
  block.norm_mixer.forward(parameters, c.input, c.norm_mixer, c.normed);
  block.mixer->forward(parameters, c.normed, state ? state->blocks[l].get() : nullptr, *c.mixer, cache.branch);
  c.middle = c.input + cache.branch;
  if (!has_mlp()) {
    cache.branch.setZero();
    return;
  }
  block.norm_mlp.forward(parameters, c.middle, c.norm_mlp, c.normed_middle);
  block.mlp.forward(parameters, c.normed_middle, c.mlp, cache.branch);
}

template <class S>
const Matrix<S>& Blocks<S>::finish(const Vector<S>& parameters, Cache& cache) const {
  cache.output = cache.blocks.back().middle + cache.branch;
  norm_output_.forward(parameters, cache.output, cache.norm_output, cache.normed_output);
  return cache.normed_output;
}

template <class S>
void Blocks<S>::backward(const Vector<S>& parameters, Cache& cache, Matrix<S>& dy, Vector<S>& gradients) const {
  cache.d_normed.swap(dy);
  Matrix<S>& dx = dy;  // gradient of the residual stream, from the top down to the input
  dx.setZero(cache.output.rows(), cache.output.cols());
  norm_output_.backward(parameters, cache.d_normed, cache.norm_output, gradients, dx);
  for (std::size_t l = blocks_.size(); l-- > 0;) {
    const Block& block = blocks_[l];
    BlockCache& c = cache.blocks[l];
    if (has_mlp()) {
      block.mlp.backward(parameters, c.normed_middle, dx, c.mlp, gradients, cache.d_normed);
      block.norm_mlp.backward(parameters, cache.d_normed, c.norm_mlp, gradients, dx);
    }
    block.mixer->backward(parameters, c.normed, dx, *c.mixer, gradients, cache.d_normed);
    block.norm_mixer.backward(parameters, cache.d_normed, c.norm_mixer, gradients, dx);
  }
  if (config_.has_positions) view(gradients, position_gain_).row(0) += cache.positions.cwiseProduct(dx).colwise().sum();
}

}  // namespace transformer
