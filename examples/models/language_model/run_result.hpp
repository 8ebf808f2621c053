// SPDX-License-Identifier: MIT
//
// The results of a training run, also as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "options.hpp"
#include "transformer/config_json.hpp"

namespace language_model {

// A point of the curve; bits per byte. `validation` is over a part of the windows (see training_run.hpp).
struct CurvePoint {
  std::int64_t steps = 0, bytes = 0;
  double seconds = 0, training = 0, validation = 0;
};

struct RunResult {
  ModelConfig model;
  TrainConfig train;
  Index parameters = 0;
  std::int64_t steps = 0, tokens = 0, bytes = 0;
  double seconds = 0;   // of training
  double windowed = 0;  // bits per byte over all of the held-out text, or its validation half
  double streamed = 0;  // the same; 0 for mixers whose state grows
  std::vector<CurvePoint> curve;
  double bytes_per_second() const { return seconds > 0 ? double(bytes) / seconds : 0; }
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CurvePoint, steps, bytes, seconds, training, validation)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RunResult, model, train, parameters, steps, tokens, bytes, seconds, windowed,
                                   streamed, curve)

}  // namespace language_model
