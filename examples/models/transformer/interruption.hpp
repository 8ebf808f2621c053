// SPDX-License-Identifier: MIT
//
// Ctrl-C ends a run between two steps; it does not end the program.
#pragma once

#include <atomic>
#include <csignal>

namespace transformer {

namespace detail {
inline std::atomic<bool> is_interrupted{false};
extern "C" inline void interrupt(int) { is_interrupted = true; }
}  // namespace detail

// While a guard exists, SIGINT is noted and does nothing else.
class InterruptionGuard {
 public:
  InterruptionGuard() : previous_(std::signal(SIGINT, detail::interrupt)) { detail::is_interrupted = false; }
  ~InterruptionGuard() { std::signal(SIGINT, previous_); }
  InterruptionGuard(const InterruptionGuard&) = delete;
  InterruptionGuard& operator=(const InterruptionGuard&) = delete;

 private:
  void (*previous_)(int);
};

// Whether SIGINT has arrived since the last guard was made.
inline bool is_interrupted() { return detail::is_interrupted; }

}  // namespace transformer
