// SPDX-License-Identifier: MIT
// Heap allocations, counted where Eigen and the standard library make them. Eigen checks its own with the macro below,
// and malloc itself is left alone, which the sanitizers need. For one source file of a program, before any other
// header.
#pragma once

#define EIGEN_RUNTIME_NO_MALLOC
#include <Eigen/Core>
#include <atomic>
#include <cstdlib>
#include <new>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // it sees one of the pair inlined
#endif

namespace gma_test {
inline std::atomic<long> news{0};
}

void* operator new(std::size_t size) {
  ++gma_test::news;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace gma_test {

/// How often operator new is called, while Eigen refuses to allocate (an assertion aborts).
template <class Call>
long allocations_of(Call&& call) {
  Eigen::internal::set_is_malloc_allowed(false);
  const long before = news;
  call();
  const long after = news;
  Eigen::internal::set_is_malloc_allowed(true);
  return after - before;
}

}  // namespace gma_test
