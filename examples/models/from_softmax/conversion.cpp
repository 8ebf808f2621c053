// SPDX-License-Identifier: MIT

#include "conversion.hpp"

#include <map>

#include "language_model/model.hpp"

namespace from_softmax {

namespace {

using Entry = transformer::Layout::Entry;

// The tensors of both mixers, by the end of their names. A softmax mixer has queries, keys and values in one matrix
// [D, 3D] and one filter [taps, 3D]; the layer has three matrices [out, in] and three filters [D, taps].
struct Part {
  const char *of_layer, *of_softmax;
  Index third;  // of the columns
};
constexpr Part parts[] = {{"query.weight", "qkv.weight", 0},       {"key.weight", "qkv.weight", 1},
                          {"value.weight", "qkv.weight", 2},       {"query.filter", "convolution.filter", 0},
                          {"key.filter", "convolution.filter", 1}, {"value.filter", "convolution.filter", 2},
                          {"output.weight", "out.weight", -1}};

class Source {
 public:
  Source(const Checkpoint& softmax, const Layout& layout) : parameters_(softmax.state.parameters) {
    for (const Entry& entry : layout.entries()) entries_[entry.name] = &entry;
  }

  // Copies what belongs to this tensor of the new model; false if there is nothing.
  bool copy(const Entry& to, Taken taken, Vector<float>& parameters) const {
    const std::string mixer = ".mixer.";
    const std::size_t at = to.name.find(mixer);
    if (at == std::string::npos) {
      const Entry* from = find(to.name);
      if (from == nullptr) return false;
      view(parameters, to.tensor) = view(parameters_, from->tensor);
      return true;
    }
    if (taken != Taken::projections) return false;
    const std::string prefix = to.name.substr(0, at + mixer.size()), rest = to.name.substr(at + mixer.size());
    for (const Part& part : parts) {
      const Entry* from = rest == part.of_layer ? find(prefix + part.of_softmax) : nullptr;
      if (from == nullptr) continue;
      const auto all = view(parameters_, from->tensor);
      const Index width = part.third < 0 ? all.cols() : all.cols() / 3;
      view(parameters, to.tensor) = all.middleCols((std::max)(part.third, Index(0)) * width, width).transpose();
      return true;
    }
    return false;
  }

 private:
  const Entry* find(const std::string& name) const {
    const auto it = entries_.find(name);
    return it == entries_.end() ? nullptr : it->second;
  }

  const Vector<float>& parameters_;
  std::map<std::string, const Entry*> entries_;
};

}  // namespace

ModelConfig converted(const ModelConfig& softmax, const ModelConfig& options) {
  require(softmax.mixer == MixerKind::sdpa && softmax.is_causal,
          std::string("the mixer of the model is ") + name_of(softmax.mixer) + ", expected a causal sdpa");
  ModelConfig config = softmax;
  config.mixer = MixerKind::gma;
  config.components = options.components;
  config.slot_forgetting = options.slot_forgetting;
  config.gma_window = options.gma_window;
  config.has_output_norm = options.has_output_norm;
  config.has_output_gate = options.has_output_gate;
  config.forgetting_fastest = options.forgetting_fastest;
  config.forgetting_slowest = options.forgetting_slowest;
  config.convolution = taps_of(softmax) > 1 ? taps_of(softmax) : options.convolution;
  config.cache = 0;
  config.has_unit_queries = false;
  return config;
}

Conversion convert(const Checkpoint& softmax, const ModelConfig& gma, Taken taken, std::uint64_t seed) {
  const Model<float> model(gma);
  const Layout old_layout = layout_of(softmax.model);
  const Source source(softmax, old_layout);
  Conversion result;
  result.parameters = model.initial_parameters(seed);
  if (taken == Taken::nothing) return result;
  for (const Entry& entry : model.layout().entries())
    if (source.copy(entry, taken, result.parameters)) result.taken.push_back(entry.name);
  return result;
}

}  // namespace from_softmax
