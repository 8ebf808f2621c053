// SPDX-License-Identifier: MIT

#include "routing.hpp"

#include <cmath>
#include <gma/mixture/responsibilities.hpp>
#include <stdexcept>
#include <string>

#include "transformer/mixer_layer.hpp"

namespace inspect_routing {

namespace {

using Mixer = transformer::LayerMixer<float>;

const Mixer& mixer_of(const language_model::Model<float>& model, Index layer) {
  return dynamic_cast<const Mixer&>(model.blocks().mixer(layer));
}

const transformer::ModelConfig& with_components(const transformer::ModelConfig& config) {
  if (config.mixer != transformer::MixerKind::gma && config.mixer != transformer::MixerKind::gma_plain)
    throw std::runtime_error(std::string("the model's mixer is ") + name_of(config.mixer) +
                             ", which has no Gaussian components to look at; expected gma or gma-plain");
  return config;
}

}  // namespace

RoutingReader::RoutingReader(const language_model::Checkpoint& checkpoint)
    : checkpoint_(checkpoint), model_(with_components(checkpoint.model)), cache_(model_.make_cache()) {
  model_.prepare(checkpoint_.state.parameters);
}

Index RoutingReader::components() const { return mixer_of(model_, 0).layer().mixtures.front().components(); }

std::vector<double> RoutingReader::temperatures(Index layer, Index head) const {
  std::vector<double> result;
  for (const auto& factor : mixer_of(model_, layer).layer().mixtures[std::size_t(head)].factors)
    result.push_back(std::exp(double(factor.log_temperature)));
  return result;
}

void RoutingReader::read(const Token* tokens, Index count, const Visitor& visit) {
  model_.forward(checkpoint_.state.parameters, tokens, count, nullptr, cache_);
  HeadRouting routing;
  for (Index l = 0; l < checkpoint_.model.layers; ++l) {
    const auto& layer = mixer_of(model_, l).layer();
    const auto& forward = Mixer::forward_cache(*cache_.blocks.blocks[std::size_t(l)].mixer);
    const Index width = forward.keys.cols() / checkpoint_.model.heads;
    for (Index h = 0; h < checkpoint_.model.heads; ++h) {
      const auto& mixture = layer.mixtures[std::size_t(h)];
      routing.keys = gma::responsibilities(mixture, forward.keys.middleCols(h * width, width));
      routing.queries = gma::responsibilities(mixture, forward.queries.middleCols(h * width, width));
      if (layer.config.has_forgetting) routing.log_forgetting = forward.inputs.log_forgetting.col(h).cast<double>();
      visit(l, h, routing);
    }
  }
}

}  // namespace inspect_routing
