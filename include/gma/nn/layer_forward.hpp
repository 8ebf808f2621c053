// SPDX-License-Identifier: MIT
// The layer forward: whole batches, and streams that go on from a state. A row of the output depends on the rows of
// its own sequence alone, to the bit: neither the rest of the batch nor the number of threads moves it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
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

namespace detail {

/// The last forward pass of a cache.
struct LayerPass {
  bool is_complete = false;      // it came to its end
  LayerConfig config;            // of its layer
  bool goes_on = false;          // from states that were more than beginnings
  std::vector<Index> positions;  // of its states before it; empty where it had none
  KnownCalls known;              // of passes before it
};

}  // namespace detail

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
  detail::LayerPass pass;           ///< what the next call asks about the last one
  Workspace<S> workspace;
};

/// x is N x D of any layout, or bfloat16 or half; returns N x D. Rows of no sequence give zeros. Cost 2 N D (channels +
/// Hq e) operations in projections, and the heads'; a window of W tokens adds 2 N Hq (W + 63) (d + e). Throws
/// std::invalid_argument on shapes that do not fit, and where the forgetting gate meets a NaN, which is an error of the
/// whole call. Nothing else looks for numbers that are not finite: without a gate a NaN, and in any layer an infinity,
/// reaches the outputs of its own sequence from that row on, with a window those of the block of tokens before it too,
/// and its state, but no other sequence; a parameter that is not finite reaches all of them (see validate()).
template <class L, class X>
Matrix<typename L::Scalar> forward(const L& layer, const Eigen::MatrixBase<X>& x, const Sequences& sequences = {},
                                   const LayerOptions& options = {});

/// The same into a caller's N x D matrix, block or map; leaves in `cache` what backward_into() needs.
template <class Out, class L, class X>
void forward_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x,
                  LayerCache<typename L::Scalar>& cache, const Sequences& sequences = {},
                  const LayerOptions& options = {});

/// Every sequence goes on from a state of its own and leaves it advanced: prefill in chunks of any lengths, one pass
/// and single tokens give the same outputs. On an exception, whatever throws it, the states are as they were, with one
/// exception: a call of few tokens a sequence, of a kind that the cache has met before, changes the memories in place,
/// where a copy would cost as much as the call. No argument can make it fail on the way; should memory run out or the
/// executor throw in it, the states refuse every further use until they are reset, loaded or assigned.
template <class Out, class L, class X, class S>
void forward_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x,
                  std::vector<LayerState<S>>& states, LayerCache<S>& cache, const Sequences& sequences = {},
                  const LayerOptions& options = {});
/// The same for states wherever they are kept, all different ones. Throws std::invalid_argument where one is null, or
/// given twice.
template <class Out, class L, class X, class S>
void forward_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x,
                  const std::vector<LayerState<S>*>& states, LayerCache<S>& cache, const Sequences& sequences = {},
                  const LayerOptions& options = {});

/// One stream: x is N x D, its next N tokens.
template <class L, class X, class S>
Matrix<S> forward(const L& layer, const Eigen::MatrixBase<X>& x, LayerState<S>& state,
                  const LayerOptions& options = {});

/// A decoding step: x is the next token of one stream, 1 x D, and so is `out`. Nothing is allocated from the second
/// call on with the same cache. compile() the layer: an AttentionLayer is compiled into the cache by the first call,
/// which costs as much as tens of steps, and every further call compares all its parameters with those that were
/// compiled, which costs about another step.
template <class Out, class L, class X, class S>
void step_into(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x, LayerState<S>& state,
               LayerCache<S>& cache);
/// The same with a cache of its own, which is allocated anew at every call: for a token or two. An AttentionLayer is
/// compiled anew at every call too.
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
    assign(g, cache.projected.middleCols(shape.channels(), shape.forgetting));
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

template <class S, class Map>
const CompiledLayer<S, Map>& compiled_layer(const char*, const CompiledLayer<S, Map>& layer, Index, LayerCache<S>&) {
  return layer;
}
/// A layer that was compiled, and, after calls of few tokens, the parameters of which that was done.
template <class S, class Covariance>
struct CompiledOnce {
  CompiledLayer<S, LayerMap<S, Covariance>> compiled;
  AttentionLayer<S, Covariance> source;
  bool has_source = false;
};

template <class S, class Covariance>
const CompiledLayer<S, LayerMap<S, Covariance>>& compiled_layer(const char* function,
                                                                const AttentionLayer<S, Covariance>& layer, Index rows,
                                                                LayerCache<S>& cache) {
  check_layer(function, layer);
  CompiledOnce<S, Covariance>& once = cache.workspace.template keep<CompiledOnce<S, Covariance>>();
  if (once.has_source && are_alike(once.source.config, layer.config) && have_same_numbers(once.source, layer)) {
    return once.compiled;
  }
  once.has_source = false;
  compile_into(once.compiled, layer);
  if (rows < many_tokens) {
    once.source = AttentionLayer<S, Covariance>(layer);
    once.has_source = true;
  }
  return once.compiled;
}

/// Throws where a state is null, given twice, or none of the layer's.
template <class L, class S>
void check_states(const char* function, const L& layer, LayerState<S>* const* states, Index count,
                  LayerCache<S>& cache) {
  if (!layer.config.is_causal) invalid_argument(function, "layer is bidirectional, expected a causal one for states");
  check_size(function, "states", "entries", count, cache.placement.count(), "one per sequence");
  for (Index i = 0; i < count; ++i) {
    if (states[i] == nullptr) invalid_argument(function, "states is null at ", i, ", expected a state");
    check_state(function, layer, *states[i]);
  }
  if (count < 2) return;
  using Entry = std::pair<const LayerState<S>*, Index>;
  std::vector<Entry>& sorted = cache.workspace.template keep<std::vector<Entry>>();
  sorted.clear();
  for (Index i = 0; i < count; ++i) sorted.emplace_back(states[i], i);
  std::sort(sorted.begin(), sorted.end(), [](const Entry& a, const Entry& b) {
    return a.first == b.first ? a.second < b.second : std::less<const LayerState<S>*>()(a.first, b.first);
  });
  for (std::size_t i = 0; i + 1 < sorted.size(); ++i) {
    if (sorted[i].first != sorted[i + 1].first) continue;
    invalid_argument(function, "states is the same one at ", sorted[i].second, " and ", sorted[i + 1].second,
                     ", expected a state of its own for every sequence");
  }
}

/// Whether a stream has met anything: what it goes on from is more than zeros.
template <class S>
bool has_begun(const LayerState<S>& state) {
  if (state.position != 0) return true;
  for (const Memory<S>& memory : state.memories) {
    if (!(memory.mass.array() == S(0)).all() || !(memory.slots.array() == S(0)).all()) return true;
  }
  return false;
}

template <class S>
void begin_pass(const LayerConfig& config, LayerState<S>* const* states, Index state_count, LayerPass& pass) {
  pass.config = config;
  pass.goes_on = false;
  pass.positions.clear();
  for (Index i = 0; i < state_count; ++i) {
    pass.positions.push_back(states[i]->position);
    pass.goes_on = pass.goes_on || has_begun(*states[i]);
  }
  pass.known.reserve();
}

/// What the scratch of a pass depends on.
inline CallSizes sizes_of(const LayerConfig& config, Index rows, Index sequences) {
  const LayerShape shape(config);
  std::uint64_t components = config.components.size();
  for (const Index count : config.components) components = components * 1000003 + static_cast<std::uint64_t>(count);
  const Index parts = (config.has_forgetting ? 1 : 0) + (config.has_output_norm ? 2 : 0) +
                      (config.has_output_gate ? 4 : 0) + 8 * static_cast<Index>(config.normalization);
  return {rows,
          sequences,
          shape.width,
          shape.query_heads,
          shape.key_heads,
          shape.head_width,
          shape.value_width,
          static_cast<Index>(components >> 1),
          config.convolution,
          config.window,
          parts,
          0};
}

template <class S, class Map>
void run_layer(const CompiledLayer<S, Map>& layer, LayerCache<S>& cache, LayerState<S>* const* states,
               const Executor* executor) {
  const Index rows = cache.input.rows(), sequences = cache.placement.count();
  const CallSizes sizes = sizes_of(layer.config, rows, sequences);
  const bool is_in_place = states != nullptr && is_short_call<S>(rows, sequences) && cache.pass.known.has(sizes);
  LayerForward<S, Map>{layer, LayerShape(layer.config), cache, states, executor, is_in_place}.run();
  cache.pass.known.add(sizes);
  cache.pass.is_complete = true;
}

/// In place of a number of states: the pass starts from nothing and leaves nothing.
inline constexpr Index no_states = -1;

template <class Out, class L, class X, class S>
void layer_forward(const Eigen::MatrixBase<Out>& out, const L& layer, const Eigen::MatrixBase<X>& x,
                   LayerState<S>* const* states, Index state_count, LayerCache<S>& cache, const Sequences& sequences,
                   const LayerOptions& options) {
  constexpr const char* function = "forward";
  cache.pass.is_complete = false;
  const auto& compiled = compiled_layer(function, layer, x.rows(), cache);
  const LayerShape shape(compiled.config);
  check_size(function, "x", "columns", x.cols(), shape.width, "the layer's width");
  check_shape(function, "out", out.rows(), out.cols(), x.rows(), shape.width, "as x");
  place(function, "sequences", sequences, 1, x.rows(), cache.placement);
  if (state_count != no_states) check_states(function, compiled, states, state_count, cache);
  begin_pass(compiled.config, states, state_count, cache.pass);
  cache.rows = x.rows();
  gather_rows(x.derived(), cache.placement, cache.input, cache.workspace);
  set_packed_offsets(cache.placement, cache.inputs.sequences);
  run_layer(compiled, cache, state_count == no_states ? nullptr : states, options.executor);
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

/// The same with a cache of its own, which is allocated anew at every call: for a token or two. An AttentionLayer is
/// compiled anew at every call too.
template <class L, class X, class S>
RowVector<S> step(const L& layer, const Eigen::MatrixBase<X>& x, LayerState<S>& state) {
  LayerCache<S> cache;
  RowVector<S> out(x.cols());
  step_into(out, layer, x, state, cache);
  return out;
}

}  // namespace gma
