// SPDX-License-Identifier: MIT
//
// Text out of the model, one byte at a time through its state: the prompt is read in one pass, every further byte is
// one step. With a constant-memory mixer a step costs the same after a million bytes as after one. A mixer whose state
// grows begins anew from the last half of its context whenever the context is full, because it was not trained beyond
// it.
#pragma once

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "model.hpp"
#include "random.hpp"

namespace language_model {

// Draws a byte from softmax(logits / temperature) restricted to the top k. Ties go to the smaller byte.
template <class Logits>
std::uint8_t draw(const Logits& logits, const SamplingOptions& options, Random& random) {
  std::vector<Index> order(std::size_t(logits.size()));
  std::iota(order.begin(), order.end(), Index(0));
  std::stable_sort(order.begin(), order.end(), [&](Index a, Index b) { return logits[a] > logits[b]; });
  if (options.temperature == 0) return std::uint8_t(order[0]);
  if (options.top_k > 0 && options.top_k < Index(order.size())) order.resize(std::size_t(options.top_k));

  std::vector<double> weights;
  for (const Index byte : order)
    weights.push_back(std::exp((double(logits[byte]) - double(logits[order[0]])) / options.temperature));
  double target = random.uniform() * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::size_t i = 0; i < order.size(); ++i)
    if ((target -= weights[i]) < 0) return std::uint8_t(order[i]);
  return std::uint8_t(order.back());
}

template <class S>
class Sampler {
 public:
  // `context` matters to mixers whose state grows.
  Sampler(const Model<S>& model, const Vector<S>& parameters, Index context, const SamplingOptions& options)
      : model_(model),
        parameters_(parameters),
        context_(context),
        options_(options),
        random_(options.seed, 2),
        cache_(model.make_cache()),
        state_(model.make_state()) {
    validate(options);
  }

  void read(const std::string& text) {
    for (std::size_t begin = 0; begin < text.size(); begin += std::size_t(chunk))
      advance(text.substr(begin, std::size_t(chunk)));
  }

  // The next byte, drawn and read.
  std::uint8_t next() {
    if (cache_.logits.rows() == 0) read("\n");  // nothing read yet
    const std::uint8_t byte = draw(cache_.logits.row(cache_.logits.rows() - 1), options_, random_);
    advance(std::string(1, char(byte)));
    return byte;
  }

  std::string generate(Index count) {
    std::string text;
    for (Index i = 0; i < count; ++i) text.push_back(char(next()));
    return text;
  }

  Index state_bytes() const { return state_.bytes(); }

 private:
  static constexpr Index chunk = 256;

  void advance(std::string text) {
    if (!model_.is_constant_memory()) {
      recent_ += text;
      if (Index(recent_.size()) > context_) {
        recent_ = text = recent_.substr(recent_.size() - std::size_t(context_ / 2));
        state_ = model_.make_state();
      }
    }
    model_.forward(parameters_, reinterpret_cast<const std::uint8_t*>(text.data()), Index(text.size()), &state_,
                   cache_);
  }

  const Model<S>& model_;
  const Vector<S>& parameters_;
  Index context_;
  SamplingOptions options_;
  Random random_;
  typename Model<S>::Cache cache_;
  typename Model<S>::State state_;
  std::string recent_;
};

}  // namespace language_model
