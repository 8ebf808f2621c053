// SPDX-License-Identifier: MIT
// The K-slot memory: the whole of what a stretch of tokens leaves behind, of one size whatever its length. Memories of
// two stretches merge by one associative operation, which gives streaming, threading, resuming and context reuse.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <istream>
#include <limits>
#include <ostream>
#include <string>
#include <type_traits>
#include <vector>

#include "gma/core/checks.hpp"
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

/// Writes `memory` in a binary form that is the same on every machine: the 8 bytes "GMAMEMRY", then little-endian a
/// uint32 version (1), a uint32 scalar size (4 or 8), int64 K, int64 e, the IEEE 754 numbers slots (row by row), mass
/// and log_forgetting. Throws std::runtime_error if the stream fails. S is float or double.
template <class S>
void save(const Memory<S>& memory, std::ostream& stream);

/// Reads what save() wrote. Throws std::runtime_error on anything else (another format, version or scalar, sizes that
/// the data does not fill), and leaves `memory` as it was.
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
  memory.slots.setConstant(components, width, S(0));
  memory.mass.setConstant(components, S(0));
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

inline constexpr char memory_magic[8] = {'G', 'M', 'A', 'M', 'E', 'M', 'R', 'Y'};
inline constexpr std::uint32_t memory_version = 1;

template <class Unsigned>
void put_little_endian(std::ostream& stream, Unsigned value) {
  char bytes[sizeof(Unsigned)];
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i) bytes[i] = static_cast<char>((value >> (8 * i)) & 0xff);
  stream.write(bytes, sizeof bytes);
}

template <class Unsigned>
Unsigned get_little_endian(std::istream& stream) {
  unsigned char bytes[sizeof(Unsigned)] = {};
  stream.read(reinterpret_cast<char*>(bytes), sizeof bytes);
  Unsigned value = 0;
  for (std::size_t i = 0; i < sizeof(Unsigned); ++i) value |= static_cast<Unsigned>(bytes[i]) << (8 * i);
  return value;
}

template <class S>
using Bits = std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint64_t>;

template <class S>
void put_numbers(std::ostream& stream, const S* numbers, Index count) {
  for (Index i = 0; i < count; ++i) {
    Bits<S> bits;
    std::memcpy(&bits, numbers + i, sizeof bits);
    put_little_endian(stream, bits);
  }
}

/// Reads at most a chunk before it grows, so that a size no stream could fill does not exhaust memory.
template <class S>
std::vector<S> get_numbers(std::istream& stream, std::uint64_t count) {
  constexpr std::uint64_t chunk = 1 << 16;
  std::vector<S> numbers;
  while (stream && numbers.size() < count) {
    const std::uint64_t step = (std::min)(chunk, count - numbers.size());
    for (std::uint64_t i = 0; i < step && stream; ++i) {
      const Bits<S> bits = get_little_endian<Bits<S>>(stream);
      S number;
      std::memcpy(&number, &bits, sizeof number);
      numbers.push_back(number);
    }
  }
  return numbers;
}

[[noreturn]] inline void bad_memory_stream(const std::string& reason) {
  raise<std::runtime_error>("gma::load: stream holds no memory: " + reason);
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
void save(const Memory<S>& memory, std::ostream& stream) {
  static_assert(std::is_same_v<S, float> || std::is_same_v<S, double>, "gma::save: memories of float or double only");
  static_assert(std::numeric_limits<S>::is_iec559, "gma::save: needs IEEE 754 numbers");
  if (memory.mass.size() != memory.slots.rows()) {
    detail::invalid_argument("save", "memory.mass has ", memory.mass.size(), " coefficients, expected ",
                             memory.slots.rows(), " (one per slot)");
  }
  stream.write(detail::memory_magic, sizeof detail::memory_magic);
  detail::put_little_endian(stream, detail::memory_version);
  detail::put_little_endian(stream, static_cast<std::uint32_t>(sizeof(S)));
  detail::put_little_endian(stream, static_cast<std::uint64_t>(memory.slots.rows()));
  detail::put_little_endian(stream, static_cast<std::uint64_t>(memory.slots.cols()));
  detail::put_numbers(stream, memory.slots.data(), memory.slots.size());
  detail::put_numbers(stream, memory.mass.data(), memory.mass.size());
  detail::put_numbers(stream, &memory.log_forgetting, 1);
  if (!stream) detail::raise<std::runtime_error>("gma::save: the stream failed");
}

template <class S>
void load(Memory<S>& memory, std::istream& stream) {
  static_assert(std::is_same_v<S, float> || std::is_same_v<S, double>, "gma::load: memories of float or double only");
  char magic[sizeof detail::memory_magic] = {};
  stream.read(magic, sizeof magic);
  if (!stream || std::memcmp(magic, detail::memory_magic, sizeof magic) != 0) {
    detail::bad_memory_stream("expected it to start with GMAMEMRY");
  }
  const std::uint32_t version = detail::get_little_endian<std::uint32_t>(stream);
  const std::uint32_t scalar = detail::get_little_endian<std::uint32_t>(stream);
  if (version != detail::memory_version) {
    detail::bad_memory_stream(detail::concatenate("version ", version, ", expected ", detail::memory_version));
  }
  if (scalar != sizeof(S)) {
    detail::bad_memory_stream(detail::concatenate("numbers of ", scalar, " bytes, expected ", sizeof(S)));
  }
  const std::uint64_t rows = detail::get_little_endian<std::uint64_t>(stream);
  const std::uint64_t cols = detail::get_little_endian<std::uint64_t>(stream);
  const std::uint64_t limit = std::uint64_t{1} << 40;
  if (rows > limit || cols > limit || (cols != 0 && rows > limit / cols)) {
    detail::bad_memory_stream(detail::concatenate("impossible size ", rows, " x ", cols));
  }
  const std::vector<S> slots = detail::get_numbers<S>(stream, rows * cols);
  const std::vector<S> mass = detail::get_numbers<S>(stream, rows);
  const std::vector<S> log_forgetting = detail::get_numbers<S>(stream, 1);
  if (!stream) detail::bad_memory_stream(detail::concatenate("it ends before its ", rows, " x ", cols, " slots do"));
  Memory<S> loaded;
  loaded.slots = Eigen::Map<const Matrix<S>>(slots.data(), static_cast<Index>(rows), static_cast<Index>(cols));
  loaded.mass = Eigen::Map<const Vector<S>>(mass.data(), static_cast<Index>(rows));
  loaded.log_forgetting = log_forgetting.front();
  memory = std::move(loaded);
}

}  // namespace gma
