// SPDX-License-Identifier: MIT
// The layer forward: whole batches, and streams that go on from a state. A row of the output depends only on the rows
// of its own sequence. The rest of the batch and the number of threads change no bit of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#include "gma/layer/layer_compiled.hpp"
#include "gma/layer/layer_pass.hpp"

namespace gma {

/// x is N x D of any layout, or bfloat16 or half; returns N x D. Rows of no sequence give zeros. Cost: 2 N D (channels
/// + Hq e) operations in projections, and those of the heads; a window of W tokens adds 2 N Hq (W + 63) (d + e). Throws
/// std::invalid_argument if a shape does not fit, and if the forgetting gate meets a NaN, which fails the whole call.
/// Nothing else looks for numbers that are not finite. Without a forgetting gate a NaN spreads, and in any layer an
/// infinity: to the outputs of its own sequence from that row on, with a window also to the block of tokens before it,
/// and to the state, but to no other sequence. A parameter that is not finite spreads to all of them (see validate()).
template <class L>
Matrix<Scalar<L>> forward(const L& layer, const In<Scalar<L>>& x, const Sequences& sequences = {},
                          const LayerOptions& options = {});

/// The same into a caller's N x D matrix, block or map; leaves in `cache` what backward_into() needs.
template <class L>
void forward_into(const Out<Scalar<L>>& out, const L& layer, const In<Scalar<L>>& x, LayerCache<Scalar<L>>& cache,
                  const Sequences& sequences = {}, const LayerOptions& options = {});

/// Every sequence goes on from its state and advances it. Prefill in chunks of any lengths, one pass and single tokens
/// give the same outputs, within rounding. After an exception the states are unchanged, with one exception: a call of
/// few tokens per sequence, of a kind that the cache has met before, changes the memories in place, because a copy
/// would cost as much as the call. No argument can make such a call fail midway. If memory runs out or the executor
/// throws in it, the states refuse every use until they are reset, loaded or assigned.
template <class L>
void forward_into(const Out<Scalar<L>>& out, const L& layer, const In<Scalar<L>>& x,
                  std::vector<LayerState<Scalar<L>>>& states, LayerCache<Scalar<L>>& cache,
                  const Sequences& sequences = {}, const LayerOptions& options = {});
/// The same for states that are kept apart. Throws std::invalid_argument if one is null, or given twice.
template <class L>
void forward_into(const Out<Scalar<L>>& out, const L& layer, const In<Scalar<L>>& x,
                  const std::vector<LayerState<Scalar<L>>*>& states, LayerCache<Scalar<L>>& cache,
                  const Sequences& sequences = {}, const LayerOptions& options = {});

/// Cross attention of a bidirectional layer: keys and values come from the context, Nk x D, and everything else from x,
/// N x D. `context_sequences` has one entry per sequence, of any length: every sequence attends to its own. Throws
/// std::invalid_argument if the layer is causal.
template <class L>
Matrix<Scalar<L>> forward(const L& layer, const In<Scalar<L>>& x, const In<Scalar<L>>& context,
                          const Sequences& sequences = {}, const Sequences& context_sequences = {},
                          const LayerOptions& options = {});
template <class L>
void forward_into(const Out<Scalar<L>>& out, const L& layer, const In<Scalar<L>>& x, const In<Scalar<L>>& context,
                  LayerCache<Scalar<L>>& cache, const Sequences& sequences = {},
                  const Sequences& context_sequences = {}, const LayerOptions& options = {});

/// One stream: x is N x D, its next N tokens.
template <class L>
Matrix<Scalar<L>> forward(const L& layer, const In<Scalar<L>>& x, LayerState<Scalar<L>>& state,
                          const LayerOptions& options = {});

/// A decoding step: x is the next token of one stream, 1 x D, and so is `out`. From the second call with the same cache
/// on nothing is allocated, except when memories begin to keep remainders. compile() the layer first. The first call
/// would compile an AttentionLayer into the cache, which costs tens of steps, and every further call would compare all
/// its parameters with those that were compiled, which costs one or two steps.
template <class L>
void step_into(const Out<Scalar<L>>& out, const L& layer, const In<Scalar<L>>& x, LayerState<Scalar<L>>& state,
               LayerCache<Scalar<L>>& cache);
/// The same with a cache that every call allocates: for a token or two. Every call also compiles an AttentionLayer.
template <class L>
RowVector<Scalar<L>> step(const L& layer, const In<Scalar<L>>& x, LayerState<Scalar<L>>& state);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Throws if a state is null, given twice, or not of the layer's shape.
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

/// Whether a stream goes on from more than zeros.
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
  pass.has_context = pass.goes_on = false;
  pass.positions.clear();
  for (Index i = 0; i < state_count; ++i) {
    pass.positions.push_back(states[i]->position);
    pass.goes_on = pass.goes_on || has_begun(*states[i]);
  }
  pass.known.reserve();
}

/// The sizes and choices on which the scratch of a pass depends.
inline CallSizes sizes_of(const LayerConfig& config, Index rows, Index sequences) {
  const LayerShape shape(config);
  std::uint64_t components = config.components.size();
  for (const Index count : config.components) components = components * 1000003 + static_cast<std::uint64_t>(count);
  Index choices = 0;
  for_each_member([&](const char*, auto member, const auto&...) {
    using T = std::decay_t<decltype(config.*member)>;
    if constexpr (std::is_same_v<T, bool> || std::is_enum_v<T>)
      choices = 4 * choices + static_cast<Index>(config.*member);
  });
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
          choices,
          0};
}

template <class S, class Map>
void run_parts(const CompiledLayer<S, Map>& layer, const PassRows<S>& rows, const PassRows<S>& key_rows,
               LayerCache<S>& cache, LayerState<S>* const* states, bool is_in_place) {
  LayerForward<S, Map>{layer, rows, key_rows, cache, {states}, is_in_place}.run();
}

template <class S, class Map>
void run_layer(const CompiledLayer<S, Map>& layer, LayerCache<S>& cache, LayerState<S>* const* states,
               const LayerOptions& options) {
  const Index rows = cache.input.rows(), sequences = cache.placement.count();
  CallSizes sizes = sizes_of(layer.config, rows, sequences);
  const bool is_whole = options.segment == 0 || options.segment >= rows;
  bool is_in_place = states != nullptr && cache.exchange == nullptr && is_whole && is_short_call<S>(rows, sequences);
  for (Index i = 0; i < sequences && is_in_place; ++i) {
    is_in_place = !may_grow(states[i]->memories, layer.config.has_forgetting, layer.config.slot_forgetting_rank > 0);
    sizes.back() += count_of_remainders(states[i]->memories);
  }
  is_in_place = is_in_place && cache.pass.known.has(sizes);
  const LayerShape shape(layer.config);
  const PassRows<S> packed{layer.config,     shape,           cache.inputs.sequences.offsets,
                           options.executor, cache.workspace, options.segment};
  run_parts(layer, packed, packed, cache, states, is_in_place);
  cache.pass.known.add(sizes);
  cache.pass.is_complete = true;
}

/// The opening of every forward pass: checks, the layer compiled, and the rows of x in the cache.
template <class L, class S>
const auto& begin_forward(const TokenSink<S>& out, const L& layer, const TokenView<S>& x, LayerCache<S>& cache,
                          const Sequences& sequences, const Executor* executor) {
  constexpr const char* function = "forward";
  cache.pass.is_complete = false;
  const auto& compiled = compiled_layer(function, layer, x.rows(), cache);
  check_size(function, "x", "columns", x.cols(), compiled.config.width, "the layer's width");
  check_shape(function, "out", out.rows(), out.cols(), x.rows(), compiled.config.width, "as x");
  place(function, "sequences", sequences, 1, x.rows(), cache.placement);
  cache.rows = x.rows();
  gather_rows(x, cache.placement, executor, cache.input);
  set_packed_offsets(cache.placement, cache.inputs.sequences);
  return compiled;
}

/// Stands for a number of states in a pass that has none.
inline constexpr Index no_states = -1;

template <class L, class S>
void layer_forward(const TokenSink<S>& out, const L& layer, const TokenView<S>& x, LayerState<S>* const* states,
                   Index state_count, LayerCache<S>& cache, const Sequences& sequences, const LayerOptions& options) {
  check_layer_options("forward", options);
  const auto& compiled = begin_forward(out, layer, x, cache, sequences, options.executor);
  if (state_count != no_states) check_states("forward", compiled, states, state_count, cache);
  if (cache.exchange != nullptr && compiled.config.slot_forgetting_rank != 0) {
    invalid_argument("forward", "layer.config.slot_forgetting_rank is ", compiled.config.slot_forgetting_rank,
                     ", expected 0 where cache.exchange is set");
  }
  if (cache.exchange != nullptr && state_count != 1) {
    invalid_argument("forward", "cache.exchange is set, expected a pass of one sequence with a state");
  }
  begin_pass(compiled.config, states, state_count, cache.pass);
  cache.inputs.key_sequences.reset();
  run_layer(compiled, cache, state_count == no_states ? nullptr : states, options);
  // States have advanced: nothing may throw from here on, so the executor is asked for nothing more.
  const Executor* const executor = state_count == no_states ? options.executor : nullptr;
  scatter_rows(cache.output, cache.placement, executor, out, cache.workspace);
}

template <class L, class S>
void cross_forward(const TokenSink<S>& out, const L& layer, const TokenView<S>& x, const TokenView<S>& context,
                   LayerCache<S>& cache, const Sequences& sequences, const Sequences& context_sequences,
                   const LayerOptions& options) {
  constexpr const char* function = "forward";
  check_layer_options(function, options);
  const auto& compiled = begin_forward(out, layer, x, cache, sequences, options.executor);
  const LayerShape shape(compiled.config);
  if (compiled.config.is_causal) {
    invalid_argument(function, "layer is causal, expected a bidirectional one for cross attention");
  }
  check_size(function, "context", "columns", context.cols(), shape.width, "the layer's width");
  place(function, "context_sequences", context_sequences, 1, context.rows(), cache.context_placement);
  check_size(function, "context_sequences", "sequences", cache.context_placement.count(), cache.placement.count(),
             "as many as sequences");
  LayerState<S>* const* none = nullptr;
  begin_pass(compiled.config, none, 0, cache.pass);
  cache.pass.has_context = true;
  cache.context_rows = context.rows();
  gather_rows(context, cache.context_placement, options.executor, cache.context);
  if (!cache.inputs.key_sequences) cache.inputs.key_sequences.emplace();
  set_packed_offsets(cache.context_placement, *cache.inputs.key_sequences);
  const PassRows<S> rows{compiled.config, shape, cache.inputs.sequences.offsets, options.executor, cache.workspace},
      key_rows{compiled.config, shape, cache.inputs.key_sequences->offsets, options.executor, cache.workspace};
  run_parts(compiled, rows, key_rows, cache, none, false);
  cache.pass.is_complete = true;
  scatter_rows(cache.output, cache.placement, options.executor, out, cache.workspace);
}

}  // namespace detail

template <class L>
void forward_into(const Out<Scalar<L>>& out, const L& layer, const In<Scalar<L>>& x, const In<Scalar<L>>& context,
                  LayerCache<Scalar<L>>& cache, const Sequences& sequences, const Sequences& context_sequences,
                  const LayerOptions& options) {
  detail::cross_forward<L, Scalar<L>>(out, layer, x, context, cache, sequences, context_sequences, options);
}

template <class L>
Matrix<Scalar<L>> forward(const L& layer, const In<Scalar<L>>& x, const In<Scalar<L>>& context,
                          const Sequences& sequences, const Sequences& context_sequences, const LayerOptions& options) {
  LayerCache<Scalar<L>> cache;
  Matrix<Scalar<L>> out(x.rows(), x.cols());
  forward_into(out, layer, x, context, cache, sequences, context_sequences, options);
  return out;
}

template <class L>
void forward_into(const Out<Scalar<L>>& out, const L& layer, const In<Scalar<L>>& x, LayerCache<Scalar<L>>& cache,
                  const Sequences& sequences, const LayerOptions& options) {
  LayerState<Scalar<L>>* const* none = nullptr;
  detail::layer_forward<L, Scalar<L>>(out, layer, x, none, detail::no_states, cache, sequences, options);
}

template <class L>
void forward_into(const Out<Scalar<L>>& out, const L& layer, const In<Scalar<L>>& x,
                  std::vector<LayerState<Scalar<L>>>& states, LayerCache<Scalar<L>>& cache, const Sequences& sequences,
                  const LayerOptions& options) {
  using S = Scalar<L>;
  std::vector<LayerState<S>*>& pointers = cache.workspace.template keep<std::vector<LayerState<S>*>>();
  pointers.clear();
  for (LayerState<S>& state : states) pointers.push_back(&state);
  forward_into(out, layer, x, pointers, cache, sequences, options);
}

template <class L>
void forward_into(const Out<Scalar<L>>& out, const L& layer, const In<Scalar<L>>& x,
                  const std::vector<LayerState<Scalar<L>>*>& states, LayerCache<Scalar<L>>& cache,
                  const Sequences& sequences, const LayerOptions& options) {
  detail::layer_forward<L, Scalar<L>>(out, layer, x, states.data(), static_cast<Index>(states.size()), cache, sequences,
                                      options);
}

template <class L>
Matrix<Scalar<L>> forward(const L& layer, const In<Scalar<L>>& x, const Sequences& sequences,
                          const LayerOptions& options) {
  LayerCache<Scalar<L>> cache;
  Matrix<Scalar<L>> out(x.rows(), x.cols());
  forward_into(out, layer, x, cache, sequences, options);
  return out;
}

template <class L>
Matrix<Scalar<L>> forward(const L& layer, const In<Scalar<L>>& x, LayerState<Scalar<L>>& state,
                          const LayerOptions& options) {
  using S = Scalar<L>;
  LayerCache<S> cache;
  Matrix<S> out(x.rows(), x.cols());
  LayerState<S>* one = &state;
  detail::layer_forward<L, S>(Out<S>(out), layer, x, &one, 1, cache, Sequences(), options);
  return out;
}

template <class L>
void step_into(const Out<Scalar<L>>& out, const L& layer, const In<Scalar<L>>& x, LayerState<Scalar<L>>& state,
               LayerCache<Scalar<L>>& cache) {
  detail::check_size("step", "x", "rows", x.rows(), 1, "one token");
  LayerState<Scalar<L>>* one = &state;
  detail::layer_forward<L, Scalar<L>>(out, layer, x, &one, 1, cache, Sequences(), LayerOptions());
}

template <class L>
RowVector<Scalar<L>> step(const L& layer, const In<Scalar<L>>& x, LayerState<Scalar<L>>& state) {
  LayerCache<Scalar<L>> cache;
  RowVector<Scalar<L>> out(x.cols());
  step_into(out, layer, x, state, cache);
  return out;
}

}  // namespace gma
