// SPDX-License-Identifier: MIT
// What the segments of one stream need besides a causal pass, for many heads: what a segment writes to zeros, and the
// gradients through the memories after it. Keys are N x (H d), values N x (H e), matrices or views of them.
#pragma once

#include <vector>

#include "gma/attention/write_backward.hpp"
#include "gma/heads/heads_backward.hpp"

namespace gma::detail {

/// f(head, options, the head's token inputs, workspace) for all heads, in parallel.
template <class S, class F>
void for_each_head(std::size_t heads, const Options& options, const HeadInputs<S>& inputs, Workspace<S>& workspace,
                   const F& f) {
  Options each = options;
  if (heads > 1) each.executor = nullptr;
  const Executor* const executor = heads > 1 ? options.executor : nullptr;
  workspace.prepare_workers(workers(executor));
  parallel_for(executor, static_cast<Index>(heads), [&](Index h, Index worker) {
    TokenInputs<S> tokens;
    tokens.key_weights = inputs.key_weights;
    if (inputs.log_forgetting.size() != 0) tokens.log_forgetting = inputs.log_forgetting.col(h);
    f(h, each, tokens, workspace.worker(worker));
  });
}

/// memories[h] = what the keys of head h write to zeros.
template <class Map, class Keys, class Values, class S>
void write_heads(const std::vector<Map>& mixtures, const Keys& keys, const Values& values, const Options& options,
                 const HeadInputs<S>& inputs, std::vector<Memory<S>>& memories, Workspace<S>& workspace) {
  const Index heads = static_cast<Index>(mixtures.size()), d = keys.cols() / heads, e = values.cols() / heads;
  memories.assign(mixtures.size(), Memory<S>());
  for_each_head<S>(mixtures.size(), options, inputs, workspace,
                   [&](Index h, const Options& each, const TokenInputs<S>& tokens, Workspace<S>& scratch) {
                     write(mixtures[static_cast<std::size_t>(h)], keys.middleCols(h * d, d),
                           values.middleCols(h * e, e), memories[static_cast<std::size_t>(h)], each, tokens, scratch);
                   });
}

/// Adds the gradients of a write of all heads, from the memories before it (none: zeros) and the gradients of those
/// after it.
template <class M, class Keys, class Values, class S>
void add_write_heads_backward(const std::vector<M>& mixtures, const Keys& keys, const Values& values,
                              const std::vector<Memory<S>>& before, const std::vector<Memory<S>>& d_after,
                              const Options& options, const HeadInputs<S>& inputs, HeadGradients<M>& gradients,
                              Workspace<S>& workspace) {
  const Index heads = static_cast<Index>(mixtures.size()), d = keys.cols() / heads, e = values.cols() / heads;
  const Memory<S> zeros;
  std::vector<Vector<S>> d_weights(mixtures.size());  // all heads share the weights
  for_each_head<S>(mixtures.size(), options, inputs, workspace,
                   [&](Index h, const Options& each, const TokenInputs<S>& tokens, Workspace<S>& scratch) {
                     const std::size_t at = static_cast<std::size_t>(h);
                     Gradients<M> one;
                     write_backward_into(one, mixtures[at], keys.middleCols(h * d, d), values.middleCols(h * e, e),
                                         before.empty() ? zeros : before[at], d_after[at], each, tokens, scratch);
                     gradients.keys.middleCols(h * d, d) += one.keys;
                     gradients.values.middleCols(h * e, e) += one.values;
                     if (one.log_forgetting.size() != 0) gradients.log_forgetting.col(h) += one.log_forgetting;
                     gradients.memories[at].slots += one.memory.slots;
                     gradients.memories[at].mass += one.memory.mass;
                     gradients.memories[at].log_forgetting += one.memory.log_forgetting;
                     add_parameters(gradients.mixtures[at], one.mixture);
                     d_weights[at].swap(one.key_weights);
                   });
  for (const Vector<S>& part : d_weights) gradients.key_weights += part;
}

}  // namespace gma::detail
