// SPDX-License-Identifier: MIT
// The K-slot memory: the whole of what a stretch of tokens leaves behind, of one size whatever its length. Memories of
// two stretches merge by one associative operation, which gives streaming, threading, resuming and context reuse.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <istream>
#include <ostream>
#include <string>
#include <utility>

#include "gma/core/binary.hpp"
#include "gma/core/checks.hpp"
#include "gma/core/resize.hpp"
#include "gma/core/tokens.hpp"
#include "gma/core/workspace.hpp"

namespace gma {

/// (3), (8): slots M_k = sum_j w_j r_k(key_j) v_j and masses m_k = sum_j w_j r_k(key_j), each term times the forgetting
/// since. A default memory is empty and takes its size from the first write. Copy it to fork a stream. The gradient
/// with respect to a memory has the same type.
template <class S>
struct Memory {
  using Scalar = S;

  Matrix<S> slots;       ///< K x e
  Vector<S> mass;        ///< K
  S log_forgetting = 0;  ///< total log-forgetting of the stretch, <= 0; -inf once it was restarted

  bool empty() const { return slots.size() == 0 && mass.size() == 0; }
};

/// A memory of K slots of width e that has seen nothing: reads as zero.
template <class S>
Memory<S> empty_memory(Index components, Index width);

/// The memory of stretch a followed by stretch b: exp(b.g) a + b, with log-forgetting a.g + b.g. Associative; an empty
/// memory is neutral but for its log-forgetting. Throws std::invalid_argument if the sizes differ.
template <class S>
Memory<S> merge(const Memory<S>& a, const Memory<S>& b);

/// Forgets everything and keeps the size: the state before the first token.
template <class S>
void reset(Memory<S>& memory);

/// mass / sum(mass): the part of all written weight that every slot holds, K. Zeros where there is no mass.
template <class S>
Vector<S> slot_shares(const Memory<S>& memory);

/// Bytes of the numbers that the memory holds: slots, mass and log_forgetting.
template <class S>
std::size_t bytes(const Memory<S>& memory);

/// Writes `memory` in a binary form that is the same on every machine, little-endian and without padding: the 8 bytes
/// "GMAMEMRY", a uint32 byte-order mark 0x01020304, a uint32 version (2), a uint32 scalar size (4 or 8), int64 K,
/// int64 e, the IEEE 754 numbers slots (row by row), mass and log_forgetting, and the uint64 FNV-1a hash of all bytes
/// after the first 8. Memories may follow each other in one stream. S is float or double. Throws std::runtime_error if
/// the stream fails, and std::invalid_argument, before anything is written, if the memory is one that load() refuses.
template <class S>
void save(const Memory<S>& memory, std::ostream& stream);

/// The exact number of bytes that save() writes.
template <class S>
std::size_t serialized_size(const Memory<S>& memory);

/// Reads what save() wrote, up to its last byte. Throws std::runtime_error on anything else (another format, byte
/// order, version or scalar, sizes that the data does not fill, a checksum that does not fit, a mass that is negative
/// or NaN, a log_forgetting that is positive or NaN), and leaves `memory` as it was. A size is not believed before the
/// data comes: extra memory is at most some times what the stream delivers.
template <class S>
void load(Memory<S>& memory, std::istream& stream);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

template <class S>
void check_memory(const char* function, const char* argument, const Memory<S>& memory, Index components, Index width) {
  if (memory.slots.rows() != components || memory.slots.cols() != width) {
    invalid_argument(function, argument, ".slots is ", memory.slots.rows(), " x ", memory.slots.cols(), ", expected ",
                     components, " x ", width, " (components x value width)");
  }
  if (memory.mass.size() != components) {
    invalid_argument(function, argument, ".mass has ", memory.mass.size(), " coefficients, expected ", components,
                     " (one per component)");
  }
}

template <class S>
void set_zero(Memory<S>& memory, Index components, Index width) {
  set_constant(memory.slots, components, width, S(0));
  set_constant(memory.mass, components, S(0));
  memory.log_forgetting = S(0);
}

/// An empty memory takes its size and keeps its log_forgetting.
template <class S>
void size_if_empty(Memory<S>& memory, Index components, Index width) {
  if (!memory.empty()) return;
  const S log_forgetting = memory.log_forgetting;
  set_zero(memory, components, width);
  memory.log_forgetting = log_forgetting;
}

/// Slots and mass wherever they lie: in a Memory, or in scratch.
template <class S>
struct MemoryView {
  Tile<S> slots;                  // K x e, without gaps
  Eigen::Map<RowVector<S>> mass;  // K

  void set_zero() {
    slots.setConstant(S(0));
    mass.setConstant(S(0));
  }

  /// *this *= factor, where 0 restarts it whatever it contains.
  void decay(const S& factor) {
    if (factor == S(0)) {
      set_zero();
    } else if (!(factor == S(1))) {
      slots *= factor;
      mass *= factor;
    }
  }

  void add(const MemoryView& other) {
    slots += other.slots;
    mass += other.mass;
  }
  void copy(const MemoryView& other) {
    slots = other.slots;
    mass = other.mass;
  }
};

template <class S>
MemoryView<S> view(Memory<S>& memory) {
  return {as_tile(memory.slots), Eigen::Map<RowVector<S>>(memory.mass.data(), memory.mass.size())};
}

/// Memory number `place` of those that lie side by side: slots (places K) x e, masses places x K.
template <class S>
MemoryView<S> place_of(Tile<S> slots, Tile<S> masses, Index place) {
  const Index K = masses.cols();
  return {Tile<S>(slots.data() + place * K * slots.cols(), K, slots.cols(), Eigen::OuterStride<>(slots.cols())),
          Eigen::Map<RowVector<S>>(masses.data() + place * K, K)};
}

template <class S>
MemoryView<S> take_memory(Index components, Index width, Workspace<S>& workspace) {
  return place_of(workspace.take(components, width), workspace.take(1, components), Index(0));
}

/// <M, dM> + <m, dm>.
template <class S>
S inner_product(const MemoryView<S>& a, const MemoryView<S>& b) {
  return a.slots.cwiseProduct(b.slots).sum() + a.mass.cwiseProduct(b.mass).sum();
}

inline constexpr BinaryFormat memory_format{"GMAMEMRY", "memory", 2};

/// What a saved memory consists of, without header and checksum, so that larger objects can hold memories.
template <class S>
void put_memory(BinaryWriter& writer, const Memory<S>& memory) {
  writer.size(memory.slots.rows());
  writer.size(memory.slots.cols());
  writer.numbers(memory.slots);
  writer.numbers(memory.mass);
  writer.numbers(&memory.log_forgetting, 1);
}
template <class S>
Memory<S> get_memory(BinaryReader& reader) {
  Memory<S> memory;
  const Index components = reader.size("number of slots"), width = reader.size("value width");
  memory.slots = reader.numbers<S>("slots", components, width);
  memory.mass = reader.numbers<S>("mass", components);
  memory.log_forgetting = reader.numbers<S>("log_forgetting", 1)(0);
  return memory;
}
template <class S>
std::size_t saved_size(const Memory<S>& memory) {
  return 2 * sizeof(std::uint64_t) + bytes(memory);
}

/// Why the memory is none that operators leave behind, whatever its slots; empty if nothing is wrong. O(K).
template <class S>
std::string memory_fault(const Memory<S>& memory) {
  if (memory.mass.size() != memory.slots.rows()) {
    return concatenate("mass has ", memory.mass.size(), " coefficients, expected ", memory.slots.rows(),
                       " (one per slot)");
  }
  for (Index k = 0; k < memory.mass.size(); ++k) {
    if (!(memory.mass(k) >= S(0))) {
      return concatenate("mass is ", memory.mass(k), " at slot ", k, ", expected a number >= 0");
    }
  }
  if (memory.log_forgetting <= S(0)) return {};
  return concatenate("log_forgetting is ", memory.log_forgetting, ", expected a number <= 0 or -inf");
}

}  // namespace detail

template <class S>
Memory<S> empty_memory(Index components, Index width) {
  if (components < 1) detail::invalid_argument("empty_memory", "components is ", components, ", expected at least 1");
  if (width < 0) detail::invalid_argument("empty_memory", "width is ", width, ", expected 0 or more");
  Memory<S> memory;
  detail::set_zero(memory, components, width);
  return memory;
}

template <class S>
Memory<S> merge(const Memory<S>& a, const Memory<S>& b) {
  using std::exp;
  Memory<S> result = a;
  if (a.empty()) {
    result = b;
  } else {
    detail::view(result).decay(S(exp(b.log_forgetting)));
    if (!b.empty()) {
      detail::check_memory("merge", "b", b, a.slots.rows(), a.slots.cols());
      detail::check_memory("merge", "a", a, b.mass.size(), b.slots.cols());
      result.slots += b.slots;
      result.mass += b.mass;
    }
  }
  result.log_forgetting = a.log_forgetting + b.log_forgetting;
  return result;
}

template <class S>
void reset(Memory<S>& memory) {
  memory.slots.setConstant(S(0));
  memory.mass.setConstant(S(0));
  memory.log_forgetting = S(0);
}

template <class S>
Vector<S> slot_shares(const Memory<S>& memory) {
  const S total = memory.mass.sum();
  if (!(total > S(0))) return Vector<S>::Constant(memory.mass.size(), S(0));
  return memory.mass / total;
}

template <class S>
std::size_t bytes(const Memory<S>& memory) {
  return sizeof(S) * static_cast<std::size_t>(memory.slots.size() + memory.mass.size() + 1);
}

template <class S>
void save(const Memory<S>& memory, std::ostream& stream) {
  const std::string fault = detail::memory_fault(memory);
  if (!fault.empty()) detail::invalid_argument("save", "memory.", fault);
  detail::BinaryWriter writer = detail::BinaryWriter::start<S>("save", detail::memory_format, stream);
  detail::put_memory(writer, memory);
  writer.finish();
}

template <class S>
std::size_t serialized_size(const Memory<S>& memory) {
  return detail::binary_overhead + detail::saved_size(memory);
}

template <class S>
void load(Memory<S>& memory, std::istream& stream) {
  detail::BinaryReader reader = detail::BinaryReader::start<S>("load", detail::memory_format, stream);
  Memory<S> loaded = detail::get_memory<S>(reader);
  reader.finish();
  const std::string fault = detail::memory_fault(loaded);
  if (!fault.empty()) reader.refuse(fault);
  memory = std::move(loaded);
}

}  // namespace gma
