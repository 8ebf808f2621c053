// SPDX-License-Identifier: MIT
// The passes of a layer over packed rows, as lists of its parts: forward, from nothing or from states, which it
// advances all together or not at all; and backward, the same list from the end to the beginning.
#pragma once

#include <utility>
#include <vector>

#include "gma/layer/layer_cache.hpp"
#include "gma/layer/part_convolution.hpp"
#include "gma/layer/part_forgetting.hpp"
#include "gma/layer/part_mixture.hpp"
#include "gma/layer/part_output.hpp"
#include "gma/layer/part_projection.hpp"
#include "gma/layer/part_unit_rms.hpp"
#include "gma/layer/part_window.hpp"

namespace gma::detail {

/// The parts of a layer, between the buffers of a cache.
template <class S>
struct LayerParts {
  /// `key_rows` are those of the context in cross attention, else the same.
  LayerParts(const PassRows<S>& rows, const PassRows<S>& key_rows, const LayerConfig& config,
             const Matrix<S>& rotations, LayerCache<S>& c)
      : projection{rows},
        convolution{rows},
        key_convolution{key_rows},
        query_rms{rows, rows.shape.query_heads},
        key_rms{key_rows, rows.shape.key_heads},
        forgetting{rows},
        mixture{rows, config, c.inputs, c.queries, c.keys, c.values},
        window{rows, rotations, c.queries, c.keys, c.values, c.window},
        output{rows, c.finish} {}

  Projection<S> projection;
  Convolution<S> convolution, key_convolution;
  UnitRms<S> query_rms, key_rms;
  Forgetting<S> forgetting;
  MixtureAttention<S> mixture;
  Window<S> window;
  Output<S> output;
};

template <class S, class Map>
struct LayerForward {
  const CompiledLayer<S, Map>& layer;
  const PassRows<S>&rows, &key_rows;
  LayerCache<S>& cache;
  StatePointers<LayerState<S>> states;
  bool is_in_place;  // the states' memories are advanced where they are

  void run() {
    const LayerShape& shape = rows.shape;
    const LayerParts<S> parts(rows, key_rows, layer.config, layer.rotations, cache);
    const StatePointers<const LayerState<S>> before{states.states};
    // Nothing is to be allocated once the memories may have changed.
    resize(cache.mixed, rows.count(), shape.mixed());
    parts.output.reserve(cache.output);

    const bool has_context = cache.pass.has_context;
    if (has_context) {
      parts.projection.forward(cache.input, cache.context, layer.in_weights, cache.projected, cache.context_projected);
    } else {
      parts.projection.forward(cache.input, layer.in_weights, cache.projected);
    }
    const Matrix<S>& key_projected = has_context ? cache.context_projected : cache.projected;
    parts.convolution.forward(shape.columns(Projected::queries), cache.projected, layer.taps, before, cache.queries);
    parts.key_convolution.forward(shape.columns(Projected::keys), key_projected, layer.taps, before, cache.keys);
    parts.key_convolution.forward(shape.columns(Projected::values), key_projected, layer.taps, before, cache.values);
    parts.query_rms.forward_in_place(cache.queries, cache.unit_rms.queries);
    parts.key_rms.forward_in_place(cache.keys, cache.unit_rms.keys);
    if (shape.window > 0) parts.window.attend(before);
    Matrix<S>& g = cache.inputs.log_forgetting;
    if (shape.forgetting == 0) resize(g, 0, 0);
    if (shape.forgetting > 0) {
      parts.forgetting.forward(cache.projected, layer.forget_bias, layer.forget_factor, g);
      parts.forgetting.check(g, cache.input, cache.placement);
    }
    parts.mixture.forward(layer.mixtures, states, is_in_place, cache.memories, cache.mixed);
    if (shape.window > 0) parts.window.mix_in_place(cache.projected, layer.window_bias, cache.mixed);
    parts.output.forward(cache.mixed, cache.projected, layer.norm_gain, layer.out_weights, cache.output);
    if (states.states != nullptr) advance(parts);
  }

 private:
  void advance(const LayerParts<S>& parts) {
    for (Index i = 0; i < rows.sequences(); ++i) states[i]->is_torn = true;
    if (!is_in_place) exchange_memories(states, rows.sequences(), cache.memories);
    parts.convolution.advance(cache.projected, states);
    parts.window.advance(states);
    for (Index i = 0; i < rows.sequences(); ++i) {
      states[i]->position += rows.count(i);
      states[i]->is_torn = false;
    }
  }
};

template <class S, class Covariance>
struct LayerBackward {
  const AttentionLayer<S, Covariance>& layer;
  const PassRows<S>&rows, &key_rows;
  LayerCache<S>& cache;
  LayerGradientCache<S, Covariance>& scratch;
  AttentionLayer<S, Covariance>& gradient;
  const LayerOptions& options;

  /// `has_d_states`: the gradients of the states before the pass are wanted, in scratch.d_states.
  void run(const std::vector<LayerState<S>>* initial, const std::vector<LayerState<S>>* d_final, bool has_d_states) {
    const LayerShape& shape = rows.shape;
    if (shape.window > 0) set_rotations(scratch.rotations, shape.window_length, shape.head_width);
    const LayerParts<S> parts(rows, key_rows, layer.config, scratch.rotations, cache);
    const StatePointers<const LayerState<S>> before = pointers<Before>(initial), d_after = pointers<After>(d_final);
    StatePointers<LayerState<S>> d_before;
    if (has_d_states) {
      scratch.d_states.resize(static_cast<std::size_t>(rows.sequences()));
      for (LayerState<S>& state : scratch.d_states) set_beginning(layer, state);
      d_before = pointers<GradientBefore>(&scratch.d_states);
    }
    auto& d_heads = scratch.heads;
    resize(scratch.d_projected, cache.projected.rows(), cache.projected.cols());
    if (cache.pass.has_context) {
      resize(scratch.d_context_projected, cache.context_projected.rows(), cache.context_projected.cols());
    }
    gather_memories(before, rows.sequences(), scratch.memories);
    gather_memories(d_after, rows.sequences(), scratch.d_memories);

    parts.output.backward(cache.mixed, cache.projected, layer.norm_gain, layer.output_weight, scratch.d_output,
                          scratch.d_mixed, scratch.d_projected, gradient.norm_gain, gradient.output_weight);
    if (shape.window > 0) {
      parts.window.mix_backward_in_place(cache.mixed, scratch.d_mixed, scratch.d_window, scratch.d_projected,
                                         gradient.window_bias);
    }
    parts.mixture.backward(layer.mixtures, scratch.d_mixed, scratch.memories, scratch.d_memories, d_heads,
                           gradient.mixtures);
    if (has_d_states) exchange_memories(d_before, rows.sequences(), d_heads.memories);
    scratch.usage_penalty = 0;
    if (options.usage_penalty != 0) {
      scratch.usage_penalty =
          parts.mixture.add_usage_penalty(layer.mixtures, options.usage_penalty, d_heads.keys, gradient.mixtures);
    }
    if (shape.forgetting > 0) {
      parts.forgetting.backward(cache.projected, layer.forget_bias, layer.forget_rate, cache.inputs.log_forgetting,
                                d_heads.log_forgetting, scratch.d_projected, gradient.forget_bias,
                                gradient.forget_rate);
    }
    if (shape.window > 0) {
      parts.window.advance_backward(d_after, cache.pass.positions, d_heads.keys, d_heads.values, d_before);
      parts.window.attend_backward(before, scratch.d_window, d_heads.queries, d_heads.keys, d_heads.values, d_before);
    }
    parts.key_rms.backward_in_place(cache.keys, cache.unit_rms.keys, d_heads.keys);
    parts.query_rms.backward_in_place(cache.queries, cache.unit_rms.queries, d_heads.queries);
    convolution_backward(parts, before, d_after, d_before);
    const ProjectionSide<S> tokens{cache.input, scratch.d_projected, scratch.d_input},
        context{cache.context, scratch.d_context_projected, scratch.d_context};
    parts.projection.backward(layer, tokens, cache.pass.has_context ? context : tokens, gradient);
  }

 private:
  void convolution_backward(const LayerParts<S>& parts, const StatePointers<const LayerState<S>>& before,
                            const StatePointers<const LayerState<S>>& d_after,
                            const StatePointers<LayerState<S>>& d_before) {
    const LayerShape& shape = rows.shape;
    const bool has_context = cache.pass.has_context;
    const Matrix<S>& key_projected = has_context ? cache.context_projected : cache.projected;
    Matrix<S>& d_key_projected = has_context ? scratch.d_context_projected : scratch.d_projected;
    compile_taps(layer, scratch.taps);
    set_constant(scratch.d_taps, scratch.taps.rows(), scratch.taps.cols(), S(0));
    parts.key_convolution.backward(shape.columns(Projected::values), key_projected, scratch.taps, before,
                                   scratch.heads.values, d_key_projected, scratch.d_taps, d_before);
    parts.key_convolution.backward(shape.columns(Projected::keys), key_projected, scratch.taps, before,
                                   scratch.heads.keys, d_key_projected, scratch.d_taps, d_before);
    parts.convolution.backward(shape.columns(Projected::queries), cache.projected, scratch.taps, before,
                               scratch.heads.queries, scratch.d_projected, scratch.d_taps, d_before);
    parts.convolution.advance_backward(d_after, scratch.d_projected, d_before);
    add_gradient_of_taps(scratch.d_taps, gradient);
  }

  struct Before {
    std::vector<const LayerState<S>*> states;
  };
  struct After {
    std::vector<const LayerState<S>*> states;
  };
  struct GradientBefore {
    std::vector<LayerState<S>*> states;
  };

  /// Addresses, which stay in the scratch under the name of Kept; null for null.
  template <class Kept, class States>
  auto pointers(States* states) {
    auto& kept = scratch.workspace.template keep<Kept>().states;
    StatePointers<std::remove_pointer_t<typename std::decay_t<decltype(kept)>::value_type>> result;
    if (states == nullptr) return result;
    kept.clear();
    for (auto& state : *states) kept.push_back(&state);
    result.states = kept.data();
    return result;
  }
};

}  // namespace gma::detail
