// SPDX-License-Identifier: MIT
//
// The mixers that use the library's attention layer, with different feature maps before its memory:
//
//   --mixer gma         product mixtures, short convolution, a forgetting gate per head
//   --mixer gma-plain   one mixture per head, nothing forgotten, no convolution
//   --mixer linear      linear attention: elu + 1 instead of mixtures
//   --mixer performer   Performer: positive orthogonal random features instead of mixtures
//
// The optimiser of this program has all parameters of the model in one flat buffer; the layer keeps its parameters as
// matrices. This file connects the two: visit_parameters() names the layer's tensors once for the layout, copies values
// in before a step and adds gradients out after it.
#pragma once

#include <gma/baselines/layer_features.hpp>
#include <gma/gma.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "mixer.hpp"

namespace transformer {

// Routing: a covariance family, or a tag of gma/baselines/layer_features.hpp.
template <class S, class Routing = gma::Diagonal>
class LayerMixer : public Mixer<S> {
  using Layer = gma::AttentionLayer<S, Routing>;
  using Compiled = decltype(gma::compile(std::declval<Layer>()));

  struct State : MixerState<S> {
    explicit State(gma::LayerState<S> stream) : streams{std::move(stream)} {}
    std::vector<gma::LayerState<S>> streams;  // one
    Index bytes() const override { return Index(gma::bytes(streams.front())); }
    void save(std::ostream& out) const override { gma::save(streams.front(), out); }
    void load(std::istream& in) override { gma::load(streams.front(), in); }
  };
  struct Cache : MixerCache<S> {
    explicit Cache(const gma::LayerConfig& config) : gradient(config) {}
    gma::LayerCache<S> forward;
    gma::LayerGradientCache<S, Routing> backward;
    Layer gradient;
  };

 public:
  // Features that are random and not learned are drawn here.
  LayerMixer(Layout& layout, const std::string& name, const gma::LayerConfig& config)
      : layer_(gma::random_layer<S, Routing>(config, 1)) {
    gma::visit_parameters(
        [&](const gma::Parameter& parameter, const auto& values) {
          tensors_.push_back(layout.add(name + "." + parameter.name, values.rows(), values.cols(),
                                        group_of(parameter.group), parameter.shape));
        },
        layer_);
  }

  std::unique_ptr<MixerState<S>> make_state() const override {
    return std::make_unique<State>(gma::begin_stream(layer_));
  }
  std::unique_ptr<MixerCache<S>> make_cache() const override { return std::make_unique<Cache>(layer_.config); }
  bool is_constant_memory() const override { return true; }

  // As the library recommends, except that the branch starts at zero, like every branch of this model.
  void initialize(Vector<S>& parameters, Random& random) const override {
    Layer start = gma::random_layer<S, Routing>(layer_.config, random.bits());
    start.output_weight.setZero();
    in_lockstep(start, parameters, [](const auto& values, auto flat) { flat = values; });
  }

  void prepare(const Vector<S>& parameters) override {
    in_lockstep(layer_, parameters, [](auto values, const auto& flat) { values = flat; });
    compiled_ = gma::compile(layer_);
  }

  void forward(const Vector<S>&, const Matrix<S>& x, MixerState<S>* state, MixerCache<S>& cache_base,
               Matrix<S>& y) const override {
    Cache& cache = static_cast<Cache&>(cache_base);
    y.resize(x.rows(), x.cols());
    if (state == nullptr) {
      gma::forward_into(y, compiled_, x, cache.forward);
    } else {
      gma::forward_into(y, compiled_, x, static_cast<State*>(state)->streams, cache.forward, gma::Sequences());
    }
  }

  void backward(const Vector<S>&, const Matrix<S>& x, const Matrix<S>& dy, MixerCache<S>& cache_base,
                Vector<S>& gradients, Matrix<S>& dx) const override {
    Cache& cache = static_cast<Cache&>(cache_base);
    gma::set_zero(cache.gradient);
    dx.resize(x.rows(), x.cols());
    gma::backward_into(dx, cache.gradient, layer_, dy, cache.forward, cache.backward);
    in_lockstep(cache.gradient, gradients, [](const auto& values, auto flat) { flat += values; });
  }

  // To inspect a trained model: the layer of the last prepare(), and the contents of a cache of this mixer after the
  // last forward pass, with the queries and keys that attention used.
  const gma::AttentionLayer<S, Routing>& layer() const { return layer_; }
  static const gma::LayerCache<S>& forward_cache(const MixerCache<S>& cache) {
    return static_cast<const Cache&>(cache).forward;
  }

 private:
  static Group group_of(gma::ParameterGroup group) {
    return group == gma::ParameterGroup::matrix    ? Group::matrix
           : group == gma::ParameterGroup::mixture ? Group::mixture
                                                   : Group::gain;
  }

  // f(values of the layer, the same tensor of the flat buffer) for every parameter.
  template <class L, class Buffer, class F>
  void in_lockstep(L& layer, Buffer& buffer, const F& f) const {
    std::size_t i = 0;
    gma::visit_parameters([&](const gma::Parameter&, auto values) { f(values, view(buffer, tensors_[i++])); }, layer);
  }

  Layer layer_;
  Compiled compiled_;  // from prepare(): read by all threads
  std::vector<Tensor> tensors_;
};

}  // namespace transformer
