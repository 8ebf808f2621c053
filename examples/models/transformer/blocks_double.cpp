// SPDX-License-Identifier: MIT
//
// Blocks in double, for gradient checks.

#include "blocks_implementation.hpp"

template class transformer::Blocks<double>;
