// SPDX-License-Identifier: MIT
//
// The language model: tied embedding, L pre-norm blocks, final norm; forward and backward for one sequence.
//
//   x = embed(bytes)
//   L times:   x = x + mixer(norm(x))
//              x = x + mlp(norm(x))
//   logits = norm(x) E^T
//
// A Model knows its configuration and the layout of its parameters; the numbers are in vectors that the caller owns, so
// that one model serves many threads with a cache and a gradient each.
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "config.hpp"
#include "layers.hpp"
#include "mixer.hpp"
#include "make_mixer.hpp"

namespace language_model {

template <class S>
class Model {
  struct Block {
    RmsNorm norm_mixer, norm_mlp;
    std::unique_ptr<Mixer<S>> mixer;
    Mlp mlp;
  };
  struct BlockCache {
    Matrix<S> input, normed, middle, normed_middle;  // [T, D]: the stream before and between the halves, and its norms
    Vector<S> inverse_rms, inverse_rms_middle;       // [T]
    std::unique_ptr<MixerCache<S>> mixer;
    Mlp::Cache<S> mlp;
  };

 public:
  // What the forward pass keeps for the backward pass. One per thread; its memory is reused from sequence to sequence.
  struct Cache {
    std::vector<BlockCache> blocks;
    Matrix<S> output, normed_output, logits;  // [T, D], [T, D], [T, V]
    Vector<S> inverse_rms;
    Vector<S> losses;                         // [T], nats
    Matrix<S> branch, d_stream, d_normed;     // scratch
  };

  // What the blocks remember of a text.
  struct State {
    std::vector<std::unique_ptr<MixerState<S>>> blocks;
    Index bytes() const {
      Index total = 0;
      for (const auto& block : blocks) total += block->bytes();
      return total;
    }
  };

  explicit Model(const ModelConfig& config) : config_(config) {
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

  const ModelConfig& config() const { return config_; }
  const Layout& layout() const { return layout_; }
  bool is_constant_memory() const { return blocks_.front().mixer->is_constant_memory(); }

  // Parameters as they are before training. Branches start at zero: each block begins as the identity.
  Vector<S> initial_parameters(std::uint64_t seed) const {
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

  Cache make_cache() const {
    Cache cache;
    cache.blocks.resize(blocks_.size());
    for (std::size_t l = 0; l < blocks_.size(); ++l) cache.blocks[l].mixer = blocks_[l].mixer->make_cache();
    return cache;
  }

  State make_state() const {
    State state;
    for (const Block& block : blocks_) state.blocks.push_back(block.mixer->make_state());
    return state;
  }

  // To be called after every change of the parameters, before forward.
  void prepare(const Vector<S>& parameters) {
    for (Block& block : blocks_) block.mixer->prepare(parameters);
  }

  // Logits [T, V] of the byte after each given byte, into cache.logits. A state, where given, is moved on.
  void forward(const Vector<S>& parameters, const std::uint8_t* bytes, Index count, State* state, Cache& cache) const {
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

  // After forward: cache.losses [T], and their sum in nats. cache.logits become probabilities.
  double losses(const std::uint8_t* targets, Cache& cache) const {
    cross_entropy(cache.logits, targets, cache.losses);
    return cache.losses.template cast<double>().sum();
  }

  // After forward (without a state) and losses: adds the gradient of scale * sum of losses.
  void backward(const Vector<S>& parameters, const std::uint8_t* bytes, const std::uint8_t* targets, S scale,
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

 private:
  ModelConfig config_;
  Layout layout_;
  TiedEmbedding embedding_;
  std::vector<Block> blocks_;
  RmsNorm norm_output_;
};

}  // namespace language_model
