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

template <class S>
std::unique_ptr<Mixer<S>> make_mixer(const ModelConfig& config, Layout& layout, const std::string& name) {
  if (config.mixer == MixerKind::sdpa) return std::make_unique<SdpaMixer<S>>(layout, name, config.width, config.heads);
  GmaMixerOptions options;
  options.width = config.width;
  options.heads = config.heads;
  if (config.mixer == MixerKind::gma_plain) {
    options.components = {config.plain_components};
    options.convolution = 1;
    options.has_forgetting = false;
  } else {
    options.components = config.components;
    options.convolution = config.convolution;
    options.forgetting_fastest = config.forgetting_fastest;
    options.forgetting_slowest = config.forgetting_slowest;
  }
  return std::make_unique<GmaMixer<S>>(layout, name, options);
}

}  // namespace language_model
