// SPDX-License-Identifier: MIT
// A part of the layer: attention of every head through the product mixture of its key head, equations (1) to (8) and
// (10) of attention/DERIVATION.md, head by head:
//
//   M_t = exp(g_t) M_{t-1} + r(k_t) v_t^T        m_t = exp(g_t) m_{t-1} + r(k_t)        causal; slot k: g_t + s_tk
//   M   = sum_t r(k_t) v_t^T                     m   = sum_t r(k_t)                     bidirectional
//   y_t = the read of M and m by r(q_t), as the config's normalization says
//
// The gradients are those of the multi-head verbs (heads/heads_backward.hpp). A state holds the memories: M and m of
// every key head.
#pragma once

#include <utility>
#include <vector>

#include "gma/heads/heads_backward.hpp"
#include "gma/heads/heads_write.hpp"
#include "gma/layer/layer_rows.hpp"
#include "gma/layer/layer_state.hpp"
#include "gma/layer/memory_exchange.hpp"
#include "gma/mixture/usage.hpp"

namespace gma::detail {

/// f(a state's memory, its place in `memories`) for all memories of `count` states, in order.
template <class S, class F>
void for_each_memory(const StatePointers<LayerState<S>>& states, Index count, std::vector<Memory<S>>& memories,
                     const F& f) {
  std::size_t i = 0;
  for (Index s = 0; s < count; ++s) {
    for (Memory<S>& memory : states[s]->memories) f(memory, memories[i++]);
  }
}
template <class S>
void exchange_memories(const StatePointers<LayerState<S>>& states, Index count, std::vector<Memory<S>>& memories) {
  for_each_memory(states, count, memories, [](Memory<S>& memory, Memory<S>& other) { std::swap(memory, other); });
}

/// Puts the memories that the heads advance into `memories`: copies of the states' memories, or, in place, the states'
/// own, which the destructor swaps back.
template <class S>
class MemoryLoan {
 public:
  MemoryLoan(const StatePointers<LayerState<S>>& states, Index count, bool is_in_place,
             std::vector<Memory<S>>& memories)
      : states_(states), count_(count), is_in_place_(is_in_place), memories_(memories) {
    if (states.states == nullptr) return;
    std::size_t total = 0;
    for (Index s = 0; s < count; ++s) total += states[s]->memories.size();
    memories.resize(total);
    if (is_in_place) return;
    for_each_memory(states, count, memories, [](Memory<S>& memory, Memory<S>& copy) { copy_memory(memory, copy); });
  }
  ~MemoryLoan() {
    if (is_lent_) exchange_memories(states_, count_, memories_);
  }
  MemoryLoan(const MemoryLoan&) = delete;
  MemoryLoan& operator=(const MemoryLoan&) = delete;

  /// Null without states: the heads then begin with zeros. In place the states are torn from here on.
  std::vector<Memory<S>>* begin() {
    if (states_.states == nullptr) return nullptr;
    is_lent_ = is_in_place_;
    if (is_lent_) {
      for (Index s = 0; s < count_; ++s) states_[s]->is_torn = true;
      exchange_memories(states_, count_, memories_);
    }
    return &memories_;
  }

 private:
  const StatePointers<LayerState<S>> states_;
  Index count_;
  bool is_in_place_, is_lent_ = false;
  std::vector<Memory<S>>& memories_;
};

/// Copies the memories of all sequences into one vector, which is empty if there are no states.
template <class S>
void gather_memories(const StatePointers<const LayerState<S>>& states, Index count, std::vector<Memory<S>>& memories) {
  std::size_t total = 0, i = 0;
  for (Index s = 0; s < count && states[s] != nullptr; ++s) total += states[s]->memories.size();
  memories.resize(total);
  for (Index s = 0; s < count && states[s] != nullptr; ++s) {
    for (const Memory<S>& memory : states[s]->memories) copy_memory(memory, memories[i++]);
  }
}

template <class S>
struct MixtureAttention {
  const PassRows<S>& rows;
  const HeadInputs<S>& inputs;              // the packed sequences, and log-forgetting, that of slots too
  const Matrix<S>&queries, &keys, &values;  // N x Hq d, N x H d, N x H e

  /// y, N x Hq e, is assigned. An exchange (null: none) says what the memories are at first. If there are states,
  /// `memories` then holds the memories after the last token. In place the states hold them, and are torn until all
  /// parts have advanced.
  template <class Maps>
  void forward(const Maps& mixtures, const StatePointers<LayerState<S>>& states, bool is_in_place,
               MemoryExchange<S>* exchange, std::vector<Memory<S>>& memories, Matrix<S>& y) const {
    const HeadTensor<S> out = split_heads(y, rows.shape.query_heads);
    if (rows.config.is_causal) {
      MemoryLoan<S> loan(states, rows.sequences(), is_in_place, memories);
      if (exchange != nullptr) {
        memories.clear();
        if (exchange->wants_totals()) {
          write_heads(mixtures, keys, values, options(), inputs, memories, rows.workspace);
        }
        exchange->before(memories);
      }
      causal_heads(HeadsSink<S>(out), mixtures, HeadsView<S>(q()), HeadsView<S>(k()), HeadsView<S>(v()), options(),
                   inputs, rows.workspace, [&](const HeadCall&, const auto&, const auto&) { return loan.begin(); });
    } else {
      bidirectional_into(out, mixtures, q(), k(), v(), options(), inputs, rows.workspace);
    }
  }

  /// Assigns `gradients`, memories included, and also adds those of the mixtures to d_mixtures. `before` holds the
  /// memories before the first token, d_after the gradients of those after the last. Empty stands for zeros.
  template <class Mixture>
  void backward(const std::vector<Mixture>& mixtures, const Matrix<S>& dy, const std::vector<Memory<S>>& before,
                const std::vector<Memory<S>>& d_after, MemoryExchange<S>* exchange, HeadGradients<Mixture>& gradients,
                std::vector<Mixture>& d_mixtures) const {
    const HeadTensor<const S> d_out = split_heads(dy, rows.shape.query_heads);
    if (rows.config.is_causal) {
      causal_backward_into(gradients, mixtures, q(), k(), v(), d_out, before, d_after, options(), inputs,
                           rows.workspace);
      if (exchange != nullptr) {
        const std::vector<Memory<S>> further = exchange->d_after(gradients.memories);
        if (!further.empty()) {
          add_write_heads_backward(mixtures, keys, values, before, further, options(), inputs, gradients,
                                   rows.workspace);
        }
      }
    } else {
      bidirectional_backward_into(gradients, mixtures, q(), k(), v(), d_out, options(), inputs, rows.workspace);
    }
    for (std::size_t h = 0; h < mixtures.size(); ++h) add_parameters(d_mixtures[h], gradients.mixtures[h]);
  }

  /// Adds the gradients of `factor` times usage_penalty() of every head's keys. Returns the penalty times `factor`.
  template <class Mixture>
  double add_usage_penalty(const std::vector<Mixture>& mixtures, double factor, Matrix<S>& d_keys,
                           std::vector<Mixture>& d_mixtures) const {
    double total = 0;
    if constexpr (is_feature_map<Mixture>) {
      invalid_argument("backward", "options.usage_penalty is set, expected 0 where there is no mixture");
    } else {
      for (std::size_t h = 0; h < mixtures.size(); ++h) {
        const Index d = rows.shape.head_width, begin = static_cast<Index>(h) * d;
        const UsagePenaltyGradients<Mixture> penalty =
            usage_penalty_backward(mixtures[h], keys.middleCols(begin, d), S(factor));
        d_keys.middleCols(begin, d) += penalty.tokens;
        add_parameters(d_mixtures[h], penalty.mixture);
        total += factor * static_cast<double>(penalty.value);
      }
    }
    return total;
  }

 private:
  HeadTensor<const S> q() const { return split_heads(queries, rows.shape.query_heads); }
  HeadTensor<const S> k() const { return split_heads(keys, rows.shape.key_heads); }
  HeadTensor<const S> v() const { return split_heads(values, rows.shape.key_heads); }
  Options options() const {
    Options options;
    options.normalization = rows.config.normalization;
    options.executor = rows.executor;
    options.segment = rows.segment;
    return options;
  }
};

}  // namespace gma::detail
