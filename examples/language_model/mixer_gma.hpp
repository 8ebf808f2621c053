// SPDX-License-Identifier: MIT
//
// The Gaussian mixture mixer, in two forms:
//
//   --mixer gma         x -> q, k, v -> short convolution -> unit root mean square of q and k -> causal GMA with a
//                       product mixture and a forgetting gate per head -> output projection
//   --mixer gma-plain   x -> q, k, v -> unit root mean square of q and k -> causal GMA with one mixture per head and
//                       nothing forgotten -> output projection
//
// Neither has positions, and neither ever stores a matrix of the size tokens x tokens or tokens x slots. The state is
// one gma::Memory per head and the last inputs of the convolution: as large after a million bytes as after one.
#pragma once

#include <gma/gma.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "convolution.hpp"
#include "forgetting_gate.hpp"
#include "head_mixtures.hpp"
#include "layers.hpp"
#include "mixer.hpp"

namespace language_model {

struct GmaMixerOptions {
  Index width = 128, heads = 4;
  std::vector<Index> components = {8, 8};  // per factor of the product mixture
  Index convolution = 4;                   // 1: none
  bool has_forgetting = true;
  double forgetting_fastest = 1.0 / 16, forgetting_slowest = 1.0 / 512;
};

template <class S>
class GmaMixer : public Mixer<S> {
  using Mixture = typename HeadMixtures<S>::Mixture;

  struct State : MixerState<S> {
    std::vector<gma::Memory<S>> memories;  // one per head
    Matrix<S> history;                     // [convolution - 1, 3D]
    Index bytes() const override {
      Index scalars = history.size();
      for (const auto& memory : memories) scalars += memory.slots.size() + memory.mass.size() + 1;
      return scalars * Index(sizeof(S));
    }
  };
  struct Cache : MixerCache<S> {
    Matrix<S> projected, qkv;     // [T, 3D], before and after the convolution; q and k of qkv are routed ones
    Matrix<S> inverse_rms;        // [T, 2H]
    Matrix<S> gate_logits, gate;  // [T, H]
    Matrix<S> mixed;              // [T, D], before the output projection
    Matrix<S> d_mixed, d_qkv, d_projected, d_gate;
    gma::TokenInputs<S> tokens;
    gma::Gradients<Mixture> gradient;  // of one head
    gma::Workspace<S> workspace;
  };

 public:
  GmaMixer(Layout& layout, const std::string& name, const GmaMixerOptions& options)
      : options_(options),
        head_(options.width / options.heads),
        in_(Linear::make(layout, name + ".qkv", options.width, 3 * options.width)),
        out_(Linear::make(layout, name + ".out", options.width, options.width)),
        mixtures_(layout, name + ".mixture", options.heads, head_, options.components) {
    if (options.convolution > 1)
      convolution_ = ShortConvolution::make(layout, name + ".convolution", options.convolution, 3 * options.width);
    if (options.has_forgetting) gate_ = ForgettingGate::make(layout, name + ".gate", options.width, options.heads);
  }

  std::unique_ptr<MixerState<S>> make_state() const override {
    auto state = std::make_unique<State>();
    state->memories.resize(std::size_t(options_.heads));
    return state;
  }
  std::unique_ptr<MixerCache<S>> make_cache() const override { return std::make_unique<Cache>(); }
  bool is_constant_memory() const override { return true; }

  void initialize(Vector<S>& parameters, Random& random) const override {
    fill_normal(parameters, in_.weight, 1 / std::sqrt(double(options_.width)), random);
    fill_normal(parameters, out_.weight, 0, random);
    mixtures_.initialize(parameters, random);
    if (gate_) gate_->initialize(parameters, options_.forgetting_fastest, options_.forgetting_slowest, random);
    if (convolution_) {  // close to passing its input on
      fill_normal(parameters, convolution_->filter, 0.2, random);
      view(parameters, convolution_->filter).row(0).array() += S(1);
    }
  }

  void prepare(const Vector<S>& parameters) override {
    heads_.clear();
    compiled_.clear();
    for (Index h = 0; h < options_.heads; ++h) {
      heads_.push_back(mixtures_.head(parameters, h));
      compiled_.push_back(gma::compile(heads_.back()));
    }
  }

  void forward(const Vector<S>& parameters, const Matrix<S>& x, MixerState<S>* state_base, MixerCache<S>& cache_base,
               Matrix<S>& y) const override {
    auto& cache = static_cast<Cache&>(cache_base);
    auto* state = static_cast<State*>(state_base);
    if (convolution_) {
      in_.forward(parameters, x, cache.projected);
      convolution_->forward(parameters, cache.projected, state ? &state->history : nullptr, cache.qkv);
    } else {
      in_.forward(parameters, x, cache.qkv);
    }
    normalize_routing(cache);
    if (gate_) gate_->forward(parameters, x, cache.gate_logits, cache.gate);

    cache.mixed.resize(x.rows(), options_.width);
    for (Index h = 0; h < options_.heads; ++h) {
      gma::Memory<S> beginning;
      gma::causal_into(head(cache.mixed, h), compiled_[std::size_t(h)], queries(cache, h), keys(cache, h),
                       values(cache, h), state ? state->memories[std::size_t(h)] : beginning, gma::Options{},
                       tokens(cache, h), cache.workspace);
    }
    out_.forward(parameters, cache.mixed, y);
  }

  void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& dy, MixerCache<S>& cache_base,
                Vector<S>& gradients, Matrix<S>& dx) const override {
    auto& cache = static_cast<Cache&>(cache_base);
    out_.backward(parameters, cache.mixed, dy, gradients, cache.d_mixed);
    cache.d_qkv.resize(x.rows(), 3 * options_.width);
    cache.d_gate.resize(x.rows(), options_.heads);
    for (Index h = 0; h < options_.heads; ++h) {
      const gma::Memory<S> none;
      gma::causal_backward_into(cache.gradient, heads_[std::size_t(h)], queries(cache, h), keys(cache, h),
                                values(cache, h), head(cache.d_mixed, h), none, none, gma::Options{}, tokens(cache, h),
                                cache.workspace);
      head(cache.d_qkv, h) = cache.gradient.queries;
      head(cache.d_qkv, options_.heads + h) = cache.gradient.keys;
      head(cache.d_qkv, 2 * options_.heads + h) = cache.gradient.values;
      if (gate_) cache.d_gate.col(h) = cache.gradient.log_forgetting;
      mixtures_.add_gradient(cache.gradient.mixture, h, gradients);
    }
    normalize_routing_backward(cache);
    if (convolution_) {
      convolution_->backward(parameters, cache.projected, Matrix<S>(), cache.d_qkv, gradients, cache.d_projected);
      in_.backward(parameters, x, cache.d_projected, gradients, dx);
    } else {
      in_.backward(parameters, x, cache.d_qkv, gradients, dx);
    }
    if (gate_) gate_->backward(parameters, x, cache.gate_logits, cache.gate, cache.d_gate, gradients, dx);
  }

 private:
  // The d columns of a head; queries are heads 0 .. H-1 of qkv, keys the next H, values the last H.
  auto head(const Matrix<S>& x, Index h) const { return x.middleCols(h * head_, head_); }
  auto head(Matrix<S>& x, Index h) const { return x.middleCols(h * head_, head_); }

  auto queries(const Cache& cache, Index h) const { return head(cache.qkv, h); }
  auto keys(const Cache& cache, Index h) const { return head(cache.qkv, options_.heads + h); }
  auto values(const Cache& cache, Index h) const { return head(cache.qkv, 2 * options_.heads + h); }

  const gma::TokenInputs<S>& tokens(Cache& cache, Index h) const {
    if (gate_) cache.tokens.log_forgetting = cache.gate.col(h);
    return cache.tokens;
  }

  // Every head's query and key is scaled to unit root mean square, so that means and temperature have a scale to live
  // on.
  void normalize_routing(Cache& cache) const {
    cache.inverse_rms.resize(cache.qkv.rows(), 2 * options_.heads);
    for (Index t = 0; t < cache.qkv.rows(); ++t) {
      for (Index h = 0; h < 2 * options_.heads; ++h) {
        auto z = cache.qkv.row(t).segment(h * head_, head_);
        cache.inverse_rms(t, h) = S(1) / std::sqrt(z.squaredNorm() / S(head_) + S(RmsNorm::epsilon));
        z *= cache.inverse_rms(t, h);
      }
    }
  }

  // With n = i z, i the inverse rms:   dz = i (dn - n <n, dn> / d).
  void normalize_routing_backward(Cache& cache) const {
    for (Index t = 0; t < cache.qkv.rows(); ++t) {
      for (Index h = 0; h < 2 * options_.heads; ++h) {
        const auto n = cache.qkv.row(t).segment(h * head_, head_);
        auto d = cache.d_qkv.row(t).segment(h * head_, head_);
        const S inner = n.dot(d) / S(head_);
        d = cache.inverse_rms(t, h) * (d - inner * n);
      }
    }
  }

  GmaMixerOptions options_;
  Index head_;
  Linear in_, out_;
  HeadMixtures<S> mixtures_;
  std::optional<ShortConvolution> convolution_;
  std::optional<ForgettingGate> gate_;
  std::vector<Mixture> heads_;  // from prepare(): read by all threads
  std::vector<gma::CompiledMixture<S>> compiled_;
};

}  // namespace language_model
