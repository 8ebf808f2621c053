// SPDX-License-Identifier: MIT
//
// The model: embedding, learned positions if the task has them, blocks, and one of two ways to answer.
//
//   x = sqrt(D) (embed(tokens) + positions),   y = blocks(x)
//   the class of the whole:   logits = mean_t(y_t) W          [1, C]
//   tokens at places:         logits = y_places E^T           [Q, V], E the embedding
//
// A Classifier knows the layout of its parameters. The numbers are in vectors of the caller, so one classifier serves
// many threads, each with its own cache and gradient.
//
// The definitions are in classifier_implementation.hpp, which classifier.cpp compiles once for float.
#pragma once

#include "task.hpp"
#include "transformer/blocks.hpp"

namespace classification {

template <class S>
class Classifier {
 public:
  // What the forward pass keeps for the backward pass. One per thread; its memory is reused for every sequence.
  struct Cache {
    typename Blocks<S>::Cache blocks;
    Matrix<S> read, d_read;  // [1, D] or [Q, D]: the input of the logits
    Matrix<S> logits;        // [1, C] or [Q, V]
    Vector<S> losses;        // [1] or [Q], nats
    Matrix<S> d_stream;      // [T, D], scratch
  };

  // The task's shape sets the members of the configuration that follow from it.
  Classifier(const ModelConfig& config, const TaskShape& shape);

  const ModelConfig& config() const { return config_; }
  const Layout& layout() const { return layout_; }

  Vector<S> initial_parameters(std::uint64_t seed) const;

  Cache make_cache() const {
    Cache cache;
    cache.blocks = blocks_.make_cache();
    return cache;
  }

  // Call it after every change of the parameters, before forward.
  void prepare(const Vector<S>& parameters) { blocks_.prepare(parameters); }

  // Sum of the losses in nats. cache.logits holds the probabilities of the answers, one row per answer.
  double forward(const Vector<S>& parameters, const Example& example, Cache& cache) const;

  // After forward: adds the gradient of scale * sum of losses.
  void backward(const Vector<S>& parameters, const Example& example, S scale, Cache& cache, Vector<S>& gradients) const;

  // After forward: the number of right answers.
  static Index correct(const Example& example, const Cache& cache);

 private:
  static ModelConfig fit(ModelConfig config, const TaskShape& shape) {
    config.vocabulary = shape.vocabulary;
    config.is_causal = shape.is_causal;
    return config;
  }

  // Like the embedding's.
  S position_scale() const { return std::sqrt(S(config_.width)); }

  ModelConfig config_;
  Layout layout_;
  TiedEmbedding embedding_;
  Blocks<S> blocks_;
  Tensor positions_;
  Linear head_;
};

extern template class Classifier<float>;

}  // namespace classification
