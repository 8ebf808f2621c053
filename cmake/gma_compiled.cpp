// SPDX-License-Identifier: MIT
// The one file that instantiates what gma/compiled.hpp declares.
#define GMA_COMPILED_ELSEWHERE
#include <gma/compiled.hpp>
