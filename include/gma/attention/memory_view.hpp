// SPDX-License-Identifier: MIT
// A memory in a caller's buffer, such as a tensor of another framework, as one flat array of numbers.
#pragma once

#include "gma/attention/causal.hpp"
#include "gma/attention/read.hpp"
#include "gma/attention/write.hpp"

namespace gma {

/// A memory of K slots of width e in size(K, e) numbers of the caller's: slots (K e, row by row), mass (K),
/// log_forgetting, tokens, flags (1: remainders follow, 2: masses may be negative), remainder of the slots (K e) and of
/// the mass (K). Zeros are a memory that has seen nothing, and a copy of the numbers is a copy of the memory. The
/// buffer must outlive the view. A verb copies the memory into its workspace and, when nothing can fail any more, back.
template <class S>
class MemoryView {
 public:
  /// Throws std::invalid_argument without a buffer or a slot.
  MemoryView(S* numbers, Index components, Index width) : numbers_(numbers), components_(components), width_(width) {
    if (numbers == nullptr || components < 1 || width < 0) {
      detail::invalid_argument("MemoryView", "the buffer is ", numbers == nullptr ? "null" : "not null", " for ",
                               components, " x ", width, " slots, expected a buffer and at least one slot");
    }
  }

  /// Numbers in such a buffer.
  static Index size(Index components, Index width) { return 2 * (components * width + components) + 3; }

  Index components() const { return components_; }  ///< K
  Index width() const { return width_; }            ///< e

  /// The same as a Memory. `memory` keeps its storage where the sizes are the same.
  void load(Memory<S>& memory) const;
  /// The way back, of a memory of K x e: allocates nothing.
  void store(const Memory<S>& memory) const;

 private:
  using Slots = Eigen::Map<Matrix<S>>;
  using Mass = Eigen::Map<Vector<S>>;

  S* scalars() const { return numbers_ + components_ * width_ + components_; }  // log_forgetting, tokens, flags
  Slots slots() const { return Slots(numbers_, components_, width_); }
  Mass mass() const { return Mass(numbers_ + components_ * width_, components_); }
  Slots slots_remainder() const { return Slots(scalars() + 3, components_, width_); }
  Mass mass_remainder() const { return Mass(scalars() + 3 + components_ * width_, components_); }

  S* numbers_;
  Index components_, width_;
};

/// write(), read_into() and causal_into() with a memory in a caller's buffer: the same bits, costs and errors.
template <class M>
void write(const M& mixture, const In<Scalar<M>>& keys, const In<Scalar<M>>& values,
           const MemoryView<Scalar<M>>& memory, const Options& options = {},
           const TokenInputsView<Scalar<M>>& tokens = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void read_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries,
               const MemoryView<Scalar<M>>& memory, const Options& options = {},
               const OptionalWorkspace<Scalar<M>>& workspace = {});
template <class M>
void causal_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                 const In<Scalar<M>>& values, const MemoryView<Scalar<M>>& memory, const Options& options = {},
                 const TokenInputsView<Scalar<M>>& tokens = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});

// Implementation -----------------------------------------------------------------------------------------------------

template <class S>
void MemoryView<S>::load(Memory<S>& memory) const {
  const int flags = static_cast<int>(scalars()[2]);
  const Index remainder = (flags & 1) != 0 ? components_ : 0;
  detail::assign(memory.slots, slots());
  detail::assign(memory.mass, mass());
  detail::assign(memory.slots_remainder, slots_remainder().topRows(remainder));
  detail::assign(memory.mass_remainder, mass_remainder().head(remainder));
  memory.log_forgetting = scalars()[0];
  memory.tokens = scalars()[1];
  memory.has_signed_mass = (flags & 2) != 0;
}

template <class S>
void MemoryView<S>::store(const Memory<S>& memory) const {
  detail::check_memory("MemoryView::store", "memory", memory, components_, width_);
  const bool is_long = detail::has_remainder(memory);
  slots() = memory.slots;
  mass() = memory.mass;
  if (is_long) {
    slots_remainder() = memory.slots_remainder;
    mass_remainder() = memory.mass_remainder;
  } else {
    slots_remainder().setConstant(S(0));
    mass_remainder().setConstant(S(0));
  }
  scalars()[0] = memory.log_forgetting;
  scalars()[1] = memory.tokens;
  scalars()[2] = S((is_long ? 1 : 0) + (memory.has_signed_mass ? 2 : 0));
}

namespace detail {

/// The memory of a call that comes from a buffer: kept in the workspace.
template <class S>
struct MemoryOfBuffer {
  Memory<S> memory;
};

template <class S>
Memory<S>& loaded(const MemoryView<S>& view, Workspace<S>& workspace) {
  Memory<S>& memory = workspace.template keep<MemoryOfBuffer<S>>().memory;
  view.load(memory);
  return memory;
}

}  // namespace detail

template <class M>
void write(const M& mixture, const In<Scalar<M>>& keys, const In<Scalar<M>>& values,
           const MemoryView<Scalar<M>>& memory, const Options& options, const TokenInputsView<Scalar<M>>& tokens,
           const OptionalWorkspace<Scalar<M>>& workspace) {
  Memory<Scalar<M>>& copy = detail::loaded(memory, workspace.get());
  write(mixture, keys, values, copy, options, tokens, workspace);
  memory.store(copy);
}

template <class M>
void read_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries,
               const MemoryView<Scalar<M>>& memory, const Options& options,
               const OptionalWorkspace<Scalar<M>>& workspace) {
  read_into(out, mixture, queries, detail::loaded(memory, workspace.get()), options, workspace);
}

template <class M>
void causal_into(const Out<Scalar<M>>& out, const M& mixture, const In<Scalar<M>>& queries, const In<Scalar<M>>& keys,
                 const In<Scalar<M>>& values, const MemoryView<Scalar<M>>& memory, const Options& options,
                 const TokenInputsView<Scalar<M>>& tokens, const OptionalWorkspace<Scalar<M>>& workspace) {
  Memory<Scalar<M>>& copy = detail::loaded(memory, workspace.get());
  causal_into(out, mixture, queries, keys, values, copy, options, tokens, workspace);
  memory.store(copy);
}

}  // namespace gma
