// SPDX-License-Identifier: MIT
//
// Samples text from the model, one token at a time through its state: the prompt is read in one pass, and every further
// token is one step. With a mixer of constant memory a step costs the same after a million tokens as after one. A mixer
// whose state grows restarts from the last half of its context whenever the context is full, because it was not trained
// beyond it.
#pragma once

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "model.hpp"
#include "vocabulary.hpp"

namespace language_model {

// Draws a token from softmax(logits / temperature) restricted to the top k. Ties go to the smaller token.
template <class Logits>
Token draw(const Logits& logits, const SamplingOptions& options, Random& random) {
  std::vector<Index> order(std::size_t(logits.size()));
  std::iota(order.begin(), order.end(), Index(0));
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return logits[a] > logits[b]; });
  if (options.temperature == 0) return Token(order[0]);
  if (options.top_k > 0 && options.top_k < Index(order.size())) order.resize(std::size_t(options.top_k));

  std::vector<double> weights;
  for (const Index token : order)
    weights.push_back(std::exp((double(logits[token]) - double(logits[order[0]])) / options.temperature));
  double target = random.uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::size_t i = 0; i < order.size(); ++i)
    if ((target -= weights[i]) < 0) return Token(order[i]);
  return Token(order.back());
}

template <class S>
class Sampler {
 public:
  // `context` matters to mixers whose state grows.
  Sampler(const Model<S>& model, const Vector<S>& parameters, const Vocabulary& vocabulary, Index context,
          const SamplingOptions& options)
      : model_(model),
        parameters_(parameters),
        vocabulary_(vocabulary),
        context_(context),
        options_(options),
        random_(options.seed, 2),
        cache_(model.make_cache()),
        state_(model.make_state()) {
    validate(options);
  }

  void read(const std::string& text) {
    const std::vector<Token> tokens = vocabulary_.encode(text);
    for (std::size_t begin = 0; begin < tokens.size(); begin += std::size_t(chunk)) {
      const std::size_t end = (std::min)(tokens.size(), begin + std::size_t(chunk));
      advance({tokens.begin() + std::ptrdiff_t(begin), tokens.begin() + std::ptrdiff_t(end)});
    }
  }

  // Draws the next token, reads it, and returns it as text.
  std::string next() {
    if (cache_.logits.rows() == 0) read("\n");  // nothing read yet
    const Token token = draw(cache_.logits.row(cache_.logits.rows() - 1), options_, random_);
    advance({token});
    return vocabulary_.decode(token);
  }

  std::string generate(Index count) {
    std::string text;
    for (Index i = 0; i < count; ++i) text += next();
    return text;
  }

  Index state_bytes() const { return state_.bytes(); }

 private:
  static constexpr Index chunk = 256;

  void advance(std::vector<Token> tokens) {
    if (!model_.is_constant_memory()) {
      recent_.insert(recent_.end(), tokens.begin(), tokens.end());
      if (Index(recent_.size()) > context_) {
        recent_.erase(recent_.begin(), recent_.end() - std::ptrdiff_t(context_ / 2));
        tokens = recent_;
        state_ = model_.make_state();
      }
    }
    model_.forward(parameters_, tokens.data(), Index(tokens.size()), &state_, cache_);
  }

  const Model<S>& model_;
  const Vector<S>& parameters_;
  Vocabulary vocabulary_;
  Index context_;
  SamplingOptions options_;
  Random random_;
  typename Model<S>::Cache cache_;
  typename Model<S>::State state_;
  std::vector<Token> recent_;
};

}  // namespace language_model
