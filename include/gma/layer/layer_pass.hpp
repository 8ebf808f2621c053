// SPDX-License-Identifier: MIT
// The passes of a layer over packed rows, as lists of its parts: forward, from nothing or from states, which it
// advances all together or not at all; and backward, the same list from the end to the beginning.
#pragma once

#include <array>
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
  LayerParts(const PassRows<S>& rows, const LayerConfig& config, const Matrix<S>& rotations, LayerCache<S>& c)
      : projection{rows},
        convolution{rows},
        unit_rms{rows},
        forgetting{rows},
        mixture{rows, config, c.inputs, c.queries, c.keys, c.values},
        window{rows, rotations, c.queries, c.keys, c.values, c.window},
        output{rows, c.finish} {}

  Projection<S> projection;
  Convolution<S> convolution;
  UnitRms<S> unit_rms;
  Forgetting<S> forgetting;
  MixtureAttention<S> mixture;
  Window<S> window;
  Output<S> output;
};

/// What the convolution runs over, in the order of channels.
inline constexpr std::array<Projected, 3> convolved_parts = {Projected::queries, Projected::keys, Projected::values};

template <class S, class Map>
struct LayerForward {
  const CompiledLayer<S, Map>& layer;
  const PassRows<S>& rows;
  LayerCache<S>& cache;
  StatePointers<LayerState<S>> states;
  bool is_in_place;  // the states' memories are advanced where they are

  void run() {
    const LayerShape& shape = rows.shape;
    const LayerParts<S> parts(rows, layer.config, layer.rotations, cache);
    const StatePointers<const LayerState<S>> before{states.states};
    // Nothing is to be allocated once the memories may have changed.
    resize(cache.mixed, rows.count(), shape.mixed());
    parts.output.reserve(cache.output);

    parts.projection.forward(cache.input, layer.in_weights, cache.projected);
    const std::array<Matrix<S>*, 3> convolved = {&cache.queries, &cache.keys, &cache.values};
    for (std::size_t i = 0; i < convolved.size(); ++i) {
      parts.convolution.forward(shape.columns(convolved_parts[i]), cache.projected, layer.taps, before, *convolved[i]);
    }
    parts.unit_rms.forward_in_place(cache.queries, cache.keys, cache.unit_rms);
    if (shape.window > 0) parts.window.attend(before);
    if (shape.forgetting > 0) {
      Matrix<S>& g = cache.inputs.log_forgetting;
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
  PassRows<S> rows;
  LayerCache<S>& cache;
  LayerGradientCache<S, Covariance>& scratch;
  AttentionLayer<S, Covariance>& gradient;
  const LayerOptions& options;

  /// `has_d_states`: the gradients of the states before the pass are wanted, in scratch.d_states.
  void run(const std::vector<LayerState<S>>* initial, const std::vector<LayerState<S>>* d_final, bool has_d_states) {
    const LayerShape& shape = rows.shape;
    if (shape.window > 0) set_rotations(scratch.rotations, shape.window_length, shape.head_width);
    const LayerParts<S> parts(rows, layer.config, scratch.rotations, cache);
    const StatePointers<const LayerState<S>> before = pointers<const LayerState<S>>(0, initial),
                                             d_after = pointers<const LayerState<S>>(1, d_final);
    StatePointers<LayerState<S>> d_before;
    if (has_d_states) {
      scratch.d_states.resize(static_cast<std::size_t>(rows.sequences()));
      for (LayerState<S>& state : scratch.d_states) set_beginning(layer, state);
      d_before = pointers<LayerState<S>>(0, &scratch.d_states);
    }
    auto& d_heads = scratch.heads;
    resize(scratch.d_projected, cache.projected.rows(), cache.projected.cols());
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
    parts.unit_rms.backward_in_place(cache.queries, cache.keys, cache.unit_rms, d_heads.queries, d_heads.keys);
    convolution_backward(parts.convolution, before, d_after, d_before);
    parts.projection.backward(layer, cache.input, scratch.d_projected, scratch.d_input, gradient);
  }

 private:
  void convolution_backward(const Convolution<S>& convolution, const StatePointers<const LayerState<S>>& before,
                            const StatePointers<const LayerState<S>>& d_after,
                            const StatePointers<LayerState<S>>& d_before) {
    const LayerShape& shape = rows.shape;
    compile_taps(layer, scratch.taps);
    set_constant(scratch.d_taps, shape.taps, shape.channels(), S(0));
    const std::array<const Matrix<S>*, 3> d = {&scratch.heads.queries, &scratch.heads.keys, &scratch.heads.values};
    for (std::size_t i = 0; i < d.size(); ++i) {
      convolution.backward(shape.columns(convolved_parts[i]), cache.projected, scratch.taps, before, *d[i],
                           scratch.d_projected, scratch.d_taps, d_before);
    }
    convolution.advance_backward(d_after, scratch.d_projected, d_before);
    add_gradient_of_taps(scratch.d_taps, gradient);
  }

  /// Addresses, which stay in the scratch; null for null.
  template <class State, class States>
  StatePointers<State> pointers(std::size_t index, States* states) {
    if (states == nullptr) return {};
    std::vector<State*>& kept = scratch.workspace.template keep<std::vector<State*>>(index);
    kept.clear();
    for (State& state : *states) kept.push_back(&state);
    return {kept.data()};
  }
};

}  // namespace gma::detail
