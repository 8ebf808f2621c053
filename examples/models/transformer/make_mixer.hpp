// SPDX-License-Identifier: MIT
//
// Makes the mixer of a configuration.
//
// A model that is not causal has one of two forms. Softmax attention, and the library's layer without forgetting and
// convolution, do not know the order of tokens: they see all tokens at once. The other mixers read in one direction;
// the model adds two of them, one per direction (mixer_both.hpp).
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "config.hpp"
#include "mixer_both.hpp"
#include "mixer_delta.hpp"
#include "mixer_layer.hpp"
#include "mixer_mamba.hpp"
#include "mixer_sdpa.hpp"

namespace transformer {

inline gma::LayerConfig layer_config(const ModelConfig& config) {
  gma::LayerConfig layer;
  layer.width = config.width;
  layer.heads = config.heads;
  layer.components =
      config.mixer == MixerKind::gma_plain ? std::vector<Index>{config.plain_components} : config.components;
  if (config.mixer == MixerKind::linear || config.mixer == MixerKind::performer) {
    layer.normalization = gma::Normalization::row;
  }
  layer.is_causal = config.is_causal;
  if (config.mixer == MixerKind::gma) {
    layer.window = config.gma_window;
    layer.slot_forgetting_rank = config.slot_forgetting;
    layer.has_output_norm = config.has_output_norm;
    layer.has_output_gate = config.has_output_gate;
  } else {
    layer.has_output_norm = layer.has_output_gate = false;
  }
  layer.convolution = taps_of(config);
  layer.has_forgetting = config.has_forgetting && config.mixer != MixerKind::gma_plain;
  layer.shortest_time = 1 / config.forgetting_fastest;
  layer.longest_time = 1 / config.forgetting_slowest;
  return layer;
}

// Whether the order of tokens matters to the mixer, apart from positions in the tokens.
inline bool reads_in_order(const ModelConfig& config) {
  if (config.mixer == MixerKind::sdpa) return false;
  if (config.mixer == MixerKind::window || config.mixer == MixerKind::mamba || config.mixer == MixerKind::delta) {
    return true;
  }
  const gma::LayerConfig layer = layer_config(config);
  return layer.convolution > 1 || layer.has_forgetting || layer.slot_forgetting_rank > 0 || layer.window > 0;
}

template <class S>
std::unique_ptr<Mixer<S>> make_mixer(const ModelConfig& config, Layout& layout, const std::string& name) {
  if (!config.is_causal && reads_in_order(config)) {
    ModelConfig causal = config;
    causal.is_causal = true;
    auto forwards = make_mixer<S>(causal, layout, name + ".forwards");
    auto backwards = make_mixer<S>(causal, layout, name + ".backwards");
    return std::make_unique<BothMixer<S>>(std::move(forwards), std::move(backwards));
  }
  const auto softmax = [&](Index window) {
    return std::make_unique<SdpaMixer<S>>(
        layout, name,
        SdpaMixerOptions{config.width, config.heads, taps_of(config), config.is_causal, window, config.cache,
                         config.has_unit_queries});
  };
  switch (config.mixer) {
    case MixerKind::gma:
    case MixerKind::gma_plain:
      return std::make_unique<LayerMixer<S>>(layout, name, layer_config(config));
    case MixerKind::linear:
      return std::make_unique<LayerMixer<S, gma::baselines::Elu>>(layout, name, layer_config(config));
    case MixerKind::performer:
      return std::make_unique<LayerMixer<S, gma::baselines::RandomFeatures>>(layout, name, layer_config(config));
    case MixerKind::mamba:
      return std::make_unique<MambaMixer<S>>(
          layout, name, MambaOptions{config.width, config.state, config.mamba_head, taps_of(config)});
    case MixerKind::delta:
      return std::make_unique<DeltaMixer<S>>(layout, name,
                                             DeltaMixerOptions{config.width, config.heads, taps_of(config),
                                                               config.forgetting_fastest, config.forgetting_slowest});
    case MixerKind::sdpa:
      return softmax(0);
    case MixerKind::window:
      return softmax(config.window);
  }
  throw std::invalid_argument("an unknown mixer");
}

}  // namespace transformer
