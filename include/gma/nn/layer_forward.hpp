// SPDX-License-Identifier: MIT
// The layer forward: whole batches, and streams that go on from a state. A row of the output depends on the rows of
// its own sequence alone, to the bit: neither the rest of the batch nor the number of threads moves it.
#pragma once

#include <algorithm>
#include <vector>

#include "gma/core/elementwise.hpp"
#include "gma/nn/convolution.hpp"
#include "gma/nn/heads.hpp"
#include "gma/nn/layer_rows.hpp"
#include "gma/nn/layer_state.hpp"
#include "gma/nn/layer_window.hpp"

namespace gma {

struct LayerOptions {
  /// What runs rows, heads and sequences side by side; null: nothing does. It must outlive the call.
  const Executor* executor = nullptr;

  /// Backward only: adds this many times the sum over heads of usage_penalty() of the keys to the loss, which pulls
  /// components that no key uses back into use.
  double usage_penalty = 0;
};

/// What a forward pass leaves for the backward pass, and the scratch of both. One a thread of calls; give the same to
/// successive calls to reuse its memory. `queries`, `keys` (scaled) and `values` are of interest to diagnostics.
template <class S>
struct LayerCache {
  Matrix<S> input;                  ///< rows that are there, one below the other: N x D
  Matrix<S> projected;              ///< N x (channels + gates), before the convolution
  Matrix<S> queries, keys, values;  ///< N x Hq d, N x H d, N x H e, as attention saw them
  Matrix<S> inverse_rms;            ///< N x (Hq + H): of queries and keys before they were scaled
  HeadInputs<S> inputs;             ///< the packed sequences, and log-forgetting N x H
  WindowCache<S> window;            ///< empty where there is none
  Matrix<S> mixed;                  ///< N x Hq e, from the heads and their window
  Matrix<S> mixed_inverse_rms;      ///< N x Hq, for the output norm
  Matrix<S> finished;               ///< N x Hq e, after norm and gate, if there is either
  Matrix<S> output;                 ///< N x D
  Index rows = 0;                   ///< of the caller's input, padding included
  detail::Placement placement;      ///< where the rows lie in it
  std::vector<Memory<S>> memories;  ///< of streams, during a call
  Workspace<S> workspace;
};

/// x is N x D of any layout, or bfloat16 or half; returns N x D. Rows of no sequence give zeros. Cost 2 N D (channels +
/// Hq e) operations in projections, and the heads'; a window of W tokens adds 2 N Hq (W + 63) (d + e). Throws
/// std::invalid_argument on shapes that do not fit.
template <class L, class X>
Matrix<typename L::Scalar> forward(const L& layer, const Eigen::MatrixBase<X>& x, const Sequences& sequences = {},
                                   const LayerOptions& options = {});

/// The same into a caller's N x D matrix, block or map; leaves in `cache` what backward_into() needs.
template <class Out, class L, class X>
void forward_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x,
                  LayerCache<typename L::Scalar>& cache, const Sequences& sequences = {},
                  const LayerOptions& options = {});

/// Every sequence goes on from a state of its own and leaves it advanced: prefill in chunks of any lengths, one pass
/// and single tokens give the same outputs. On an error the states are as they were; with a forgetting gate, a NaN in
/// one sequence is an error of the whole call.
template <class Out, class L, class X, class S>
void forward_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x,
                  std::vector<LayerState<S>>& states, LayerCache<S>& cache, const Sequences& sequences = {},
                  const LayerOptions& options = {});
/// The same for states wherever they are kept, all different ones.
template <class Out, class L, class X, class S>
void forward_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x,
                  const std::vector<LayerState<S>*>& states, LayerCache<S>& cache, const Sequences& sequences = {},
                  const LayerOptions& options = {});

/// One stream: x is N x D, its next N tokens.
template <class L, class X, class S>
Matrix<S> forward(const L& layer, const Eigen::MatrixBase<X>& x, LayerState<S>& state,
                  const LayerOptions& options = {});

/// A decoding step: x is the next token of one stream, 1 x D, and so is `out`. Nothing is allocated from the second
/// call on with the same cache; compile() the layer.
template <class Out, class L, class X, class S>
void step_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x, LayerState<S>& state,
               LayerCache<S>& cache);
template <class L, class X, class S>
RowVector<S> step(const L& layer, const Eigen::MatrixBase<X>& x, LayerState<S>& state);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

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

  void run() {
    product_of_rows(executor, cache.input, layer.in_weights, cache.projected);
    part(0, shape.queries, cache.queries);
    part(shape.queries, shape.keys, cache.keys);
    part(shape.queries + shape.keys, shape.values, cache.values);
    scale();
    if (shape.window > 0) window().attend([&](Index i) { return state_of(i); });
    if (shape.forgetting > 0) forget();
    attend();
    if (shape.window > 0) window().mix(cache.projected, layer.window_bias, cache.mixed);
    if (layer.config.has_output_norm || layer.config.has_output_gate) finish();
    product_of_rows(executor, final_mixed(), layer.out_weights, cache.output);
    if (states != nullptr) advance();
  }

  const Matrix<S>& final_mixed() const {
    return layer.config.has_output_norm || layer.config.has_output_gate ? cache.finished : cache.mixed;
  }

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
    y.resize(cache.projected.rows(), count);
    if (layer.config.convolution == 1) {
      y = cache.projected.middleCols(begin, count);
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
    cache.inverse_rms.resize(cache.input.rows(), shape.query_heads + shape.key_heads);
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
    g = cache.projected.middleCols(shape.channels(), shape.forgetting);
    for (Index t = 0; t < g.rows(); ++t) g.row(t) += layer.forget_bias;
    softplus(g.data(), g.size());
    for (Index t = 0; t < g.rows(); ++t) g.row(t).array() *= -layer.forget_factor.array();
  }

  void attend() {
    Options options;
    options.normalization = layer.config.normalization;
    options.executor = executor;
    cache.mixed.resize(cache.input.rows(), shape.mixed());
    const HeadTensor<S> out = split_heads(cache.mixed, shape.query_heads);
    const HeadTensor<S> q = split_heads(cache.queries, shape.query_heads), k = split_heads(cache.keys, shape.key_heads),
                        v = split_heads(cache.values, shape.key_heads);
    if (layer.config.is_causal) {
      const Lent lent(*this);
      causal_heads(out, layer.mixtures, q, k, v, states == nullptr ? nullptr : &cache.memories, options, cache.inputs,
                   cache.workspace);
    } else {
      bidirectional_into(out, layer.mixtures, q, k, v, options, cache.inputs, cache.workspace);
    }
  }

  /// The states' memories side by side for the length of a call, and back where they belong whatever happens.
  class Lent {
   public:
    explicit Lent(LayerForward& pass) : pass_(pass) {
      if (pass_.states == nullptr) return;
      pass_.cache.memories.resize(static_cast<std::size_t>(pass_.sequences() * pass_.shape.key_heads));
      exchange();
    }
    ~Lent() {
      if (pass_.states != nullptr) exchange();
    }
    Lent(const Lent&) = delete;
    Lent& operator=(const Lent&) = delete;

   private:
    void exchange() {
      std::size_t i = 0;
      for (Index s = 0; s < pass_.sequences(); ++s) {
        for (Memory<S>& memory : pass_.states[s]->memories) std::swap(memory, pass_.cache.memories[i++]);
      }
    }
    LayerForward& pass_;
  };

  /// Output norm, then output gate.
  void finish() {
    cache.finished = cache.mixed;
    Matrix<S>& y = cache.finished;
    cache.mixed_inverse_rms.resize(y.rows(), shape.query_heads);
    const Index gate = shape.channels() + shape.forgetting;
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
    for (Index i = 0; i < sequences(); ++i) {
      advance_history(rows(read_only(columns(cache.projected, 0, shape.channels())), first_row(i), row_count(i)),
                      as_tile(states[i]->history));
      if (shape.window > 0) window().advance(*states[i], first_row(i), row_count(i));
      states[i]->position += row_count(i);
    }
  }
};

template <class S, class Map>
const CompiledLayer<S, Map>& compiled_layer(const char*, const CompiledLayer<S, Map>& layer, LayerCache<S>&) {
  return layer;
}
template <class S, class Covariance>
const CompiledLayer<S, LayerMap<S, Covariance>>& compiled_layer(const char* function,
                                                                const AttentionLayer<S, Covariance>& layer,
                                                                LayerCache<S>& cache) {
  using Compiled = CompiledLayer<S, LayerMap<S, Covariance>>;
  check_layer(function, layer);
  Compiled& compiled = cache.workspace.template keep<Compiled>();
  compile_into(compiled, layer);
  return compiled;
}

template <class S, class Map>
void run_layer(const CompiledLayer<S, Map>& layer, LayerCache<S>& cache, LayerState<S>* const* states,
               const Executor* executor) {
  LayerForward<S, Map>{layer, LayerShape(layer.config), cache, states, executor}.run();
}

/// In place of a number of states: the pass starts from nothing and leaves nothing.
inline constexpr Index no_states = -1;

template <class Out, class L, class X, class S>
void layer_forward(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x,
                   LayerState<S>* const* states, Index state_count, LayerCache<S>& cache, const Sequences& sequences,
                   const LayerOptions& options) {
  constexpr const char* function = "forward";
  const auto& compiled = compiled_layer(function, layer, cache);
  const LayerShape shape(compiled.config);
  check_size(function, "x", "columns", x.cols(), shape.width, "the layer's width");
  check_shape(function, "out", out.rows(), out.cols(), x.rows(), shape.width, "as x");
  place(function, "sequences", sequences, 1, x.rows(), cache.placement);
  if (state_count != no_states) {
    if (!compiled.config.is_causal)
      invalid_argument(function, "layer is bidirectional, expected a causal one for states");
    check_size(function, "states", "entries", state_count, cache.placement.count(), "one per sequence");
    for (Index i = 0; i < state_count; ++i) check_state(function, compiled, *states[i]);
  }
  cache.rows = x.rows();
  gather_rows(x.derived(), cache.placement, cache.input);
  set_packed_offsets(cache.placement, cache.inputs.sequences);
  run_layer(compiled, cache, states, options.executor);
  scatter_rows(cache.output, cache.placement, writable(out).derived());
}

}  // namespace detail

template <class Out, class L, class X>
void forward_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x,
                  LayerCache<typename L::Scalar>& cache, const Sequences& sequences, const LayerOptions& options) {
  LayerState<typename L::Scalar>* const* none = nullptr;
  detail::layer_forward(out, layer, x, none, detail::no_states, cache, sequences, options);
}

template <class Out, class L, class X, class S>
void forward_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x,
                  std::vector<LayerState<S>>& states, LayerCache<S>& cache, const Sequences& sequences,
                  const LayerOptions& options) {
  std::vector<LayerState<S>*>& pointers = cache.workspace.template keep<std::vector<LayerState<S>*>>();
  pointers.clear();
  for (LayerState<S>& state : states) pointers.push_back(&state);
  forward_into(out, layer, x, pointers, cache, sequences, options);
}

template <class Out, class L, class X, class S>
void forward_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x,
                  const std::vector<LayerState<S>*>& states, LayerCache<S>& cache, const Sequences& sequences,
                  const LayerOptions& options) {
  detail::layer_forward(out, layer, x, states.data(), static_cast<Index>(states.size()), cache, sequences, options);
}

template <class L, class X>
Matrix<typename L::Scalar> forward(const L& layer, const Eigen::MatrixBase<X>& x, const Sequences& sequences,
                                   const LayerOptions& options) {
  LayerCache<typename L::Scalar> cache;
  Matrix<typename L::Scalar> out(x.rows(), x.cols());
  forward_into(out, layer, x, cache, sequences, options);
  return out;
}

template <class L, class X, class S>
Matrix<S> forward(const L& layer, const Eigen::MatrixBase<X>& x, LayerState<S>& state, const LayerOptions& options) {
  LayerCache<S> cache;
  Matrix<S> out(x.rows(), x.cols());
  LayerState<S>* one = &state;
  detail::layer_forward(out, layer, x, &one, 1, cache, Sequences(), options);
  return out;
}

template <class Out, class L, class X, class S>
void step_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x, LayerState<S>& state,
               LayerCache<S>& cache) {
  detail::check_size("step", "x", "rows", x.rows(), 1, "one token");
  LayerState<S>* one = &state;
  detail::layer_forward(out, layer, x, &one, 1, cache, Sequences(), LayerOptions());
}

template <class L, class X, class S>
RowVector<S> step(const L& layer, const Eigen::MatrixBase<X>& x, LayerState<S>& state) {
  LayerCache<S> cache;
  RowVector<S> out(x.cols());
  step_into(out, layer, x, state, cache);
  return out;
}

}  // namespace gma
