// SPDX-License-Identifier: MIT
// What a backward verb returns: the gradient of everything that was given, each with the type of what it is the
// gradient of.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "gma/attention/memory.hpp"
#include "gma/core/parallel.hpp"
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

/// One more such accumulator for every stretch of tokens that runs at the same time as others.
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

template <class M>
inline constexpr bool is_compiled = false;
template <class S>
inline constexpr bool is_compiled<CompiledMixture<S>> = true;

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
