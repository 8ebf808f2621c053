// SPDX-License-Identifier: MIT
// Heap memory in use, counted by replacing malloc and its relatives, where the C library is glibc. A count takes some
// nanoseconds, and what is timed allocates at most a few times per call.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>

namespace bench {

/// Runs `call` and returns how far the heap memory in use rose above its amount before, in bytes. Returns nothing in a
/// binary that does not count: see allocations_none.cpp.
///
/// Counted: every block from malloc, calloc, realloc, aligned_alloc, memalign and posix_memalign on any thread
/// (operator new and Eigen's matrices use them), at its usable size: the request, rounded up by the allocator. Not
/// counted: the stack, where Eigen keeps packing buffers of up to 128 KiB each, and memory that is mapped directly.
std::optional<std::size_t> peak_extra_bytes(const std::function<void()>& call);

}  // namespace bench
