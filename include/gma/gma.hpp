// SPDX-License-Identifier: MIT
// Gaussian Mixture Attention: everything a user of operators and layers needs.
//
//   mixture      Mixture, ProductMixture, compile, responsibilities, log_density, random_mixture, usage
//                (fitted initialisations: gma/mixture/fit.hpp)
//   attention    Memory, write, read, bidirectional, causal, and the *_backward of each
//   reference    the same, dense and O(N^2), for tests and teaching
//   nn           the verbs for many heads and ragged batches; AttentionLayer: forward, backward, step; Rollback
//
// Weights and states in files: gma/io/safetensors.hpp, gma/io/layer_safetensors.hpp, gma/io/npy.hpp.
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
#include "gma/mixture/usage.hpp"
#include "gma/mixture/variances.hpp"
#include "gma/nn/heads.hpp"
#include "gma/nn/heads_backward.hpp"
#include "gma/nn/layer.hpp"
#include "gma/nn/layer_backward.hpp"
#include "gma/nn/layer_forward.hpp"
#include "gma/nn/layer_initialization.hpp"
#include "gma/nn/layer_state.hpp"
#include "gma/nn/rollback.hpp"
#include "gma/version.hpp"
