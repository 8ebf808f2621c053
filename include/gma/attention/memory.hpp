// SPDX-License-Identifier: MIT
// The K-slot memory: everything that is kept of a segment of tokens. Its size does not depend on the number of tokens,
// except that a long stream in float adds a remainder once. Memories of two segments merge by one associative
// operation, which gives streaming, threading, resuming and context reuse.
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
#include "gma/kernels/scan.hpp"

namespace gma {

/// (3), (8): slots M_k = sum_j w_j r_k(key_j) v_j and masses m_k = sum_j w_j r_k(key_j), each term times the forgetting
/// since. A default memory is empty and takes its size from the first write. Copy it to fork a stream. The gradient
/// with respect to a memory has the same type.
///
/// A float has 24 bits, so a sum of millions of tokens would no longer take in a single one. A float memory that has
/// come to hold the weight of many tokens (2^15, or 2^12 where something is forgotten, or 2^9 where slots forget at
/// their own rates) therefore keeps a remainder: its sums are slots + slots_remainder and mass + mass_remainder, where
/// the first is the sum rounded to float. Whoever reads slots and mass needs no remainder. Whoever replaces them clears
/// it, and sets `tokens` to 0: it is then the sum of the mass.
template <class S>
struct Memory {
  using Scalar = S;

  Matrix<S> slots;                 ///< K x e
  Vector<S> mass;                  ///< K
  S log_forgetting = 0;            ///< total log-forgetting of the tokens written, <= 0; -inf once it was restarted
  S tokens = 0;                    ///< how many tokens it holds, each counted as what forgetting has left of it
  Matrix<S> slots_remainder = {};  ///< K x e, or empty: zeros
  Vector<S> mass_remainder = {};   ///< K, or empty: zeros
  bool has_signed_mass = false;    ///< written through features that may be negative, which no mixture's are

  /// Whether it has no size yet.
  bool empty() const { return slots.size() == 0 && mass.size() == 0; }
};

/// A memory of K slots of width e that has seen nothing: reads as zero.
template <class S>
Memory<S> empty_memory(Index components, Index width);

/// The memory of segment a followed by segment b: exp(b.g) a + b, with log-forgetting a.g + b.g. Associative, within
/// rounding; an empty memory is neutral but for its log-forgetting. Throws std::invalid_argument if the sizes differ.
template <class S>
Memory<S> merge(const Memory<S>& a, const Memory<S>& b);

/// The same where slots forget at their own rates: slot k of a is multiplied by exp(b.g + s_k), s = slot_log_forgetting
/// being the sum of the rows of TokenInputs::slot_log_forgetting over the tokens of segment b that are present, K
/// numbers <= 0. (A memory itself keeps the part g that all slots have.)
template <class S>
Memory<S> merge(const Memory<S>& a, const Memory<S>& b, const Vector<S>& slot_log_forgetting);

/// Forgets everything and keeps the size: the state before the first token.
template <class S>
void reset(Memory<S>& memory);

/// mass / sum(mass): the part of all written weight that every slot holds, K. Zeros where there is no mass.
template <class S>
Vector<S> slot_shares(const Memory<S>& memory);

/// Bytes of slots, mass, their remainders and log_forgetting. They grow once in a long stream, when it begins to keep a
/// remainder.
template <class S>
std::size_t bytes(const Memory<S>& memory);

/// Writes `memory` in a binary form that is the same on every machine, little-endian and without padding: the 8 bytes
/// "GMAMEMRY", a uint32 byte-order mark 0x01020304, a uint32 version (3), a uint32 scalar size (4 or 8), int64 K,
/// int64 e, the IEEE 754 numbers slots (row by row), mass, log_forgetting and tokens, a uint32 of flags (1: remainders
/// of slots and mass follow; 2: masses may be negative), and the uint64 FNV-1a hash of all bytes after the first 8.
/// Memories may follow each other in one stream. S is float or double. The stream is flushed. Throws std::runtime_error
/// if it fails, on a full disk too, and std::invalid_argument, before anything is written, if the memory is one that
/// load() refuses.
template <class S>
void save(const Memory<S>& memory, std::ostream& stream);

/// The exact number of bytes that save() writes.
template <class S>
std::size_t serialized_size(const Memory<S>& memory);

/// Reads what save() wrote, up to its last byte, also that of version 2, which has neither tokens nor remainders.
/// Throws std::runtime_error on anything else (another format, byte order, version or scalar, sizes that the data does
/// not fill, a checksum that does not fit, a mass that is NaN, or negative where the flag does not allow it, tokens
/// that are negative or NaN, a log_forgetting that is positive or NaN), and leaves `memory` unchanged. Sizes in the
/// header are not trusted: memory grows only as data arrives, to a small multiple of the bytes read.
template <class S>
void load(Memory<S>& memory, std::istream& stream);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Whether long sums of S keep a remainder. Wider scalars need none.
template <class S>
inline constexpr bool keeps_remainder = std::is_same_v<S, float>;

/// From so many tokens on, each counted as what forgetting has left of it, a memory keeps a remainder: fewer where
/// something is forgotten, since then every token multiplies the sums as well.
inline constexpr double long_stream = 0x1p15;
inline constexpr double long_forgetting_stream = 0x1p12;
template <class S>
bool is_long(const S& tokens, bool forgets) {
  return keeps_remainder<S> && tokens > S(forgets ? long_forgetting_stream : long_stream);
}

/// The tokens in a memory. One that was made by hand, or saved before tokens were counted, counts as tokens of
/// weight 1.
template <class S>
S tokens_in(const Memory<S>& memory) {
  if (memory.tokens > S(0) || memory.mass.size() == 0) return memory.tokens;
  const S total = memory.mass.sum();
  return total > S(0) ? total : S(0);
}

template <class S>
bool has_remainder(const Memory<S>& memory) {
  return memory.slots_remainder.size() != 0 || memory.mass_remainder.size() != 0;
}

template <class S>
void check_memory(const char* function, const char* argument, const Memory<S>& memory, Index components, Index width) {
  const auto check_slots = [&](const char* name, const Matrix<S>& slots) {
    if (slots.rows() == components && slots.cols() == width) return;
    invalid_argument(function, argument, name, " is ", slots.rows(), " x ", slots.cols(), ", expected ", components,
                     " x ", width, " (components x value width)");
  };
  const auto check_mass = [&](const char* name, const Vector<S>& mass) {
    if (mass.size() == components) return;
    invalid_argument(function, argument, name, " has ", mass.size(), " coefficients, expected ", components,
                     " (one per component)");
  };
  check_slots(".slots", memory.slots);
  check_mass(".mass", memory.mass);
  if (!has_remainder(memory)) return;
  check_slots(".slots_remainder", memory.slots_remainder);
  check_mass(".mass_remainder", memory.mass_remainder);
}

/// No remainder; frees its storage.
template <class S>
void clear_remainder(Memory<S>& memory) {
  memory.slots_remainder.resize(0, 0);
  memory.mass_remainder.resize(0);
}

/// A remainder of zeros unless there is one.
template <class S>
void ensure_remainder(Memory<S>& memory) {
  if (has_remainder(memory)) return;
  Matrix<S> slots = Matrix<S>::Constant(memory.slots.rows(), memory.slots.cols(), S(0));
  Vector<S> mass = Vector<S>::Constant(memory.mass.size(), S(0));
  memory.slots_remainder.swap(slots);
  memory.mass_remainder.swap(mass);
}

template <class S>
void set_zero(Memory<S>& memory, Index components, Index width) {
  set_constant(memory.slots, components, width, S(0));
  set_constant(memory.mass, components, S(0));
  memory.log_forgetting = S(0);
  memory.tokens = S(0);
  memory.has_signed_mass = false;
  clear_remainder(memory);
}

/// An empty memory takes its size and keeps its log_forgetting.
template <class S>
void size_if_empty(Memory<S>& memory, Index components, Index width) {
  if (!memory.empty()) return;
  const S log_forgetting = memory.log_forgetting;
  set_zero(memory, components, width);
  memory.log_forgetting = log_forgetting;
}

inline constexpr BinaryFormat memory_format{"GMAMEMRY", "memory", 3, 2};
inline constexpr std::uint32_t flag_remainder = 1, flag_signed_mass = 2;

/// What a saved memory consists of, without header and checksum, so that larger objects can hold memories.
template <class S>
void put_memory(BinaryWriter& writer, const Memory<S>& memory) {
  const bool long_sums = has_remainder(memory);
  writer.size(memory.slots.rows());
  writer.size(memory.slots.cols());
  writer.numbers(memory.slots);
  writer.numbers(memory.mass);
  writer.numbers(&memory.log_forgetting, 1);
  writer.numbers(&memory.tokens, 1);
  writer.integer((long_sums ? flag_remainder : 0) | (memory.has_signed_mass ? flag_signed_mass : 0));
  if (!long_sums) return;
  writer.numbers(memory.slots_remainder);
  writer.numbers(memory.mass_remainder);
}
/// `version`: of memory_format. The first had neither tokens nor remainders.
template <class S>
Memory<S> get_memory(BinaryReader& reader, std::uint32_t version) {
  Memory<S> memory;
  const Index components = reader.size("number of slots"), width = reader.size("value width");
  memory.slots = reader.numbers<S>("slots", components, width);
  memory.mass = reader.numbers<S>("mass", components);
  memory.log_forgetting = reader.numbers<S>("log_forgetting", 1)(0);
  if (version < 3) return memory;
  memory.tokens = reader.numbers<S>("tokens", 1)(0);
  const std::uint32_t flags = reader.integer<std::uint32_t>("flags of a memory");
  if (flags > (flag_remainder | flag_signed_mass)) reader.refuse("its flags of a memory are ", flags);
  memory.has_signed_mass = (flags & flag_signed_mass) != 0;
  if ((flags & flag_remainder) == 0) return memory;
  memory.slots_remainder = reader.numbers<S>("slots_remainder", components, width);
  memory.mass_remainder = reader.numbers<S>("mass_remainder", components);
  return memory;
}
template <class S>
std::size_t saved_size(const Memory<S>& memory) {
  return 2 * sizeof(std::uint64_t) + bytes(memory) + sizeof(S) + sizeof(std::uint32_t);
}

/// Why no operator leaves such a memory behind, its slots apart; empty if nothing is wrong. O(K).
template <class S>
std::string memory_fault(const Memory<S>& memory) {
  if (memory.mass.size() != memory.slots.rows()) {
    return concatenate("mass has ", memory.mass.size(), " coefficients, expected ", memory.slots.rows(),
                       " (one per slot)");
  }
  for (Index k = 0; k < memory.mass.size(); ++k) {
    const S& m = memory.mass(k);
    if (memory.has_signed_mass ? m == m : m >= S(0)) continue;
    return concatenate("mass is ", m, " at slot ", k,
                       memory.has_signed_mass ? ", expected a number" : ", expected a number >= 0");
  }
  if (!(memory.tokens >= S(0))) return concatenate("tokens is ", memory.tokens, ", expected a number >= 0");
  if (has_remainder(memory) &&
      (memory.slots_remainder.rows() != memory.slots.rows() || memory.slots_remainder.cols() != memory.slots.cols() ||
       memory.mass_remainder.size() != memory.mass.size())) {
    return concatenate("slots_remainder is ", memory.slots_remainder.rows(), " x ", memory.slots_remainder.cols(),
                       " and mass_remainder has ", memory.mass_remainder.size(),
                       " coefficients, expected the sizes of slots and mass");
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
  Memory<S> result = a.empty() ? b : a;
  const kernels::Decay<S> decay = kernels::decay_of(b.log_forgetting);
  if (!a.empty()) {
    if (!b.empty()) {
      detail::check_memory("merge", "b", b, a.slots.rows(), a.slots.cols());
      detail::check_memory("merge", "a", a, b.mass.size(), b.slots.cols());
    }
    const Matrix<S> slots = b.empty() ? Matrix<S>(Matrix<S>::Constant(a.slots.rows(), a.slots.cols(), S(0))) : b.slots;
    const Vector<S> mass = b.empty() ? Vector<S>(Vector<S>::Constant(a.mass.size(), S(0))) : b.mass;
    result.tokens = decay.of(detail::tokens_in(a)) + detail::tokens_in(b);
    result.has_signed_mass = a.has_signed_mass || b.has_signed_mass;
    if (detail::has_remainder(a) || detail::has_remainder(b) || detail::is_long(result.tokens, !decay.is_one())) {
      detail::ensure_remainder(result);
      kernels::settle(decay, slots.data(), slots.size(), result.slots.data(), result.slots_remainder.data());
      kernels::settle(decay, mass.data(), mass.size(), result.mass.data(), result.mass_remainder.data());
      if (detail::has_remainder(b)) {
        result.slots_remainder += b.slots_remainder;
        result.mass_remainder += b.mass_remainder;
      }
    } else {
      const auto decayed = [&](const S& s) -> S { return decay.of(s); };
      result.slots = Matrix<S>(result.slots.unaryExpr(decayed) + slots);
      result.mass = Vector<S>(result.mass.unaryExpr(decayed) + mass);
    }
  }
  result.log_forgetting = a.log_forgetting + b.log_forgetting;
  return result;
}

template <class S>
Memory<S> merge(const Memory<S>& a, const Memory<S>& b, const Vector<S>& slot_log_forgetting) {
  if (a.empty()) return merge(a, b);
  const Index components = a.mass.size();
  detail::check_size("merge", "slot_log_forgetting", "coefficients", slot_log_forgetting.size(), components,
                     "one per slot");
  Memory<S> decayed = a, rest = b;
  S largest = slot_log_forgetting(0);
  for (Index k = 0; k < components; ++k) {
    const S& s = slot_log_forgetting(k);
    if (!(s <= S(0))) {
      detail::invalid_argument("merge", "slot_log_forgetting is ", s, " at slot ", k,
                               ", expected a number <= 0 or -inf");
    }
    if (s > largest) largest = s;
    const kernels::Decay<S> decay = kernels::decay_of(S(s + b.log_forgetting));
    const auto decay_row = [&](Matrix<S>& slots, Vector<S>& mass) {
      if (mass.size() == 0) return;
      kernels::decay_all(decay, slots.row(k).data(), slots.cols());
      mass(k) = decay.of(mass(k));
    };
    decay_row(decayed.slots, decayed.mass);
    decay_row(decayed.slots_remainder, decayed.mass_remainder);
  }
  decayed.tokens = kernels::decay_of(S(largest + b.log_forgetting)).of(detail::tokens_in(a));
  rest.log_forgetting = S(0);
  Memory<S> result = merge(decayed, rest);
  result.log_forgetting = a.log_forgetting + b.log_forgetting;
  return result;
}

template <class S>
void reset(Memory<S>& memory) {
  memory.slots.setConstant(S(0));
  memory.mass.setConstant(S(0));
  memory.log_forgetting = S(0);
  memory.tokens = S(0);
  memory.has_signed_mass = false;
  detail::clear_remainder(memory);
}

template <class S>
Vector<S> slot_shares(const Memory<S>& memory) {
  const S total = memory.mass.sum();
  if (!(total > S(0))) return Vector<S>::Constant(memory.mass.size(), S(0));
  return memory.mass / total;
}

template <class S>
std::size_t bytes(const Memory<S>& memory) {
  return sizeof(S) * static_cast<std::size_t>(memory.slots.size() + memory.mass.size() + 1 +
                                              memory.slots_remainder.size() + memory.mass_remainder.size());
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
  Memory<S> loaded = detail::get_memory<S>(reader, reader.version());
  reader.finish();
  const std::string fault = detail::memory_fault(loaded);
  if (!fault.empty()) reader.refuse(fault);
  memory = std::move(loaded);
}

}  // namespace gma
