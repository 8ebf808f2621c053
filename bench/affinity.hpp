// SPDX-License-Identifier: MIT
// Keeps the process on one CPU, so that the scheduler does not move it between rounds. Works on Linux; elsewhere it
// does nothing.
#pragma once

#if defined(__linux__)
#include <sched.h>
#endif

namespace bench {

/// Any CPU: the current one.
inline constexpr int this_cpu = -1;

/// Pins the process to one CPU while the object exists, if the system allows it. Threads that start meanwhile stay on
/// the same CPU: do not use it when you measure several threads.
class Pinned {
 public:
  explicit Pinned(int cpu) {
#if defined(__linux__)
    if (sched_getaffinity(0, sizeof before_, &before_) != 0) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    if (cpu == this_cpu) cpu = sched_getcpu();
    if (cpu < 0 || cpu >= CPU_SETSIZE) return;
    CPU_SET(static_cast<unsigned>(cpu), &one);
    if (sched_setaffinity(0, sizeof one, &one) == 0) cpu_ = cpu;
#else
    static_cast<void>(cpu);
#endif
  }
  ~Pinned() {
#if defined(__linux__)
    if (cpu_ >= 0) sched_setaffinity(0, sizeof before_, &before_);
#endif
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

  /// The CPU, or -1 if the process is not pinned.
  int cpu() const { return cpu_; }

 private:
  int cpu_ = -1;
#if defined(__linux__)
  cpu_set_t before_;
#endif
};

}  // namespace bench
