// SPDX-License-Identifier: MIT
// What backward passes in float take out of their sums before they add, because it would cancel in the end:
//
//   - a constant v0 of all values. Under slot and row normalisation outputs move with the values,
//     y(v - v0) = y(v) - v0, so the gradients of queries, keys and mixture are those of centred values, whose slots are
//     small. The gradient of the mass becomes dm + dM v0; that of the slots stays.
//   - a constant over the slots, of the gradient of the slots. It adds the same number to the gradient of each of a
//     key's responsibilities, and the softmax behind them ignores it.
//
// Both are exact. Neither is done for wider scalars, nor for feature maps whose rows do not sum to 1.
#pragma once

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "gma/attention/gradients.hpp"
#include "gma/attention/memory_tiles.hpp"
#include "gma/attention/token_stream.hpp"

namespace gma::detail {

template <class FeatureMap, class S>
inline constexpr bool centres = keeps_remainder<S>&& is_compiled<FeatureMap>;

/// Each number as a multiple of a power of two that is some 2^-14 of `scale`, the size of the numbers it is taken off.
/// With bits below theirs, the differences would all be rounded the same way. Zeros where a number is not finite;
/// returns whether all are.
template <class S>
bool round_to_scale(const Wide<S>& scale, Tile<S> centre) {
  if constexpr (std::is_floating_point_v<S>) {
    const bool all_finite = is_finite(scale) && centre.allFinite();
    if (!all_finite || !(scale > Wide<S>(0))) {
      centre.setConstant(S(0));
      return all_finite;
    }
    const S quantum = S(std::ldexp(1.0, std::ilogb(static_cast<double>(scale)) - 14));
    if (quantum > S(0)) centre = (centre.array() / quantum).round() * quantum;
  }
  return true;
}

/// Tokens that are summed at a time.
inline constexpr Index centre_block = 64;

/// What the values of some tokens have in common: the sum of their weights, and that of their squares.
template <class S>
struct ValueSums {
  Wide<S> weight{0}, squares{0};
};

/// Adds the weighted values of a stream to `sum`, 1 x e.
template <class S>
void add_values(const TokenStream<S>& stream, Tile<S> sum, ValueSums<S>& sums, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  Tile<S> part = workspace.take(1, stream.values.cols());
  for (Index begin = 0; begin < stream.size(); begin += centre_block) {
    typename Workspace<S>::Frame tile_frame(workspace);
    const Index count = (std::min)(centre_block, stream.size() - begin);
    const ConstTile<S> values = load_values(stream, begin, count, workspace);
    part.setConstant(S(0));
    for (Index t = 0; t < count; ++t) {
      const S w = stream.weighted() ? stream.tokens.key_weights(begin + t) : S(1);
      part += values.row(t) * w;
      sums.weight += Wide<S>(w);
    }
    sum += part;
    sums.squares += Wide<S>(values.squaredNorm());
  }
}

/// v0 where it may be taken off, e numbers in the workspace; null: nothing is taken off. It is the mean of the
/// values, those in `initial` (null: none) included. Threads may sum the segments of `options` at the same time.
template <class FeatureMap, class S>
const S* value_centre(const FeatureMap&, const TokenStream<S>& stream, const Options& options, const Memory<S>* initial,
                      Workspace<S>& workspace) {
  const Index e = stream.values.cols();
  const bool is_free = options.normalization == Normalization::none;
  if (!centres<FeatureMap, S> || is_free || stream.size() == 0 || e == 0) return nullptr;
  const Segments cut(options, stream.size());
  const Tile<S> parts = workspace.take(cut.count(), e);
  Tile<S> centre = rows(parts, 0, 1);
  std::vector<ValueSums<S>>& sums = workspace.template keep<std::vector<ValueSums<S>>>();
  sums.assign(static_cast<std::size_t>(cut.count()), ValueSums<S>());
  rows(parts, 0, cut.count()).setConstant(S(0));
  if (initial != nullptr && !initial->empty()) {
    centre = initial->slots.colwise().sum();
    sums[0].weight += Wide<S>(initial->mass.sum());
  }
  workspace.prepare_workers(workers(options.executor));
  parallel_for(options.executor, cut.count(), [&](Index i, Index worker) {
    add_values(stream.part(cut.begin(i), cut.size(i)), rows(parts, i, 1), sums[static_cast<std::size_t>(i)],
               workspace.worker(worker));
  });
  for (Index i = 1; i < cut.count(); ++i) {
    centre += rows(parts, i, 1);
    sums[0].weight += sums[static_cast<std::size_t>(i)].weight;
    sums[0].squares += sums[static_cast<std::size_t>(i)].squares;
  }
  const Wide<S> weight = sums[0].weight, squares = sums[0].squares;
  if (!(weight > Wide<S>(0))) return nullptr;
  using std::sqrt;
  centre *= S(Wide<S>(1) / weight);
  const Wide<S> scale = sqrt(squares / Wide<S>(static_cast<double>(stream.size() * e)));
  return round_to_scale(scale, centre) ? centre.data() : nullptr;
}

template <class FeatureMap, class S>
const S* value_centre(const FeatureMap& map, const TokenStream<S>& stream, Normalization normalization,
                      const Memory<S>* initial, Workspace<S>& workspace) {
  Options whole;
  whole.normalization = normalization;
  return value_centre(map, stream, whole, initial, workspace);
}

/// v0 of a memory that is read without the values it was written from: their mean.
template <class FeatureMap, class S>
const S* memory_centre(const FeatureMap&, const LongMemory<S>& memory, Normalization normalization,
                       Workspace<S>& workspace) {
  const Index e = memory.memory.slots.cols();
  if (!centres<FeatureMap, S> || normalization == Normalization::none || e == 0) return nullptr;
  const Wide<S> weight = memory.memory.mass.template cast<Wide<S>>().sum();
  if (!(weight > Wide<S>(0))) return nullptr;
  Tile<S> centre = workspace.take(1, e);
  for (Index j = 0; j < e; ++j) {
    centre(0, j) = S(Wide<S>(memory.memory.slots.col(j).template cast<Wide<S>>().sum() / weight));
  }
  return centre.allFinite() ? centre.data() : nullptr;
}

/// dm + sign dM v0, row by row.
template <class S>
void shift_mass_gradient(const S* centre, Wide<S> sign, MemoryTiles<S> d_memory) {
  if (centre == nullptr) return;
  for (Index k = 0; k < d_memory.mass.size(); ++k) {
    Wide<S> sum(0);
    for (Index j = 0; j < d_memory.slots.cols(); ++j) sum += Wide<S>(d_memory.slots(k, j)) * Wide<S>(centre[j]);
    d_memory.mass(k) = S(Wide<S>(d_memory.mass(k)) + sign * sum);
  }
}
/// From the gradient for values as they are to that for centred values, and back.
template <class S>
void centre_gradient(const S* centre, MemoryTiles<S> d_memory) {
  shift_mass_gradient(centre, Wide<S>(1), d_memory);
}
template <class S>
void uncentre_gradient(const S* centre, MemoryTiles<S> d_memory) {
  shift_mass_gradient(centre, Wide<S>(-1), d_memory);
}

/// From a memory of values as they are to that of centred values: M - m v0.
template <class S>
void centre_memory(const S* centre, LongMemory<S>& state) {
  if (centre == nullptr) return;
  MemoryTiles<S>&high = state.memory, &low = state.remainder;
  for (Index k = 0; k < high.mass.size(); ++k) {
    const Wide<S> mass = Wide<S>(high.mass(k)) + (state.has_remainder ? Wide<S>(low.mass(k)) : Wide<S>(0));
    for (Index j = 0; j < high.slots.cols(); ++j) {
      Wide<S> slot = Wide<S>(high.slots(k, j)) - mass * Wide<S>(centre[j]);
      if (state.has_remainder) slot += Wide<S>(low.slots(k, j));
      high.slots(k, j) = S(slot);
      if (state.has_remainder) low.slots(k, j) = S(slot - Wide<S>(high.slots(k, j)));
    }
  }
}

/// b_t = v0 . dy_t of a tile, which a mass below tiny_mass needs; null where nothing was taken off.
template <class S>
const S* shifts(const S* centre, const ConstTile<S>& d_output, Workspace<S>& workspace) {
  if (centre == nullptr) return nullptr;
  Tile<S> result = workspace.take(1, d_output.rows());
  for (Index t = 0; t < d_output.rows(); ++t) {
    result(0, t) = kernels::dot(centre, d_output.data() + t * d_output.outerStride(), d_output.cols());
  }
  return result.data();
}

/// The gradient of a memory with what is constant over the slots apart from the rest.
template <class S>
struct CommonGradient {
  Tile<S> transposed_slots;  // e x K, less `slots`
  Tile<S> mass;              // 1 x K, less `of_mass`
  Tile<S> slots;             // 1 x e
  S of_mass;

  /// What is missing in the gradient of every responsibility of a key whose value is row t.
  S of(const ConstTile<S>& values, Index t) const {
    return kernels::dot(values.data() + t * values.outerStride(), slots.data(), slots.cols()) + of_mass;
  }
};

/// What is constant is taken to be the mean over the slots, each weighted by its mass: slots that hold next to nothing
/// have gradients as large as their mass is small. `mass` may be null: nothing is taken apart.
template <class FeatureMap, class S>
CommonGradient<S> common_gradient(const FeatureMap&, const LongMemory<S>& d_memory, const S* mass,
                                  Workspace<S>& workspace) {
  const MemoryTiles<S>&high = d_memory.memory, &low = d_memory.remainder;
  const Index K = high.slots.rows(), e = high.slots.cols();
  CommonGradient<S> result{workspace.take(e, K), workspace.take(1, K), workspace.take(1, e), S(0)};
  result.slots.setConstant(S(0));
  if (centres<FeatureMap, S> && mass != nullptr) {
    const Eigen::Map<const RowVector<S>> weights(mass, K);
    const S total = weights.sum();
    if (is_finite(total) && total > S(0)) {
      for (Index k = 0; k < K; ++k) result.slots += high.slots.row(k) * (weights(k) / total);
      result.of_mass = weights.dot(high.mass) / total;
    }
  }
  result.transposed_slots = (high.slots.rowwise() - result.slots.row(0)).transpose();
  result.mass = high.mass.array() - result.of_mass;
  if (d_memory.has_remainder) {
    result.transposed_slots += low.slots.transpose();
    result.mass += low.mass;
  }
  return result;
}

/// The mean of the outputs' gradients, 1 x e, or zeros: what the backward pass of a slot read takes off them, since it
/// adds nearly the same to the gradient of every slot.
template <class FeatureMap, class S>
Tile<S> output_centre(const FeatureMap&, const TokenView<S>& d_output, bool by_slot, Workspace<S>& workspace) {
  Tile<S> centre = workspace.take(1, d_output.cols());
  centre.setConstant(S(0));
  if (!centres<FeatureMap, S> || !by_slot || d_output.rows() == 0) return centre;
  Wide<S> squares(0);
  for (Index begin = 0; begin < d_output.rows(); begin += centre_block) {
    typename Workspace<S>::Frame frame(workspace);
    const Index count = (std::min)(centre_block, d_output.rows() - begin);
    const ConstTile<S> part = load_tile(d_output, begin, count, workspace);
    for (Index t = 0; t < count; ++t) centre += part.row(t);
    squares += Wide<S>(part.squaredNorm());
  }
  using std::sqrt;
  centre *= S(1) / S(static_cast<double>(d_output.rows()));
  round_to_scale(Wide<S>(sqrt(squares / Wide<S>(static_cast<double>(d_output.rows() * d_output.cols())))), centre);
  return centre;
}

}  // namespace gma::detail
