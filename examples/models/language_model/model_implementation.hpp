// SPDX-License-Identifier: MIT
//
// Definitions of Model; include this only where a Model<S> is instantiated.
#pragma once

#include <cmath>

#include "model.hpp"

namespace language_model {

template <class S>
Model<S>::Model(const ModelConfig& config)
    : config_(config),
      embedding_(TiedEmbedding::make(layout_, config.vocabulary, config.width)),
      blocks_(config, layout_) {}

template <class S>
Vector<S> Model<S>::initial_parameters(std::uint64_t seed) const {
  Vector<S> parameters = Vector<S>::Zero(layout_.size());
  Random random(seed, 1);
  fill_normal(parameters, embedding_.weight, 0.5 / std::sqrt(double(config_.width)), random);
  blocks_.initialize(parameters, random);
  return parameters;
}

template <class S>
typename Model<S>::Cache Model<S>::make_cache() const {
  Cache cache;
  cache.blocks = blocks_.make_cache();
  return cache;
}

template <class S>
void Model<S>::forward(const Vector<S>& parameters, const Token* tokens, Index count, State* state,
                       Cache& cache) const {
  begin(parameters, tokens, count, state, cache);
  for (Index l = 0; l < blocks_.size(); ++l) forward_block(parameters, l, state, cache);
  finish(parameters, cache);
}

template <class S>
void Model<S>::begin(const Vector<S>& parameters, const Token* tokens, Index count, State* state, Cache& cache) const {
  embedding_.embed(parameters, tokens, count, blocks_.input(cache.blocks));
  blocks_.begin(parameters, state, cache.blocks);
}

template <class S>
void Model<S>::forward_block(const Vector<S>& parameters, Index block, State* state, Cache& cache) const {
  blocks_.forward_block(parameters, block, state, cache.blocks);
}

template <class S>
void Model<S>::finish(const Vector<S>& parameters, Cache& cache) const {
  embedding_.logits(parameters, blocks_.finish(parameters, cache.blocks), cache.logits);
}

template <class S>
double Model<S>::losses(const Token* targets, Cache& cache) const {
  cross_entropy(cache.logits, targets, cache.losses);
  return cache.losses.template cast<double>().sum();
}

template <class S>
void Model<S>::backward(const Vector<S>& parameters, const Token* tokens, const Token* targets, S scale, Cache& cache,
                        Vector<S>& gradients) const {
  cross_entropy_backward(cache.logits, targets, scale);
  embedding_.logits_backward(parameters, cache.blocks.normed_output, cache.logits, gradients, cache.d_stream);
  blocks_.backward(parameters, cache.blocks, cache.d_stream, gradients);
  embedding_.embed_backward(tokens, cache.d_stream, gradients);
}

}  // namespace language_model
