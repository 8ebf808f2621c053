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
//
// The definitions are in model_implementation.hpp, which model.cpp compiles once for float: they are most of the
// compile time of the program.
#pragma once

#include <memory>
#include <vector>

#include "config.hpp"
#include "layers.hpp"
#include "mixer.hpp"

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
    Vector<S> losses;                      // [T], nats
    Matrix<S> branch, d_stream, d_normed;  // scratch
  };

  // What the blocks remember of a text.
  struct State {
    std::vector<std::unique_ptr<MixerState<S>>> blocks;
    Index bytes() const;
  };

  explicit Model(const ModelConfig& config);

  const ModelConfig& config() const { return config_; }
  const Layout& layout() const { return layout_; }

  // Whether a State stays of the same size however long the text is.
  bool is_constant_memory() const { return blocks_.front().mixer->is_constant_memory(); }

  // Parameters as they are before training. Branches start at zero: each block begins as the identity.
  Vector<S> initial_parameters(std::uint64_t seed) const;

  Cache make_cache() const;
  State make_state() const;

  // To be called after every change of the parameters, before forward.
  void prepare(const Vector<S>& parameters);

  // Logits [T, V] of the byte after each given byte, into cache.logits. A state, where given, holds what came before
  // the bytes and is moved on past them.
  void forward(const Vector<S>& parameters, const std::uint8_t* bytes, Index count, State* state, Cache& cache) const;

  // After forward: cache.losses [T], and their sum in nats. cache.logits become probabilities.
  double losses(const std::uint8_t* targets, Cache& cache) const;

  // After forward (without a state) and losses: adds the gradient of scale * sum of losses.
  void backward(const Vector<S>& parameters, const std::uint8_t* bytes, const std::uint8_t* targets, S scale,
                Cache& cache, Vector<S>& gradients) const;

 private:
  ModelConfig config_;
  Layout layout_;
  TiedEmbedding embedding_;
  std::vector<Block> blocks_;
  RmsNorm norm_output_;
};

extern template class Model<float>;

}  // namespace language_model
