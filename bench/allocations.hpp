// SPDX-License-Identifier: MIT
// Heap memory in use, counted by replacing malloc and its relatives. It is linked into separate binaries, so that the
// binaries that measure time are not slowed down.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>

namespace bench {

/// Runs `call` and returns how far the heap memory in use rose above its amount before, in bytes. Returns nothing in a
/// binary that does not count.
///
/// Counted: every block from malloc, calloc, realloc, aligned_alloc, memalign and posix_memalign on any thread
/// (operator new and Eigen's matrices use them), at its usable size: the request, rounded up by the allocator. Not
/// counted: the stack, where Eigen keeps packing buffers of up to 128 KiB each, and memory that is mapped directly.
std::optional<std::size_t> peak_extra_bytes(const std::function<void()>& call);

}  // namespace bench
