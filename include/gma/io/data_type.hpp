// SPDX-License-Identifier: MIT
// The number types of tensor files, and their conversion.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "gma/core/checks.hpp"
#include "gma/core/types.hpp"

namespace gma::io {

/// IEEE 754 numbers of 64, 32 and 16 bits, bfloat16, integers with and without sign, and booleans of one byte, 0 or 1.
/// `other` is a type in a file of which only the name is known: its bytes are kept, but they cannot be read as numbers.
enum class DataType { f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean, other };

/// The enumerator's name: "f32".
inline const char* name_of(DataType type);

/// Bytes of one number; 0 for `other`.
inline Index width_of(DataType type);

/// The type of numbers S: double, float, Eigen::half, Eigen::bfloat16, an integer type of 1 to 8 bytes, or bool.
template <class S>
constexpr DataType data_type_of();

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

template <class S>
inline constexpr bool is_16_bit_float = std::is_same_v<S, Eigen::half> || std::is_same_v<S, Eigen::bfloat16>;

template <class S>
inline constexpr bool is_float = std::is_same_v<S, double> || std::is_same_v<S, float> || is_16_bit_float<S>;

/// Calls f(S()) for the S of `type`.
template <class F>
void with_type(DataType type, F&& f) {
  static_assert(std::numeric_limits<double>::is_iec559 && std::numeric_limits<float>::is_iec559);
  // NOLINTBEGIN(bugprone-branch-clone): the branches differ in a type
  switch (type) {
    case DataType::f64:
      return f(double());
    case DataType::f32:
      return f(float());
    case DataType::f16:
      return f(Eigen::half());
    case DataType::bf16:
      return f(Eigen::bfloat16());
    case DataType::i64:
      return f(std::int64_t());
    case DataType::i32:
      return f(std::int32_t());
    case DataType::i16:
      return f(std::int16_t());
    case DataType::i8:
      return f(std::int8_t());
    case DataType::u64:
      return f(std::uint64_t());
    case DataType::u32:
      return f(std::uint32_t());
    case DataType::u16:
      return f(std::uint16_t());
    case DataType::u8:
      return f(std::uint8_t());
    case DataType::boolean:
      return f(bool());
    case DataType::other:
      gma::detail::invalid_argument("io::DataType", "the numbers of a type other than gma's are not known");
  }
  // NOLINTEND(bugprone-branch-clone)
  gma::detail::invalid_argument("io::DataType", "no enumerator has the value ", static_cast<int>(type));
}

/// Compilers evaluate it at compile time.
inline bool is_little_endian_machine() {
  const std::uint16_t one = 1;
  unsigned char first = 0;
  std::memcpy(&first, &one, 1);
  return first == 1;
}

template <class S>
using BitsOf = std::conditional_t<
    sizeof(S) == 8, std::uint64_t,
    std::conditional_t<sizeof(S) == 4, std::uint32_t, std::conditional_t<sizeof(S) == 2, std::uint16_t, std::uint8_t>>>;

template <class S>
S load_little_endian(const unsigned char* bytes) {
  unsigned char ordered[sizeof(S)];
  std::memcpy(ordered, bytes, sizeof(S));
  if (!is_little_endian_machine()) std::reverse(ordered, ordered + sizeof(S));
  BitsOf<S> bits;
  std::memcpy(&bits, ordered, sizeof(S));
  if constexpr (std::is_same_v<S, bool>) {
    return bits != 0;
  } else {
    return Eigen::numext::bit_cast<S>(bits);
  }
}

template <class S>
void store_little_endian(const S& number, unsigned char* bytes) {
  const BitsOf<S> bits = Eigen::numext::bit_cast<BitsOf<S>>(number);
  std::memcpy(bytes, &bits, sizeof(S));
  if (!is_little_endian_machine()) std::reverse(bytes, bytes + sizeof(S));
}

template <class To, class From>
To convert(const From& number) {
  if constexpr (std::is_same_v<To, From>) {
    return number;
  } else if constexpr (is_16_bit_float<From>) {
    return convert<To>(static_cast<float>(number));
  } else if constexpr (is_16_bit_float<To>) {
    return static_cast<To>(static_cast<float>(number));
  } else {
    return static_cast<To>(number);
  }
}

}  // namespace detail

inline const char* name_of(DataType type) {
  constexpr const char* names[] = {"f64", "f32", "f16", "bf16", "i64", "i32",     "i16",
                                   "i8",  "u64", "u32", "u16",  "u8",  "boolean", "other"};
  if (type != DataType::other) detail::with_type(type, [](auto) {});
  return names[static_cast<int>(type)];
}

inline Index width_of(DataType type) {
  Index width = 0;
  if (type == DataType::other) return width;
  detail::with_type(type, [&](auto zero) { width = Index{sizeof zero}; });
  return width;
}

template <class S>
constexpr DataType data_type_of() {
  static_assert(detail::is_float<S> || (std::is_integral_v<S> && sizeof(S) <= 8), "gma::io: no DataType has this type");
  constexpr bool is_signed = std::is_signed_v<S>;
  if (std::is_same_v<S, double>) return DataType::f64;
  if (std::is_same_v<S, float>) return DataType::f32;
  if (std::is_same_v<S, Eigen::half>) return DataType::f16;
  if (std::is_same_v<S, Eigen::bfloat16>) return DataType::bf16;
  if (std::is_same_v<S, bool>) return DataType::boolean;
  if (sizeof(S) == 8) return is_signed ? DataType::i64 : DataType::u64;
  if (sizeof(S) == 4) return is_signed ? DataType::i32 : DataType::u32;
  if (sizeof(S) == 2) return is_signed ? DataType::i16 : DataType::u16;
  return is_signed ? DataType::i8 : DataType::u8;
}

}  // namespace gma::io
