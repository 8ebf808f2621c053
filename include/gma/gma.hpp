// SPDX-License-Identifier: MIT
// Gaussian Mixture Attention: everything a user of the operators needs.
//
//   mixture      Mixture, ProductMixture, compile, responsibilities, log_density, random_mixture
//                (fitted initialisations: gma/mixture/fit.hpp)
//   attention    Memory, write, read, bidirectional, causal, and the *_backward of each
//   reference    the same, dense and O(N^2), for tests and teaching
#pragma once

#include "gma/attention/bidirectional.hpp"
#include "gma/attention/causal.hpp"
#include "gma/attention/causal_backward.hpp"
#include "gma/attention/memory.hpp"
#include "gma/attention/options.hpp"
#include "gma/attention/read.hpp"
#include "gma/attention/reference.hpp"
#include "gma/attention/write.hpp"
#include "gma/mixture/initialization.hpp"
#include "gma/mixture/mixture.hpp"
#include "gma/mixture/natural.hpp"
#include "gma/mixture/responsibilities.hpp"
#include "gma/version.hpp"
