// SPDX-License-Identifier: MIT
// The parallel-for of the library. It owns no threads. The caller brings an Executor over the program's threads, or the
// one of gma/core/openmp.hpp. Work is split by problem size only and partial sums are added in a fixed order: results
// are bit-identical for any number of threads.
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
  /// `f` must outlive the task.
  template <class F>
  explicit Task(const F& f)
      : f_(&f), call_([](const void* g, Index index, Index worker) { (*static_cast<const F*>(g))(index, worker); }) {}
  /// Calls f(index, worker).
  void operator()(Index index, Index worker) const { call_(f_, index, worker); }

 private:
  const void* f_;
  void (*call_)(const void*, Index, Index);
};

/// Derive from it to lend the program's threads to the library. A task of an operator takes from about ten microseconds
/// to milliseconds.
class Executor {
 public:
  virtual ~Executor() = default;

  /// The largest number of tasks that run at once, at least 1.
  virtual Index workers() const = 0;

  /// Calls task(index, worker) once for every index in [0, count), in any order and on any thread, and returns when all
  /// are done. `worker` is in [0, workers()), and two tasks with the same worker number never run at the same time. The
  /// library's tasks do not throw: parallel_for() keeps their errors. run() may throw, for instance because it has no
  /// thread to run on, but only when no task is running any more. The library's call then ends with that exception.
  virtual void run(Index count, const Task& task) const = 0;
};

/// Calls f(index, worker) for every index in [0, count): on the executor, or here and in order if it is null. Use it to
/// run heads or sequences in parallel, with one Workspace per worker. If f throws on any thread, parallel_for() throws
/// the exception of the lowest index that threw, once no f is running any more. It is the same exception as without an
/// executor. Higher indices may then be left out.
template <class F>
void parallel_for(const Executor* executor, Index count, const F& f);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Runs tasks on any threads and keeps the exception of the lowest index: a thread must not end with an exception.
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
