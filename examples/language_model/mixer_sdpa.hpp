// SPDX-License-Identifier: MIT
//
// The softmax mixer (`--mixer sdpa`): projections, rotary positions, causal softmax attention per head, output
// projection. Its state is a cache of all keys and values so far, which grows with the text.
#pragma once

#include <stdexcept>
#include <vector>

#include "layers.hpp"
#include "mixer.hpp"
#include "rotary.hpp"
#include "softmax_attention.hpp"

namespace language_model {

template <class S>
class SdpaMixer : public Mixer<S> {
  struct State : MixerState<S> {
    Matrix<S> keys, values;  // [P, D] each, keys already rotated
    Index bytes() const override { return (keys.size() + values.size()) * Index(sizeof(S)); }
  };
  struct Cache : MixerCache<S> {
    Matrix<S> qkv;                    // [T, 3D]
    Matrix<S> keys, values;           // [P + T, D]
    std::vector<Vector<S>> log_sums;  // H of [T]
    Matrix<S> mixed;                  // [T, D], before the output projection
    Matrix<S> d_mixed, d_qkv;
    SoftmaxAttention<S> attention;
  };

 public:
  SdpaMixer(Layout& layout, const std::string& name, Index width, Index heads)
      : width_(width),
        heads_(heads),
        head_(width / heads),
        in_(Linear::make(layout, name + ".qkv", width, 3 * width)),
        out_(Linear::make(layout, name + ".out", width, width)) {
    if (head_ % 2 != 0) throw std::invalid_argument("sdpa: rotary positions need heads of even width");
  }

  std::unique_ptr<MixerState<S>> make_state() const override { return std::make_unique<State>(); }
  std::unique_ptr<MixerCache<S>> make_cache() const override { return std::make_unique<Cache>(); }
  bool is_constant_memory() const override { return false; }

  void initialize(Vector<S>& parameters, Random& random) const override {
    fill_normal(parameters, in_.weight, 1 / std::sqrt(double(width_)), random);
    fill_normal(parameters, out_.weight, 0, random);
  }
  void prepare(const Vector<S>&) override {}

  void forward(const Vector<S>& parameters, const Matrix<S>& x, MixerState<S>* state, MixerCache<S>& cache_base,
               Matrix<S>& y) const override {
    auto& cache = static_cast<Cache&>(cache_base);
    auto* past = static_cast<State*>(state);
    const Index seen = past ? past->keys.rows() : 0;
    in_.forward(parameters, x, cache.qkv);
    rotate<S>(cache.qkv.leftCols(width_), heads_, seen, S(1));
    rotate<S>(cache.qkv.middleCols(width_, width_), heads_, seen, S(1));
    append(past ? &past->keys : nullptr, cache.qkv.middleCols(width_, width_), cache.keys);
    append(past ? &past->values : nullptr, cache.qkv.rightCols(width_), cache.values);

    cache.mixed.resize(x.rows(), width_);
    cache.log_sums.resize(static_cast<std::size_t>(heads_));
    for (Index h = 0; h < heads_; ++h)
      cache.attention.forward(head(cache.qkv, h), head(cache.keys, h), head(cache.values, h),
                              cache.log_sums[static_cast<std::size_t>(h)], head(cache.mixed, h));
    out_.forward(parameters, cache.mixed, y);
  }

  void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& dy, MixerCache<S>& cache_base,
                Vector<S>& gradients, Matrix<S>& dx) const override {
    auto& cache = static_cast<Cache&>(cache_base);
    out_.backward(parameters, cache.mixed, dy, gradients, cache.d_mixed);
    cache.d_qkv.setZero(x.rows(), 3 * width_);
    for (Index h = 0; h < heads_; ++h)
      cache.attention.backward(head(cache.qkv, h), head(cache.keys, h), head(cache.values, h),
                               cache.log_sums[static_cast<std::size_t>(h)], head(cache.mixed, h),
                               head(cache.d_mixed, h), head(cache.d_qkv, h), head(cache.d_qkv, heads_ + h),
                               head(cache.d_qkv, 2 * heads_ + h));
    rotate<S>(cache.d_qkv.leftCols(width_), heads_, 0, S(-1));
    rotate<S>(cache.d_qkv.middleCols(width_, width_), heads_, 0, S(-1));
    in_.backward(parameters, x, cache.d_qkv, gradients, dx);
  }

 private:
  // The d columns of a head; queries are heads 0 .. H-1 of qkv, keys the next H, values the last H.
  auto head(const Matrix<S>& x, Index h) const { return x.middleCols(h * head_, head_); }
  auto head(Matrix<S>& x, Index h) const { return x.middleCols(h * head_, head_); }

  // all = the past rows, if there are any, and the fresh ones after them; the past becomes the same.
  static void append(Matrix<S>* past, const In<S>& fresh, Matrix<S>& all) {
    const Index seen = past ? past->rows() : 0;
    all.resize(seen + fresh.rows(), fresh.cols());
    if (seen > 0) all.topRows(seen) = *past;
    all.bottomRows(fresh.rows()) = fresh;
    if (past) *past = all;
  }

  Index width_, heads_, head_;
  Linear in_, out_;
};

}  // namespace language_model
