// SPDX-License-Identifier: MIT
//
// A mixer: the half of a block in which a token hears of the tokens before it, or of all where the model is not causal.
// This interface is all that the model knows of one; the files mixer_*.hpp implement it.
#pragma once

#include <memory>
#include <string>

#include "random.hpp"
#include "tensors.hpp"

namespace transformer {

// What a mixer remembers of the tokens it has seen, for streaming. An empty state is the beginning of a text.
template <class S>
struct MixerState {
  virtual ~MixerState() = default;
  virtual Index bytes() const = 0;
};

// What a forward pass leaves for the backward pass, and the scratch of both. One per thread.
template <class S>
struct MixerCache {
  virtual ~MixerCache() = default;
};

template <class S>
class Mixer {
 public:
  virtual ~Mixer() = default;

  // Throws where the mixer is not causal.
  virtual std::unique_ptr<MixerState<S>> make_state() const = 0;
  virtual std::unique_ptr<MixerCache<S>> make_cache() const = 0;

  // Whether the state stays of the same size however long the text is.
  virtual bool is_constant_memory() const = 0;

  virtual void initialize(Vector<S>& parameters, Random& random) const = 0;

  // To be called whenever the parameters have changed: derived quantities that all threads share are computed here.
  virtual void prepare(const Vector<S>& parameters) = 0;

  // y = mix(x), both [T, D]. A state, where given, holds the tokens before x and is moved on past x.
  virtual void forward(const Vector<S>& parameters, const Matrix<S>& x, MixerState<S>* state, MixerCache<S>& cache,
                       Matrix<S>& y) const = 0;

  // dx [T, D] is overwritten, gradients of parameters are added. After a forward pass without a state.
  virtual void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& dy, MixerCache<S>& cache,
                        Vector<S>& gradients, Matrix<S>& dx) const = 0;
};

template <class S>
void fill_normal(Vector<S>& parameters, const Tensor& tensor, double deviation, Random& random) {
  for (Index i = 0; i < tensor.size(); ++i) parameters[tensor.offset + i] = static_cast<S>(deviation * random.normal());
}

}  // namespace transformer
