// SPDX-License-Identifier: MIT
// What calls of a layer leave behind for the next ones: scratch, and what the backward pass needs of the forward pass.
#pragma once

#include <vector>

#include "gma/heads/heads.hpp"
#include "gma/layer/layer_window.hpp"

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

}  // namespace gma
