// SPDX-License-Identifier: MIT
// What a backward verb returns: the gradient of everything that was given, each with the type of what it is the
// gradient of.
#pragma once

#include "gma/attention/memory.hpp"
#include "gma/mixture/natural.hpp"

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

template <class M>
inline constexpr bool is_compiled = false;
template <class S>
inline constexpr bool is_compiled<CompiledMixture<S>> = true;

}  // namespace detail
}  // namespace gma
