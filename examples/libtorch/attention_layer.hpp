// SPDX-License-Identifier: MIT
// gma::AttentionLayer as a torch::nn::Module. gma's layer owns the numbers and the module's parameters are views of
// them: any optimiser of torch steps the layer itself, and gma's verbs compute forward and backward passes.
#pragma once

#include <torch/csrc/autograd/custom_function.h>
#include <torch/nn/module.h>

#include <gma/gma.hpp>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tensors.hpp"

namespace gma_torch {

/// A layer and the memory of its passes. Several threads may run passes at the same time.
template <class S>
struct LayerNumbers {
  using Layer = gma::AttentionLayer<S>;
  using Named = std::vector<std::pair<std::string, Tensor>>;
  struct Caches {
    gma::LayerCache<S> forward;
    gma::LayerGradientCache<S> backward;
  };

  Layer layer;
  Named parameters;  // views of the layer's numbers, in gma's order
  std::mutex mutex;
  std::vector<std::unique_ptr<Caches>> idle;  // of passes that are over

  explicit LayerNumbers(Layer given) : layer(std::move(given)), parameters(views(layer, nullptr)) {}

  /// The parameters of a layer, or of a gradient, as tensors that keep their owner.
  static Named views(Layer& layer, const std::shared_ptr<Layer>& owner) {
    Named result;
    gma::visit_parameters(
        [&](const gma::Parameter& parameter, Eigen::Map<gma::Matrix<S>> values) {
          const std::vector<std::int64_t> shape(parameter.shape.begin(), parameter.shape.end());
          const auto keep = [owner](void*) {};
          result.emplace_back(parameter.name,
                              at::from_blob(values.data(), shape, keep, c10::CppTypeToScalarType<S>::value));
        },
        layer);
    return result;
  }
};

/// What a forward pass keeps for its backward pass: caches, which go back to the layer with the graph.
template <class S>
struct LayerPass : torch::CustomClassHolder {
  std::shared_ptr<LayerNumbers<S>> numbers;
  std::unique_ptr<typename LayerNumbers<S>::Caches> caches;

  explicit LayerPass(const std::shared_ptr<LayerNumbers<S>>& of) : numbers(of) {
    const std::lock_guard<std::mutex> lock(numbers->mutex);
    if (!numbers->idle.empty()) {
      caches = std::move(numbers->idle.back());
      numbers->idle.pop_back();
    } else {
      caches = std::make_unique<typename LayerNumbers<S>::Caches>();
    }
  }
  ~LayerPass() override {
    const std::lock_guard<std::mutex> lock(numbers->mutex);
    numbers->idle.push_back(std::move(caches));
  }
};

template <class S>
struct LayerFunction : torch::autograd::Function<LayerFunction<S>> {
  using Context = torch::autograd::AutogradContext;

  static Tensor forward(Context* context, const Tensor& x, at::TensorList parameters,
                        const std::shared_ptr<LayerNumbers<S>>& numbers) {
    const auto pass = c10::make_intrusive<LayerPass<S>>(numbers);
    const Tensor rows = x.reshape({-1, x.size(-1)}), y = at::empty_like(rows, {}, at::MemoryFormat::Contiguous);
    std::vector<std::int64_t> offsets;
    for (Index row = 0; row <= rows.size(0); row += x.size(-2)) offsets.push_back(row);
    const Threads threads;
    gma::forward_into(matrix<S>(y), numbers->layer, matrix<S>(rows), pass->caches->forward,
                      gma::Sequences::packed(std::move(offsets)), {&threads});
    context->save_for_backward(parameters.vec());
    context->saved_data["pass"] = c10::IValue::make_capsule(pass);
    return y.view(x.sizes());
  }

  static std::vector<Tensor> backward(Context* context, const std::vector<Tensor>& d_output) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "gma::AttentionLayer has no second derivative, expected no create_graph");
    context->get_saved_variables();  // throws if a parameter was stepped after the forward pass
    const auto pass = c10::static_intrusive_pointer_cast<LayerPass<S>>(context->saved_data["pass"].toCapsule());
    const gma::AttentionLayer<S>& layer = pass->numbers->layer;
    const auto gradient = std::make_shared<gma::AttentionLayer<S>>(layer.config);
    const Tensor d_y = d_output[0].reshape({-1, d_output[0].size(-1)}),
                 d_x = at::empty_like(d_y, {}, at::MemoryFormat::Contiguous);
    const Threads threads;
    gma::backward_into(matrix<S>(d_x), *gradient, layer, matrix<S>(d_y), pass->caches->forward, pass->caches->backward,
                       {&threads});
    std::vector<Tensor> result = {d_x.view(d_output[0].sizes())};
    for (const auto& [name, values] : LayerNumbers<S>::views(*gradient, gradient)) result.push_back(values);
    result.emplace_back();  // for `numbers`
    return result;
  }
};

extern template struct LayerFunction<float>;  // in attention_layer.cpp: passes of layers take long to compile
extern template struct LayerFunction<double>;

/// y = layer(x) for x [..., N, D] with autograd; each entry is one sequence. `parameters` are tensors over
/// the layer's numbers, in the order of numbers->parameters. They receive the gradients.
template <class S>
Tensor attend(const std::shared_ptr<LayerNumbers<S>>& numbers, const Tensor& x, at::TensorList parameters) {
  const Index width = numbers->layer.config.width;
  TORCH_CHECK_VALUE(x.dim() >= 2 && x.size(-1) == width && x.size(-2) > 0, "gma::AttentionLayer: x is ", x.sizes(),
                    ", expected [..., tokens, ", width, "]");
  TORCH_CHECK_TYPE(x.scalar_type() == c10::CppTypeToScalarType<S>::value && x.is_cpu(), "gma::AttentionLayer: x is ",
                   x.scalar_type(), " on ", x.device(), ", expected ", c10::CppTypeToScalarType<S>::value, " on cpu");
  TORCH_CHECK_VALUE(parameters.size() == numbers->parameters.size(), "gma::AttentionLayer: parameters has ",
                    parameters.size(), " tensors, expected ", numbers->parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto& [name, values] = numbers->parameters[i];
    TORCH_CHECK_VALUE(parameters[i].data_ptr() == values.data_ptr(), "gma::AttentionLayer: the parameter ", name,
                      " is another tensor now, expected new values in the old one (by copy_(), not by to() or assign)");
  }
  return LayerFunction<S>::apply(x, parameters, numbers);
}

/// The module. Its parameters have gma's names, "query.weight" or "mixtures.0.factors.1.means", for which it has
/// modules without a function: torch allows no dots in the name of a parameter.
template <class S>
class AttentionLayer : public torch::nn::Module {
 public:
  explicit AttentionLayer(gma::AttentionLayer<S> layer)
      : numbers_(std::make_shared<LayerNumbers<S>>(std::move(layer))) {
    for (const auto& [name, values] : numbers_->parameters) {
      torch::nn::Module* module = this;
      std::size_t begin = 0;
      for (std::size_t dot; (dot = name.find('.', begin)) != std::string::npos; begin = dot + 1) {
        const std::string part = name.substr(begin, dot - begin);
        const auto* const known = module->named_children().find(part);
        module = known != nullptr ? known->get() : module->register_module(part, std::make_shared<Names>()).get();
      }
      parameters_.push_back(module->register_parameter(name.substr(begin), values.detach()));
    }
  }

  /// x [..., N, D] -> [..., N, D]
  Tensor forward(const Tensor& x) { return attend(numbers_, x, parameters_); }

  /// gma's layer, for its other verbs: streams, steps, files.
  gma::AttentionLayer<S>& layer() { return numbers_->layer; }

 private:
  struct Names : torch::nn::Module {};

  std::shared_ptr<LayerNumbers<S>> numbers_;
  std::vector<Tensor> parameters_;
};

}  // namespace gma_torch
