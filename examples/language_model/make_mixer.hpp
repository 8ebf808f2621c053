// SPDX-License-Identifier: MIT
//
// From the name of a mixer to the mixer.
#pragma once

#include <memory>
#include <string>

#include "config.hpp"
#include "mixer_gma.hpp"
#include "mixer_sdpa.hpp"

namespace language_model {

inline gma::LayerConfig layer_config(const ModelConfig& config) {
  gma::LayerConfig layer;
  layer.width = config.width;
  layer.heads = config.heads;
  if (config.mixer == MixerKind::gma_plain) {
    layer.components = {config.plain_components};
    layer.convolution = 1;
    layer.has_forgetting = false;
  } else {
    layer.components = config.components;
    layer.convolution = config.convolution;
    layer.shortest_time = 1 / config.forgetting_fastest;
    layer.longest_time = 1 / config.forgetting_slowest;
  }
  return layer;
}

template <class S>
std::unique_ptr<Mixer<S>> make_mixer(const ModelConfig& config, Layout& layout, const std::string& name) {
  if (config.mixer == MixerKind::sdpa) return std::make_unique<SdpaMixer<S>>(layout, name, config.width, config.heads);
  return std::make_unique<GmaMixer<S>>(layout, name, layer_config(config));
}

}  // namespace language_model
