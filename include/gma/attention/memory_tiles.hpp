// SPDX-License-Identifier: MIT
// Memories as the inner loops see them: views of a Memory or of scratch.
#pragma once

#include "gma/attention/memory.hpp"
#include "gma/core/tokens.hpp"
#include "gma/core/workspace.hpp"
#include "gma/kernels/rows.hpp"
#include "gma/kernels/scan.hpp"

namespace gma::detail {

/// Slots of a mixture whose mass has fallen below this become zero: left alone, forgetting would keep them among the
/// subnormal numbers, where some machines are slow.
inline constexpr double vanished_mass = 0x1p-100;

/// Slots and mass.
template <class S>
struct MemoryTiles {
  Tile<S> slots;                  // K x e, without gaps
  Eigen::Map<RowVector<S>> mass;  // K

  void set_zero() {
    slots.setConstant(S(0));
    mass.setConstant(S(0));
  }

  /// *this *= decay; a restart makes it zero, NaN included.
  void decay(const kernels::Decay<S>& decay) {
    kernels::decay_all(decay, slots.data(), slots.size());
    kernels::decay_all(decay, mass.data(), mass.size());
  }

  void add(const MemoryTiles& other) {
    slots += other.slots;
    mass += other.mass;
  }
  void copy(const MemoryTiles& other) {
    slots = other.slots;
    mass = other.mass;
  }
};

template <class S>
MemoryTiles<S> view(Memory<S>& memory) {
  return {as_tile(memory.slots), Eigen::Map<RowVector<S>>(memory.mass.data(), memory.mass.size())};
}

/// Memory number i of n in two matrices: slots (n K) x e, masses n x K.
template <class S>
MemoryTiles<S> memory_at(Tile<S> slots, Tile<S> masses, Index i) {
  const Index K = masses.cols();
  return {Tile<S>(slots.data() + i * K * slots.cols(), K, slots.cols(), Eigen::OuterStride<>(slots.cols())),
          Eigen::Map<RowVector<S>>(masses.data() + i * K, K)};
}

template <class S>
MemoryTiles<S> take_memory(Index components, Index width, Workspace<S>& workspace) {
  return memory_at(workspace.take(components, width), workspace.take(1, components), Index(0));
}

/// <M, dM> + <m, dm>.
template <class S>
Wide<S> inner_product(const MemoryTiles<S>& a, const MemoryTiles<S>& b) {
  using W = Wide<S>;
  return (a.slots.template cast<W>()).cwiseProduct(b.slots.template cast<W>()).sum() +
         (a.mass.template cast<W>()).cwiseProduct(b.mass.template cast<W>()).sum();
}

/// The same of a memory and a gradient with respect to it.
template <class S>
Wide<S> inner_product(const Memory<S>& memory, const Memory<S>& gradient) {
  using W = Wide<S>;
  W sum(0);
  for (Index k = 0; k < memory.mass.size(); ++k) {
    const W mass = W(memory.mass(k)) + (has_remainder(memory) ? W(memory.mass_remainder(k)) : W(0));
    sum += mass * W(gradient.mass(k));
    for (Index j = 0; j < memory.slots.cols(); ++j) {
      const W slot = W(memory.slots(k, j)) + (has_remainder(memory) ? W(memory.slots_remainder(k, j)) : W(0));
      sum += slot * W(gradient.slots(k, j));
    }
  }
  return sum;
}

/// `given` (empty: zeros) as the gradient of a memory of K x e numbers.
template <class S>
void start_gradient(const Memory<S>& given, Index components, Index width, Memory<S>& gradient) {
  const S log_forgetting = given.log_forgetting;
  if (given.empty()) {
    set_zero(gradient, components, width);
  } else if (&given != &gradient) {
    assign(gradient.slots, given.slots);
    assign(gradient.mass, given.mass);
  }
  gradient.tokens = S(0);
  gradient.log_forgetting = log_forgetting;
  clear_remainder(gradient);
}

/// A memory as the sum of two views: what is read, and the remainder, which counts only where the stream is long.
template <class S>
struct LongMemory {
  MemoryTiles<S> memory, remainder;
  bool has_remainder = false;
  bool has_mass_remainder = false;  // the mass has one, though the slots have none

  void decay(const kernels::Decay<S>& decay) {
    memory.decay(decay);
    if (has_remainder) remainder.decay(decay);
  }

  /// decay *this + change; the remainder takes what the addition rounds away.
  void settle(const kernels::Decay<S>& decay, const MemoryTiles<S>& change) {
    if (!has_remainder) {
      memory.decay(decay);
      memory.add(change);
      return;
    }
    kernels::settle<S>(decay, change.slots.data(), change.slots.size(), memory.slots.data(), remainder.slots.data());
    kernels::settle<S>(decay, change.mass.data(), change.mass.size(), memory.mass.data(), remainder.mass.data());
  }

  void set_zero() {
    memory.set_zero();
    has_remainder = false;
  }

  /// From here on with a remainder, if the tokens so far call for it and there is room; it stays.
  void prepare(const S& tokens, bool forgets) {
    if (has_remainder || has_mass_remainder || remainder.mass.size() == 0 || !is_long(tokens, forgets)) return;
    remainder.set_zero();
    has_remainder = true;
  }
};

/// A view without room for a remainder.
template <class S>
LongMemory<S> without_remainder(const MemoryTiles<S>& memory) {
  return {memory, {Tile<S>(nullptr, 0, 0, Eigen::OuterStride<>(0)), Eigen::Map<RowVector<S>>(nullptr, 0)}, false};
}

/// The same with a remainder for the mass alone, in `low`, n x K (n x 0: without).
template <class S>
LongMemory<S> long_memory_at(Tile<S> slots, Tile<S> masses, Tile<S> low, Index i) {
  return {memory_at(slots, masses, i),
          {Tile<S>(nullptr, 0, 0, Eigen::OuterStride<>(0)),
           Eigen::Map<RowVector<S>>(low.data() + i * low.cols(), low.cols())},
          false,
          low.cols() != 0};
}
template <class S>
LongMemory<S> zeros_with_mass_remainder(Tile<S> slots, Tile<S> masses, Tile<S> low, Index i) {
  LongMemory<S> result = long_memory_at(slots, masses, low, i);
  result.memory.set_zero();
  result.remainder.mass.setConstant(S(0));
  return result;
}

/// memory <- decay memory + part, where the part may have a remainder for its mass.
template <class S>
void settle_part(const kernels::Decay<S>& decay, const LongMemory<S>& part, LongMemory<S>& memory) {
  memory.settle(decay, part.memory);
  if (memory.has_remainder && part.has_mass_remainder) memory.remainder.mass += part.remainder.mass;
}

/// mass <- decay mass + the sums of the tile's columns, which are summed from zero.
template <class S>
void add_mass(const kernels::Decay<S>& decay, const Tile<S>& r, LongMemory<S>& memory, Workspace<S>& workspace) {
  if (!memory.has_mass_remainder) {
    kernels::decay_all(decay, memory.memory.mass.data(), r.cols());
    kernels::add_column_sums(r, memory.memory.mass.data());
    return;
  }
  Tile<S> sums = workspace.take(1, r.cols());
  sums.setConstant(S(0));
  kernels::add_column_sums(r, sums.data());
  kernels::settle<S>(decay, sums.data(), r.cols(), memory.memory.mass.data(), memory.remainder.mass.data());
}

template <class S>
LongMemory<S> view_long(Memory<S>& memory) {
  return {view(memory),
          {as_tile(memory.slots_remainder),
           Eigen::Map<RowVector<S>>(memory.mass_remainder.data(), memory.mass_remainder.size())},
          has_remainder(memory)};
}

/// A copy of `memory`, or zeros where it is empty, with room for a remainder if `may_be_long`.
template <class S>
LongMemory<S> take_copy(const Memory<S>& memory, Index components, Index width, bool may_be_long,
                        Workspace<S>& workspace) {
  const bool has_room = may_be_long || has_remainder(memory);
  LongMemory<S> copy{take_memory(components, width, workspace),
                     take_memory(has_room ? components : Index(0), width, workspace), has_remainder(memory)};
  if (memory.empty()) {
    copy.memory.set_zero();
    return copy;
  }
  copy.memory.slots = memory.slots;
  copy.memory.mass = memory.mass.transpose();
  if (copy.has_remainder) {
    copy.remainder.slots = memory.slots_remainder;
    copy.remainder.mass = memory.mass_remainder.transpose();
  }
  return copy;
}

template <class S>
LongMemory<S> take_copy(const LongMemory<S>& memory, Workspace<S>& workspace) {
  const Index components = memory.memory.slots.rows(), width = memory.memory.slots.cols();
  LongMemory<S> copy{take_memory(components, width, workspace),
                     take_memory(memory.remainder.mass.size(), width, workspace), memory.has_remainder};
  copy.memory.copy(memory.memory);
  if (copy.has_remainder) copy.remainder.copy(memory.remainder);
  return copy;
}

/// The way back, into a memory of that size which has a remainder if `result` has one: cannot fail.
template <class S>
void store(const LongMemory<S>& result, Memory<S>& memory) {
  memory.slots = result.memory.slots;
  memory.mass = result.memory.mass.transpose();
  if (!result.has_remainder) return;
  memory.slots_remainder = result.remainder.slots;
  memory.mass_remainder = result.remainder.mass.transpose();
}

/// From here on with a remainder, zero if there was none, where there is room.
template <class S>
void start_remainder(LongMemory<S>& memory) {
  if (!memory.has_remainder) memory.remainder.set_zero();
  memory.has_remainder = memory.remainder.mass.size() != 0;
}

/// total <- decay before + total. `may_begin`: the sum begins to keep a remainder, where there is room.
template <class S>
void put_before(const LongMemory<S>& before, const kernels::Decay<S>& decay, bool may_begin, LongMemory<S>& total,
                Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const Index rows = total.memory.slots.rows(), cols = total.memory.slots.cols(), mass = total.memory.mass.size();
  const bool has_rest = total.has_remainder;
  const auto take = [&](bool is_wanted) -> MemoryTiles<S> {
    return {workspace.take(is_wanted ? rows : Index(0), cols),
            Eigen::Map<RowVector<S>>(workspace.take(1, mass).data(), is_wanted ? mass : Index(0))};
  };
  MemoryTiles<S> change = take(true), rest = take(has_rest);
  change.copy(total.memory);
  if (has_rest) rest.copy(total.remainder);
  total.memory.copy(before.memory);
  total.has_remainder = before.has_remainder;
  if (before.has_remainder) total.remainder.copy(before.remainder);
  if (may_begin && total.remainder.mass.size() != 0) start_remainder(total);
  total.settle(decay, change);
  if (has_rest && total.has_remainder) total.remainder.add(rest);
}

}  // namespace gma::detail
