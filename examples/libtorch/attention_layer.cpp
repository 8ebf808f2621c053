// SPDX-License-Identifier: MIT
// The attention layer as classes of TorchScript, which Python reaches without a binding: gma_torch.py makes an
// nn.Module of them.
#include "attention_layer.hpp"

#include <torch/custom_class.h>

#include <cstdint>
#include <tuple>

namespace gma_torch {

template struct LayerFunction<float>;
template struct LayerFunction<double>;

namespace {

template <class S>
class LayerOfPython : public torch::CustomClassHolder {
 public:
  LayerOfPython(Index width, Index heads, Index key_value_heads, std::vector<Index> components, bool is_causal,
                Index convolution, bool has_forgetting, Index slot_forgetting_rank, Index window, bool has_output_norm,
                bool has_output_gate, Index seed) {
    gma::LayerConfig config;
    config.width = width;
    config.heads = heads;
    config.key_value_heads = key_value_heads;
    config.components = std::move(components);
    config.is_causal = is_causal;
    config.convolution = convolution;
    config.has_forgetting = has_forgetting;
    config.slot_forgetting_rank = slot_forgetting_rank;
    config.window = window;
    config.has_output_norm = has_output_norm;
    config.has_output_gate = has_output_gate;
    numbers_ = std::make_shared<LayerNumbers<S>>(gma::random_layer<S>(config, static_cast<std::uint64_t>(seed)));
  }

  std::vector<std::tuple<std::string, Tensor>> parameters() const {
    return {numbers_->parameters.begin(), numbers_->parameters.end()};
  }
  Tensor forward(const Tensor& x, std::vector<Tensor> parameters) const { return attend(numbers_, x, parameters); }

 private:
  std::shared_ptr<LayerNumbers<S>> numbers_;
};

template <class S>
void define(torch::Library& library, const char* name) {
  library.class_<LayerOfPython<S>>(name)
      .def(torch::init<Index, Index, Index, std::vector<Index>, bool, Index, bool, Index, Index, bool, bool, Index>())
      .def("parameters", &LayerOfPython<S>::parameters)
      .def("forward", &LayerOfPython<S>::forward);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(gma, library) {
  define<float>(library, "AttentionLayerFloat");
  define<double>(library, "AttentionLayerDouble");
}

}  // namespace gma_torch
