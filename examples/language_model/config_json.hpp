// SPDX-License-Identifier: MIT
//
// Configurations and results as JSON, for checkpoints and logs.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "config.hpp"

namespace language_model {

// A point of the curve; bits per byte. `validation` is over every 64th window (see evaluate.hpp).
struct CurvePoint {
  std::int64_t steps = 0, bytes = 0;
  double seconds = 0, training = 0, validation = 0;
};

struct RunResult {
  ModelConfig model;
  TrainConfig train;
  Index parameters = 0;
  std::int64_t steps = 0, bytes = 0;
  double seconds = 0;   // of training
  double windowed = 0;  // bits per byte over all held-out bytes
  double streamed = 0;  // the same; 0 for mixers whose state grows
  std::vector<CurvePoint> curve;
  double bytes_per_second() const { return seconds > 0 ? double(bytes) / seconds : 0; }
};

NLOHMANN_JSON_SERIALIZE_ENUM(MixerKind, {{MixerKind::gma, "gma"},
                                         {MixerKind::gma_plain, "gma-plain"},
                                         {MixerKind::linear, "linear"},
                                         {MixerKind::performer, "performer"},
                                         {MixerKind::mamba, "mamba"},
                                         {MixerKind::sdpa, "sdpa"},
                                         {MixerKind::window, "window"}})
NLOHMANN_JSON_SERIALIZE_ENUM(MlpKind, {{MlpKind::gated, "gated"}, {MlpKind::plain, "plain"}})
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ModelConfig, mixer, mlp, layers, width, heads, mlp_width, components,
                                   plain_components, convolution, has_forgetting, window, state, forgetting_fastest,
                                   forgetting_slowest)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TrainConfig, seconds, steps, batch, context, shards, learning_rate,
                                   final_learning_rate, warmup_steps, mixture_learning_rate, weight_decay, beta1, beta2,
                                   clip, seed)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CurvePoint, steps, bytes, seconds, training, validation)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RunResult, model, train, parameters, steps, bytes, seconds, windowed, streamed,
                                   curve)

}  // namespace language_model
