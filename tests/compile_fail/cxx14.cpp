// SPDX-License-Identifier: MIT
// An older standard is refused in words, before anything else.
// Expected: gma needs C++17 or newer
// Flags: -std=c++14
#include <gma/gma.hpp>
