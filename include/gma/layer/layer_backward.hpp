// SPDX-License-Identifier: MIT
// The layer backward: gradients of its input and of every parameter, from the cache of the forward pass.
#pragma once

#include <cstdint>
#include <vector>

#include "gma/layer/layer_forward.hpp"

namespace gma {

/// After forward_into(out, layer, x, cache, ...): d_x is assigned (zero for rows of no sequence), the gradient of every
/// parameter is added to `gradient`, a layer of the same config. `initial` is a copy of the states from before that
/// pass; null if it had none, or if all were at their beginning. Cost: about 2.5 forward passes.
///
/// Gradients go through states, too, one per sequence. The gradient of a LayerState is a LayerState, whose position is
/// ignored. d_final has the gradients of the states after the pass; null: zeros. d_initial becomes those of the states
/// before it; null: not wanted. Both may be the same object. A layer can so be trained over pieces of a sequence. Keep
/// a copy of the states before each piece. Let d_states begin as begin_stream(layer), which is zeros. Then, for each
/// piece from the last to the first:
///
///     gma::backward_into(d_x, gradient, layer, d_output, cache, scratch, options, &initial, &d_states, &d_states);
///
/// Throws std::invalid_argument if a shape does not fit; if the gradient's config is not the layer's; if the cache is
/// not from a complete forward pass of a layer of that config and of that many rows; if `initial` is missing or its
/// positions are not those at which the pass began; and if d_final or d_initial is given for a bidirectional layer.
/// After any other exception `gradient` holds part of the sum, and d_initial is unchanged.
template <class S, class Covariance>
void backward_into(const Out<detail::Same<S>>& d_x, AttentionLayer<S, Covariance>& gradient,
                   const AttentionLayer<S, Covariance>& layer, const In<detail::Same<S>>& d_output,
                   LayerCache<S>& cache, LayerGradientCache<S, Covariance>& scratch, const LayerOptions& options = {},
                   const typename LayerCache<S>::States* initial = nullptr,
                   const typename LayerCache<S>::States* d_final = nullptr,
                   typename LayerCache<S>::States* d_initial = nullptr);

/// The same after cross attention, forward_into(out, layer, x, context, cache, ...): d_context, Nk x D, is assigned,
/// too.
template <class S, class Covariance>
void backward_into(const Out<detail::Same<S>>& d_x, const Out<detail::Same<S>>& d_context,
                   AttentionLayer<S, Covariance>& gradient, const AttentionLayer<S, Covariance>& layer,
                   const In<detail::Same<S>>& d_output, LayerCache<S>& cache,
                   LayerGradientCache<S, Covariance>& scratch, const LayerOptions& options = {});

/// Forward and backward in one call.
template <class S, class Covariance>
struct LayerGradients {
  Matrix<S> x;                          ///< N x D
  AttentionLayer<S, Covariance> layer;  ///< the gradient of the parameters
};
template <class S, class Covariance>
LayerGradients<S, Covariance> backward(const AttentionLayer<S, Covariance>& layer, const In<detail::Same<S>>& x,
                                       const In<detail::Same<S>>& d_output, const Sequences& sequences = {},
                                       const LayerOptions& options = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Throws unless the last forward pass of a cache is a complete one of this layer.
template <class L>
void check_pass(const char* function, const L& layer, const LayerPass& pass) {
  if (!pass.is_complete) {
    invalid_argument(function, "cache is not from a forward pass that came to its end, expected one of this layer");
  }
  if (!are_alike(pass.config, layer.config)) {
    invalid_argument(function, "cache is from a forward pass of a layer of another config, expected one of this layer");
  }
}

template <class L, class S>
void check_initial(const char* function, const L& layer, const LayerPass& pass, Index sequences,
                   const std::vector<LayerState<S>>* initial) {
  if (initial == nullptr) {
    if (!pass.goes_on) return;
    invalid_argument(function,
                     "initial is null, expected the states from which the forward pass went on, as they were "
                     "before it");
  }
  check_size(function, "initial", "entries", static_cast<Index>(initial->size()), sequences, "one per sequence");
  for (std::size_t i = 0; i < initial->size(); ++i) {
    check_state(function, layer, (*initial)[i]);
    const Index position = pass.positions.empty() ? 0 : pass.positions[i];
    if ((*initial)[i].position == position) continue;
    invalid_argument(function, "initial is at position ", (*initial)[i].position, " at ", i, ", expected ", position,
                     ", where the forward pass began");
  }
}

template <class L, class S>
void check_d_final(const char* function, const L& layer, Index sequences, const std::vector<LayerState<S>>& d_final) {
  check_size(function, "d_final", "entries", static_cast<Index>(d_final.size()), sequences, "one per sequence");
  for (const LayerState<S>& state : d_final) check_state("backward (d_final)", layer, state);
}

template <class S, class Covariance>
void run_parts_backward(const AttentionLayer<S, Covariance>& layer, const PassRows<S>& rows,
                        const PassRows<S>& key_rows, LayerCache<S>& cache, LayerGradientCache<S, Covariance>& scratch,
                        AttentionLayer<S, Covariance>& gradient, const LayerOptions& options,
                        const std::vector<LayerState<S>>* initial, const std::vector<LayerState<S>>* d_final,
                        bool has_d_states) {
  LayerBackward<S, Covariance>{layer, rows, key_rows, cache, scratch, gradient, options}.run(initial, d_final,
                                                                                             has_d_states);
}

/// The backward pass, except for what only states or a context need.
template <class S, class Covariance>
void layer_backward(const TokenSink<S>& d_x, AttentionLayer<S, Covariance>& gradient,
                    const AttentionLayer<S, Covariance>& layer, const TokenView<S>& d_output, LayerCache<S>& cache,
                    LayerGradientCache<S, Covariance>& scratch, const LayerOptions& options,
                    const std::vector<LayerState<S>>* initial, const std::vector<LayerState<S>>* d_final,
                    bool has_d_states) {
  constexpr const char* function = "backward";
  check_layer_options(function, options);
  check_layer(function, layer);
  check_layer("backward (gradient)", gradient);
  if (!are_alike(gradient.config, layer.config)) {
    invalid_argument(function, "gradient has another config than layer, expected one made from layer.config");
  }
  const LayerShape shape(layer.config);
  check_shape(function, "d_output", d_output.rows(), d_output.cols(), cache.rows, shape.width,
              "rows of the forward pass x the layer's width");
  check_shape(function, "d_x", d_x.rows(), d_x.cols(), cache.rows, shape.width, "as d_output");
  check_pass(function, layer, cache.pass);
  check_initial(function, layer, cache.pass, cache.placement.count(), initial);
  if (d_final != nullptr) check_d_final(function, layer, cache.placement.count(), *d_final);
  if (has_d_states && !layer.config.is_causal) {
    invalid_argument(function, "layer is bidirectional, expected a causal one for gradients of states");
  }
  gather_rows(d_output, cache.placement, options.executor, scratch.d_output);
  const std::vector<std::int64_t>&offsets = cache.inputs.sequences.offsets,
        &key_offsets = cache.pass.has_context ? cache.inputs.key_sequences->offsets : offsets;
  const PassRows<S> rows{layer.config, shape, offsets, options.executor, scratch.workspace, options.segment},
      key_rows{layer.config, shape, key_offsets, options.executor, scratch.workspace, options.segment};
  run_parts_backward(layer, rows, key_rows, cache, scratch, gradient, options, initial, d_final, has_d_states);
  scatter_rows(scratch.d_input, cache.placement, options.executor, d_x, scratch.workspace);
}

}  // namespace detail

template <class S, class Covariance>
void backward_into(const Out<detail::Same<S>>& d_x, AttentionLayer<S, Covariance>& gradient,
                   const AttentionLayer<S, Covariance>& layer, const In<detail::Same<S>>& d_output,
                   LayerCache<S>& cache, LayerGradientCache<S, Covariance>& scratch, const LayerOptions& options,
                   const typename LayerCache<S>::States* initial, const typename LayerCache<S>::States* d_final,
                   typename LayerCache<S>::States* d_initial) {
  if (cache.pass.has_context) {
    detail::invalid_argument("backward", "cache is from a pass of cross attention, expected d_context after d_x");
  }
  detail::layer_backward<S, Covariance>(d_x, gradient, layer, d_output, cache, scratch, options, initial, d_final,
                                        d_final != nullptr || d_initial != nullptr);
  if (d_initial != nullptr) d_initial->swap(scratch.d_states);
}

template <class S, class Covariance>
void backward_into(const Out<detail::Same<S>>& d_x, const Out<detail::Same<S>>& d_context,
                   AttentionLayer<S, Covariance>& gradient, const AttentionLayer<S, Covariance>& layer,
                   const In<detail::Same<S>>& d_output, LayerCache<S>& cache,
                   LayerGradientCache<S, Covariance>& scratch, const LayerOptions& options) {
  if (!cache.pass.has_context) {
    detail::invalid_argument("backward", "cache is not from a pass of cross attention, expected no d_context");
  }
  detail::check_shape("backward", "d_context", d_context.rows(), d_context.cols(), cache.context_rows,
                      detail::LayerShape(layer.config).width, "as the context of the forward pass");
  const typename LayerCache<S>::States* none = nullptr;
  detail::layer_backward<S, Covariance>(d_x, gradient, layer, d_output, cache, scratch, options, none, none, false);
  detail::scatter_rows<S>(scratch.d_context, cache.context_placement, options.executor, d_context, scratch.workspace);
}

template <class S, class Covariance>
LayerGradients<S, Covariance> backward(const AttentionLayer<S, Covariance>& layer, const In<detail::Same<S>>& x,
                                       const In<detail::Same<S>>& d_output, const Sequences& sequences,
                                       const LayerOptions& options) {
  LayerCache<S> cache;
  LayerGradientCache<S, Covariance> scratch;
  LayerGradients<S, Covariance> result{Matrix<S>(x.rows(), x.cols()), AttentionLayer<S, Covariance>(layer.config)};
  forward_into(result.x, layer, x, cache, sequences, options);
  backward_into(result.x, result.layer, layer, d_output, cache, scratch, options);
  return result;
}

}  // namespace gma
