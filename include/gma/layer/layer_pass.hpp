// SPDX-License-Identifier: MIT
// One forward pass of a layer over packed rows, from nothing or from states, which it advances all together or not at
// all.
#pragma once

#include <utility>
#include <vector>

#include "gma/core/elementwise.hpp"
#include "gma/layer/convolution.hpp"
#include "gma/layer/layer_cache.hpp"
#include "gma/layer/layer_rows.hpp"

namespace gma::detail {

/// Under the root of every root mean square.
inline constexpr double rms_epsilon = 1e-5;

/// One forward pass of a layer over packed rows.
template <class S, class Map>
struct LayerForward {
  const CompiledLayer<S, Map>& layer;
  LayerShape shape;
  LayerCache<S>& cache;
  LayerState<S>* const* states;  // one a sequence, or null
  const Executor* executor;
  bool is_in_place;  // the states' memories are advanced where they are

  void run() {
    size_outputs();
    product_of_rows(executor, cache.input, layer.in_weights, cache.projected);
    part(0, shape.queries, cache.queries);
    part(shape.queries, shape.keys, cache.keys);
    part(shape.queries + shape.keys, shape.values, cache.values);
    scale();
    if (shape.window > 0) window().attend([&](Index i) { return state_of(i); });
    if (shape.forgetting > 0) forget();
    attend();
    if (shape.window > 0) window().mix(cache.projected, layer.window_bias, cache.mixed);
    if (is_finished()) finish();
    product_of_rows(executor, final_mixed(), layer.out_weights, cache.output);
    if (states != nullptr) advance();
  }

  /// What is filled once the memories may have changed: nothing is to be allocated then.
  void size_outputs() {
    const Index rows = cache.input.rows();
    resize(cache.mixed, rows, shape.mixed());
    if (layer.config.has_output_norm) resize(cache.mixed_inverse_rms, rows, shape.query_heads);
    if (is_finished()) resize(cache.finished, rows, shape.mixed());
    resize(cache.output, rows, shape.width);
  }

  bool is_finished() const { return layer.config.has_output_norm || layer.config.has_output_gate; }
  const Matrix<S>& final_mixed() const { return is_finished() ? cache.finished : cache.mixed; }

  LayerWindow<S> window() const {
    return {shape,         layer.config.window, layer.rotations, cache.inputs.sequences.offsets,
            cache.queries, cache.keys,          cache.values,    cache.window,
            executor,      cache.workspace};
  }
  const LayerState<S>* state_of(Index sequence) const { return states == nullptr ? nullptr : states[sequence]; }

  Index sequences() const { return static_cast<Index>(cache.inputs.sequences.offsets.size()) - 1; }
  Index first_row(Index sequence) const {
    return static_cast<Index>(cache.inputs.sequences.offsets[static_cast<std::size_t>(sequence)]);
  }
  Index row_count(Index sequence) const { return first_row(sequence + 1) - first_row(sequence); }

  ConstTile<S> history(Index sequence, Index begin, Index count) const {
    if (states == nullptr) return ConstTile<S>(nullptr, 0, count, Eigen::OuterStride<>(count));
    return columns(std::as_const(states[sequence]->history), begin, count);
  }

  /// Columns [begin, begin + count) of the projection, convolved.
  void part(Index begin, Index count, Matrix<S>& y) {
    resize(y, cache.projected.rows(), count);
    if (layer.config.convolution == 1) {
      y = columns(std::as_const(cache.projected), begin, count);
      return;
    }
    const Matrix<S>& taps = layer.taps;
    for_blocks(executor, count, channels_of_task, [&](Index first, Index channels) {
      for (Index i = 0; i < sequences(); ++i) {
        const ConstTile<S> x = read_only(columns(cache.projected, begin + first, channels));
        short_convolution(rows(x, first_row(i), row_count(i)), columns(taps, begin + first, channels),
                          history(i, begin + first, channels),
                          rows(columns(y, first, channels), first_row(i), row_count(i)));
      }
    });
  }

  /// Every head's query and key to unit root mean square, so that means and temperature have a scale to live on.
  void scale() {
    resize(cache.inverse_rms, cache.input.rows(), shape.query_heads + shape.key_heads);
    for_blocks(executor, cache.input.rows(), rows_of_task, [&](Index begin, Index count) {
      for (Index t = begin; t < begin + count; ++t) {
        scale_heads(cache.queries.row(t).data(), shape.query_heads, shape.head_width, &cache.inverse_rms(t, 0));
        scale_heads(cache.keys.row(t).data(), shape.key_heads, shape.head_width,
                    &cache.inverse_rms(t, shape.query_heads));
      }
    });
  }

  static void scale_heads(S* row, Index heads, Index width, S* inverse) {
    using std::sqrt;
    for (Index h = 0; h < heads; ++h) {
      Eigen::Map<RowVector<S>> z(row + h * width, width);
      const S squares = kernels::dot(z.data(), z.data(), width);
      inverse[h] = S(1) / sqrt(squares / S(static_cast<double>(width)) + S(rms_epsilon));
      z *= inverse[h];
    }
  }

  /// g = -softplus(z) exp(a).
  void forget() {
    Matrix<S>& g = cache.inputs.log_forgetting;
    assign(g, columns(std::as_const(cache.projected), shape.channels(), shape.forgetting));
    for (Index t = 0; t < g.rows(); ++t) g.row(t) += layer.forget_bias;
    softplus(g.data(), g.size());
    for (Index t = 0; t < g.rows(); ++t) g.row(t).array() *= -layer.forget_factor.array();
    for (Index t = 0; t < g.rows(); ++t) {
      for (Index h = 0; h < g.cols(); ++h) {
        if (!(g(t, h) <= S(0))) report_gate(t, h);
      }
    }
  }

  [[noreturn]] void report_gate(Index t, Index head) const {
    const S& g = cache.inputs.log_forgetting(t, head);
    Index sequence = 0;
    while (first_row(sequence + 1) <= t) ++sequence;
    const Index row = cache.placement.row(cache.placement[sequence].begin + t - first_row(sequence));
    for (Index column = 0; column < cache.input.cols(); ++column) {
      if (is_finite(cache.input(t, column))) continue;
      invalid_argument("forward", "x is ", cache.input(t, column), " at row ", row, ", column ", column,
                       ", expected finite numbers: log_forgetting is ", g, " there for head ", head);
    }
    invalid_argument("forward", "log_forgetting is ", g, " at row ", row, " of x for head ", head,
                     ", expected a number <= 0: gma::validate(layer) finds parameters that are not finite");
  }

  void attend() {
    Options options;
    options.normalization = layer.config.normalization;
    options.executor = executor;
    const HeadTensor<S> out = split_heads(cache.mixed, shape.query_heads);
    const HeadTensor<S> q = split_heads(cache.queries, shape.query_heads), k = split_heads(cache.keys, shape.key_heads),
                        v = split_heads(cache.values, shape.key_heads);
    if (layer.config.is_causal) {
      Advance advance(*this);
      causal_heads(out, layer.mixtures, q, k, v, options, cache.inputs, cache.workspace,
                   [&](const HeadCall&, const auto&) { return advance.begin(); });
    } else {
      bidirectional_into(out, layer.mixtures, q, k, v, options, cache.inputs, cache.workspace);
    }
  }

  /// The memories that the heads advance, side by side in the cache: copies, which the states get at the end, or, in
  /// place, the states' own for as long as the heads take.
  class Advance {
   public:
    explicit Advance(LayerForward& pass) : pass_(pass) {
      if (pass.states == nullptr) return;
      pass.cache.memories.resize(static_cast<std::size_t>(pass.sequences() * pass.shape.key_heads));
      if (pass.is_in_place) return;
      pass.for_each_memory([](Memory<S>& memory, Memory<S>& copy) { copy_memory(memory, copy); });
    }
    ~Advance() {
      if (is_lent_) exchange();
    }
    Advance(const Advance&) = delete;
    Advance& operator=(const Advance&) = delete;

    /// Null: zeros, and nothing is left.
    std::vector<Memory<S>>* begin() {
      if (pass_.states == nullptr) return nullptr;
      is_lent_ = pass_.is_in_place;
      if (is_lent_) {
        pass_.set_torn(true);
        exchange();
      }
      return &pass_.cache.memories;
    }

   private:
    void exchange() { pass_.exchange_memories(); }

    LayerForward& pass_;
    bool is_lent_ = false;
  };

  /// f(a state's memory, the cache's for it) for all of them.
  template <class F>
  void for_each_memory(const F& f) {
    std::size_t i = 0;
    for (Index s = 0; s < sequences(); ++s) {
      for (Memory<S>& memory : states[s]->memories) f(memory, cache.memories[i++]);
    }
  }
  void exchange_memories() {
    for_each_memory([](Memory<S>& memory, Memory<S>& other) { std::swap(memory, other); });
  }
  void set_torn(bool is_torn) {
    for (Index s = 0; s < sequences(); ++s) states[s]->is_torn = is_torn;
  }

  /// Output norm, then output gate.
  void finish() {
    Matrix<S>& y = cache.finished;
    y = cache.mixed;
    const Index gate = shape.columns(Projected::output_gate).begin;
    for_blocks(executor, y.rows(), rows_of_task, [&](Index begin, Index count) {
      for (Index t = begin; t < begin + count; ++t) {
        if (layer.config.has_output_norm) {
          scale_heads(y.row(t).data(), shape.query_heads, shape.value_width, &cache.mixed_inverse_rms(t, 0));
          y.row(t).array() *= layer.norm_gain.array();
        }
        if (layer.config.has_output_gate) {
          multiply_by_sigmoid(cache.projected.row(t).data() + gate, shape.gate, y.row(t).data());
        }
      }
    });
  }

  void advance() {
    set_torn(true);
    if (!is_in_place) exchange_memories();
    for (Index i = 0; i < sequences(); ++i) {
      advance_history(rows(read_only(columns(cache.projected, 0, shape.channels())), first_row(i), row_count(i)),
                      as_tile(states[i]->history));
      if (shape.window > 0) window().advance(*states[i], first_row(i), row_count(i));
      states[i]->position += row_count(i);
    }
    set_torn(false);
  }
};

}  // namespace gma::detail
