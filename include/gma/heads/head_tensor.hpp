// SPDX-License-Identifier: MIT
// Tokens of several heads: a HeadTensor views a [batch, tokens, heads, width] tensor by pointer and strides, so that
// buffers of other frameworks go into the multi-head verbs without a copy. HeadsIn and HeadsOut are the operands of
// those verbs, made implicitly from a HeadTensor or from a matrix whose columns are the heads in order.
#pragma once

#include <cstdint>
#include <type_traits>

#include "gma/core/checks.hpp"
#include "gma/core/operands.hpp"
#include "gma/core/tokens.hpp"

namespace gma {

/// A view of a tensor of `batch` entries of `tokens` tokens of `heads` heads of `width` numbers; strides count numbers
/// of type T. T is const for inputs; besides the mixture's scalar it may be bfloat16 or half. Owns nothing.
template <class T>
struct HeadTensor {
  T* data = nullptr;                                                            ///< the first number
  Index batch = 1, tokens = 0, heads = 1, width = 0;                            ///< the sizes
  Index batch_stride = 0, token_stride = 0, head_stride = 0, width_stride = 1;  ///< numbers from one to the next

  /// Tokens of all entries.
  Index rows() const { return batch * tokens; }

  /// Rows [begin, begin + count) of one head, which lie within one entry: row b N + t is token t of entry b.
  using Rows = Eigen::Map<std::conditional_t<std::is_const_v<T>, const Matrix<std::remove_const_t<T>>, Matrix<T>>, 0,
                          Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  Rows head(Index head, Index begin, Index count) const;  ///< count x width
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

/// Sizes and strides of a HeadTensor of any scalar, of `scalar_bytes`.
struct HeadLayout {
  Index batch = 1, tokens = 0, heads = 1, width = 0;
  Index batch_stride = 0, token_stride = 0, head_stride = 0, width_stride = 1;
  Index scalar_bytes = 1;

  Index rows() const { return batch * tokens; }
};

/// The bytes between the first and the last number of a tensor, in all and of one token, and from token to token.
struct TensorBytes {
  std::uintptr_t begin = 0, end = 0;
  std::uintptr_t token_begin = 0, token_end = 0;  // of the first token
  Index step = 0;                                 // 0 where entries are no whole number of steps apart

  TensorBytes(const void* data, const HeadLayout& t) {
    if (t.rows() == 0 || t.heads == 0 || t.width == 0) return;
    const auto widen = [&](std::uintptr_t& from, std::uintptr_t& to, Index count, Index stride) {
      const Index bytes = (count - 1) * stride * t.scalar_bytes;
      (bytes < 0 ? from : to) += static_cast<std::uintptr_t>(bytes);
    };
    token_begin = reinterpret_cast<std::uintptr_t>(data);
    token_end = token_begin + static_cast<std::uintptr_t>(t.scalar_bytes);
    widen(token_begin, token_end, t.heads, t.head_stride);
    widen(token_begin, token_end, t.width, t.width_stride);
    begin = token_begin;
    end = token_end;
    widen(begin, end, t.tokens, t.token_stride);
    widen(begin, end, t.batch, t.batch_stride);
    const bool has_step = t.token_stride > 0 && (t.batch == 1 || t.batch_stride % t.token_stride == 0);
    if (has_step) step = t.token_stride * t.scalar_bytes;
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

/// A tensor without its scalar type. A matrix has layout.heads == 0 until the call knows how many heads it holds.
struct HeadRows {
  const void* data = nullptr;
  HeadLayout layout;

  Index rows() const { return layout.rows(); }

  HeadRows() = default;
  template <class T>
  explicit HeadRows(const HeadTensor<T>& t)
      : data(t.data), layout{t.batch,        t.tokens,      t.heads,        t.width,         t.batch_stride,
                             t.token_stride, t.head_stride, t.width_stride, Index{sizeof(T)}} {}
  template <class Derived>
  explicit HeadRows(const Eigen::MatrixBase<Derived>& matrix)
      : data(matrix.derived().data()),
        layout{1,
               matrix.rows(),
               0,
               matrix.cols(),
               matrix.rows() * matrix.derived().rowStride(),
               matrix.derived().rowStride(),
               0,
               matrix.derived().colStride(),
               Index{sizeof(typename Derived::Scalar)}} {}

  /// The number at the beginning of rows [begin, begin + count) of one head, which lie within one entry.
  const void* first(Index head, Index begin, Index count) const {
    if (count == 0 || data == nullptr) return data;
    const HeadLayout& l = layout;
    const Index entry = l.tokens > 0 ? begin / l.tokens : 0, token = begin - entry * l.tokens;
    const Index numbers = entry * l.batch_stride + token * l.token_stride + head * l.head_stride;
    return static_cast<const char*>(data) + numbers * l.scalar_bytes;
  }

  /// A matrix's columns become `heads` heads; of a tensor nothing changes.
  void split(const char* function, const char* argument, Index heads) {
    if (layout.heads != 0) return;
    if (layout.width % heads != 0) {
      invalid_argument(function, argument, " has ", layout.width, " columns, expected a multiple of ", heads,
                       " (its heads)");
    }
    layout.width /= heads;
    layout.heads = heads;
    layout.head_stride = layout.width * layout.width_stride;
  }

  bool may_overlap(const HeadRows& other) const { return detail::may_overlap(bytes(), other.bytes()); }

 private:
  TensorBytes bytes() const {
    HeadLayout whole = layout;
    if (whole.heads == 0) whole.heads = 1;
    return TensorBytes(data, whole);
  }
};

template <class A, class B>
bool may_overlap(const HeadTensor<A>& a, const HeadTensor<B>& b) {
  return HeadRows(a).may_overlap(HeadRows(b));
}

/// The checks that every multi-head verb makes of a tensor that it is given.
inline void check_head_tensor(const char* function, const char* argument, const HeadRows& tensor) {
  const HeadLayout& l = tensor.layout;
  if (l.batch < 1 || l.tokens < 0 || l.heads < 1 || l.width < 0) {
    invalid_argument(function, argument, " is a tensor of ", l.batch, " x ", l.tokens, " x ", l.heads, " x ", l.width,
                     " (batch x tokens x heads x width), expected at least one entry and one head");
  }
  if (tensor.data == nullptr && l.rows() * l.width > 0) {
    invalid_argument(function, argument, ".data is null, expected ", l.rows() * l.heads * l.width, " numbers");
  }
}

/// Reads a tensor of scalar S, or of a storage type of S.
template <class S>
class HeadsView : public HeadRows {
 public:
  template <class T>
  explicit HeadsView(const HeadTensor<T>& tensor) : HeadRows(tensor), view_(&view<std::remove_const_t<T>>) {
    static_assert(is_storage_of<std::remove_const_t<T>, S>,
                  "gma: an input must have the mixture's scalar, or be bfloat16 or half storage of it");
  }
  template <class Derived>
  explicit HeadsView(const Eigen::MatrixBase<Derived>& matrix)
      : HeadRows(matrix), view_(&view<typename Derived::Scalar>) {
    static_assert(is_storage_of<typename Derived::Scalar, S>,
                  "gma: an input must have the mixture's scalar, or be bfloat16 or half storage of it");
  }

  /// Rows [begin, begin + count) of one head, which lie within one entry.
  TokenView<S> head(Index head, Index begin, Index count) const { return view_(*this, head, begin, count); }

 private:
  template <class T>
  static TokenView<S> view(const HeadsView& tensor, Index head, Index begin, Index count) {
    using Rows = typename HeadTensor<const T>::Rows;
    return TokenView<S>(Rows(static_cast<const T*>(tensor.first(head, begin, count)), count, tensor.layout.width,
                             {tensor.layout.token_stride, tensor.layout.width_stride}));
  }

  TokenView<S> (*view_)(const HeadsView&, Index, Index, Index);
};

/// Writes a tensor of scalar S, or of a storage type of S.
template <class S>
class HeadsSink : public HeadRows {
 public:
  /// Nothing is to be written.
  HeadsSink() = default;

  template <class T>
  explicit HeadsSink(const HeadTensor<T>& tensor) : HeadRows(tensor), sink_(&sink<T>) {
    static_assert(!std::is_const_v<T>, "gma: an output must be writable");
    static_assert(is_storage_of<T, S>,
                  "gma: an output must have the mixture's scalar, or be bfloat16 or half storage of it");
  }
  template <class Derived>
  explicit HeadsSink(Eigen::MatrixBase<Derived>& matrix) : HeadRows(matrix), sink_(&sink<typename Derived::Scalar>) {
    static_assert((Derived::Flags & Eigen::LvalueBit) != 0, "gma: an output must be writable");
    static_assert(is_storage_of<typename Derived::Scalar, S>,
                  "gma: an output must have the mixture's scalar, or be bfloat16 or half storage of it");
  }

  /// Rows [begin, begin + count) of one head, which lie within one entry.
  TokenSink<S> head(Index head, Index begin, Index count) const { return sink_(*this, head, begin, count); }

  /// Whether the numbers are wanted at all.
  bool is_wanted() const { return sink_ != nullptr; }

 private:
  template <class T>
  static TokenSink<S> sink(const HeadsSink& tensor, Index head, Index begin, Index count) {
    using Rows = typename HeadTensor<T>::Rows;
    T* const first = static_cast<T*>(const_cast<void*>(tensor.first(head, begin, count)));  // made from a T*
    Rows rows(first, count, tensor.layout.width, {tensor.layout.token_stride, tensor.layout.width_stride});
    return TokenSink<S>(rows);
  }

  TokenSink<S> (*sink_)(const HeadsSink&, Index, Index, Index) = nullptr;
};

}  // namespace detail

template <class Derived>
HeadTensor<const typename Derived::Scalar> split_heads(const Eigen::MatrixBase<Derived>& matrix, Index heads) {
  return detail::columns_as_heads<const typename Derived::Scalar>(matrix.derived().data(), matrix.derived(), heads);
}

template <class Derived>
HeadTensor<typename Derived::Scalar> split_heads(Eigen::MatrixBase<Derived>& matrix, Index heads) {
  return detail::columns_as_heads<typename Derived::Scalar>(matrix.derived().data(), matrix.derived(), heads);
}

// NOLINTBEGIN(google-explicit-constructor): operands are made implicitly.

/// The tokens of several heads that a verb reads: a HeadTensor, or a matrix, block, map or expression whose columns are
/// the heads in order. Numbers in memory are viewed and must outlive the call; an expression is evaluated once, here.
template <class S>
class HeadsIn : private detail::EvaluatedExpression<S>, public detail::HeadsView<S> {
 public:
  /// A tensor of the scalar S, of bfloat16 or of half.
  template <class T>
  HeadsIn(const HeadTensor<T>& tensor) : detail::HeadsView<S>(tensor) {}
  /// A matrix, block, map or expression whose columns are the heads in order.
  template <class Derived>
  HeadsIn(const Eigen::MatrixBase<Derived>& matrix)
      : HeadsIn(matrix.derived(), std::bool_constant<(Derived::Flags & Eigen::DirectAccessBit) != 0>()) {}
  HeadsIn(const HeadsIn&) = delete;
  HeadsIn& operator=(const HeadsIn&) = delete;

  /// Whether it was made from an expression, whose numbers it owns.
  bool is_evaluated() const { return detail::EvaluatedExpression<S>::numbers.size() != 0; }

 private:
  template <class Derived>
  HeadsIn(const Derived& matrix, std::true_type) : detail::HeadsView<S>(matrix) {}
  template <class Derived>
  HeadsIn(const Derived& expression, std::false_type)
      : detail::EvaluatedExpression<S>(expression), detail::HeadsView<S>(detail::EvaluatedExpression<S>::numbers) {}
};

/// The tokens of several heads that a verb writes: a HeadTensor, or a matrix, block or map whose columns are the heads
/// in order. One made without arguments stands for a result that is not wanted, where a verb allows that.
template <class S>
class HeadsOut : public detail::HeadsSink<S> {
 public:
  HeadsOut() = default;
  /// A tensor of the scalar S, of bfloat16 or of half.
  template <class T>
  HeadsOut(const HeadTensor<T>& tensor) : detail::HeadsSink<S>(tensor) {}
  /// A matrix whose columns are the heads in order.
  template <class Derived>
  HeadsOut(Eigen::MatrixBase<Derived>& matrix) : detail::HeadsSink<S>(matrix) {}
  /// A block or map made on the spot.
  template <class Derived, std::enable_if_t<!std::is_base_of_v<Eigen::PlainObjectBase<Derived>, Derived>, int> = 0>
  HeadsOut(const Eigen::MatrixBase<Derived>& view) : detail::HeadsSink<S>(detail::writable(view)) {}
  /// A constant matrix: refused with a sentence.
  template <class Derived, std::enable_if_t<std::is_base_of_v<Eigen::PlainObjectBase<Derived>, Derived>, int> = 0>
  HeadsOut(const Eigen::MatrixBase<Derived>&) {
    static_assert(!std::is_same_v<Derived, Derived>, "gma: an output must not be constant");
  }
};

// NOLINTEND(google-explicit-constructor)

}  // namespace gma
