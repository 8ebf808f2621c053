// SPDX-License-Identifier: MIT
// Allocations that fail when they are told to, of operator new and of malloc, which Eigen calls. For one source file of
// a program that is linked with -Wl,--wrap=malloc,--wrap=realloc,--wrap=free; without GMA_WRAPS_MALLOC operator new
// alone fails.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"  // it sees one of the pair inlined
#endif

namespace gma_test {

/// Which allocation is to fail, and how many blocks are held.
struct Allocator {
  bool is_armed = false, has_failed = false;
  long left = 0;  // allocations before the one that fails
  long blocks = 0;

  bool fails() {
    if (!is_armed || left-- != 0) return false;
    return has_failed = true;
  }
  template <class Pointer>
  Pointer count(Pointer block) {
    if (block != nullptr) ++blocks;
    return block;
  }
};
inline Allocator allocator;

}  // namespace gma_test

#ifdef GMA_WRAPS_MALLOC
extern "C" {
void* __real_malloc(std::size_t size);
void* __real_realloc(void* block, std::size_t size);
void __real_free(void* block);
void* __wrap_malloc(std::size_t size) {
  return gma_test::allocator.fails() ? nullptr : gma_test::allocator.count(__real_malloc(size));
}
void* __wrap_realloc(void* block, std::size_t size) {
  if (gma_test::allocator.fails()) return nullptr;
  void* const result = __real_realloc(block, size);
  return block == nullptr ? gma_test::allocator.count(result) : result;
}
void __wrap_free(void* block) {
  if (block != nullptr) --gma_test::allocator.blocks;
  __real_free(block);
}
}
#else
inline void* __real_malloc(std::size_t size) { return std::malloc(size); }
inline void __real_free(void* block) { std::free(block); }
#endif

void* operator new(std::size_t size) {
  if (!gma_test::allocator.fails()) {
    if (void* const block = gma_test::allocator.count(__real_malloc(size == 0 ? 1 : size))) return block;
  }
  throw std::bad_alloc();
}
void operator delete(void* block) noexcept {
  if (block != nullptr) --gma_test::allocator.blocks;
  __real_free(block);
}
void operator delete(void* block, std::size_t) noexcept { operator delete(block); }
