// SPDX-License-Identifier: MIT
//
// The softmax mixers: projections, optionally the short convolution, optionally queries and keys of unit root mean
// square with a learned scale per head, rotary positions, softmax attention per head, output projection.
//
//   --mixer sdpa     every token sees all earlier tokens; the state is a cache of their keys and values, which grows,
//                    or, with --cache, of the last ones: beyond the context of training the model is at a loss.
//                    If the model is not causal, every token sees all tokens and there is no state
//   --mixer window   every token sees the last few tokens; the state holds those
#pragma once

#include <algorithm>
#include <gma/softmax/rotary.hpp>
#include <gma/softmax/sdpa.hpp>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "convolution.hpp"
#include "layers.hpp"
#include "mixer.hpp"

namespace transformer {

struct SdpaMixerOptions {
  Index width = 128, heads = 4;
  Index taps = 1;         // of the convolution; 1: none
  bool is_causal = true;  // a token sees earlier tokens; else all tokens
  Index window = 0;       // causal: the number of last tokens that a token sees, itself included; 0: all
  Index cache = 0;        // a stream keeps as many keys and values; 0: all
  bool has_unit_queries = false;
};

template <class S>
class SdpaMixer : public Mixer<S> {
  struct State : MixerState<S> {
    std::vector<gma::baselines::KeyValueCache<S>> heads;  // H of [P, d], keys already rotated
    Matrix<S> history;                                    // [taps - 1, 3D]
    Index position = 0;
    Index bytes() const override {
      Index numbers = history.size();
      for (const auto& head : heads) numbers += head.keys().size() + head.values().size();
      return numbers * Index(sizeof(S));
    }
  };
  struct Cache : MixerCache<S> {
    Matrix<S> projected, qkv;  // [T, 3D], before and after the convolution
    Matrix<S> unit, inverse;   // [T, 2D], [T, 2H]: queries and keys of unit root mean square, before their scale
    std::vector<gma::baselines::SdpaForward<S>> heads;
    Matrix<S> mixed;  // [T, D], before the output projection
    Matrix<S> turns;  // gma::rotary_table of at least P + T positions
    Matrix<S> d_mixed, d_qkv, d_projected;
    gma::baselines::SdpaGradients<S> d_head;
    gma::Workspace<S> workspace;
  };

 public:
  SdpaMixer(Layout& layout, const std::string& name, const SdpaMixerOptions& options)
      : width_(options.width),
        heads_(options.heads),
        head_(options.width / options.heads),
        in_(Linear::make(layout, name + ".qkv", options.width, 3 * options.width)),
        out_(Linear::make(layout, name + ".out", options.width, options.width)),
        cache_(options.cache) {
    if (head_ % 2 != 0) throw std::invalid_argument("softmax: rotary positions need heads of even width");
    sdpa_.is_causal = options.is_causal;
    sdpa_.window = options.window;
    if (options.has_unit_queries) scale_ = layout.add(name + ".scale", 1, heads_, Group::gain, {heads_});
    if (options.taps > 1) convolution_ = Convolution::make(layout, name + ".convolution", options.taps, 3 * width_);
  }

  std::unique_ptr<MixerState<S>> make_state() const override {
    if (!sdpa_.is_causal) throw std::logic_error("softmax: only causal attention has a state");
    auto state = std::make_unique<State>();
    state->heads.resize(static_cast<std::size_t>(heads_));
    if (convolution_) state->history.setZero(convolution_->filter.rows - 1, 3 * width_);
    return state;
  }
  std::unique_ptr<MixerCache<S>> make_cache() const override { return std::make_unique<Cache>(); }
  bool is_constant_memory() const override { return sdpa_.is_causal && (sdpa_.window > 0 || cache_ > 0); }

  void initialize(Vector<S>& parameters, Random& random) const override {
    fill_normal(parameters, in_.weight, 1 / std::sqrt(double(width_)), random);
    fill_normal(parameters, out_.weight, 0, random);
    if (convolution_) convolution_->initialize(parameters, random);
    if (scale_) view(parameters, *scale_).setOnes();
  }
  void prepare(const Vector<S>&) override {}

  void forward(const Vector<S>& parameters, const Matrix<S>& x, MixerState<S>* state, MixerCache<S>& cache_base,
               Matrix<S>& y) const override {
    auto& cache = static_cast<Cache&>(cache_base);
    auto* past = static_cast<State*>(state);
    const Index seen = past ? past->position : 0, all = 3 * width_;
    if (convolution_) {
      in_.forward(parameters, x, cache.projected);
      cache.qkv.resize(x.rows(), all);
      convolution_->forward(parameters, columns(std::as_const(cache.projected), 0, all),
                            past ? &past->history : nullptr, columns(cache.qkv, 0, all));
    } else {
      in_.forward(parameters, x, cache.qkv);
    }
    if (scale_) {
      cache.unit = cache.qkv.leftCols(2 * width_);
      cache.inverse.resize(x.rows(), 2 * heads_);
      gma::unit_rms_in_place(columns(cache.unit, 0, 2 * width_), columns(cache.inverse, 0, 2 * heads_));
      cache.qkv.leftCols(2 * width_) = cache.unit;
      for (Index h = 0; h < heads_; ++h) head(cache.qkv, h) *= view(parameters, *scale_)(0, h);
    }
    const Index positions = seen + x.rows();
    if (cache.turns.rows() < positions) cache.turns = gma::rotary_table<S>((std::max)(positions, 2 * seen), head_);
    gma::rotate_in_place(columns(cache.qkv, 0, 2 * width_), 2 * heads_, cache.turns, seen);
    if (past) past->position += x.rows();

    cache.mixed.resize(x.rows(), width_);
    cache.heads.resize(static_cast<std::size_t>(heads_));
    for (Index h = 0; h < heads_; ++h) {
      const auto queries = head(cache.qkv, h), keys = head(cache.qkv, heads_ + h),
                 values = head(cache.qkv, 2 * heads_ + h);
      auto& forward = cache.heads[static_cast<std::size_t>(h)];
      if (!past) {
        gma::baselines::sdpa_forward_into(forward, queries, keys, values, sdpa_, cache.workspace);
        head(cache.mixed, h) = forward.output;
        continue;
      }
      auto& kept = past->heads[static_cast<std::size_t>(h)];
      kept.append(keys, values);
      if (x.rows() == 1) {
        head(cache.mixed, h) = gma::baselines::sdpa_decode(queries, kept, sdpa_);
      } else {
        gma::baselines::sdpa_forward_into(forward, queries, kept.keys(), kept.values(), sdpa_, cache.workspace);
        head(cache.mixed, h) = forward.output;
      }
      forget(kept);
    }
    out_.forward(parameters, cache.mixed, y);
  }

  void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& dy, MixerCache<S>& cache_base,
                Vector<S>& gradients, Matrix<S>& dx) const override {
    auto& cache = static_cast<Cache&>(cache_base);
    out_.backward(parameters, cache.mixed, dy, gradients, cache.d_mixed);
    cache.d_qkv.resize(x.rows(), 3 * width_);
    for (Index h = 0; h < heads_; ++h) {
      gma::baselines::sdpa_backward_into(cache.d_head, head(cache.qkv, h), head(cache.qkv, heads_ + h),
                                         head(cache.qkv, 2 * heads_ + h), head(cache.d_mixed, h),
                                         cache.heads[static_cast<std::size_t>(h)], sdpa_, cache.workspace);
      head(cache.d_qkv, h) = cache.d_head.queries;
      head(cache.d_qkv, heads_ + h) = cache.d_head.keys;
      head(cache.d_qkv, 2 * heads_ + h) = cache.d_head.values;
    }
    gma::rotate_backward_in_place(columns(cache.d_qkv, 0, 2 * width_), 2 * heads_, cache.turns);
    if (scale_) {
      for (Index h = 0; h < heads_; ++h) {
        view(gradients, *scale_)(0, h) += head(cache.d_qkv, h).cwiseProduct(head(cache.unit, h)).sum();
        head(cache.d_qkv, h) *= view(parameters, *scale_)(0, h);
      }
      gma::unit_rms_backward_in_place(columns(std::as_const(cache.unit), 0, 2 * width_),
                                      columns(std::as_const(cache.inverse), 0, 2 * heads_),
                                      columns(cache.d_qkv, 0, 2 * width_));
    }
    if (!convolution_) return in_.backward(parameters, x, cache.d_qkv, gradients, dx);
    const Index all = 3 * width_;
    cache.d_projected.resize(x.rows(), all);
    convolution_->backward(parameters, columns(std::as_const(cache.projected), 0, all),
                           columns(std::as_const(cache.d_qkv), 0, all), gradients, columns(cache.d_projected, 0, all));
    in_.backward(parameters, x, cache.d_projected, gradients, dx);
  }

 private:
  // The d columns of a head; queries are heads 0 .. H-1 of qkv, keys the next H, values the last H.
  auto head(const Matrix<S>& x, Index h) const { return x.middleCols(h * head_, head_); }
  auto head(Matrix<S>& x, Index h) const { return x.middleCols(h * head_, head_); }

  // Drops what the next token does not see.
  void forget(gma::baselines::KeyValueCache<S>& cache) const {
    if (sdpa_.window > 0) return cache.keep_last(sdpa_.window - 1);
    if (cache_ > 0) cache.keep_last(cache_);
  }

  Index width_, heads_, head_;
  gma::baselines::SdpaOptions sdpa_;
  Linear in_, out_;
  std::optional<Convolution> convolution_;
  Index cache_;
  std::optional<Tensor> scale_;  // of the queries
};

}  // namespace transformer
