// SPDX-License-Identifier: MIT
// Softmax attention (SDPA), what Gaussian mixture attention is compared with. One head, any scalar:
//
//   sdpa, sdpa_into                 tiled, fast, no Nq x Nk matrix: the opponent in comparisons
//   sdpa_forward, sdpa_backward     the same with gradients
//   sdpa_dense, sdpa_dense_backward as the equation says; sdpa_weights is the matrix itself
//   KeyValueCache, sdpa_decode      a token at a time
#pragma once

#include "gma/softmax/sdpa_backward.hpp"
#include "gma/softmax/sdpa_decode.hpp"
#include "gma/softmax/sdpa_dense.hpp"
#include "gma/softmax/sdpa_options.hpp"
#include "gma/softmax/sdpa_tiled.hpp"
