// SPDX-License-Identifier: MIT
//
// A mixer: the half of a block in which a token sees the tokens before it, or all tokens if the model is not causal.
// The model knows only this interface; the files mixer_*.hpp implement it.
#pragma once

#include <istream>
#include <memory>
#include <ostream>
#include <stdexcept>
#include <string>

#include "tensors.hpp"

namespace transformer {

// What a mixer remembers of earlier tokens, for streaming. An empty state is the beginning of a text.
template <class S>
struct MixerState {
  virtual ~MixerState() = default;
  virtual Index bytes() const = 0;

  // Writes the state to a binary stream, and reads it into a state that make_state() of the same mixer made, which then
  // goes on with the same bits. They throw std::runtime_error if that fails. A state that grows cannot be saved.
  virtual void save(std::ostream&) const { throw std::runtime_error("the state of this mixer cannot be saved"); }
  virtual void load(std::istream&) { throw std::runtime_error("the state of this mixer cannot be loaded"); }
};

// The results of a forward pass that the backward pass needs, and the scratch memory of both. One per thread.
template <class S>
struct MixerCache {
  virtual ~MixerCache() = default;
};

template <class S>
class Mixer {
 public:
  virtual ~Mixer() = default;

  // Throws if the mixer is not causal.
  virtual std::unique_ptr<MixerState<S>> make_state() const = 0;
  virtual std::unique_ptr<MixerCache<S>> make_cache() const = 0;

  // Whether the size of the state is constant.
  virtual bool is_constant_memory() const = 0;

  virtual void initialize(Vector<S>& parameters, Random& random) const = 0;

  // Call it whenever the parameters have changed: it computes derived quantities that all threads share.
  virtual void prepare(const Vector<S>& parameters) = 0;

  // y = mix(x), both [T, D]. A state, if given, holds the tokens before x and is advanced past x.
  virtual void forward(const Vector<S>& parameters, const Matrix<S>& x, MixerState<S>* state, MixerCache<S>& cache,
                       Matrix<S>& y) const = 0;

  // After a forward pass without a state: dx [T, D] is overwritten, gradients of parameters are added.
  virtual void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& dy, MixerCache<S>& cache,
                        Vector<S>& gradients, Matrix<S>& dx) const = 0;
};

template <class S>
void fill_normal(Vector<S>& parameters, const Tensor& tensor, double deviation, Random& random) {
  for (Index i = 0; i < tensor.size(); ++i) parameters[tensor.offset + i] = static_cast<S>(deviation * random.normal());
}

}  // namespace transformer
