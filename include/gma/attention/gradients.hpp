// SPDX-License-Identifier: MIT
// What a backward verb returns: the gradient of everything that was given, each with the type of what it is the
// gradient of.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "gma/attention/memory.hpp"
#include "gma/core/parallel.hpp"
#include "gma/kernels/scan.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma {

/// Gradients of a scalar loss. What a verb was not given stays empty. `memory` is the gradient of the memory before the
/// first token (of a memory of zeros if none was given), for read_backward of the memory that was read.
template <class M>
struct Gradients {
  using Scalar = typename M::Scalar;

  Matrix<Scalar> queries;         ///< Nq x d
  Matrix<Scalar> keys;            ///< Nk x d
  Matrix<Scalar> values;          ///< Nk x e
  Vector<Scalar> key_weights;     ///< Nk, if weights were given
  Vector<Scalar> log_forgetting;  ///< Nk, if forgetting was given
  Memory<Scalar> memory;          ///< K x e; K
  M mixture;                      ///< same type as the parameters
};

namespace detail {

/// The gradients of what came with the tokens, without the mixture's: what the inner loops fill.
template <class S>
struct TokenGradients {
  Matrix<S>&queries, &keys, &values;
  Vector<S>&key_weights, &log_forgetting;
  Memory<S>& memory;
};
template <class M>
TokenGradients<typename M::Scalar> token_gradients(Gradients<M>& all) {
  return {all.queries, all.keys, all.values, all.key_weights, all.log_forgetting, all.memory};
}

/// One more such accumulator for every chunk of tokens that runs at the same time as others.
template <class FeatureMap, class S>
class PartialGradients {
 public:
  PartialGradients(const FeatureMap& map, Index stretches, const Executor* executor, Workspace<S>& workspace)
      : map_(map),
        places_((std::max)(Index(1), (std::min)(workers(executor), stretches))),
        parts_(workspace.template keep<std::vector<FeatureMap>>()) {
    workspace.prepare_workers(workers(executor));
    if (static_cast<Index>(parts_.size()) < places_) parts_.resize(static_cast<std::size_t>(places_));
  }

  Index places() const { return places_; }
  FeatureMap& operator[](Index place) { return parts_[static_cast<std::size_t>(place)]; }
  FeatureMap& start(Index place) {
    set_zero_like((*this)[place], map_);
    return (*this)[place];
  }

 private:
  const FeatureMap& map_;
  Index places_;
  std::vector<FeatureMap>& parts_;
};

/// numbers + low += part, and the gradients of a mixture so; maps without parameters have nothing to add.
template <class FeatureMap, class S>
void settle_gradient(const FeatureMap& part, FeatureMap& high, FeatureMap& low) {
  if constexpr (is_compiled<FeatureMap>) {
    for (std::size_t m = 0; m < part.factors.size(); ++m) {
      const auto settle = [](const auto& change, auto& sum, auto& rest) {
        kernels::settle<S>({}, change.data(), change.size(), sum.data(), rest.data());
      };
      settle(part.factors[m].weights, high.factors[m].weights, low.factors[m].weights);
      settle(part.factors[m].means, high.factors[m].means, low.factors[m].means);
      settle(part.factors[m].bias, high.factors[m].bias, low.factors[m].bias);
    }
  }
}

/// The gradient of the natural parameters, over all tokens. What queries and keys give is large and nearly cancels, so
/// each part is summed from zero and added to a sum of two numbers.
template <class FeatureMap, class S>
class GradientSum {
 public:
  GradientSum(const FeatureMap& map, Workspace<S>& workspace)
      : high_(zero_gradient(map, workspace)),
        low_(workspace.template keep<FeatureMap>(3)),
        part_(workspace.template keep<FeatureMap>(2)) {
    set_zero_like(low_, map);
  }

  /// Room for a part, set to zero.
  FeatureMap& part(const FeatureMap& map) {
    set_zero_like(part_, map);
    return part_;
  }
  /// Adds a part; the one that part() gave is zero again.
  void add(const FeatureMap& map, const FeatureMap& part) {
    settle_gradient<FeatureMap, S>(part, high_, low_);
    if (&part == &part_) set_zero_like(part_, map);
  }
  FeatureMap& total() { return high_; }

 private:
  FeatureMap &high_, &low_, &part_;
};

template <class M>
constexpr void check_has_parameters() {
  static_assert(!is_compiled<M>, "gma: a backward verb needs the mixture's parameters, not a compiled mixture");
}

template <class S, class Other>
constexpr void check_scalar() {
  static_assert(std::is_same_v<S, Other>, "gma: memories and token inputs must have the same scalar as the mixture");
}

}  // namespace detail
}  // namespace gma
