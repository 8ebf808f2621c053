// SPDX-License-Identifier: MIT
// Attention of many heads as an operator of torch, with gradients, and with the shapes that torch.compile asks for:
//
//   torch.ops.gma.attention(queries, keys, values, mixtures, log_forgetting=None, is_causal=True, normalization="slot")
//
//   queries [B, Hq, Nq, d], keys [B, H, Nk, d], values [B, H, Nk, e] -> [B, Hq, Nq, e], of any strides. Hq is a
//     multiple of H: a key head serves Hq / H query heads in order. float, double, bfloat16 or half; 16 bits are
//     storage only, gma computes in float.
//   mixtures: four tensors per factor of the product mixtures, one mixture per key head, in the type of computation:
//     weight_logits [H, K], means [H, K, w], log_scales [H, K, w], log_temperature [H]; the widths w add up to d.
//   log_forgetting [B, H, Nk], <= 0, causal only: the memory is multiplied by its exponential before a token is
//   written.
//
// Nothing is copied but parameters and log_forgetting. Gradients are computed for the inputs that ask for one.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <gma/gma.hpp>
#include <string>
#include <vector>

#include "tensors.hpp"

namespace gma_torch {
namespace {

using OptionalTensor = c10::optional<Tensor>;
using Tensors = std::vector<Tensor>;

/// All tensors of a call in one list: queries, keys, values, four per factor, and log_forgetting where it is given.
Tensors listed(const Tensor& queries, const Tensor& keys, const Tensor& values, at::TensorList mixtures,
               const OptionalTensor& log_forgetting) {
  TORCH_CHECK_VALUE(!mixtures.empty() && mixtures.size() % 4 == 0, "gma::attention: mixtures has ", mixtures.size(),
                    " tensors, expected four per factor");
  Tensors all = {queries, keys, values};
  all.insert(all.end(), mixtures.begin(), mixtures.end());
  if (log_forgetting.has_value() && log_forgetting->defined()) all.push_back(*log_forgetting);
  return all;
}
bool has_forgetting(at::TensorList all) { return all.size() % 4 == 0; }
std::size_t factors(at::TensorList all) { return (all.size() - 3) / 4; }

// Checks. To torch.compile sizes may be symbols. --------------------------------------------------------------------

gma::Normalization normalization_of(const std::string& name) {
  if (name == "row") return gma::Normalization::row;
  if (name == "none") return gma::Normalization::none;
  TORCH_CHECK_VALUE(name == "slot", "gma::attention: normalization is '", name, "', expected 'slot', 'row' or 'none'");
  return gma::Normalization::slot;
}

void check_tensor(const std::string& name, const Tensor& t, at::ScalarType type, const at::Device& device,
                  const std::vector<c10::SymInt>& shape, const char* meaning) {
  TORCH_CHECK_VALUE(t.device() == device, "gma::attention: ", name, " is on ", t.device(), ", expected ", device,
                    " (as queries)");
  TORCH_CHECK_TYPE(t.scalar_type() == type, "gma::attention: ", name, " is ", t.scalar_type(), ", expected ", type);
  TORCH_CHECK_VALUE(t.sym_sizes() == c10::SymIntArrayRef(shape), "gma::attention: ", name, " is ", t.sym_sizes(),
                    ", expected ", c10::SymIntArrayRef(shape), " (", meaning, ")");
}

void check(at::TensorList all, bool is_causal) {
  const Tensor &q = all[0], &k = all[1], &v = all[2];
  const at::ScalarType type = q.scalar_type();
  const bool is_16_bit = type == at::kBFloat16 || type == at::kHalf;
  TORCH_CHECK_TYPE(is_16_bit || type == at::kFloat || type == at::kDouble, "gma::attention: queries is ", type,
                   ", expected float, double, bfloat16 or half");
  const at::ScalarType computed = is_16_bit ? at::kFloat : type;
  for (std::size_t i = 0; i < 3; ++i) {
    const char* const names[] = {"queries", "keys", "values"};
    TORCH_CHECK_VALUE(all[i].dim() == 4, "gma::attention: ", names[i], " has ", all[i].dim(),
                      " dimensions, expected 4 (batch, heads, tokens, width)");
  }
  const c10::SymInt batch = q.sym_size(0), heads = k.sym_size(1), tokens = is_causal ? q.sym_size(2) : k.sym_size(2);
  check_tensor("keys", k, type, q.device(), {batch, heads, tokens, q.sym_size(3)}, "batch, heads, tokens, width");
  check_tensor("values", v, type, q.device(), {batch, heads, tokens, v.sym_size(3)}, "as keys, of any width");
  TORCH_CHECK_VALUE(heads != 0 && q.sym_size(1) % heads == 0, "gma::attention: queries has ", q.sym_size(1),
                    " heads, expected a multiple of ", heads, " (the heads of keys)");
  c10::SymInt width = 0;
  for (std::size_t m = 0; m < factors(all); ++m) {
    const at::TensorList parts = all.slice(3 + 4 * m, 4);
    const auto name = [&](const char* part) { return std::string(part) + " of factor " + std::to_string(m); };
    TORCH_CHECK_VALUE(parts[1].dim() == 3, "gma::attention: ", name("means"), " has ", parts[1].dim(),
                      " dimensions, expected 3 (heads, components, width)");
    const c10::SymInt k_m = parts[1].sym_size(1), w = parts[1].sym_size(2);
    check_tensor(name("weight_logits"), parts[0], computed, q.device(), {heads, k_m}, "heads, components");
    check_tensor(name("means"), parts[1], computed, q.device(), {heads, k_m, w}, "heads, components, width");
    check_tensor(name("log_scales"), parts[2], computed, q.device(), {heads, k_m, w}, "as means");
    check_tensor(name("log_temperature"), parts[3], computed, q.device(), {heads}, "heads");
    width = width + w;
  }
  TORCH_CHECK_VALUE(width == q.sym_size(3), "gma::attention: mixtures have ", width, " columns, expected ",
                    q.sym_size(3), " (the width of queries)");
  if (!has_forgetting(all)) return;
  TORCH_CHECK_VALUE(is_causal, "gma::attention: log_forgetting is given, expected none: is_causal is False");
  check_tensor("log_forgetting", all.back(), computed, q.device(), {batch, heads, tokens}, "batch, heads, tokens");
}

/// Where the output goes: in the order of the queries' strides, so that [B, N, H, d] in memory gives [B, N, H, d].
Tensor empty_output(at::TensorList all) {
  const Tensor &q = all[0], &v = all[2];
  if (v.sym_size(3) == q.sym_size(3)) return at::empty_like(q);
  const c10::SymInt sizes[] = {q.sym_size(0), q.sym_size(1), q.sym_size(2), v.sym_size(3)};
  return q.new_empty_symint(sizes);
}

/// One for each input whose number is wanted. Those of mixtures have no gaps.
Tensors empty_gradients(at::TensorList all, at::IntArrayRef wanted) {
  Tensors gradients;
  for (const Index i : wanted) {
    const at::MemoryFormat format = i < 3 ? at::MemoryFormat::Preserve : at::MemoryFormat::Contiguous;
    gradients.push_back(at::empty_like(all[static_cast<std::size_t>(i)], {}, format));
  }
  return gradients;
}

// On the CPU. -------------------------------------------------------------------------------------------------------

template <class S>
using Mixtures = std::vector<gma::ProductMixture<S>>;

/// copy(numbers of a tensor, numbers of a mixture, count) for every parameter of every head. Tensors are without gaps;
/// an undefined one gives null.
template <class S, class Copy>
void for_each_parameter(const Tensor* tensors, Mixtures<S>& mixtures, const Copy& copy) {
  for (std::size_t h = 0; h < mixtures.size(); ++h) {
    for (std::size_t m = 0; m < mixtures[h].factors.size(); ++m) {
      gma::Mixture<S>& mixture = mixtures[h].factors[m];
      const auto one = [&](std::size_t part, S* numbers, Index count) {
        const Tensor& tensor = tensors[4 * m + part];
        copy(tensor.defined() ? tensor.data_ptr<S>() + static_cast<Index>(h) * count : nullptr, numbers, count);
      };
      one(0, mixture.weight_logits.data(), mixture.weight_logits.size());
      one(1, mixture.means.data(), mixture.means.size());
      one(2, mixture.log_scales.data(), mixture.log_scales.size());
      one(3, &mixture.log_temperature, 1);
    }
  }
}

/// What gma's verbs take, made of a call's tensors. Workspaces stay with the threads that call.
template <class S>
struct Call {
  Mixtures<S> mixtures;
  gma::HeadInputs<S> inputs;
  gma::Options options;
  Threads threads;
  gma::Workspace<S>& workspace;

  Call(at::TensorList all, const std::string& normalization) : workspace(workspace_of_thread()) {
    gma::ProductMixture<S> one;
    Tensors parameters;
    for (std::size_t m = 0; m < factors(all); ++m) {
      for (const Tensor& part : all.slice(3 + 4 * m, 4)) parameters.push_back(part.contiguous());
      const Tensor& means = parameters[4 * m + 1];
      one.factors.emplace_back(means.size(1), means.size(2));
    }
    mixtures.assign(static_cast<std::size_t>(all[1].size(1)), one);
    for_each_parameter<S>(parameters.data(), mixtures,
                          [](const S* tensor, S* numbers, Index count) { std::copy_n(tensor, count, numbers); });
    if (has_forgetting(all)) {
      const Tensor by_token = all.back().transpose(1, 2);  // [B, N, H]
      inputs.log_forgetting.resize(by_token.size(0) * by_token.size(1), by_token.size(2));
      at::from_blob(inputs.log_forgetting.data(), by_token.sizes(), by_token.options()).copy_(by_token);
    }
    options.normalization = normalization_of(normalization);
    options.executor = &threads;
  }

  static gma::Workspace<S>& workspace_of_thread() {
    static thread_local gma::Workspace<S> workspace;
    return workspace;
  }
};

template <class S>
void forward_on_cpu(const Tensor& output, at::TensorList all, bool is_causal, const std::string& normalization) {
  Call<S> call(all, normalization);
  const gma::HeadsOut<S> y = out<S>(output);
  const gma::HeadsIn<S> q = in<S>(all[0]), k = in<S>(all[1]), v = in<S>(all[2]);
  if (is_causal) {
    gma::causal_into(y, call.mixtures, q, k, v, call.options, call.inputs, call.workspace);
  } else {
    gma::bidirectional_into(y, call.mixtures, q, k, v, call.options, call.inputs, call.workspace);
  }
}

template <class S>
void backward_on_cpu(const Tensors& gradients, const Tensor& d_output, at::TensorList all, bool is_causal,
                     const std::string& normalization, at::IntArrayRef wanted) {
  Call<S> call(all, normalization);
  Tensors to(all.size());  // undefined: not wanted
  for (std::size_t i = 0; i < wanted.size(); ++i) to[static_cast<std::size_t>(wanted[i])] = gradients[i];
  const auto target = [](const Tensor& t) { return t.defined() ? out<S>(t) : gma::HeadsOut<S>(); };
  Mixtures<S> d_mixtures;
  gma::HeadGradientTargets<gma::ProductMixture<S>> targets;
  targets.queries = target(to[0]);
  targets.keys = target(to[1]);
  targets.values = target(to[2]);
  if (has_forgetting(all) && to.back().defined()) targets.log_forgetting = out<S>(to.back().unsqueeze(3));
  const auto is_parameter = [&](Index i) { return i >= 3 && static_cast<std::size_t>(i) < 3 + 4 * factors(all); };
  const bool wants_mixtures = std::any_of(wanted.begin(), wanted.end(), is_parameter);
  if (wants_mixtures) targets.mixtures = &d_mixtures;

  const gma::HeadsIn<S> q = in<S>(all[0]), k = in<S>(all[1]), v = in<S>(all[2]), d_y = in<S>(d_output);
  if (is_causal) {
    gma::causal_backward_into(targets, call.mixtures, q, k, v, d_y, {}, {}, call.options, call.inputs, call.workspace);
  } else {
    gma::bidirectional_backward_into(targets, call.mixtures, q, k, v, d_y, call.options, call.inputs, call.workspace);
  }
  if (!wants_mixtures) return;
  for_each_parameter<S>(to.data() + 3, d_mixtures, [](S* tensor, const S* numbers, Index count) {
    if (tensor != nullptr) std::copy_n(numbers, count, tensor);
  });
}

Tensor attention_on_cpu(const Tensor& queries, const Tensor& keys, const Tensor& values, at::TensorList mixtures,
                        const OptionalTensor& log_forgetting, bool is_causal, std::string normalization) {
  const Tensors all = listed(queries, keys, values, mixtures, log_forgetting);
  check(all, is_causal);
  const Tensor output = empty_output(all);
  if (queries.scalar_type() == at::kDouble) {
    forward_on_cpu<double>(output, all, is_causal, normalization);
  } else {
    forward_on_cpu<float>(output, all, is_causal, normalization);
  }
  return output;
}

Tensors attention_backward_on_cpu(const Tensor& d_output, at::TensorList all, bool is_causal, std::string normalization,
                                  at::IntArrayRef wanted) {
  const Tensors gradients = empty_gradients(all, wanted);
  if (d_output.scalar_type() == at::kDouble) {
    backward_on_cpu<double>(gradients, d_output, all, is_causal, normalization, wanted);
  } else {
    backward_on_cpu<float>(gradients, d_output, all, is_causal, normalization, wanted);
  }
  return gradients;
}

// Shapes alone, for meta tensors and torch.compile. -----------------------------------------------------------------

Tensor attention_on_meta(const Tensor& queries, const Tensor& keys, const Tensor& values, at::TensorList mixtures,
                         const OptionalTensor& log_forgetting, bool is_causal, std::string normalization) {
  const Tensors all = listed(queries, keys, values, mixtures, log_forgetting);
  check(all, is_causal);
  normalization_of(normalization);
  return empty_output(all);
}

Tensors attention_backward_on_meta(const Tensor&, at::TensorList all, bool, std::string, at::IntArrayRef wanted) {
  return empty_gradients(all, wanted);
}

// Autograd. ---------------------------------------------------------------------------------------------------------

template <class Function>
auto op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").template typed<Function>();
}

struct Attention : torch::autograd::Function<Attention> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& queries, const Tensor& keys,
                        const Tensor& values, at::TensorList mixtures, const OptionalTensor& log_forgetting,
                        bool is_causal, const std::string& normalization) {
    const at::AutoDispatchBelowADInplaceOrView below_autograd;
    context->save_for_backward(listed(queries, keys, values, mixtures, log_forgetting));
    context->saved_data["is_causal"] = is_causal;
    context->saved_data["normalization"] = normalization;
    static const auto attention = op<decltype(attention_on_cpu)>("gma::attention");
    return attention.call(queries, keys, values, mixtures, log_forgetting, is_causal, normalization);
  }

  static Tensors backward(torch::autograd::AutogradContext* context, const Tensors& d_output) {
    const Tensors all = context->get_saved_variables();
    std::vector<Index> wanted;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (context->needs_input_grad(i)) wanted.push_back(static_cast<Index>(i));
    }
    static const auto attention_backward = op<decltype(attention_backward_on_cpu)>("gma::attention_backward");
    const Tensors gradients = attention_backward.call(d_output[0], all, context->saved_data["is_causal"].toBool(),
                                                      context->saved_data["normalization"].toStringRef(), wanted);
    Tensors result(all.size() + (has_forgetting(all) ? 2 : 3));  // one per argument; undefined: no gradient
    for (std::size_t i = 0; i < wanted.size(); ++i) result[static_cast<std::size_t>(wanted[i])] = gradients[i];
    return result;
  }
};

Tensor attention_with_autograd(const Tensor& queries, const Tensor& keys, const Tensor& values, at::TensorList mixtures,
                               const OptionalTensor& log_forgetting, bool is_causal, std::string normalization) {
  return Attention::apply(queries, keys, values, mixtures, log_forgetting, is_causal, normalization);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(gma, library) {
  library.def(
      "attention(Tensor queries, Tensor keys, Tensor values, Tensor[] mixtures, Tensor? log_forgetting=None, "
      "bool is_causal=True, str normalization=\"slot\") -> Tensor");
  library.def(  // `all` tensors of the forward call in one list, and the gradients of those whose numbers are wanted
      "attention_backward(Tensor d_output, Tensor[] all, bool is_causal, str normalization, int[] wanted) -> Tensor[]");
}
TORCH_LIBRARY_IMPL(gma, CPU, library) {
  library.impl("attention", attention_on_cpu);
  library.impl("attention_backward", attention_backward_on_cpu);
}
TORCH_LIBRARY_IMPL(gma, Meta, library) {
  library.impl("attention", attention_on_meta);
  library.impl("attention_backward", attention_backward_on_meta);
}
TORCH_LIBRARY_IMPL(gma, Autograd, library) {
  library.impl("attention", attention_with_autograd);
  library.impl("attention_backward", torch::autograd::autogradNotImplementedFallback());  // no second derivative
}

}  // namespace gma_torch
