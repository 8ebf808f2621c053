// SPDX-License-Identifier: MIT
//
// From the name of a mixer to the mixer.
#pragma once

#include <memory>
#include <string>

#include "config.hpp"
#include "mixer_layer.hpp"
#include "mixer_mamba.hpp"
#include "mixer_sdpa.hpp"

namespace language_model {

inline gma::LayerConfig layer_config(const ModelConfig& config) {
  gma::LayerConfig layer;
  layer.width = config.width;
  layer.heads = config.heads;
  layer.components =
      config.mixer == MixerKind::gma_plain ? std::vector<Index>{config.plain_components} : config.components;
  if (config.mixer == MixerKind::linear || config.mixer == MixerKind::performer) {
    layer.normalization = gma::Normalization::row;
  }
  layer.convolution = taps_of(config);
  layer.has_forgetting = config.has_forgetting && config.mixer != MixerKind::gma_plain;
  layer.shortest_time = 1 / config.forgetting_fastest;
  layer.longest_time = 1 / config.forgetting_slowest;
  return layer;
}

template <class S>
std::unique_ptr<Mixer<S>> make_mixer(const ModelConfig& config, Layout& layout, const std::string& name) {
  switch (config.mixer) {
    case MixerKind::gma:
    case MixerKind::gma_plain:
      return std::make_unique<LayerMixer<S>>(layout, name, layer_config(config));
    case MixerKind::linear:
      return std::make_unique<LayerMixer<S, gma::baselines::Elu>>(layout, name, layer_config(config));
    case MixerKind::performer:
      return std::make_unique<LayerMixer<S, gma::baselines::RandomFeatures>>(layout, name, layer_config(config));
    case MixerKind::mamba:
      return std::make_unique<MambaMixer<S>>(layout, name, MambaOptions{config.width, config.state, taps_of(config)});
    case MixerKind::sdpa:
      return std::make_unique<SdpaMixer<S>>(layout, name,
                                            SdpaMixerOptions{config.width, config.heads, taps_of(config), 0});
    case MixerKind::window:
      return std::make_unique<SdpaMixer<S>>(
          layout, name, SdpaMixerOptions{config.width, config.heads, taps_of(config), config.window});
  }
  throw std::invalid_argument("an unknown mixer");
}

}  // namespace language_model
