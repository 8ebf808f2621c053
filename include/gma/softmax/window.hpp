// SPDX-License-Identifier: MIT
// Softmax attention of one head over the last W tokens, the present one included, with rotary positions: coordinates i
// and i + d/2 of the query and the key of token p are turned by the angle p 10000^(-2i/d).
//
// Rotary scores depend only on position differences, so positions restart in every block of tokens: a table of W + 127
// rows serves streams of any length at full accuracy. Keys are stored without rotation and turned again in every block
// that sees them, which costs little compared with the products.
#pragma once

#include <algorithm>
#include <cmath>

#include "gma/softmax/rotary.hpp"
#include "gma/softmax/tiles.hpp"

namespace gma::detail {

/// Tokens of a block, whose positions are counted together, and tokens of a tile of scores.
inline constexpr Index window_block = 128, window_tile = 64;

/// A table of the positions of a block. One that is already filled is left alone.
template <class S>
void set_rotations(Matrix<S>& rotations, Index window, Index head_width) {
  const Index positions = window_block + window - 1;
  if (rotations.rows() == positions && rotations.cols() == 3 * (head_width / 2)) return;
  Matrix<S> table = rotary_table<S>(positions, head_width);
  rotations.swap(table);
}

/// y += share (x - y).
template <class S>
void move_towards(const S* x, const S& share, Index count, S* y) {
  Chunk<S> to = Chunk<S>::Constant(S(0)), from = to;
  for (Index begin = 0; begin < count; begin += from.size()) {
    const Index now = (std::min)(Index(from.size()), count - begin);
    std::copy_n(x + begin, now, to.data());
    std::copy_n(y + begin, now, from.data());
    from += share * (to - from);
    std::copy_n(from.data(), now, y + begin);
  }
}

/// The last W - 1 tokens of a stream before a pass. Token p is in row p mod (W - 1). No rows mean that there is no
/// past.
template <class S>
struct WindowPast {
  ConstTile<S> keys, values;  // of one head
  Index position;             // tokens before the pass

  Index count() const { return (std::min)(position, keys.rows()); }
  /// The row of token j. The first token of the pass is 0, so j is negative.
  Index row(Index j) const { return (position + j) % keys.rows(); }
};

/// Its gradient, added to in the same rows; no rows: not wanted.
template <class S>
struct WindowPastGradient {
  Tile<S> keys, values;
};

/// One key head and the query heads that share it, in one sequence of n tokens.
template <class S>
struct WindowHead {
  const Matrix<S>& rotations;
  Index window;
  ConstTile<S> keys, values;  // n x d, n x e
  WindowPast<S> past;
  Workspace<S>& workspace;

  /// Queries from `begin` on see keys from `key_begin` on, which may be in the past. A query's own key is `own` keys
  /// after the first.
  struct Block {
    Index begin, count, key_begin, own;
    Index keys() const { return own + count; }
  };

  /// out n x e and log_sum_exp (n) for each of `group` query heads: queries(g) n x d, out(g), log_sum_exp(g).
  template <class Queries, class Out, class LogSumExp>
  void forward(Index group, const Queries& queries, const Out& out, const LogSumExp& log_sum_exp) const {
    for (Index begin = 0; begin < keys.rows(); begin += window_block) {
      const typename Workspace<S>::Frame frame(workspace);
      const Block block = block_at(begin);
      const ConstTile<S> k = rotated_keys(block), v = values_of(block);
      for (Index g = 0; g < group; ++g) {
        const typename Workspace<S>::Frame frame_of_query(workspace);
        const ConstTile<S> q = rotated_queries(block, queries(g));
        Tile<S> y = rows<S>(out(g), begin, block.count);
        S* const lse = log_sum_exp(g) + begin;
        const SoftmaxBand band = band_of(block);
        if (block.count == 1) {
          const Tile<S> scores = workspace.take(1, room(block));
          softmax_of_one(q, k, v, band.scale, front(scores, 1, k.rows()), y, lse);
        } else {
          softmax_tiles(TokenView<S>(q), TokenView<S>(k), TokenView<S>(v), band, TokenSink<S>(y), lse, workspace);
        }
      }
    }
  }

  /// Adds to the gradients of the queries, n x d, keys, n x d, values, n x e, and of the past.
  void backward(const ConstTile<S>& queries, const ConstTile<S>& output, const S* log_sum_exp,
                const ConstTile<S>& d_output, Tile<S> d_queries, Tile<S> d_keys, Tile<S> d_values,
                WindowPastGradient<S> d_past) const {
    const Index d = keys.cols(), e = values.cols();
    for (Index begin = 0; begin < keys.rows(); begin += window_block) {
      const typename Workspace<S>::Frame frame(workspace);
      const Block block = block_at(begin);
      const ConstTile<S> k = rotated_keys(block), v = values_of(block), q = rotated_queries(block, queries);
      const Tile<S> d_q = zeros(block.count, d), d_k = zeros(block.keys(), d), d_v = zeros(block.keys(), e);
      softmax_tiles_backward<S>(TokenView<S>(q), TokenView<S>(k), TokenView<S>(v), rows<S>(output, begin, block.count),
                                log_sum_exp + begin, TokenView<S>(rows<S>(d_output, begin, block.count)),
                                band_of(block), d_q, d_k, d_v, workspace);
      for (Index t = 0; t < block.count; ++t) {
        rotate(d_q.data() + t * d, query_rotation(t), d / 2, true, true, row_of(d_queries, begin + t));
      }
      const Index wanted = d_past.keys.rows() > 0 ? 0 : (std::max)(Index(0), -block.key_begin);
      for (Index m = wanted; m < block.keys(); ++m) {
        const Index j = block.key_begin + m, row = j < 0 ? past.row(j) : j;
        Tile<S>&keys_to = j < 0 ? d_past.keys : d_keys, &values_to = j < 0 ? d_past.values : d_values;
        rotate(d_k.data() + m * d, key_rotation(block, m), d / 2, true, true, row_of(keys_to, row));
        values_to.row(row) += d_v.row(m);
      }
    }
  }

 private:
  static S* row_of(const Tile<S>& tile, Index i) { return const_cast<S*>(tile.data()) + i * tile.outerStride(); }
  static const S* row_of(const ConstTile<S>& tile, Index i) { return tile.data() + i * tile.outerStride(); }

  Block block_at(Index begin) const {
    const Index key_begin = (std::max)(-past.count(), begin - (window - 1));
    return {begin, (std::min)(window_block, keys.rows() - begin), key_begin, begin - key_begin};
  }
  SoftmaxBand band_of(const Block& block) const {
    return {1 / std::sqrt(static_cast<double>(keys.cols())), true, window, block.own, window_tile, window_tile};
  }
  /// The first query of a block has position W - 1, which leaves room for all the keys that it sees.
  const S* query_rotation(Index t) const { return rotations.data() + (window - 1 + t) * rotations.cols(); }
  const S* key_rotation(const Block& block, Index m) const { return query_rotation(m - block.own); }

  /// Keys that a block of this many tokens sees once the past is full. With them, no scratch grows while a stream
  /// begins.
  Index room(const Block& block) const { return (std::max)(block.keys(), block.count + past.keys.rows()); }

  Tile<S> zeros(Index count, Index cols) const {
    Tile<S> tile = workspace.take(count, cols);
    tile.setZero();
    return tile;
  }

  ConstTile<S> rotated_queries(const Block& block, const ConstTile<S>& queries) const {
    const Tile<S> q = workspace.take(block.count, queries.cols());
    for (Index t = 0; t < block.count; ++t) {
      rotate(row_of(queries, block.begin + t), query_rotation(t), q.cols() / 2, false, false, row_of(q, t));
    }
    return as_tile(q);
  }

  ConstTile<S> rotated_keys(const Block& block) const {
    const Tile<S> k = front(workspace.take(room(block), keys.cols()), block.keys(), keys.cols());
    for (Index m = 0; m < k.rows(); ++m) {
      const Index j = block.key_begin + m;
      rotate(j < 0 ? row_of(past.keys, past.row(j)) : row_of(keys, j), key_rotation(block, m), k.cols() / 2, false,
             false, row_of(k, m));
    }
    return as_tile(k);
  }

  /// The keys in place, unless some are in the past.
  ConstTile<S> values_of(const Block& block) const {
    const Tile<S> v = front(workspace.take(room(block), values.cols()), block.keys(), values.cols());
    if (block.key_begin >= 0) return rows(values, block.key_begin, block.keys());
    for (Index m = 0; m < v.rows(); ++m) {
      const Index j = block.key_begin + m;
      std::copy_n(j < 0 ? row_of(past.values, past.row(j)) : row_of(values, j), v.cols(), row_of(v, m));
    }
    return as_tile(v);
  }
};

}  // namespace gma::detail
