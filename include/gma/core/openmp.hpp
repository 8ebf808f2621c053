// SPDX-License-Identifier: MIT
// An Executor over the threads of OpenMP. Compile with -fopenmp (CMake: OpenMP::OpenMP_CXX).
#pragma once

#include "gma/core/parallel.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace gma {

#ifdef _OPENMP

/// Runs tasks in its own parallel region with `threads` threads; 0: as many as OpenMP would take. If tasks throw, run()
/// throws the exception of the lowest index that threw, after the region.
class OpenMpExecutor : public Executor {
 public:
  /// `threads`: the most that run at once; 0: omp_get_max_threads().
  explicit OpenMpExecutor(Index threads = 0)
      : threads_(threads > 0 ? static_cast<int>(threads) : omp_get_max_threads()) {}

  Index workers() const override { return threads_; }
  void run(Index count, const Task& task) const override {
    detail::FirstException errors;
#pragma omp parallel for num_threads(threads_) schedule(dynamic, 1)
    for (Index i = 0; i < count; ++i) errors.run(task, i, omp_get_thread_num());
    errors.rethrow();
  }

 private:
  int threads_;
};

#else

/// Without OpenMP: a compile-time error where it is used.
class OpenMpExecutor : public Executor {
 public:
  template <class... Arguments>
  explicit OpenMpExecutor(Arguments...) {
    static_assert(sizeof...(Arguments) > 99,
                  "gma::OpenMpExecutor needs OpenMP: compile with -fopenmp, or link OpenMP::OpenMP_CXX in CMake");
  }
  Index workers() const override { return 1; }
  void run(Index count, const Task& task) const override {
    for (Index i = 0; i < count; ++i) task(i, 0);
  }
};

#endif

}  // namespace gma
