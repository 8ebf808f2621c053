// SPDX-License-Identifier: MIT
//
// Definitions of Classifier; include this only where a Classifier<S> is instantiated.
#pragma once

#include <cmath>

#include "classifier.hpp"

namespace classification {

template <class S>
Classifier<S>::Classifier(const ModelConfig& config, const TaskShape& shape)
    : config_(fit(config, shape)),
      embedding_(TiedEmbedding::make(layout_, shape.vocabulary, config.width)),
      blocks_(config_, layout_) {
  if (shape.longest > 0) positions_ = layout_.add("positions.weight", shape.longest, config.width, Group::matrix);
  if (shape.classes > 0) head_ = Linear::make(layout_, "head", config.width, shape.classes);
}

template <class S>
Vector<S> Classifier<S>::initial_parameters(std::uint64_t seed) const {
  Vector<S> parameters = Vector<S>::Zero(layout_.size());
  Random random(seed, 1);
  const double deviation = 0.5 / std::sqrt(double(config_.width));
  fill_normal(parameters, embedding_.weight, deviation, random);
  fill_normal(parameters, positions_, deviation, random);
  fill_normal(parameters, head_.weight, deviation, random);
  blocks_.initialize(parameters, random);
  return parameters;
}

template <class S>
double Classifier<S>::forward(const Vector<S>& parameters, const Example& example, Cache& cache) const {
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

template <class S>
void Classifier<S>::backward(const Vector<S>& parameters, const Example& example, S scale, Cache& cache,
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

template <class S>
Index Classifier<S>::correct(const Example& example, const Cache& cache) {
  Index right = 0;
  for (Index q = 0; q < cache.logits.rows(); ++q) {
    Index answer = 0;
    cache.logits.row(q).maxCoeff(&answer);
    right += answer == example.targets[std::size_t(q)];
  }
  return right;
}

}  // namespace classification
