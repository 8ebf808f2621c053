// SPDX-License-Identifier: MIT
// Returns 0 if this machine has the vector instructions that this file was compiled for.
int main() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
#if defined(__AVX__)
  if (!__builtin_cpu_supports("avx")) return 1;
#endif
#if defined(__AVX2__)
  if (!__builtin_cpu_supports("avx2")) return 1;
#endif
#if defined(__FMA__)
  if (!__builtin_cpu_supports("fma")) return 1;
#endif
#if defined(__AVX512F__)
  if (!__builtin_cpu_supports("avx512f")) return 1;
#endif
#if defined(__AVX512VL__)
  if (!__builtin_cpu_supports("avx512vl")) return 1;
#endif
#if defined(__AVX512BW__)
  if (!__builtin_cpu_supports("avx512bw")) return 1;
#endif
#if defined(__AVX512DQ__)
  if (!__builtin_cpu_supports("avx512dq")) return 1;
#endif
#endif
  return 0;
}
