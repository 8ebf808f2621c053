// SPDX-License-Identifier: MIT
// The only header of the library that names Eigen's internals: SIMD packets of float and double, with the few
// operations that the kernels need. It is built and tested with Eigen 3.4.0 on SSE2, AVX2 with FMA, AVX-512 and NEON.
#pragma once

#include <Eigen/Core>

#include <cstddef>
#include <type_traits>

#include "gma/core/types.hpp"

// The loop that follows has a small constant count. Unroll it completely, so that its arrays become registers.
#if defined(__clang__)
#define GMA_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define GMA_UNROLL _Pragma("GCC unroll 16")
#else
#define GMA_UNROLL
#endif

// The loop that follows is long and has a large body. Do not unroll it: that would only cost registers.
#if defined(__clang__)
#define GMA_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define GMA_ROLLED
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // SIMD types as template arguments
#endif

namespace gma::kernels {

namespace detail {

namespace ei = Eigen::internal;

template <class S>
using WidestNative = typename ei::packet_traits<S>::type;
template <class Native>
inline constexpr int native_size = ei::unpacket_traits<Native>::size;

/// Eigen's packet of N numbers, found by halving the widest one. S itself for N = 1.
template <class S, int N, class From = WidestNative<S>, bool Found = native_size<From> == N>
struct NativePacket {
  using type = typename NativePacket<S, N, typename ei::unpacket_traits<From>::half>::type;
};
template <class S, int N, class From>
struct NativePacket<S, N, From, true> {
  using type = From;
};
template <class S, class From>
struct NativePacket<S, 1, From, false> {
  using type = S;
};

}  // namespace detail

/// Numbers in the widest packet of S; 1 if Eigen has no packet on this machine.
template <class S>
inline constexpr int widest = detail::native_size<detail::WidestNative<S>>;

/// The width to use next when fewer than N numbers remain: down to 128 bits, then single numbers.
template <class S, int N>
inline constexpr int narrower = N* static_cast<int>(sizeof(S)) > 16 ? N / 2 : 1;

/// Whether the packet kernels serve S. The plain expressions serve every other scalar.
template <class S>
inline constexpr bool has_packets = (std::is_same_v<S, float> || std::is_same_v<S, double>)&&(widest<S> > 1);

/// SIMD registers of the machine, and whether a multiply-add is one instruction. They decide the register blocks.
inline constexpr int registers = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS;
#if defined(EIGEN_VECTORIZE_FMA) || defined(EIGEN_VECTORIZE_NEON)
inline constexpr bool has_fma = true;
#else
inline constexpr bool has_fma = false;
#endif

/// N numbers in one register.
template <class S, int N = widest<S>>
struct Packet {
  using Native = typename detail::NativePacket<S, N>::type;
  Native x;

  static EIGEN_STRONG_INLINE Packet load(const S* from) { return {detail::ei::ploadu<Native>(from)}; }
  static EIGEN_STRONG_INLINE Packet all(const S& value) { return {detail::ei::pset1<Native>(value)}; }
  EIGEN_STRONG_INLINE void store(S* to) const { detail::ei::pstoreu(to, x); }

  /// Stops g++ from loading the packet again at every use. With 16 registers, loads are the bottleneck.
  EIGEN_STRONG_INLINE void keep() {
#if defined(__GNUC__) && !defined(__clang__) && defined(EIGEN_VECTORIZE_SSE) && !defined(EIGEN_VECTORIZE_AVX512)
    if constexpr (N > 1) asm("" : "+x"(x));
#endif
  }

  /// Stops the compiler from fusing the product that made x with a sum that follows. Used where the bits must not
  /// depend on the rest of a loop.
  EIGEN_STRONG_INLINE void round_here() {
#if defined(__GNUC__) && defined(EIGEN_VECTORIZE_AVX512)
    asm("" : "+v"(x));
#elif defined(__GNUC__) && defined(EIGEN_VECTORIZE_SSE)
    asm("" : "+x"(x));
#elif defined(__GNUC__) && defined(EIGEN_VECTORIZE_NEON)
    asm("" : "+w"(x));
#endif
  }

  EIGEN_STRONG_INLINE S sum() const { return detail::ei::predux(x); }
  EIGEN_STRONG_INLINE S largest() const { return detail::ei::predux_max(x); }

  friend EIGEN_STRONG_INLINE Packet operator+(const Packet& a, const Packet& b) { return {detail::ei::padd(a.x, b.x)}; }
  friend EIGEN_STRONG_INLINE Packet operator-(const Packet& a, const Packet& b) { return {detail::ei::psub(a.x, b.x)}; }
  friend EIGEN_STRONG_INLINE Packet operator*(const Packet& a, const Packet& b) { return {detail::ei::pmul(a.x, b.x)}; }
};

template <class P, int... Counts>
struct RegistersOf {
  using type = P;
};
template <class P, int Count, int... Counts>
struct RegistersOf<P, Count, Counts...> {
  using type = typename RegistersOf<P, Counts...>::type[static_cast<std::size_t>(Count)];
};
/// An array of packets. Unrolled loops turn it into registers: Registers<P, 6, 2> x; x[i][j].
template <class P, int... Counts>
using Registers = typename RegistersOf<P, Counts...>::type;

/// a b + c, fused if the machine can.
template <class S, int N>
EIGEN_STRONG_INLINE Packet<S, N> multiply_add(const Packet<S, N>& a, const Packet<S, N>& b, const Packet<S, N>& c) {
#if defined(__clang__) && defined(EIGEN_VECTORIZE_AVX) && defined(EIGEN_VECTORIZE_FMA)
  // Eigen 3.4 uses inline assembly here for clang++, which then cannot schedule the instruction.
  if constexpr (std::is_same_v<S, float> && N == 8) return {_mm256_fmadd_ps(a.x, b.x, c.x)};
  if constexpr (std::is_same_v<S, double> && N == 4) return {_mm256_fmadd_pd(a.x, b.x, c.x)};
#endif
  return {detail::ei::pmadd(a.x, b.x, c.x)};
}

/// a b - c, fused if the machine can.
template <class S, int N>
EIGEN_STRONG_INLINE Packet<S, N> multiply_subtract(const Packet<S, N>& a, const Packet<S, N>& b,
                                                   const Packet<S, N>& c) {
  return {detail::ei::pmadd(a.x, b.x, detail::ei::pnegate(c.x))};
}

/// The larger of two numbers. NaN if a is NaN. If b is NaN, x86 and NEON differ.
template <class S, int N>
EIGEN_STRONG_INLINE Packet<S, N> larger(const Packet<S, N>& a, const Packet<S, N>& b) {
  return {detail::ei::pmax(a.x, b.x)};
}

/// x where m > limit, else 0.
template <class S, int N>
EIGEN_STRONG_INLINE Packet<S, N> where_greater(const Packet<S, N>& m, const Packet<S, N>& limit,
                                               const Packet<S, N>& x) {
  if constexpr (N == 1) {
    return {m.x > limit.x ? x.x : S(0)};
  } else {
    return {detail::ei::pand(detail::ei::pcmp_lt(limit.x, m.x), x.x)};
  }
}

/// 1 / x for normal x > 0, to two units in the last place.
template <class S, int N>
EIGEN_STRONG_INLINE Packet<S, N> reciprocal(const Packet<S, N>& x) {
  [[maybe_unused]] Packet<S, N> y;
  [[maybe_unused]] constexpr bool estimates = std::is_same_v<S, float> && N > 1;
#if defined(EIGEN_VECTORIZE_AVX512)
  if constexpr (estimates && N == 16) y.x = _mm512_rcp14_ps(x.x);
#endif
#if defined(EIGEN_VECTORIZE_AVX)
  if constexpr (estimates && N == 8) y.x = _mm256_rcp_ps(x.x);
#endif
#if defined(EIGEN_VECTORIZE_SSE)
  if constexpr (estimates && N == 4) y.x = _mm_rcp_ps(x.x);
  if constexpr (estimates) return y * (Packet<S, N>::all(S(2)) - x * y);  // one Newton step
#endif
  return {detail::ei::pdiv(Packet<S, N>::all(S(1)).x, x.x)};
}

/// exp(x) for x <= 0. Below the normal numbers the result is 0, or at most the smallest normal number. NaN stays NaN.
/// Float: 2^n p(f), where n is the integer nearest to x log2 e and p a polynomial on |f| <= 1/2; relative error below
/// 3e-7 + 2e-8 |x| (8e-8 |x| if the machine has no fused multiply-add). Double: Eigen's.
template <class S, int N>
EIGEN_STRONG_INLINE Packet<S, N> exp_of_negative(const Packet<S, N>& x) {
  using P = Packet<S, N>;
  if constexpr (std::is_same_v<S, float> && N > 1) {
    using Integers = typename detail::ei::unpacket_traits<typename P::Native>::integer_packet;
    const P magic = P::all(12582912.0F + 127.0F);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const P log2_e = P::all(1.44269504F);
    const P bounded = larger(x, P::all(-88.02969F));  // 2^-127
    const P shifted = multiply_add(bounded, log2_e, magic);
    const P f = multiply_subtract(bounded, log2_e, shifted - magic);
    P p = multiply_add(P::all(1.33952e-3F), f, P::all(9.67835e-3F));
    p = multiply_add(p, f, P::all(5.55033e-2F));
    p = multiply_add(p, f, P::all(2.40221e-1F));
    p = multiply_add(p, f, P::all(6.93147e-1F));
    p = multiply_add(p, f, P::all(1.0F));
    const Integers power =
        detail::ei::plogical_shift_left<23>(detail::ei::preinterpret<Integers, typename P::Native>(shifted.x));
    return p * P{detail::ei::preinterpret<typename P::Native, Integers>(power)};
  } else {
    return {detail::ei::pexp(x.x)};
  }
}

}  // namespace gma::kernels

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
