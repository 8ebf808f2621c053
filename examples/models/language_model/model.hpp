// SPDX-License-Identifier: MIT
//
// The language model: tied embedding and blocks; forward and backward for one sequence.
//
//   x = embed(tokens),   y = blocks(x),   logits = y E^T
//
// A Model knows its configuration and the layout of its parameters. The numbers are in vectors of the caller, so one
// model serves many threads, each with its own cache and gradient.
//
// The definitions are in model_implementation.hpp, which model.cpp compiles once for float.
#pragma once

#include "options.hpp"
#include "transformer/blocks.hpp"

namespace language_model {

template <class S>
class Model {
 public:
  using State = typename Blocks<S>::State;

  // What the forward pass keeps for the backward pass. One per thread; its memory is reused for every sequence.
  struct Cache {
    typename Blocks<S>::Cache blocks;
    Matrix<S> logits;    // [T, V]
    Vector<S> losses;    // [T], nats
    Matrix<S> d_stream;  // scratch
  };

  explicit Model(const ModelConfig& config);

  const ModelConfig& config() const { return config_; }
  const Layout& layout() const { return layout_; }
  const Blocks<S>& blocks() const { return blocks_; }

  // Whether the size of a State is constant.
  bool is_constant_memory() const { return blocks_.is_constant_memory(); }

  // Initial parameters. Branches start at zero: each block begins as the identity.
  Vector<S> initial_parameters(std::uint64_t seed) const;

  Cache make_cache() const;
  State make_state() const { return blocks_.make_state(); }

  // Call it after every change of the parameters, before forward.
  void prepare(const Vector<S>& parameters) { blocks_.prepare(parameters); }

  // Logits [T, V] of the token after each given one, into cache.logits. A state, if given, holds the earlier tokens and
  // is advanced past the given ones.
  void forward(const Vector<S>& parameters, const Token* tokens, Index count, State* state, Cache& cache) const;

  // The same in parts, so that several chunks of one stream can be in work at the same time, see Blocks: begin(),
  // forward_block() of every block in order, finish().
  void begin(const Vector<S>& parameters, const Token* tokens, Index count, State* state, Cache& cache) const;
  void forward_block(const Vector<S>& parameters, Index block, State* state, Cache& cache) const;
  void finish(const Vector<S>& parameters, Cache& cache) const;

  // After forward: cache.losses [T], and their sum in nats. cache.logits become probabilities.
  double losses(const Token* targets, Cache& cache) const;

  // After forward (without a state) and losses: adds the gradient of scale * sum of losses.
  void backward(const Vector<S>& parameters, const Token* tokens, const Token* targets, S scale, Cache& cache,
                Vector<S>& gradients) const;

 private:
  ModelConfig config_;
  Layout layout_;
  TiedEmbedding embedding_;
  Blocks<S> blocks_;
};

extern template class Model<float>;

// The layout of a model's parameters. Checkpoints must have the same.
inline Layout layout_of(const ModelConfig& config) { return Model<float>(config).layout(); }

}  // namespace language_model
