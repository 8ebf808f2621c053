// SPDX-License-Identifier: MIT
//
// Options other than the model and its training: the length of a run, and how text is sampled.
#pragma once

#include <cstdint>
#include <string>

#include "transformer/config.hpp"

namespace language_model {

using namespace transformer;  // the model is built of examples/transformer

struct RunOptions {
  std::int64_t stop_after = 0;  // steps of this run, to be resumed later; 0: until the budget is used up
  int curve_points = 20;        // of the validation curve
  std::string checkpoint;       // file to save to at the end and on Ctrl-C; empty: none
  bool is_test_apart = false;   // validate with the first half of the held-out text only; else with all of it
  bool is_quiet = false;
  bool is_evaluated_early = true;  // also if the run was interrupted
};

struct SamplingOptions {
  double temperature = 0.8;  // 0: always the most probable byte
  Index top_k = 40;          // only among this many most probable bytes; 0: among all
  std::uint64_t seed = 1;
};

inline void validate(const SamplingOptions& options) {
  require(options.temperature >= 0, "temperature must be 0 or positive");
  require(options.top_k >= 0, "top-k must be 0 (all) or positive");
}

}  // namespace language_model
