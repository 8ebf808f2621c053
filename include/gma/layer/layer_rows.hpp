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
  constexpr Index depth = 256, width = 128;
  const Index across = (b.cols() + width - 1) / width, down = (a.cols() + channels_of_task - 1) / channels_of_task;
  parallel_for(executor, across * down, [&](Index task, Index) {
    const Index begin = task / across * channels_of_task, column = task % across * width;
    const Index count = (std::min)(channels_of_task, a.cols() - begin), columns = (std::min)(width, b.cols() - column);
    for (Index row = 0; row < a.rows(); row += depth) {
      const Index now = (std::min)(depth, a.rows() - row);
      const ConstTile<S> a_part(a.data() + row * a.outerStride() + begin, now, count,
                                Eigen::OuterStride<>(a.outerStride()));
      const ConstTile<S> b_part(b.data() + row * b.cols() + column, now, columns, Eigen::OuterStride<>(b.cols()));
      add_transposed_product(
          a_part, b_part,
          Tile<S>(c.data() + begin * c.cols() + column, count, columns, Eigen::OuterStride<>(c.cols())));
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
  Index segment = 0;  // tokens of a segment of causal attention, 0: not cut

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

/// Copies the rows that belong to a sequence into a packed matrix, in parallel.
template <class S>
void gather_rows(const TokenView<S>& x, const Placement& placement, const Executor* executor, Matrix<S>& packed) {
  Index count = 0;
  for (const Placement::Span& span : placement.spans) count += span.count;
  resize(packed, count, x.cols());
  Index row = 0;
  const auto copy = [&](Index begin, Index now) {
    for_blocks(executor, now, rows_of_task,
               [&](Index i, Index block) { x.copy_to(begin + i, rows(packed, row + i, block)); });
    row += now;
  };
  for (const Placement::Span& span : placement.spans) {
    if (!placement.is_masked) {
      copy(span.begin, span.count);
      continue;
    }
    for (Index i = 0; i < span.count; ++i) copy(placement.row(span.begin + i), 1);
  }
}

/// Copies packed rows back to their places in `out`, in parallel, and zeros into the other rows.
template <class S>
void scatter_rows(const Matrix<S>& packed, const Placement& placement, const Executor* executor,
                  const TokenSink<S>& out, Workspace<S>& workspace) {
  if (placement.has_padding) {
    typename Workspace<S>::Frame frame(workspace);
    Tile<S> zeros = workspace.take(1, out.cols());
    zeros.setConstant(S(0));
    for (Index i = 0; i < out.rows(); ++i) out.put(zeros, i);
  }
  Index row = 0;
  const auto copy = [&](Index begin, Index now) {
    for_blocks(executor, now, rows_of_task, [&](Index i, Index block) {
      S* const first = const_cast<S*>(packed.data()) + (row + i) * packed.cols();  // is only read
      out.put(Tile<S>(first, block, packed.cols(), Eigen::OuterStride<>(packed.cols())), begin + i);
    });
    row += now;
  };
  for (const Placement::Span& span : placement.spans) {
    if (!placement.is_masked) {
      copy(span.begin, span.count);
      continue;
    }
    for (Index i = 0; i < span.count; ++i) copy(placement.row(span.begin + i), 1);
  }
}

inline void set_packed_offsets(const Placement& placement, Sequences& packed) {
  packed.offsets.assign(1, 0);
  for (const Placement::Span& span : placement.spans) packed.offsets.push_back(packed.offsets.back() + span.count);
}

}  // namespace gma::detail
