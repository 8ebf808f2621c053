// SPDX-License-Identifier: MIT
//
// A stack of pre-norm blocks, forward and backward for one sequence: a whole model except its input and its output
// layer.
//
//   x = x + gain o p(t)                          if the model has positions
//   L times:   x = x + mixer(norm(x))
//              x = x + mlp(norm(x))               unless the MLP has no width
//   y = norm(x)
//
// Positions are the sinusoids of A. Vaswani et al., Attention is all you need, 2017, with one learned gain per channel:
// p(t) = sin(w_i t) and cos(w_i t) in the channels i and i + D / 2, w_i = 10000^(-2 i / D). They have no last position,
// so such a model can read beyond the context of its training, though it has not learned those.
//
// Blocks know the layout of their parameters. The numbers are in vectors of the caller, so one stack serves many
// threads, each with its own cache and gradient.
//
// The definitions are in blocks_implementation.hpp, which blocks.cpp compiles once for float: they are most of the
// compile time of a program.
#pragma once

#include <istream>
#include <memory>
#include <ostream>
#include <vector>

#include "config.hpp"
#include "layers.hpp"
#include "mixer.hpp"

namespace transformer {

template <class S>
class Blocks {
  struct Block {
    RmsNorm norm_mixer, norm_mlp;
    std::unique_ptr<Mixer<S>> mixer;
    Mlp mlp;
  };
  struct BlockCache {
    Matrix<S> input, normed, middle, normed_middle;  // [T, D]: the stream before and between the halves, and its norms
    RmsNorm::Cache<S> norm_mixer, norm_mlp;
    std::unique_ptr<MixerCache<S>> mixer;
    Mlp::Cache<S> mlp;
  };

 public:
  // What the forward pass keeps for the backward pass. One per thread; its memory is reused for every sequence.
  struct Cache {
    std::vector<BlockCache> blocks;
    Matrix<S> output, normed_output;  // [T, D]: the stream after the last block, and what forward() returns
    RmsNorm::Cache<S> norm_output;
    Matrix<S> positions;  // [T, D]: p(t) from the token `first_position` on; empty without positions
    Index first_position = 0;
    Matrix<S> branch, d_normed;  // scratch
  };

  // What the blocks remember of earlier tokens.
  struct State {
    std::vector<std::unique_ptr<MixerState<S>>> blocks;
    Index position = 0;   // tokens so far
    Index bytes() const;  // of the mixers

    // To a binary stream, and from it into a state of the same blocks, which goes on with the same bits. They throw
    // std::runtime_error if that fails.
    void save(std::ostream& out) const;
    void load(std::istream& in);
  };

  // Adds the tensors blocks.0.norm_mixer.gain ... norm_output.gain to the layout; positions.gain before them if the
  // model has positions.
  Blocks(const ModelConfig& config, Layout& layout);

  // Initial parameters. Branches start at zero: each block begins as the identity.
  void initialize(Vector<S>& parameters, Random& random) const;

  Cache make_cache() const;
  State make_state() const;

  // Whether the size of a State is constant.
  bool is_constant_memory() const { return blocks_.front().mixer->is_constant_memory(); }

  // Call it after every change of the parameters, before forward.
  void prepare(const Vector<S>& parameters);

  // The caller writes the tokens here, [T, D]. forward() adds the positions, which makes it the first block's input.
  Matrix<S>& input(Cache& cache) const { return cache.blocks.front().input; }

  // y [T, D], which is cache.normed_output, of input(cache). A state, if given, holds the earlier tokens and is
  // advanced past the input.
  const Matrix<S>& forward(const Vector<S>& parameters, State* state, Cache& cache) const;

  // The same in parts: begin(), forward_block() of every block in order, finish(). The chunks of one stream, each with
  // a cache of its own, may then follow each other through the blocks at the same time: forward_block(l) touches the
  // state of block l alone, and begin() the position.
  void begin(const Vector<S>& parameters, State* state, Cache& cache) const;
  void forward_block(const Vector<S>& parameters, Index block, State* state, Cache& cache) const;
  const Matrix<S>& finish(const Vector<S>& parameters, Cache& cache) const;

  // After forward without a state: dy becomes the gradient of input(cache), and gradients of parameters are added.
  void backward(const Vector<S>& parameters, Cache& cache, Matrix<S>& dy, Vector<S>& gradients) const;

  // To inspect a trained model: the mixer of a block, and its input norm(x) in the last forward pass.
  Index size() const { return Index(blocks_.size()); }
  const Mixer<S>& mixer(Index block) const { return *blocks_[std::size_t(block)].mixer; }
  static const Matrix<S>& mixer_input(const Cache& cache, Index block) {
    return cache.blocks[std::size_t(block)].normed;
  }

 private:
  bool has_mlp() const { return config_.mlp_width > 0; }
  void add_positions(const Vector<S>& parameters, Index first, Cache& cache) const;

  ModelConfig config_;
  Tensor position_gain_;  // [1, D]
  std::vector<Block> blocks_;
  RmsNorm norm_output_;
};

extern template class Blocks<float>;

}  // namespace transformer
