// SPDX-License-Identifier: MIT
// How a caller's matrices reach the inner loops: a TokenView reads any strided matrix a tile of tokens at a time, a
// TokenSink writes one. Both erase the matrix type, so that what follows depends on the scalar alone. Row-major rows
// with inner stride 1 are used in place; everything else (column-major, bfloat16 and half storage) is copied one tile
// at a time.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "gma/core/types.hpp"
#include "gma/core/workspace.hpp"

namespace gma::detail {

/// A matrix that lies in memory is taken by reference; an expression (a product, a sum) is evaluated once.
template <class Derived>
using Evaluated = std::conditional_t<(Derived::Flags & Eigen::DirectAccessBit) != 0, const Derived&,
                                     Matrix<typename Derived::Scalar>>;

/// The one const_cast of the library: Eigen's way to let a block or map written in place be an output argument.
template <class Out>
Eigen::MatrixBase<Out>& writable(const Eigen::MatrixBase<Out>& out) {
  return const_cast<Eigen::MatrixBase<Out>&>(out);
}

template <class T, class S>
inline constexpr bool is_storage_of =
    std::is_same_v<T, S> || std::is_same_v<T, Eigen::bfloat16> || std::is_same_v<T, Eigen::half>;

/// The rows of a row-major matrix, tile or block as a ConstTile.
template <class Derived>
ConstTile<typename Derived::Scalar> as_tile(const Eigen::MatrixBase<Derived>& m) {
  static_assert((Derived::Flags & Eigen::DirectAccessBit) != 0 && Derived::IsRowMajor,
                "gma: as_tile needs rows in memory");
  return {m.derived().data(), m.rows(), m.cols(), Eigen::OuterStride<>(m.derived().outerStride())};
}
template <class S>
Tile<S> as_tile(Matrix<S>& m) {
  return {m.data(), m.rows(), m.cols(), Eigen::OuterStride<>(m.cols())};
}

/// Rows [begin, begin + count) of a row-major matrix.
template <class S>
Tile<S> rows(Matrix<S>& matrix, Index begin, Index count) {
  return Tile<S>(matrix.data() + begin * matrix.cols(), count, matrix.cols(), Eigen::OuterStride<>(matrix.cols()));
}

template <class S>
Tile<S> rows(const Tile<S>& tile, Index begin, Index count) {
  return Tile<S>(const_cast<S*>(tile.data()) + begin * tile.outerStride(), count, tile.cols(),
                 Eigen::OuterStride<>(tile.outerStride()));
}
template <class S>
ConstTile<S> rows(const ConstTile<S>& tile, Index begin, Index count) {
  return ConstTile<S>(tile.data() + begin * tile.outerStride(), count, tile.cols(),
                      Eigen::OuterStride<>(tile.outerStride()));
}

/// A row of numbers into another scalar.
template <class From, class To>
void convert(const From* from, Index count, To* to) {
  Eigen::Map<RowVector<To>>(to, count) = Eigen::Map<const RowVector<From>>(from, count).template cast<To>();
}
/// bfloat16 is the upper half of a float: a loop of shifts, which is faster than a cast number by number.
inline void convert(const Eigen::bfloat16* from, Index count, float* to) {
  for (Index i = 0; i < count; ++i) {
    const std::uint32_t bits = static_cast<std::uint32_t>(Eigen::numext::bit_cast<std::uint16_t>(from[i])) << 16;
    std::memcpy(to + i, &bits, sizeof bits);
  }
}

/// row_by_row: row i of one shares memory with row i of the other alone.
enum class Overlap { none, row_by_row, some };

/// Where the rows of a matrix lie, and whether the inner loops may use them as they are.
class TokenRows {
 public:
  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  Overlap overlap(const TokenRows& other) const;

 protected:
  TokenRows() = default;
  template <class Derived>
  TokenRows(const Eigen::MatrixBase<Derived>& tokens, bool same_scalar)
      : data_(tokens.derived().data()),
        rows_(tokens.rows()),
        cols_(tokens.cols()),
        row_stride_(tokens.derived().rowStride()),
        col_stride_(tokens.derived().colStride()),
        scalar_bytes_(static_cast<Index>(sizeof(typename Derived::Scalar))),
        in_place_(same_scalar && (col_stride_ == 1 || cols_ <= 1)) {}

  bool has_gaps() const { return row_stride_ != cols_; }

  void narrow(Index begin, Index count) {
    if (count > 0) data_ = static_cast<const char*>(data_) + begin * row_stride_ * scalar_bytes_;
    rows_ = count;
  }

  const void* data_ = nullptr;
  Index rows_ = 0, cols_ = 0, row_stride_ = 0, col_stride_ = 1, scalar_bytes_ = 1;
  bool in_place_ = false;
};

/// How the numbers of two matrices share memory.
inline Overlap TokenRows::overlap(const TokenRows& other) const {
  if (rows_ == 0 || cols_ == 0 || other.rows_ == 0 || other.cols_ == 0) return Overlap::none;
  const auto first = [](const TokenRows& m) { return reinterpret_cast<std::uintptr_t>(m.data_); };
  const auto end = [&](const TokenRows& m) {
    const Index numbers = (m.rows_ - 1) * m.row_stride_ + (m.cols_ - 1) * m.col_stride_ + 1;
    return first(m) + static_cast<std::uintptr_t>(numbers * m.scalar_bytes_);
  };
  if (end(*this) <= first(other) || end(other) <= first(*this)) return Overlap::none;
  const bool same_rows = (row_stride_ * scalar_bytes_ == other.row_stride_ * other.scalar_bytes_) || rows_ == 1;
  if (!(col_stride_ == 1 && other.col_stride_ == 1 && same_rows)) return Overlap::some;
  if (data_ == other.data_) return Overlap::row_by_row;
  // Column blocks of one matrix: rows begin `offset` bytes apart, modulo the stride.
  const std::uintptr_t stride = static_cast<std::uintptr_t>(row_stride_ * scalar_bytes_);
  const std::uintptr_t mine = static_cast<std::uintptr_t>(cols_ * scalar_bytes_);
  const std::uintptr_t others = static_cast<std::uintptr_t>(other.cols_ * other.scalar_bytes_);
  if (rows_ == 1 || mine > stride || others > stride) return Overlap::some;
  const std::uintptr_t offset = first(other) >= first(*this) ? (first(other) - first(*this)) % stride
                                                             : stride - 1 - (first(*this) - first(other) - 1) % stride;
  return offset >= mine && offset + others <= stride ? Overlap::none : Overlap::some;
}

/// Reads an N x cols matrix of scalar S, or of a storage type of S. The matrix must outlive the view.
template <class S>
class TokenView : public TokenRows {
 public:
  template <class Derived>
  explicit TokenView(const Eigen::MatrixBase<Derived>& tokens)
      : TokenRows(tokens.derived(), std::is_same_v<typename Derived::Scalar, S>),
        copy_(&copy<typename Derived::Scalar>) {
    static_assert(is_storage_of<typename Derived::Scalar, S>,
                  "gma: an input must have the mixture's scalar, or be bfloat16 or half storage of it");
  }

  /// Tokens [begin, begin + count), in place where the layout allows, else copied into `scratch` (count x cols).
  /// `without_gaps`: rows that lie apart are copied too.
  ConstTile<S> tile(Index begin, Index count, Tile<S> scratch, bool without_gaps = false) const {
    if (in_place_ && !(without_gaps && has_gaps())) {
      return ConstTile<S>(static_cast<const S*>(data_) + begin * row_stride_, count, cols_,
                          Eigen::OuterStride<>(row_stride_));
    }
    copy_(*this, begin, count, scratch);
    return ConstTile<S>(scratch.data(), count, cols_, Eigen::OuterStride<>(scratch.outerStride()));
  }

  /// Tokens [begin, begin + count) alone.
  TokenView part(Index begin, Index count) const {
    TokenView result(*this);
    result.narrow(begin, count);
    return result;
  }

  /// Copies as many tokens from `begin` on as `to` has rows.
  void copy_to(Index begin, Tile<S> to) const {
    const ConstTile<S> from = tile(begin, to.rows(), to);
    if (from.data() != to.data()) to = from;
  }

 private:
  template <class T>
  static void copy(const TokenView& view, Index begin, Index count, Tile<S>& scratch) {
    if (view.col_stride_ == 1) {
      for (Index i = 0; i < count; ++i) {
        const T* row = static_cast<const T*>(view.data_) + (begin + i) * view.row_stride_;
        convert(row, view.cols_, scratch.data() + i * scratch.outerStride());
      }
      return;
    }
    using Source = Eigen::Map<const Matrix<T>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
    const Source source(static_cast<const T*>(view.data_) + begin * view.row_stride_, count, view.cols_,
                        {view.row_stride_, view.col_stride_});
    scratch.topRows(count) = source.template cast<S>();
  }

  void (*copy_)(const TokenView&, Index, Index, Tile<S>&);
};

/// Writes an N x cols matrix of scalar S, or of a storage type of S. The matrix must outlive the sink.
template <class S>
class TokenSink : public TokenRows {
 public:
  /// Nothing is to be written.
  TokenSink() = default;

  template <class Derived>
  explicit TokenSink(Eigen::MatrixBase<Derived>& tokens)
      : TokenRows(tokens.derived(), std::is_same_v<typename Derived::Scalar, S>),
        target_(tokens.derived().data()),
        copy_(&copy<typename Derived::Scalar>) {
    static_assert((Derived::Flags & Eigen::LvalueBit) != 0, "gma: an output must be writable");
    static_assert(is_storage_of<typename Derived::Scalar, S>,
                  "gma: an output must have the mixture's scalar, or be bfloat16 or half storage of it");
  }

  /// Where to put tokens [begin, begin + count): the destination itself, or `scratch`, also where nothing is to be
  /// written. Call store() when it is filled.
  /// `without_gaps`: not the destination where its rows lie apart.
  Tile<S> tile(Index begin, Index count, Tile<S> scratch, bool without_gaps = false) const {
    if (in_place_ && !(without_gaps && has_gaps())) {
      return Tile<S>(static_cast<S*>(target_) + begin * row_stride_, count, cols_, Eigen::OuterStride<>(row_stride_));
    }
    return Tile<S>(scratch.data(), count, scratch.cols(), Eigen::OuterStride<>(scratch.outerStride()));
  }

  /// Rows [begin, begin + count) alone.
  TokenSink part(Index begin, Index count) const {
    TokenSink result(*this);
    if (!is_wanted()) return result;
    result.narrow(begin, count);
    if (count > 0) result.target_ = static_cast<char*>(target_) + begin * row_stride_ * scalar_bytes_;
    return result;
  }

  /// Assigns the rows from `begin` on.
  void put(const Tile<S>& numbers, Index begin = 0) const {
    Tile<S> target = tile(begin, numbers.rows(), numbers);
    if (target.data() != numbers.data()) target = numbers;
    store(begin, target);
  }

  /// Whether the numbers are wanted at all.
  bool is_wanted() const { return copy_ != nullptr; }

  void store(Index begin, const Tile<S>& tile) const {
    const bool is_there = in_place_ && tile.data() == static_cast<S*>(target_) + begin * row_stride_;
    if (!is_there && is_wanted()) copy_(*this, begin, tile);
  }

 private:
  template <class T>
  static void copy(const TokenSink& sink, Index begin, const Tile<S>& tile) {
    if (sink.col_stride_ == 1) {
      for (Index i = 0; i < tile.rows(); ++i) {
        T* row = static_cast<T*>(sink.target_) + (begin + i) * sink.row_stride_;
        convert(tile.data() + i * tile.outerStride(), sink.cols_, row);
      }
      return;
    }
    using Target = Eigen::Map<Matrix<T>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
    Target target(static_cast<T*>(sink.target_) + begin * sink.row_stride_, tile.rows(), sink.cols_,
                  {sink.row_stride_, sink.col_stride_});
    target = tile.template cast<T>();
  }

  void* target_ = nullptr;
  void (*copy_)(const TokenSink&, Index, const Tile<S>&) = nullptr;
};

template <class S>
TokenView<S> copied(const TokenView<S>& input, Workspace<S>& workspace) {
  Tile<S> copy = workspace.take(input.rows(), input.cols());
  input.copy_to(0, copy);
  return TokenView<S>(copy);
}

/// `input` as it is before anything is written to `out`: a copy where the two share memory, else itself.
/// `reads_first`: a row of `out` is written when the same row of the input has been read for the last time.
template <class S>
TokenView<S> apart(const TokenView<S>& input, const TokenSink<S>& out, bool reads_first, Workspace<S>& workspace) {
  const Overlap overlap = input.overlap(out);
  return overlap == Overlap::none || (overlap == Overlap::row_by_row && reads_first) ? input : copied(input, workspace);
}

}  // namespace gma::detail
