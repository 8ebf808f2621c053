// SPDX-License-Identifier: MIT
// As compiled.hpp, for the passes of AttentionLayer with diagonal covariances, the default.
#pragma once

#include "gma/layer/layer_backward.hpp"
#include "gma/layer/layer_forward.hpp"

// Empty in the one source file that instantiates them.
#ifndef GMA_COMPILED_LAYER_ELSEWHERE
#define GMA_COMPILED_LAYER_ELSEWHERE extern
#endif

// NOLINTBEGIN(bugprone-macro-parentheses): types take none
#define GMA_COMPILED_LAYER_FOR(S)                                                                          \
  GMA_COMPILED_LAYER_ELSEWHERE template void run_parts<S, CompiledMixture<S>>(                             \
      const CompiledLayer<S, CompiledMixture<S>>&, const PassRows<S>&, const PassRows<S>&, LayerCache<S>&, \
      LayerState<S>* const*, bool);                                                                        \
  GMA_COMPILED_LAYER_ELSEWHERE template void run_parts_backward<S, Diagonal>(                              \
      const AttentionLayer<S, Diagonal>&, const PassRows<S>&, const PassRows<S>&, LayerCache<S>&,          \
      LayerGradientCache<S, Diagonal>&, AttentionLayer<S, Diagonal>&, const LayerOptions&,                 \
      const std::vector<LayerState<S>>*, const std::vector<LayerState<S>>*, bool);
// NOLINTEND(bugprone-macro-parentheses)

namespace gma::detail {

GMA_COMPILED_LAYER_FOR(float)
GMA_COMPILED_LAYER_FOR(double)

}  // namespace gma::detail

#undef GMA_COMPILED_LAYER_FOR
