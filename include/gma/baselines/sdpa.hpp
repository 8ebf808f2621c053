// SPDX-License-Identifier: MIT
// Moved to gma/softmax/sdpa.hpp; this name stays for programs that include it.
#pragma once

#include "gma/softmax/sdpa.hpp"
