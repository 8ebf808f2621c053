// SPDX-License-Identifier: MIT
// Heap memory in use, counted by replacing malloc and its relatives. Linked into binaries of their own, so that the
// ones that time are not slowed down.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>

namespace bench {

/// Runs `call` and returns the largest amount of heap memory that was in use during it beyond what was in use before,
/// in bytes; nothing in a binary that does not count.
///
/// Counted: every block handed out by malloc, calloc, realloc, aligned_alloc, memalign, posix_memalign (and so by
/// operator new, and by Eigen's matrices) on any thread, at its usable size, that is the request rounded up by the
/// allocator. Not counted: the stack, where Eigen keeps packing buffers of up to 128 KiB each, and memory mapped
/// directly.
std::optional<std::size_t> peak_extra_bytes(const std::function<void()>& call);

}  // namespace bench
