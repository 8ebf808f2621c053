// SPDX-License-Identifier: MIT
// Without NaN and infinity the checks of the library are compiled away.
// Expected: gma needs NaN and infinity
// Flags: -ffast-math
#include <gma/gma.hpp>
