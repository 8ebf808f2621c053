// SPDX-License-Identifier: MIT
// Softmax attention (SDPA), what Gaussian mixture attention is compared with. One head, any scalar:
//
//   sdpa, sdpa_into                 tiled, fast, no Nq x Nk matrix: the opponent in comparisons
//   sdpa_forward, sdpa_backward     the same with gradients
//   sdpa_dense, sdpa_dense_backward as the equation says; sdpa_weights is the matrix itself
//   KeyValueCache, sdpa_decode      a token at a time
#pragma once

#include "gma/baselines/sdpa_backward.hpp"
#include "gma/baselines/sdpa_decode.hpp"
#include "gma/baselines/sdpa_dense.hpp"
#include "gma/baselines/sdpa_options.hpp"
#include "gma/baselines/sdpa_tiled.hpp"
