// SPDX-License-Identifier: MIT
// The two passes of a layer over packed rows, as lists of its parts. The forward pass may go on from states. It
// advances all states or none. The backward pass is the same list from the end to the beginning.
#pragma once

#include <utility>
#include <vector>

#include "gma/layer/layer_cache.hpp"
#include "gma/layer/part_convolution.hpp"
#include "gma/layer/part_forgetting.hpp"
#include "gma/layer/part_mixture.hpp"
#include "gma/layer/part_output.hpp"
#include "gma/layer/part_projection.hpp"
#include "gma/layer/part_slot_forgetting.hpp"
#include "gma/layer/part_unit_rms.hpp"
#include "gma/layer/part_window.hpp"

namespace gma::detail {

/// The forward list of parts.
template <class S, class Map>
struct LayerForward {
  const CompiledLayer<S, Map>& layer;
  const PassRows<S>&rows, &key_rows;  // key_rows: of the context in cross attention, else the same
  LayerCache<S>& cache;
  StatePointers<LayerState<S>> states;
  bool is_in_place;  // the states' memories are advanced where they are

  void run() {
    const LayerShape& shape = rows.shape;
    const Convolution<S> convolution{rows}, key_convolution{key_rows};
    const Window<S> window{rows, layer.rotations, cache.queries, cache.keys, cache.values, cache.window};
    const Forgetting<S> forgetting{rows};
    const Output<S> output{rows, cache.finish};
    const StatePointers<const LayerState<S>> before{states.states};
    Matrix<S>& g = cache.inputs.log_forgetting;
    // Nothing may be allocated after the memories may have changed.
    resize(cache.mixed, rows.count(), shape.mixed());
    output.reserve(cache.output);

    const bool has_context = cache.pass.has_context;
    if (has_context) {
      Projection<S>{rows}.forward(cache.input, cache.context, layer.in_weights, cache.projected,
                                  cache.context_projected);
    } else {
      Projection<S>{rows}.forward(cache.input, layer.in_weights, cache.projected);
    }
    const Matrix<S>& key_projected = has_context ? cache.context_projected : cache.projected;
    convolution.forward(shape.columns(Projected::queries), cache.projected, layer.taps, before, cache.queries);
    key_convolution.forward(shape.columns(Projected::keys), key_projected, layer.taps, before, cache.keys);
    key_convolution.forward(shape.columns(Projected::values), key_projected, layer.taps, before, cache.values);
    UnitRms<S>{rows, shape.query_heads}.forward_in_place(cache.queries, cache.unit_rms.queries);
    UnitRms<S>{key_rows, shape.key_heads}.forward_in_place(cache.keys, cache.unit_rms.keys);
    window.attend(before);
    forgetting.forward(cache.projected, layer.forget_bias, layer.forget_rate, g);
    forgetting.check(g, cache.input, cache.placement);
    SlotForgetting<S>{rows}.forward(cache.projected, layer.slot_forget_rate, cache.inputs.slot_log_forgetting);
    MixtureAttention<S>{rows, cache.inputs, cache.queries, cache.keys, cache.values}.forward(
        layer.mixtures, states, is_in_place, cache.exchange, cache.memories, cache.mixed);
    window.mix_in_place(cache.projected, layer.window_bias, cache.mixed);
    output.forward(cache.mixed, cache.projected, layer.norm_gain, layer.out_weights, cache.output);
    if (states.states != nullptr) advance(convolution, window);
  }

 private:
  void advance(const Convolution<S>& convolution, const Window<S>& window) {
    for (Index i = 0; i < rows.sequences(); ++i) states[i]->is_torn = true;
    if (!is_in_place) exchange_memories(states, rows.sequences(), cache.memories);
    convolution.advance(cache.projected, states);
    window.advance(states);
    for (Index i = 0; i < rows.sequences(); ++i) {
      states[i]->position += rows.count(i);
      states[i]->is_torn = false;
    }
  }
};

/// The backward list of parts.
template <class S, class Covariance>
struct LayerBackward {
  const AttentionLayer<S, Covariance>& layer;
  const PassRows<S>&rows, &key_rows;
  LayerCache<S>& cache;
  LayerGradientCache<S, Covariance>& scratch;
  AttentionLayer<S, Covariance>& gradient;
  const LayerOptions& options;

  /// `has_d_states`: scratch.d_states gets the gradients of the states before the pass.
  void run(const std::vector<LayerState<S>>* initial, const std::vector<LayerState<S>>* d_final, bool has_d_states) {
    const LayerShape& shape = rows.shape;
    if (shape.window_length > 0) set_rotations(scratch.rotations, shape.window_length, shape.head_width);
    const Window<S> window{rows, scratch.rotations, cache.queries, cache.keys, cache.values, cache.window};
    const MixtureAttention<S> mixture{rows, cache.inputs, cache.queries, cache.keys, cache.values};
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

    Output<S>{rows, cache.finish}.backward(cache.mixed, cache.projected, layer.norm_gain, layer.output_weight,
                                           scratch.d_output, scratch.d_mixed, scratch.d_projected, gradient.norm_gain,
                                           gradient.output_weight);
    window.mix_backward_in_place(cache.mixed, scratch.d_mixed, scratch.d_window, scratch.d_projected,
                                 gradient.window_bias);
    mixture.backward(layer.mixtures, scratch.d_mixed, scratch.memories, scratch.d_memories, cache.exchange, d_heads,
                     gradient.mixtures);
    if (has_d_states) exchange_memories(d_before, rows.sequences(), d_heads.memories);
    scratch.usage_penalty = 0;
    if (options.usage_penalty != 0) {
      scratch.usage_penalty =
          mixture.add_usage_penalty(layer.mixtures, options.usage_penalty, d_heads.keys, gradient.mixtures);
    }
    Forgetting<S>{rows}.backward(cache.projected, layer.forget_bias, layer.forget_rate, cache.inputs.log_forgetting,
                                 d_heads.log_forgetting, scratch.d_projected, gradient.forget_bias,
                                 gradient.forget_rate);
    SlotForgetting<S>{rows}.backward(cache.projected, layer.slot_forget_rate, d_heads.slot_log_forgetting,
                                     scratch.d_projected, gradient.slot_forget_rate);
    window.advance_backward(d_after, cache.pass.positions, d_heads.keys, d_heads.values, d_before);
    window.attend_backward(before, scratch.d_window, d_heads.queries, d_heads.keys, d_heads.values, d_before);
    UnitRms<S>{key_rows, shape.key_heads}.backward_in_place(cache.keys, cache.unit_rms.keys, d_heads.keys);
    UnitRms<S>{rows, shape.query_heads}.backward_in_place(cache.queries, cache.unit_rms.queries, d_heads.queries);
    convolution_backward(before, d_after, d_before);
    const ProjectionSide<S> tokens{cache.input, scratch.d_projected, scratch.d_input},
        context{cache.context, scratch.d_context_projected, scratch.d_context};
    Projection<S>{rows}.backward(layer, tokens, cache.pass.has_context ? context : tokens, gradient);
  }

 private:
  void convolution_backward(const StatePointers<const LayerState<S>>& before,
                            const StatePointers<const LayerState<S>>& d_after,
                            const StatePointers<LayerState<S>>& d_before) {
    const LayerShape& shape = rows.shape;
    const Convolution<S> convolution{rows}, key_convolution{key_rows};
    const bool has_context = cache.pass.has_context;
    const Matrix<S>& key_projected = has_context ? cache.context_projected : cache.projected;
    Matrix<S>& d_key_projected = has_context ? scratch.d_context_projected : scratch.d_projected;
    compile_taps(layer, scratch.taps);
    set_constant(scratch.d_taps, scratch.taps.rows(), scratch.taps.cols(), S(0));
    key_convolution.backward(shape.columns(Projected::values), key_projected, scratch.taps, before,
                             scratch.heads.values, d_key_projected, scratch.d_taps, d_before);
    key_convolution.backward(shape.columns(Projected::keys), key_projected, scratch.taps, before, scratch.heads.keys,
                             d_key_projected, scratch.d_taps, d_before);
    convolution.backward(shape.columns(Projected::queries), cache.projected, scratch.taps, before,
                         scratch.heads.queries, scratch.d_projected, scratch.d_taps, d_before);
    convolution.advance_backward(d_after, scratch.d_projected, d_before);
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

  /// The addresses of states, which the scratch keeps in its object of type Kept. Null for null.
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
