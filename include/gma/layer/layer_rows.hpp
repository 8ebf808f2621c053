// SPDX-License-Identifier: MIT
// What the passes of a layer share: blocks of rows and columns that run in parallel, and the rows of a batch, which are
// gathered into one matrix and scattered back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gma/core/parallel.hpp"
#include "gma/core/resize.hpp"
#include "gma/core/tokens.hpp"
#include "gma/core/workspace.hpp"
#include "gma/heads/sequences.hpp"
#include "gma/kernels/products.hpp"
#include "gma/layer/layer_parameters.hpp"

namespace gma::detail {

/// The tokens, or channels, of one task.
inline constexpr Index rows_of_task = 96, channels_of_task = 64;

/// f(begin, count) for the blocks of [0, size).
template <class F>
void for_blocks(const Executor* executor, Index size, Index block, const F& f) {
  parallel_for(executor, (size + block - 1) / block,
               [&](Index i, Index) { f(i * block, (std::min)(block, size - i * block)); });
}

/// Columns of a matrix. The matrix may be empty.
template <class S>
Tile<S> columns(Matrix<S>& matrix, Index begin, Index count) {
  return Tile<S>(matrix.size() == 0 ? matrix.data() : matrix.data() + begin, matrix.rows(), count,
                 Eigen::OuterStride<>(matrix.cols()));
}
template <class S>
ConstTile<S> columns(const Matrix<S>& matrix, Index begin, Index count) {
  return ConstTile<S>(matrix.size() == 0 ? matrix.data() : matrix.data() + begin, matrix.rows(), count,
                      Eigen::OuterStride<>(matrix.cols()));
}
template <class S>
ConstTile<S> read_only(const Tile<S>& tile) {
  return ConstTile<S>(tile.data(), tile.rows(), tile.cols(), Eigen::OuterStride<>(tile.outerStride()));
}

/// c = a b, blocks of rows in parallel.
template <class S>
void product_of_rows(const Executor* executor, const Matrix<S>& a, const Matrix<S>& b, Matrix<S>& c) {
  resize(c, a.rows(), b.cols());
  for_blocks(executor, a.rows(), rows_of_task,
             [&](Index begin, Index count) { product(rows(as_tile(a), begin, count), b, rows(c, begin, count)); });
}

/// Columns `range` of c = a b; c has its size.
template <class S>
void product_of_rows(const Executor* executor, const Matrix<S>& a, const Matrix<S>& b, ColumnRange range,
                     Matrix<S>& c) {
  const ConstTile<S> b_part = columns(b, range.begin, range.count);
  for_blocks(executor, a.rows(), rows_of_task, [&](Index begin, Index count) {
    product(rows(as_tile(a), begin, count), b_part, rows(columns(c, range.begin, range.count), begin, count));
  });
}

/// c += a^T b for many rows: blocks of c in parallel. The sum over rows has two levels.
template <class S>
void add_product_over_rows(const Executor* executor, const ConstTile<S>& a, const Matrix<S>& b, Matrix<S>& c) {
  constexpr Index depth = 256;
  for_blocks(executor, a.cols(), channels_of_task, [&](Index begin, Index count) {
    for (Index row = 0; row < a.rows(); row += depth) {
      const Index now = (std::min)(depth, a.rows() - row);
      const ConstTile<S> part(a.data() + row * a.outerStride() + begin, now, count,
                              Eigen::OuterStride<>(a.outerStride()));
      add_transposed_product(part, rows(as_tile(b), row, now), rows(c, begin, count));
    }
  });
}

/// What every part of a pass knows: the layer's config and widths, where the rows of each sequence are, and what runs
/// tasks.
template <class S>
struct PassRows {
  const LayerConfig& config;
  const LayerShape& shape;
  const std::vector<std::int64_t>& offsets;  // sequence i is rows [offsets[i], offsets[i + 1])
  const Executor* executor;
  Workspace<S>& workspace;

  Index count() const { return static_cast<Index>(offsets.back()); }
  Index sequences() const { return static_cast<Index>(offsets.size()) - 1; }
  Index first(Index sequence) const { return static_cast<Index>(offsets[static_cast<std::size_t>(sequence)]); }
  Index count(Index sequence) const { return first(sequence + 1) - first(sequence); }

  /// f(row) for all of them, in parallel.
  template <class F>
  void for_each(const F& f) const {
    for_blocks(executor, count(), rows_of_task, [&](Index begin, Index block) {
      for (Index t = begin; t < begin + block; ++t) f(t);
    });
  }
};

/// The value of an expression. Its memory is reused.
template <class T>
struct EvaluatedRows {
  Matrix<T> rows;
};

/// Copies the rows that belong to a sequence into a packed matrix. An expression is evaluated once.
template <class S, class X>
void gather_rows(const X& x, const Placement& placement, Matrix<S>& packed, Workspace<S>& workspace) {
  using T = typename X::Scalar;
  static_assert(is_storage_of<T, S>,
                "gma: a layer's input must have the layer's scalar, or be bfloat16 or half storage of it");
  Index count = 0;
  for (const Placement::Span& span : placement.spans) count += span.count;
  if constexpr ((X::Flags & Eigen::DirectAccessBit) == 0) {
    const bool is_taken_whole = placement.count() == 1 && count == x.rows() && !placement.is_masked;
    if (!is_taken_whole) {
      Matrix<T>& evaluated = workspace.template keep<EvaluatedRows<T>>().rows;
      assign(evaluated, x);
      return gather_rows(evaluated, placement, packed, workspace);
    }
    resize(packed, count, x.cols());
    packed = x.template cast<S>();
    return;
  }
  resize(packed, count, x.cols());
  Index row = 0;
  for (const Placement::Span& span : placement.spans) {
    if (!placement.is_masked) {
      packed.middleRows(row, span.count) = x.middleRows(span.begin, span.count).template cast<S>();
      row += span.count;
      continue;
    }
    for (Index i = 0; i < span.count; ++i) packed.row(row++) = x.row(placement.row(span.begin + i)).template cast<S>();
  }
}

/// Copies packed rows back to their places in `out`, and zeros into the other rows.
template <class S, class Out>
void scatter_rows(const Matrix<S>& packed, const Placement& placement, Out& out) {
  using T = typename Out::Scalar;
  static_assert(is_storage_of<T, S>, "gma: a layer's output must have the layer's scalar, or be storage of it");
  if (placement.has_padding) out.setConstant(T(0));
  Index row = 0;
  for (const Placement::Span& span : placement.spans) {
    if (!placement.is_masked) {
      out.middleRows(span.begin, span.count) = packed.middleRows(row, span.count).template cast<T>();
      row += span.count;
      continue;
    }
    for (Index i = 0; i < span.count; ++i)
      out.row(placement.row(span.begin + i)) = packed.row(row++).template cast<T>();
  }
}

inline void set_packed_offsets(const Placement& placement, Sequences& packed) {
  packed.offsets.assign(1, 0);
  for (const Placement::Span& span : placement.spans) packed.offsets.push_back(packed.offsets.back() + span.count);
}

}  // namespace gma::detail
