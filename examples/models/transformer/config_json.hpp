// SPDX-License-Identifier: MIT
//
// Configurations as JSON, for checkpoints and logs. A member that an older file lacks has its default.
#pragma once

#include <nlohmann/json.hpp>

#include "config.hpp"

namespace transformer {

NLOHMANN_JSON_SERIALIZE_ENUM(MixerKind, {{MixerKind::gma, "gma"},
                                         {MixerKind::gma_plain, "gma-plain"},
                                         {MixerKind::linear, "linear"},
                                         {MixerKind::performer, "performer"},
                                         {MixerKind::mamba, "mamba"},
                                         {MixerKind::delta, "delta"},
                                         {MixerKind::sdpa, "sdpa"},
                                         {MixerKind::window, "window"}})
NLOHMANN_JSON_SERIALIZE_ENUM(MlpKind, {{MlpKind::gated, "gated"}, {MlpKind::plain, "plain"}})
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ModelConfig, mixer, mlp, is_causal, vocabulary, layers, width, heads,
                                                has_positions, mlp_width, components, plain_components, convolution,
                                                has_forgetting, slot_forgetting, gma_window, has_output_norm,
                                                has_output_gate, has_unit_queries, window, cache, state, mamba_head,
                                                forgetting_fastest, forgetting_slowest)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TrainConfig, seconds, steps, batch, context, shards, learning_rate,
                                   final_learning_rate, warmup_steps, mixture_learning_rate, weight_decay, beta1, beta2,
                                   clip, seed)
}  // namespace transformer
