// SPDX-License-Identifier: MIT

#include "blocks_implementation.hpp"

template class transformer::Blocks<float>;
