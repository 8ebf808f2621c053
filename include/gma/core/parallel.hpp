// SPDX-License-Identifier: MIT
// The parallel-for of the library. It owns no threads: the caller brings an Executor over those that the program has,
// or the one of gma/core/openmp.hpp. What runs side by side is cut by the problem's size alone and summed in one order,
// so that the number of threads moves no bit of a result.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <utility>

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
  /// `worker` is in [0, workers()), and no two tasks with one worker number run at the same time. Tasks that the
  /// library gives do not throw: parallel_for() keeps their errors. run() may throw, for instance because it has no
  /// thread to run on, but only when no task is running any more; the call of the library then ends with that
  /// exception.
  virtual void run(Index count, const Task& task) const = 0;
};

/// f(index, worker) for every index in [0, count): on the executor, or here and in order where it is null. Use it to
/// run heads or sequences side by side, with a Workspace for every worker. Where f throws, on whatever thread, the
/// exception of the lowest index that threw comes out of here once no f is running any more, the same one as without an
/// executor. Higher indices may then be left out.
template <class F>
void parallel_for(const Executor* executor, Index count, const F& f);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Runs tasks of any threads and keeps the exception of the lowest index: threads must not end with an exception.
class FirstException {
 public:
#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
  template <class F>
  void run(const F& f, Index index, Index worker) noexcept {
    if (has_thrown_.load(std::memory_order_acquire) && is_after_thrown(index)) return;
    try {
      f(index, worker);
    } catch (...) {
      keep(index, std::current_exception());
    }
  }
  void rethrow() {
    if (exception_) std::rethrow_exception(exception_);
  }

 private:
  bool is_after_thrown(Index index) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return index > index_;
  }
  void keep(Index index, std::exception_ptr exception) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (exception_ && index > index_) return;
    exception_ = std::move(exception);
    index_ = index;
    has_thrown_.store(true, std::memory_order_release);
  }

  std::atomic<bool> has_thrown_{false};
  std::mutex mutex_;
  std::exception_ptr exception_;
  Index index_ = 0;
#else
  template <class F>
  void run(const F& f, Index index, Index worker) {
    f(index, worker);
  }
  void rethrow() {}
#endif
};

}  // namespace detail

template <class F>
void parallel_for(const Executor* executor, Index count, const F& f) {
  if (executor != nullptr && count > 1) {
    detail::FirstException errors;
    const auto task = [&](Index index, Index worker) { errors.run(f, index, worker); };
    executor->run(count, Task(task));
    errors.rethrow();
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
