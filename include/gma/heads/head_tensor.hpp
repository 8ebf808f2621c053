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

/// The bytes between the first and the last number of a tensor, in all and of one token, and from token to token.
struct TensorBytes {
  std::uintptr_t begin = 0, end = 0;
  std::uintptr_t token_begin = 0, token_end = 0;  // of the first token
  Index step = 0;                                 // 0 where entries are no whole number of steps apart

  template <class T>
  explicit TensorBytes(const HeadTensor<T>& t) {
    if (t.rows() == 0 || t.heads == 0 || t.width == 0) return;
    const auto widen = [](std::uintptr_t& from, std::uintptr_t& to, Index count, Index stride) {
      const Index bytes = (count - 1) * stride * Index{sizeof(T)};
      (bytes < 0 ? from : to) += static_cast<std::uintptr_t>(bytes);
    };
    token_begin = reinterpret_cast<std::uintptr_t>(t.data);
    token_end = token_begin + sizeof(T);
    widen(token_begin, token_end, t.heads, t.head_stride);
    widen(token_begin, token_end, t.width, t.width_stride);
    begin = token_begin;
    end = token_end;
    widen(begin, end, t.tokens, t.token_stride);
    widen(begin, end, t.batch, t.batch_stride);
    const bool has_step = t.token_stride > 0 && (t.batch == 1 || t.batch_stride % t.token_stride == 0);
    if (has_step) step = t.token_stride * Index{sizeof(T)};
  }
};

/// Whether two tensors may have a number in common. Tensors that share a buffer token by token, side by side, as
/// queries, keys and values of one product do, have none; other tensors within each other's bounds may have.
inline bool may_overlap(const TensorBytes& a, const TensorBytes& b) {
  if (a.begin >= b.end || b.begin >= a.end) return false;
  if (a.step == 0 || a.step != b.step) return true;
  const std::uintptr_t step = static_cast<std::uintptr_t>(a.step);
  const std::uintptr_t a_length = a.token_end - a.token_begin, b_length = b.token_end - b.token_begin;
  const std::uintptr_t gap = a.token_begin > b.token_begin ? (a.token_begin - b.token_begin) % step
                                                           : (step - (b.token_begin - a.token_begin) % step) % step;
  return !(gap >= b_length && gap + a_length <= step);
}
template <class A, class B>
bool may_overlap(const HeadTensor<A>& a, const HeadTensor<B>& b) {
  return may_overlap(TensorBytes(a), TensorBytes(b));
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
