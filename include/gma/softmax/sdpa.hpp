// SPDX-License-Identifier: MIT
// Softmax attention (SDPA), to compare Gaussian mixture attention with. One head, any scalar:
//
//   sdpa, sdpa_into                 tiled and fast, no Nq x Nk matrix: the opponent in comparisons
//   sdpa_forward, sdpa_backward     the same with gradients
//   sdpa_dense, sdpa_dense_backward the equation, literally; sdpa_weights is the matrix itself
//   KeyValueCache, sdpa_decode      one token at a time
#pragma once

#include "gma/softmax/sdpa_backward.hpp"
#include "gma/softmax/sdpa_decode.hpp"
#include "gma/softmax/sdpa_dense.hpp"
#include "gma/softmax/sdpa_options.hpp"
#include "gma/softmax/sdpa_tiled.hpp"
