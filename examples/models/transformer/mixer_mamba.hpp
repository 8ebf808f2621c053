// SPDX-License-Identifier: MIT
//
// The selective state space mixer (`--mixer mamba`), after T. Dao and A. Gu, Transformers are SSMs (Mamba-2), 2024, in
// its scalar-decay form. With E = 2 D inner channels in heads of P, and a state of N numbers per channel:
//
//   z, c, dt = x W_in                            [T, E], [T, E + 2N], [T, H]
//   v, B, C  = silu(convolution(c) + bias)       [T, E], [T, N], [T, N]
//   dt_h     = softplus(dt_h + b_h),  A_h = -exp(a_h)
//   h_t      = exp(dt_t A) h_{t-1} + dt_t B_t v_t^T,   y_t = C_t h_t + D v_t           head by head
//   out      = norm(y o silu(z)) W_out
//
// The recurrence is gma::causal with the tokens themselves as features: keys B, queries C, key weights dt and
// log-forgetting dt A.
#pragma once

#include <gma/baselines/feature_maps.hpp>
#include <gma/gma.hpp>
#include <utility>
#include <vector>

#include "convolution.hpp"
#include "layers.hpp"
#include "mixer.hpp"
#include "mixer_memories.hpp"

namespace transformer {

struct MambaOptions {
  Index width = 128, state = 64, head = 32, taps = 4;
};

template <class S>
class MambaMixer : public Mixer<S> {
  using Features = gma::baselines::IdentityFeatures<S>;

  using State = MemoriesState<S>;  // memories: H of [N, P]; history: [taps - 1, E + 2N]
  struct Cache : MixerCache<S> {
    Matrix<S> projected;             // [T, 2E + 2N + H]: z, c, dt
    Matrix<S> convolved, active;     // [T, E + 2N], before and after silu
    Matrix<S> steps;                 // [T, H]: dt after softplus
    Matrix<S> mixed, gated, normed;  // [T, E]
    RmsNorm::Cache<S> norm;
    Matrix<S> slope;  // scratch
    Matrix<S> d_projected, d_active, d_mixed, d_gated, d_normed;
    gma::TokenInputs<S> tokens;
    gma::Gradients<Features> gradient;
    gma::Workspace<S> workspace;
  };

 public:
  MambaMixer(Layout& layout, const std::string& name, const MambaOptions& options)
      : inner_(2 * options.width),
        state_(options.state),
        head_(options.head),
        heads_(inner_ / head_),
        in_(Linear::make(layout, name + ".in", options.width, 2 * inner_ + 2 * state_ + heads_)),
        convolution_(Convolution::make(layout, name + ".convolution", options.taps, channels())),
        convolution_bias_(layout.add(name + ".convolution.bias", 1, channels(), Group::gain, {channels()})),
        step_bias_(layout.add(name + ".step_bias", 1, heads_, Group::gain, {heads_})),
        log_decay_(layout.add(name + ".log_decay", 1, heads_, Group::gain, {heads_})),
        skip_(layout.add(name + ".skip", 1, heads_, Group::gain, {heads_})),
        norm_(RmsNorm::make(layout, name + ".norm", inner_)),
        out_(Linear::make(layout, name + ".out", inner_, options.width)),
        features_(state_) {}

  std::unique_ptr<MixerState<S>> make_state() const override {
    auto state = std::make_unique<State>();
    state->memories.assign(static_cast<std::size_t>(heads_), gma::empty_memory<S>(state_, head_));
    state->history.setZero(convolution_.filter.rows - 1, channels());
    return state;
  }
  std::unique_ptr<MixerCache<S>> make_cache() const override { return std::make_unique<Cache>(); }
  bool is_constant_memory() const override { return true; }

  // Steps from 0.001 to 0.1 and decays from 1 to 16, spread over the heads.
  void initialize(Vector<S>& parameters, Random& random) const override {
    fill_normal(parameters, in_.weight, 1 / std::sqrt(double(in_.weight.rows)), random);
    fill_normal(parameters, out_.weight, 0, random);
    convolution_.initialize(parameters, random);
    view(parameters, norm_.gain).setOnes();
    view(parameters, skip_).setOnes();
    for (Index h = 0; h < heads_; ++h) {
      const double step = 0.001 * std::pow(100.0, random.uniform());
      view(parameters, step_bias_)(0, h) = S(step + std::log(-std::expm1(-step)));  // softplus of it is the step
      view(parameters, log_decay_)(0, h) = S(std::log(1 + 15 * random.uniform()));
    }
  }
  void prepare(const Vector<S>&) override {}

  void forward(const Vector<S>& parameters, const Matrix<S>& x, MixerState<S>* state_base, MixerCache<S>& cache_base,
               Matrix<S>& y) const override {
    auto& cache = static_cast<Cache&>(cache_base);
    auto* state = static_cast<State*>(state_base);
    in_.forward(parameters, x, cache.projected);
    cache.convolved.resize(x.rows(), channels());
    convolution_.forward(parameters, columns(std::as_const(cache.projected), inner_, channels()),
                         state ? &state->history : nullptr, columns(cache.convolved, 0, channels()));
    cache.convolved.rowwise() += view(parameters, convolution_bias_).row(0);
    cache.active = cache.convolved;
    gma::silu(cache.active.data(), cache.active.size());
    cache.steps = cache.projected.rightCols(heads_);
    cache.steps.rowwise() += view(parameters, step_bias_).row(0);
    gma::softplus(cache.steps.data(), cache.steps.size());

    cache.mixed.resize(x.rows(), inner_);
    for (Index h = 0; h < heads_; ++h) {
      gma::Memory<S> beginning;
      gma::causal_into(head(cache.mixed, h), features_, c(cache.active), b(cache.active), head(cache.active, h),
                       state ? state->memories[static_cast<std::size_t>(h)] : beginning, options(),
                       tokens(parameters, cache, h), cache.workspace);
      head(cache.mixed, h) += view(parameters, skip_)(0, h) * head(cache.active, h);
    }
    cache.gated = cache.projected.leftCols(inner_);
    gma::silu(cache.gated.data(), cache.gated.size());
    cache.gated.array() *= cache.mixed.array();
    norm_.forward(parameters, cache.gated, cache.norm, cache.normed);
    out_.forward(parameters, cache.normed, y);
  }

  void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& dy, MixerCache<S>& cache_base,
                Vector<S>& gradients, Matrix<S>& dx) const override {
    auto& cache = static_cast<Cache&>(cache_base);
    cache.d_projected.resize(x.rows(), cache.projected.cols());
    out_.backward(parameters, cache.normed, dy, gradients, cache.d_normed);
    cache.d_gated.setZero(x.rows(), inner_);
    norm_.backward(parameters, cache.d_normed, cache.norm, gradients, cache.d_gated);
    const auto z = cache.projected.leftCols(inner_).array();
    // silu'(z) = s (1 + z (1 - s)) with s = sigmoid(z).
    Matrix<S>& s = cache.slope;
    s = z;
    gma::sigmoid(s.data(), s.size());
    cache.d_mixed = cache.d_gated.array() * z * s.array();
    s.array() *= S(1) + z * (S(1) - s.array());
    cache.d_projected.leftCols(inner_) = cache.d_gated.array() * cache.mixed.array() * s.array();

    cache.d_active.setZero(x.rows(), channels());
    for (Index h = 0; h < heads_; ++h) head_backward(parameters, h, cache, gradients);
    silu_slope(cache.convolved, cache.slope);
    cache.d_active.array() *= cache.slope.array();
    view(gradients, convolution_bias_).row(0) += cache.d_active.colwise().sum();
    convolution_.backward(parameters, columns(std::as_const(cache.projected), inner_, channels()),
                          columns(std::as_const(cache.d_active), 0, channels()), gradients,
                          columns(cache.d_projected, inner_, channels()));
    view(gradients, step_bias_).row(0) += cache.d_projected.rightCols(heads_).colwise().sum();
    in_.backward(parameters, x, cache.d_projected, gradients, dx);
  }

 private:
  void head_backward(const Vector<S>& parameters, Index h, Cache& cache, Vector<S>& gradients) const {
    const gma::Memory<S> none;
    gma::causal_backward_into(cache.gradient, features_, c(cache.active), b(cache.active), head(cache.active, h),
                              head(cache.d_mixed, h), none, none, options(), tokens(parameters, cache, h),
                              cache.workspace);
    c(cache.d_active) += cache.gradient.queries;
    b(cache.d_active) += cache.gradient.keys;
    head(cache.d_active, h) += cache.gradient.values + view(parameters, skip_)(0, h) * head(cache.d_mixed, h);
    view(gradients, skip_)(0, h) += head(cache.d_mixed, h).cwiseProduct(head(cache.active, h)).sum();
    // The step is the weight of a token. Times A it is the token's log-forgetting.
    const S decay = -std::exp(view(parameters, log_decay_)(0, h));
    const Vector<S>& d_forgetting = cache.gradient.log_forgetting;
    view(gradients, log_decay_)(0, h) += d_forgetting.dot(cache.steps.col(h)) * decay;
    const Vector<S> d_step = cache.gradient.key_weights + decay * d_forgetting;
    // dt = softplus(l): its derivative is sigmoid(l) = 1 - exp(-dt).
    cache.d_projected.rightCols(heads_).col(h) = d_step.array() * (S(1) - (-cache.steps.col(h).array()).exp());
  }

  const gma::TokenInputs<S>& tokens(const Vector<S>& parameters, Cache& cache, Index h) const {
    cache.tokens.key_weights = cache.steps.col(h);
    cache.tokens.log_forgetting = -std::exp(view(parameters, log_decay_)(0, h)) * cache.steps.col(h);
    return cache.tokens;
  }

  static gma::Options options() {
    gma::Options options;
    options.normalization = gma::Normalization::none;
    return options;
  }

  // The parts of [T, E + 2N]: P columns per head, then B, then C.
  Index channels() const { return inner_ + 2 * state_; }
  template <class M>
  auto head(M& x, Index h) const {
    return x.middleCols(h * head_, head_);
  }
  template <class M>
  auto b(M& x) const {
    return x.middleCols(inner_, state_);
  }
  template <class M>
  auto c(M& x) const {
    return x.middleCols(inner_ + state_, state_);
  }

  Index inner_, state_, head_, heads_;
  Linear in_;
  Convolution convolution_;
  Tensor convolution_bias_, step_bias_, log_decay_, skip_;
  RmsNorm norm_;
  Linear out_;
  Features features_;
};

}  // namespace transformer
