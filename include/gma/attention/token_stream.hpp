// SPDX-License-Identifier: MIT
// Keys and values with their per-token inputs, read a tile at a time. A token of weight zero is absent: its rows become
// zero before any product sees them, so that NaN or infinity in them has no effect.
#pragma once

#include <algorithm>

#include "gma/attention/options.hpp"
#include "gma/core/numeric.hpp"
#include "gma/core/tokens.hpp"
#include "gma/core/workspace.hpp"
#include "gma/kernels/rows.hpp"

namespace gma::detail {

/// options.tile, or `otherwise`, but no more than there are tokens.
inline Index tile_size(const Options& options, Index otherwise, Index tokens) {
  return (std::max)(Index(1), (std::min)(options.tile > 0 ? options.tile : otherwise, tokens));
}

/// The tile unless a row has weight zero, else a copy in which those rows are zero. `weights` is T, or null for ones.
template <class S>
ConstTile<S> drop_absent(const ConstTile<S>& tile, const S* weights, Workspace<S>& workspace) {
  if (weights == nullptr || std::find(weights, weights + tile.rows(), S(0)) == weights + tile.rows()) return tile;
  Tile<S> copy = workspace.take(tile.rows(), tile.cols());
  for (Index t = 0; t < tile.rows(); ++t) {
    if (weights[t] == S(0)) {
      copy.row(t).setConstant(S(0));
    } else {
      copy.row(t) = tile.row(t);
    }
  }
  return ConstTile<S>(copy.data(), copy.rows(), copy.cols(), Eigen::OuterStride<>(copy.outerStride()));
}

template <class S>
ConstTile<S> load_tile(const TokenView<S>& view, Index begin, Index count, Workspace<S>& workspace) {
  return view.tile(begin, count, workspace.take(count, view.cols()));
}
/// The same without gaps between the rows: for a scan, which passes over them once for every block of the state.
template <class S>
ConstTile<S> load_dense_tile(const TokenView<S>& view, Index begin, Index count, Workspace<S>& workspace) {
  return view.tile(begin, count, workspace.take(count, view.cols()), true);
}

/// Chunks of tokens that threads may process at the same time, each a whole number of tiles, except the last. They
/// depend on the number of tokens only, and their sums are added in order, so that results have the same bits for any
/// number of threads. They are also the second level of summation, which keeps long sums accurate.
struct Chunks {
  Index tokens, length;

  Chunks(Index n, Index tile) : tokens(n), length(tile * (std::clamp)(n / (16 * tile), Index(4), Index(48))) {}
  Index count() const { return (tokens + length - 1) / length; }
  Index begin(Index i) const { return i * length; }
  Index end(Index i) const { return (std::min)(tokens, (i + 1) * length); }
};

/// run(index, buffer, worker) for every index in [0, count), in waves of `buffers` that run at the same time, and after
/// each wave merge(index, buffer) in order. `buffer` counts within the wave.
template <class Run, class Merge>
void in_waves(const Executor* executor, Index count, Index buffers, const Run& run, const Merge& merge) {
  for (Index first = 0; first < count; first += buffers) {
    const Index now = (std::min)(buffers, count - first);
    parallel_for(executor, now, [&](Index buffer, Index worker) { run(first + buffer, buffer, worker); });
    for (Index buffer = 0; buffer < now; ++buffer) merge(first + buffer, buffer);
  }
}

/// Keys (N x d), values (N x e), weights and forgetting of a segment of tokens.
template <class S>
struct TokenStream {
  TokenView<S> keys, values;
  TokenInputsView<S> tokens;
  const S* centre = nullptr;  // what is taken off every value, e numbers; null: nothing

  Index size() const { return keys.rows(); }
  bool weighted() const { return tokens.key_weights.size() != 0; }
  bool forgets() const { return tokens.log_forgetting.size() != 0; }
  bool forgets_by_slot() const { return tokens.slot_log_forgetting.size() != 0; }
  /// Columns of the slots' forgetting; 0: there is none.
  Index forgetting_slots() const {
    return tokens.slot_log_forgetting.rows() == size() ? tokens.slot_log_forgetting.cols() : Index(0);
  }

  /// Tokens [begin, begin + count) alone.
  TokenStream part(Index begin, Index count) const {
    return {keys.part(begin, count), values.part(begin, count), tokens.part(begin, count), centre};
  }

  const S* weights(Index begin) const { return weighted() ? tokens.key_weights.data() + begin : nullptr; }
  bool present(Index j) const { return !weighted() || tokens.key_weights(j) > S(0); }

  /// g_j; 0 for an absent token, whose g is ignored.
  Wide<S> log_decay(Index j) const { return forgets() && present(j) ? Wide<S>(tokens.log_forgetting(j)) : Wide<S>(0); }

  /// Sum of g over the tokens that are present.
  Wide<S> total_log_forgetting() const {
    Wide<S> total(0);
    for (Index j = 0; forgets() && j < size(); ++j) total += log_decay(j);
    return total;
  }
};

/// Keys of a tile; those of absent tokens are zero.
template <class S>
ConstTile<S> load_keys(const TokenStream<S>& stream, Index begin, Index count, Workspace<S>& workspace) {
  return drop_absent(load_tile(stream.keys, begin, count, workspace), stream.weights(begin), workspace);
}

/// Values of a tile less the stream's centre, without gaps; those of absent tokens are zero.
template <class S>
ConstTile<S> load_values(const TokenStream<S>& stream, Index begin, Index count, Workspace<S>& workspace) {
  const ConstTile<S> values =
      drop_absent(load_dense_tile(stream.values, begin, count, workspace), stream.weights(begin), workspace);
  if (stream.centre == nullptr) return values;
  Tile<S> centred = workspace.take(count, values.cols());
  const Eigen::Map<const RowVector<S>> centre(stream.centre, values.cols());
  for (Index t = 0; t < count; ++t) {
    if (stream.present(begin + t)) {
      centred.row(t) = values.row(t) - centre;
    } else {
      centred.row(t).setConstant(S(0));
    }
  }
  return ConstTile<S>(centred.data(), count, centred.cols(), Eigen::OuterStride<>(centred.outerStride()));
}

}  // namespace gma::detail
