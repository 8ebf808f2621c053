// SPDX-License-Identifier: MIT
// The operands of a verb. In<S> reads and Out<S> writes an N x cols matrix; both are made implicitly from what a caller
// has: a matrix, block, map or Eigen::Ref of any storage order and strides, bfloat16 or half storage, and, for inputs,
// any expression. A verb that takes them depends on the scalar S alone, and S comes from the mixture.
#pragma once

#include <type_traits>

#include "gma/core/tokens.hpp"
#include "gma/core/types.hpp"
#include "gma/core/workspace.hpp"

namespace gma {

/// The scalar in which a mixture, a compiled mixture or a feature map computes.
template <class M>
using Scalar = typename M::Scalar;

namespace detail {

/// S itself, where it is not to be deduced from an argument.
template <class S>
struct SameType {
  using type = S;
};
template <class S>
using Same = typename SameType<S>::type;

/// The numbers of an expression. It comes first among the bases, so that a view of the numbers can be the second one.
template <class S>
struct EvaluatedExpression {
  Matrix<S> numbers;

  EvaluatedExpression() = default;
  template <class Derived>
  explicit EvaluatedExpression(const Eigen::MatrixBase<Derived>& expression) {
    static_assert(is_storage_of<typename Derived::Scalar, S>,
                  "gma: an input must have the mixture's scalar, or be bfloat16 or half storage of it");
    if constexpr (std::is_same_v<typename Derived::Scalar, S>) {
      numbers = expression;
    } else {
      numbers = expression.template cast<S>();
    }
  }
};

}  // namespace detail

// NOLINTBEGIN(google-explicit-constructor): operands are made implicitly.

/// A matrix that is read. Numbers in memory are viewed and must outlive the call; an expression (a product, a sum) is
/// evaluated once, here. Row-major rows with inner stride 1 are never copied; others are, a tile of rows at a time.
template <class S>
class In : private detail::EvaluatedExpression<S>, public detail::TokenView<S> {
 public:
  /// A matrix, block, map or expression of the scalar S, of bfloat16 or of half.
  template <class Derived>
  In(const Eigen::MatrixBase<Derived>& matrix)
      : In(matrix.derived(), std::bool_constant<(Derived::Flags & Eigen::DirectAccessBit) != 0>()) {}
  In(const In&) = delete;
  In& operator=(const In&) = delete;

 private:
  template <class Derived>
  In(const Derived& matrix, std::true_type) : detail::TokenView<S>(matrix) {}
  template <class Derived>
  In(const Derived& expression, std::false_type)
      : detail::EvaluatedExpression<S>(expression), detail::TokenView<S>(detail::EvaluatedExpression<S>::numbers) {}
};

/// A matrix that is written, of the size that the verb expects. It views the caller's numbers, which must outlive the
/// call. A constant matrix is refused when the program is compiled. One made without arguments stands for a result that
/// is not wanted, where a verb allows that.
template <class S>
class Out : public detail::TokenSink<S> {
 public:
  Out() = default;
  /// A matrix of the scalar S, of bfloat16 or of half.
  template <class Derived>
  Out(Eigen::MatrixBase<Derived>& matrix) : detail::TokenSink<S>(matrix) {}
  /// A block or map made on the spot, or one that is itself constant while its numbers are not.
  template <class Derived, std::enable_if_t<!std::is_base_of_v<Eigen::PlainObjectBase<Derived>, Derived>, int> = 0>
  Out(const Eigen::MatrixBase<Derived>& view) : detail::TokenSink<S>(detail::writable(view)) {}
  /// A constant matrix: refused with a sentence.
  template <class Derived, std::enable_if_t<std::is_base_of_v<Eigen::PlainObjectBase<Derived>, Derived>, int> = 0>
  Out(const Eigen::MatrixBase<Derived>&) {
    static_assert(!std::is_same_v<Derived, Derived>, "gma: an output must not be constant");
  }
};

/// A verb's last argument: the caller's workspace, whose buffers are reused from call to call, or nothing: the call
/// then allocates what it needs.
template <class S>
class OptionalWorkspace {
 public:
  OptionalWorkspace() = default;
  /// The caller's; a null pointer stands for nothing.
  OptionalWorkspace(Workspace<S>& workspace) : given_(&workspace) {}
  OptionalWorkspace(Workspace<S>* workspace) : given_(workspace) {}
  OptionalWorkspace(const OptionalWorkspace&) = delete;
  OptionalWorkspace& operator=(const OptionalWorkspace&) = delete;

  /// The caller's workspace, or one of the call's own.
  Workspace<S>& get() const { return given_ != nullptr ? *given_ : own_; }

 private:
  Workspace<S>* given_ = nullptr;
  mutable Workspace<S> own_;
};

// NOLINTEND(google-explicit-constructor)

}  // namespace gma
