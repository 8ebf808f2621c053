// SPDX-License-Identifier: MIT
// The place in the middle of a layer's pass where the segments of one stream, which run elsewhere, meet.
#pragma once

#include <vector>

#include "gma/attention/memory.hpp"

namespace gma {

/// Joins the passes of a layer over the segments of one stream, as gma/mpi/layer.hpp does over processes. A causal pass
/// of one sequence with a state calls the exchange of its cache (LayerCache::exchange). With T the memories that a
/// segment writes to zeros, segment p goes on from M_p = M_in + T_0 + ... + T_{p-1}, where "+" is merge(). A backward
/// pass goes from the last segment to the first.
template <class S>
class MemoryExchange {
 public:
  MemoryExchange() = default;
  MemoryExchange(const MemoryExchange&) = delete;
  MemoryExchange& operator=(const MemoryExchange&) = delete;
  virtual ~MemoryExchange() = default;

  /// Whether before() reads T of this segment. Else T is not computed.
  virtual bool wants_totals() const = 0;
  /// Forward. In: T, one memory per key head, or none. Out: the memories before the segment, in place of the state's.
  virtual void before(std::vector<Memory<S>>& memories) = 0;
  /// Backward, from the gradients of the memories before the segment, through its outputs and its d_final: returns the
  /// further gradients of the memories after the segment, through what comes after it, or none: zeros.
  virtual std::vector<Memory<S>> d_after(const std::vector<Memory<S>>& d_before) = 0;
};

}  // namespace gma
