// SPDX-License-Identifier: MIT
// The parallel-for of the library. It owns no threads: the caller brings an Executor over those that the program has,
// or the one of gma/core/openmp.hpp. What runs side by side is cut by the problem's size alone and summed in one order,
// so that the number of threads moves no bit of a result.
#pragma once

#include "gma/core/types.hpp"

namespace gma {

/// A reference to something callable as f(index, worker); it owns nothing and allocates nothing.
class Task {
 public:
  template <class F>
  explicit Task(const F& f)
      : f_(&f), call_([](const void* g, Index index, Index worker) { (*static_cast<const F*>(g))(index, worker); }) {}
  void operator()(Index index, Index worker) const { call_(f_, index, worker); }

 private:
  const void* f_;
  void (*call_)(const void*, Index, Index);
};

/// Derive from it to lend the program's threads. The operators run tasks of some ten microseconds to milliseconds.
class Executor {
 public:
  virtual ~Executor() = default;

  /// The largest number of tasks that run at once, at least 1.
  virtual Index workers() const = 0;

  /// task(index, worker) once for every index in [0, count), in any order and on any thread; returns when all are done.
  /// `worker` is in [0, workers()), and no two tasks with one worker number run at the same time.
  virtual void run(Index count, const Task& task) const = 0;
};

/// f(index, worker) for every index in [0, count): on the executor, or here and in order where it is null. Use it to
/// run heads or sequences side by side, with a Workspace for every worker.
template <class F>
void parallel_for(const Executor* executor, Index count, const F& f) {
  if (executor != nullptr && count > 1) {
    executor->run(count, Task(f));
  } else {
    for (Index i = 0; i < count; ++i) f(i, Index(0));
  }
}

namespace detail {

inline Index workers(const Executor* executor) {
  const Index count = executor == nullptr ? 1 : executor->workers();
  return count < 1 ? 1 : count;
}

}  // namespace detail
}  // namespace gma
