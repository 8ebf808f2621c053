// SPDX-License-Identifier: MIT
// The one file that instantiates what gma/compiled_layer.hpp declares.
#define GMA_COMPILED_LAYER_ELSEWHERE
#include <gma/compiled.hpp>
#include <gma/compiled_layer.hpp>
