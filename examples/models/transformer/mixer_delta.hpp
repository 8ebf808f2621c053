// SPDX-License-Identifier: MIT
//
// The gated delta rule (`--mixer delta`), after S. Yang, J. Kautz and A. Hatamizadeh, Gated Delta Networks: Improving
// Mamba2 with Delta Rule, 2025. With H heads of d = D / H columns:
//
//   q, k, v  = silu(convolution(x W))                  [T, D] each
//   b        = sigmoid(x W_b)                          [T, H]: how much of the error is written
//   g        = -exp(a) softplus(x W_g + c)             [T, H]: log-forgetting
//   u_t      = b_t (v_t - e^g_t M^T k_t),   M <- e^g_t M + k_t u_t^T,   y_t = M^T q_t        q, k of unit length
//   out      = (gain o y / rms(y) o silu(x W_z)) W_out                                       rms head by head
//
// The recurrence is gma::baselines::causal_delta over the tokens themselves.
#pragma once

#include <gma/baselines/delta_backward.hpp>
#include <gma/baselines/feature_maps.hpp>
#include <gma/gma.hpp>
#include <utility>
#include <vector>

#include "convolution.hpp"
#include "layers.hpp"
#include "mixer.hpp"
#include "mixer_memories.hpp"

namespace transformer {

struct DeltaMixerOptions {
  Index width = 128, heads = 4, taps = 4;
  double forgetting_fastest = 1.0 / 16, forgetting_slowest = 1.0 / 128;  // at the start, spread over the heads
};

template <class S>
class DeltaMixer : public Mixer<S> {
  using Features = gma::baselines::IdentityFeatures<S>;

  using State = MemoriesState<S>;  // memories: H of [d, d]; history: [taps - 1, 3D]
  struct Cache : MixerCache<S> {
    Matrix<S> projected;              // [T, 4D + 2H]: q, k, v, z, b, g
    Matrix<S> convolved, active;      // [T, 3D], before and after silu
    Matrix<S> strengths, forgetting;  // [T, H]
    Matrix<S> mixed;                  // [T, D]; after backward's beginning divided by its rms
    Matrix<S> inverse;                // [T, H]: 1 / rms
    Matrix<S> gate, gated;            // [T, D]: silu(z); what W_out multiplies
    Matrix<S> slope;                  // scratch
    Matrix<S> d_projected, d_active, d_gated, d_mixed;
    gma::TokenInputs<S> tokens;
    gma::Gradients<Features> gradient;
    gma::Workspace<S> workspace;
  };

 public:
  DeltaMixer(Layout& layout, const std::string& name, const DeltaMixerOptions& options)
      : options_(options),
        width_(options.width),
        heads_(options.heads),
        head_(options.width / options.heads),
        in_(Linear::make(layout, name + ".in", width_, 4 * width_ + 2 * heads_)),
        convolution_(Convolution::make(layout, name + ".convolution", options.taps, 3 * width_)),
        forget_bias_(layout.add(name + ".forget_bias", 1, heads_, Group::gain, {heads_})),
        log_rate_(layout.add(name + ".log_rate", 1, heads_, Group::gain, {heads_})),
        gain_(layout.add(name + ".norm.gain", 1, width_, Group::gain, {width_})),
        out_(Linear::make(layout, name + ".out", width_, width_)),
        features_(head_) {}

  std::unique_ptr<MixerState<S>> make_state() const override {
    auto state = std::make_unique<State>();
    state->memories.assign(static_cast<std::size_t>(heads_), gma::empty_memory<S>(head_, head_));
    state->history.setZero(convolution_.filter.rows - 1, 3 * width_);
    return state;
  }
  std::unique_ptr<MixerCache<S>> make_cache() const override { return std::make_unique<Cache>(); }
  bool is_constant_memory() const override { return true; }

  // Gates of forgetting as in the library's layer: weights small, rates spread over the heads.
  void initialize(Vector<S>& parameters, Random& random) const override {
    fill_normal(parameters, in_.weight, 1 / std::sqrt(double(width_)), random);
    view(parameters, in_.weight).rightCols(2 * heads_) *= S(0.1);
    fill_normal(parameters, out_.weight, 0, random);
    convolution_.initialize(parameters, random);
    view(parameters, gain_).setOnes();
    for (Index h = 0; h < heads_; ++h) {
      const double share = heads_ > 1 ? double(h) / double(heads_ - 1) : 0.5;
      const double rate =
          options_.forgetting_fastest * std::pow(options_.forgetting_slowest / options_.forgetting_fastest, share);
      view(parameters, forget_bias_)(0, h) = S(std::log(std::expm1(1.0)));  // softplus of it is 1
      view(parameters, log_rate_)(0, h) = S(std::log(rate));
    }
  }
  void prepare(const Vector<S>&) override {}

  void forward(const Vector<S>& parameters, const Matrix<S>& x, MixerState<S>* state_base, MixerCache<S>& cache_base,
               Matrix<S>& y) const override {
    auto& cache = static_cast<Cache&>(cache_base);
    auto* state = static_cast<State*>(state_base);
    const Index all = 3 * width_;
    in_.forward(parameters, x, cache.projected);
    cache.convolved.resize(x.rows(), all);
    convolution_.forward(parameters, columns(std::as_const(cache.projected), 0, all), state ? &state->history : nullptr,
                         columns(cache.convolved, 0, all));
    cache.active = cache.convolved;
    gma::silu(cache.active.data(), cache.active.size());
    cache.strengths = strengths(cache.projected);
    gma::sigmoid(cache.strengths.data(), cache.strengths.size());
    cache.forgetting = forgetting(cache.projected);
    cache.forgetting.rowwise() += view(parameters, forget_bias_).row(0);
    gma::softplus(cache.forgetting.data(), cache.forgetting.size());
    cache.forgetting.array().rowwise() *= -view(parameters, log_rate_).row(0).array().exp();

    cache.mixed.resize(x.rows(), width_);
    for (Index h = 0; h < heads_; ++h) {
      gma::Memory<S> beginning;
      gma::baselines::causal_delta_into(head(cache.mixed, h), features_, head(cache.active, h),
                                        head(cache.active, heads_ + h), head(cache.active, 2 * heads_ + h),
                                        state ? state->memories[static_cast<std::size_t>(h)] : beginning, {},
                                        tokens(cache, h), cache.workspace);
    }
    cache.inverse.resize(x.rows(), heads_);
    gma::unit_rms_in_place(columns(cache.mixed, 0, width_), columns(cache.inverse, 0, heads_));
    cache.gate = cache.projected.middleCols(all, width_);
    gma::silu(cache.gate.data(), cache.gate.size());
    cache.gated = (cache.mixed * view(parameters, gain_).row(0).asDiagonal()).cwiseProduct(cache.gate);
    out_.forward(parameters, cache.gated, y);
  }

  void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& dy, MixerCache<S>& cache_base,
                Vector<S>& gradients, Matrix<S>& dx) const override {
    auto& cache = static_cast<Cache&>(cache_base);
    const Index all = 3 * width_;
    cache.d_projected.resize(x.rows(), cache.projected.cols());
    out_.backward(parameters, cache.gated, dy, gradients, cache.d_gated);
    silu_slope(cache.projected.middleCols(all, width_), cache.slope);
    const auto gain = view(parameters, gain_).row(0);
    cache.d_projected.middleCols(all, width_) =
        (cache.d_gated.cwiseProduct(cache.mixed) * gain.asDiagonal()).cwiseProduct(cache.slope);
    cache.d_mixed = cache.d_gated.cwiseProduct(cache.gate);
    view(gradients, gain_).row(0) += cache.d_mixed.cwiseProduct(cache.mixed).colwise().sum();
    cache.d_mixed = (cache.d_mixed * gain.asDiagonal()).eval();
    gma::unit_rms_backward_in_place(columns(std::as_const(cache.mixed), 0, width_),
                                    columns(std::as_const(cache.inverse), 0, heads_),
                                    columns(cache.d_mixed, 0, width_));
    cache.d_active.resize(x.rows(), all);
    for (Index h = 0; h < heads_; ++h) head_backward(parameters, h, cache, gradients);
    silu_slope(cache.convolved, cache.slope);
    cache.d_active.array() *= cache.slope.array();
    convolution_.backward(parameters, columns(std::as_const(cache.projected), 0, all),
                          columns(std::as_const(cache.d_active), 0, all), gradients,
                          columns(cache.d_projected, 0, all));
    in_.backward(parameters, x, cache.d_projected, gradients, dx);
  }

 private:
  void head_backward(const Vector<S>& parameters, Index h, Cache& cache, Vector<S>& gradients) const {
    const gma::Memory<S> none;
    gma::baselines::causal_delta_backward_into(
        cache.gradient, features_, head(cache.active, h), head(cache.active, heads_ + h),
        head(cache.active, 2 * heads_ + h), head(cache.d_mixed, h), none, none, {}, tokens(cache, h), cache.workspace);
    head(cache.d_active, h) = cache.gradient.queries;
    head(cache.d_active, heads_ + h) = cache.gradient.keys;
    head(cache.d_active, 2 * heads_ + h) = cache.gradient.values;
    const auto b = cache.strengths.col(h).array();
    strengths(cache.d_projected).col(h) = cache.gradient.key_weights.array() * b * (S(1) - b);
    // g = -r softplus(l): dg/dl = -r sigmoid(l) = -r (1 - exp(g / r)), and dg/da = g for r = exp(a).
    const S rate = std::exp(view(parameters, log_rate_)(0, h));
    const auto g = cache.forgetting.col(h).array();
    const auto dg = cache.gradient.log_forgetting.array();
    view(gradients, log_rate_)(0, h) += (dg * g).sum();
    forgetting(cache.d_projected).col(h) = -rate * dg * (S(1) - (g / rate).exp());
    view(gradients, forget_bias_)(0, h) += forgetting(cache.d_projected).col(h).sum();
  }

  const gma::TokenInputs<S>& tokens(Cache& cache, Index h) const {
    cache.tokens.key_weights = cache.strengths.col(h);
    cache.tokens.log_forgetting = cache.forgetting.col(h);
    return cache.tokens;
  }

  // Queries are heads 0 .. H-1 of [T, 3D], keys the next H, values the last H.
  template <class M>
  auto head(M& x, Index h) const {
    return x.middleCols(h * head_, head_);
  }
  template <class M>
  auto strengths(M& projected) const {
    return projected.middleCols(4 * width_, heads_);
  }
  template <class M>
  auto forgetting(M& projected) const {
    return projected.rightCols(heads_);
  }

  DeltaMixerOptions options_;
  Index width_, heads_, head_;
  Linear in_;
  Convolution convolution_;
  Tensor forget_bias_, log_rate_, gain_;
  Linear out_;
  Features features_;
};

}  // namespace transformer
