// SPDX-License-Identifier: MIT
// Tokens of several heads wherever they lie: a view of a [batch, tokens, heads, width] tensor by pointer and strides,
// so that buffers of other frameworks go into the multi-head operators without a copy.
#pragma once

#include <cstdint>
#include <type_traits>

#include "gma/core/checks.hpp"
#include "gma/core/tokens.hpp"

namespace gma {

/// A view of a tensor of `batch` entries of `tokens` tokens of `heads` heads of `width` numbers; strides count numbers
/// of type T. T is const for inputs; besides the mixture's scalar it may be bfloat16 or half. Owns nothing.
template <class T>
struct HeadTensor {
  T* data = nullptr;
  Index batch = 1, tokens = 0, heads = 1, width = 0;
  Index batch_stride = 0, token_stride = 0, head_stride = 0, width_stride = 1;

  Index rows() const { return batch * tokens; }

  /// Rows [begin, begin + count) of one head, which lie within one entry: row b N + t is token t of entry b.
  using Rows = Eigen::Map<std::conditional_t<std::is_const_v<T>, const Matrix<std::remove_const_t<T>>, Matrix<T>>, 0,
                          Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  Rows head(Index head, Index begin, Index count) const;
};

/// [B, N, H, width] without gaps: the layout in which a token's heads lie side by side.
template <class T>
HeadTensor<T> batch_tokens_heads(T* data, Index batch, Index tokens, Index heads, Index width);

/// [B, H, N, width] without gaps: the layout in which a head's tokens lie side by side.
template <class T>
HeadTensor<T> batch_heads_tokens(T* data, Index batch, Index heads, Index tokens, Index width);

/// The columns of an N x (heads width) matrix, block or map, as `heads` heads. It must outlive the view.
template <class Derived>
HeadTensor<const typename Derived::Scalar> split_heads(const Eigen::MatrixBase<Derived>& matrix, Index heads);
template <class Derived>
HeadTensor<typename Derived::Scalar> split_heads(Eigen::MatrixBase<Derived>& matrix, Index heads);

// Implementation -----------------------------------------------------------------------------------------------------

template <class T>
typename HeadTensor<T>::Rows HeadTensor<T>::head(Index head, Index begin, Index count) const {
  const Index entry = tokens > 0 ? begin / tokens : 0, token = begin - entry * tokens;
  T* first = count > 0 ? data + entry * batch_stride + token * token_stride + head * head_stride : data;
  return Rows(first, count, width, {token_stride, width_stride});
}

template <class T>
HeadTensor<T> batch_tokens_heads(T* data, Index batch, Index tokens, Index heads, Index width) {
  return {data, batch, tokens, heads, width, tokens * heads * width, heads * width, width, 1};
}

template <class T>
HeadTensor<T> batch_heads_tokens(T* data, Index batch, Index heads, Index tokens, Index width) {
  return {data, batch, tokens, heads, width, heads * tokens * width, width, tokens * width, 1};
}

namespace detail {

template <class T, class Derived>
HeadTensor<T> columns_as_heads(T* data, const Derived& matrix, Index heads) {
  static_assert((Derived::Flags & Eigen::DirectAccessBit) != 0, "gma::split_heads: the matrix must lie in memory");
  if (heads < 1 || matrix.cols() % heads != 0) {
    invalid_argument("split_heads", "heads is ", heads, " for ", matrix.cols(),
                     " columns, expected a number of heads that divides them");
  }
  const Index width = matrix.cols() / heads, step = matrix.colStride();
  return {data,         1,   matrix.rows(), heads, width, matrix.rows() * matrix.rowStride(), matrix.rowStride(),
          width * step, step};
}

/// The checks that every multi-head verb makes of a tensor that it is given.
template <class T>
void check_head_tensor(const char* function, const char* argument, const HeadTensor<T>& tensor) {
  if (tensor.batch < 1 || tensor.tokens < 0 || tensor.heads < 1 || tensor.width < 0) {
    invalid_argument(function, argument, " is a tensor of ", tensor.batch, " x ", tensor.tokens, " x ", tensor.heads,
                     " x ", tensor.width,
                     " (batch x tokens x heads x width), expected at least one entry and one head");
  }
  if (tensor.data == nullptr && tensor.rows() * tensor.width > 0) {
    invalid_argument(function, argument, ".data is null, expected ", tensor.rows() * tensor.heads * tensor.width,
                     " numbers");
  }
}

}  // namespace detail

template <class Derived>
HeadTensor<const typename Derived::Scalar> split_heads(const Eigen::MatrixBase<Derived>& matrix, Index heads) {
  return detail::columns_as_heads<const typename Derived::Scalar>(matrix.derived().data(), matrix.derived(), heads);
}

template <class Derived>
HeadTensor<typename Derived::Scalar> split_heads(Eigen::MatrixBase<Derived>& matrix, Index heads) {
  return detail::columns_as_heads<typename Derived::Scalar>(matrix.derived().data(), matrix.derived(), heads);
}

}  // namespace gma
