// SPDX-License-Identifier: MIT
// Gaussian Mixture Attention: everything a user of operators and layers needs.
//
//   mixture      Mixture, ProductMixture, compile, responsibilities, log_density, random_mixture, usage
//                (fitted initialisations: gma/mixture/fit.hpp)
//   attention    Memory, write, read, bidirectional, causal, and the *_backward of each; tokens from a source that
//                may be larger than the machine's memory: causal_stream, write_stream
//   reference    the same in plain loops, dense and as a recurrence, for tests and teaching
//   heads        the verbs for many heads and ragged batches
//   layer        AttentionLayer: forward, backward, step; states, Rollback
//
// Softmax attention to compare with: gma/softmax/sdpa.hpp. Linear attention and Performer:
// gma/baselines/feature_maps.hpp. Weights and states in files: gma/io/safetensors.hpp, gma/io/layer_safetensors.hpp,
// gma/io/lazy_safetensors.hpp, gma/io/npy.hpp. One sequence over several processes: gma/mpi/attention.hpp,
// gma/mpi/layer.hpp. For the rest of a model: product_into (gma/kernels/products.hpp), unit_rms_in_place
// (gma/layer/part_unit_rms.hpp), sigmoid, silu and softplus (gma/core/elementwise.hpp), rotary positions
// (gma/softmax/rotary.hpp), Random (gma/core/random.hpp).
#pragma once

#include "gma/attention/bidirectional.hpp"
#include "gma/attention/causal.hpp"
#include "gma/attention/causal_backward.hpp"
#include "gma/attention/memory.hpp"
#include "gma/attention/memory_view.hpp"
#include "gma/attention/options.hpp"
#include "gma/attention/read.hpp"
#include "gma/attention/read_backward.hpp"
#include "gma/attention/reference.hpp"
#include "gma/attention/stream.hpp"
#include "gma/attention/write.hpp"
#include "gma/attention/write_backward.hpp"
#include "gma/heads/head_jobs.hpp"
#include "gma/heads/heads.hpp"
#include "gma/heads/heads_backward.hpp"
#include "gma/layer/layer.hpp"
#include "gma/layer/layer_backward.hpp"
#include "gma/layer/layer_forward.hpp"
#include "gma/layer/layer_initialization.hpp"
#include "gma/layer/layer_state.hpp"
#include "gma/layer/rollback.hpp"
#include "gma/mixture/initialization.hpp"
#include "gma/mixture/mixture.hpp"
#include "gma/mixture/natural.hpp"
#include "gma/mixture/responsibilities.hpp"
#include "gma/mixture/usage.hpp"
#include "gma/mixture/variances.hpp"
#include "gma/version.hpp"
#ifdef GMA_COMPILED  // by the target gma::compiled
#include "gma/compiled.hpp"
#include "gma/compiled_layer.hpp"
#endif
