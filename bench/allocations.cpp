// SPDX-License-Identifier: MIT
// Replaces malloc and its relatives by functions that count and then call glibc.
#include "allocations.hpp"

#include <malloc.h>

#include <atomic>
#include <cerrno>

#ifndef __GLIBC__
#error "Counting memory relies on glibc's __libc_malloc"
#endif

extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* block, std::size_t size);
void* __libc_memalign(std::size_t alignment, std::size_t size);
void __libc_free(void* block);
}

namespace {

std::atomic<std::size_t> in_use{0}, peak{0};

void* account(void* block) {
  if (block == nullptr) return block;
  const std::size_t size = malloc_usable_size(block);
  const std::size_t now = in_use.fetch_add(size, std::memory_order_relaxed) + size;
  std::size_t largest = peak.load(std::memory_order_relaxed);
  while (now > largest && !peak.compare_exchange_weak(largest, now, std::memory_order_relaxed)) {
  }
  return block;
}

void strike(void* block) {
  if (block != nullptr) in_use.fetch_sub(malloc_usable_size(block), std::memory_order_relaxed);
}

}  // namespace

extern "C" {

void* malloc(std::size_t size) noexcept { return account(__libc_malloc(size)); }

void* calloc(std::size_t count, std::size_t size) noexcept { return account(__libc_calloc(count, size)); }

void* realloc(void* block, std::size_t size) noexcept {
  const std::size_t before = block != nullptr ? malloc_usable_size(block) : 0;
  void* const moved = __libc_realloc(block, size);
  if (moved != nullptr || size == 0) in_use.fetch_sub(before, std::memory_order_relaxed);
  return account(moved);
}

void free(void* block) noexcept {
  strike(block);
  __libc_free(block);
}

void* memalign(std::size_t alignment, std::size_t size) noexcept { return account(__libc_memalign(alignment, size)); }

void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  return account(__libc_memalign(alignment, size));
}

int posix_memalign(void** block, std::size_t alignment, std::size_t size) noexcept {
  void* const result = account(__libc_memalign(alignment, size));
  if (result == nullptr) return ENOMEM;
  *block = result;
  return 0;
}

}  // extern "C"

namespace bench {

std::optional<std::size_t> peak_extra_bytes(const std::function<void()>& call) {
  const std::size_t before = in_use.load();
  peak.store(before);
  call();
  return peak.load() - before;
}

}  // namespace bench
