// SPDX-License-Identifier: MIT
//
// A mixer that reads in both directions, made of two that read in one:
//
//   y_t = forwards(x)_t + backwards(reversed x)_{T-1-t}
//
// Each has its own parameters. Every token sees all tokens, so there is no stream.
#pragma once

#include <memory>
#include <stdexcept>
#include <utility>

#include "mixer.hpp"

namespace transformer {

template <class S>
class BothMixer : public Mixer<S> {
  struct Cache : MixerCache<S> {
    std::unique_ptr<MixerCache<S>> forwards, backwards;
    Matrix<S> reversed, result;      // [T, D]: x and the second mixer's output, last token first
    Matrix<S> d_reversed, d_result;  // [T, D]
  };

 public:
  BothMixer(std::unique_ptr<Mixer<S>> forwards, std::unique_ptr<Mixer<S>> backwards)
      : forwards_(std::move(forwards)), backwards_(std::move(backwards)) {}

  std::unique_ptr<MixerState<S>> make_state() const override {
    throw std::logic_error("a mixer that reads in both directions has no state");
  }
  std::unique_ptr<MixerCache<S>> make_cache() const override {
    auto cache = std::make_unique<Cache>();
    cache->forwards = forwards_->make_cache();
    cache->backwards = backwards_->make_cache();
    return cache;
  }
  bool is_constant_memory() const override { return false; }

  void initialize(Vector<S>& parameters, Random& random) const override {
    forwards_->initialize(parameters, random);
    backwards_->initialize(parameters, random);
  }
  void prepare(const Vector<S>& parameters) override {
    forwards_->prepare(parameters);
    backwards_->prepare(parameters);
  }

  void forward(const Vector<S>& parameters, const Matrix<S>& x, MixerState<S>* state, MixerCache<S>& cache_base,
               Matrix<S>& y) const override {
    if (state) throw std::logic_error("a mixer that reads in both directions has no state");
    auto& cache = static_cast<Cache&>(cache_base);
    cache.reversed = x.colwise().reverse();
    forwards_->forward(parameters, x, nullptr, *cache.forwards, y);
    backwards_->forward(parameters, cache.reversed, nullptr, *cache.backwards, cache.result);
    y += cache.result.colwise().reverse();
  }

  void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& dy, MixerCache<S>& cache_base,
                Vector<S>& gradients, Matrix<S>& dx) const override {
    auto& cache = static_cast<Cache&>(cache_base);
    cache.d_result = dy.colwise().reverse();
    forwards_->backward(parameters, x, dy, *cache.forwards, gradients, dx);
    backwards_->backward(parameters, cache.reversed, cache.d_result, *cache.backwards, gradients, cache.d_reversed);
    dx += cache.d_reversed.colwise().reverse();
  }

 private:
  std::unique_ptr<Mixer<S>> forwards_, backwards_;
};

}  // namespace transformer
