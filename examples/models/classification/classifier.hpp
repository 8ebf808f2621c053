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
  Classifier(const ModelConfig& config, const TaskShape& shape)
      : config_(fit(config, shape)),
        embedding_(TiedEmbedding::make(layout_, shape.vocabulary, config.width)),
        blocks_(config_, layout_) {
    if (shape.longest > 0) positions_ = layout_.add("positions.weight", shape.longest, config.width, Group::matrix);
    if (shape.classes > 0) head_ = Linear::make(layout_, "head", config.width, shape.classes);
  }

  const ModelConfig& config() const { return config_; }
  const Layout& layout() const { return layout_; }

  Vector<S> initial_parameters(std::uint64_t seed) const {
    Vector<S> parameters = Vector<S>::Zero(layout_.size());
    Random random(seed, 1);
    const double deviation = 0.5 / std::sqrt(double(config_.width));
    fill_normal(parameters, embedding_.weight, deviation, random);
    fill_normal(parameters, positions_, deviation, random);
    fill_normal(parameters, head_.weight, deviation, random);
    blocks_.initialize(parameters, random);
    return parameters;
  }

  Cache make_cache() const {
    Cache cache;
    cache.blocks = blocks_.make_cache();
    return cache;
  }

  // Call it after every change of the parameters, before forward.
  void prepare(const Vector<S>& parameters) { blocks_.prepare(parameters); }

  // Sum of the losses in nats. cache.logits holds the probabilities of the answers, one row per answer.
  double forward(const Vector<S>& parameters, const Example& example, Cache& cache) const {
    const Index count = Index(example.tokens.size());
    Matrix<S>& x = blocks_.input(cache.blocks);
    embedding_.embed(parameters, example.tokens.data(), count, x);
    if (positions_.rows > 0) x += position_scale() * view(parameters, positions_).topRows(count);
    const Matrix<S>& y = blocks_.forward(parameters, nullptr, cache.blocks);
    if (example.places.empty()) {
      cache.read = y.colwise().mean();
      head_.forward(parameters, cache.read, cache.logits);
    } else {
      cache.read.resize(Index(example.places.size()), y.cols());
      for (Index q = 0; q < cache.read.rows(); ++q) cache.read.row(q) = y.row(example.places[std::size_t(q)]);
      embedding_.logits(parameters, cache.read, cache.logits);
    }
    cross_entropy(cache.logits, example.targets.data(), cache.losses);
    return cache.losses.template cast<double>().sum();
  }

  // After forward: adds the gradient of scale * sum of losses.
  void backward(const Vector<S>& parameters, const Example& example, S scale, Cache& cache,
                Vector<S>& gradients) const {
    const Index count = Index(example.tokens.size());
    cross_entropy_backward(cache.logits, example.targets.data(), scale);
    if (example.places.empty()) {
      head_.backward(parameters, cache.read, cache.logits, gradients, cache.d_read);
      cache.d_stream = (cache.d_read / S(count)).replicate(count, 1);
    } else {
      embedding_.logits_backward(parameters, cache.read, cache.logits, gradients, cache.d_read);
      cache.d_stream.setZero(count, config_.width);
      for (Index q = 0; q < cache.d_read.rows(); ++q)
        cache.d_stream.row(example.places[std::size_t(q)]) += cache.d_read.row(q);
    }
    blocks_.backward(parameters, cache.blocks, cache.d_stream, gradients);
    embedding_.embed_backward(example.tokens.data(), cache.d_stream, gradients);
    if (positions_.rows > 0) view(gradients, positions_).topRows(count) += position_scale() * cache.d_stream;
  }

  // After forward: the number of right answers.
  static Index correct(const Example& example, const Cache& cache) {
    Index right = 0;
    for (Index q = 0; q < cache.logits.rows(); ++q) {
      Index answer = 0;
      cache.logits.row(q).maxCoeff(&answer);
      right += answer == example.targets[std::size_t(q)];
    }
    return right;
  }

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
