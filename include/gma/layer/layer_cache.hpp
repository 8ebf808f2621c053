// SPDX-License-Identifier: MIT
// What a call of a layer keeps for the next call: scratch memory, and what the backward pass needs of the forward pass.
#pragma once

#include <vector>

#include "gma/heads/heads_backward.hpp"
#include "gma/layer/memory_exchange.hpp"
#include "gma/layer/part_output.hpp"
#include "gma/layer/part_unit_rms.hpp"
#include "gma/layer/part_window.hpp"

namespace gma {

/// How a pass of a layer works. It changes speed, and with `usage_penalty` the loss.
struct LayerOptions {
  /// Runs rows, heads and sequences in parallel. Null: one thread does all the work. It must outlive the call.
  const Executor* executor = nullptr;

  /// Backward only: the loss also has this factor times the sum over heads of usage_penalty() of the keys. The penalty
  /// pulls components that no key uses back into use.
  double usage_penalty = 0;

  /// Causal layers: tokens of a segment of every head's attention, as Options::segment; 0: one pass. For calls with
  /// more threads than heads and sequences.
  Index segment = 0;
};

namespace detail {

inline void check_layer_options(const char* function, const LayerOptions& options) {
  if (options.segment < 0) invalid_argument(function, "options.segment is ", options.segment, ", expected 0 or more");
}

/// The last forward pass of a cache.
struct LayerPass {
  bool is_complete = false;      // it did not throw
  LayerConfig config;            // of its layer
  bool has_context = false;      // cross attention
  bool goes_on = false;          // from states that were more than beginnings
  std::vector<Index> positions;  // of its states before it; empty if it had none
  KnownCalls known;              // of passes before it
};

}  // namespace detail

/// What a forward pass keeps for the backward pass, and the scratch of both. One call at a time may use it. Successive
/// calls reuse its memory. Diagnostics may read `queries`, `keys` (scaled) and `values`. A part that adds nothing here
/// may keep its cache in the workspace (Workspace::keep).
template <class S>
struct LayerCache {
  using States = std::vector<LayerState<S>>;  ///< of streams, one per sequence

  Matrix<S> input;                      ///< rows of all sequences, one below the other: N x D
  Matrix<S> projected;                  ///< N x (channels + gates), before the convolution
  Matrix<S> context;                    ///< of cross attention: rows of all contexts, Nk x D
  Matrix<S> context_projected;          ///< Nk x as many, of which keys and values are made of the context
  Matrix<S> queries, keys, values;      ///< N x Hq d, N x H d, N x H e, as attention saw them
  UnitRmsCache<S> unit_rms;             ///< of queries and keys
  HeadInputs<S> inputs;                 ///< the packed sequences, and log-forgetting N x H, of slots N x H K
  WindowCache<S> window;                ///< empty without a window
  Matrix<S> mixed;                      ///< N x Hq e, from the heads and their window
  OutputCache<S> finish;                ///< of the output's norm and gate
  Matrix<S> output;                     ///< N x D
  Index rows = 0;                       ///< of the caller's input, padding included
  Index context_rows = 0;               ///< of the caller's context, padding included
  detail::Placement placement;          ///< where the rows lie in it
  detail::Placement context_placement;  ///< the same of the context
  std::vector<Memory<S>> memories;      ///< of streams, during a call
  detail::LayerPass pass;               ///< what the next call needs to know of the last one
  Workspace<S> workspace;               ///< scratch memory

  /// Null: a pass begins with its states. Else the memories come from here, in forward and backward passes.
  MemoryExchange<S>* exchange = nullptr;
};

/// Scratch of backward passes, which successive calls reuse. Mostly what the backward of a part hands to the part
/// before it.
template <class S, class Covariance = Diagonal>
struct LayerGradientCache {
  HeadGradients<typename detail::LayerRouting<S, Covariance>::Type> heads;  ///< at first of what attention saw
  Matrix<S> d_output;                                                       ///< N x D, the caller's, packed
  Matrix<S> d_mixed;                            ///< of the outputs of window and mixture, then of the mixture's alone
  Matrix<S> d_window;                           ///< of the window's outputs
  Matrix<S> d_context, d_context_projected;     ///< of cross attention
  Matrix<S> d_projected, d_input;               ///< of cache.projected and cache.input
  Matrix<S> taps, d_taps;                       ///< taps x channels, as compiled
  Matrix<S> rotations;                          ///< of a layer with a window
  std::vector<Memory<S>> memories, d_memories;  ///< before the pass; of those after it
  std::vector<LayerState<S>> d_states;          ///< of the states before the pass
  Workspace<S> workspace;                       ///< scratch memory
  double usage_penalty = 0;                     ///< the penalty's value, times its factor, if options asked for it
};

}  // namespace gma
