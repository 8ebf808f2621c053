// SPDX-License-Identifier: MIT
// Executors that try the library's promise: results are the same bits whatever runs the tasks.
#pragma once

#include <atomic>
#include <thread>
#include <vector>

#include "gma/core/parallel.hpp"

namespace gma_test {

/// Threads of its own for every call: a worker takes the next task that is left.
class Threads : public gma::Executor {
 public:
  explicit Threads(gma::Index workers) : workers_(workers) {}
  gma::Index workers() const override { return workers_; }
  void run(gma::Index count, const gma::Task& task) const override {
    std::atomic<gma::Index> next{0};
    std::vector<std::thread> threads;
    for (gma::Index worker = 0; worker < workers_; ++worker) {
      threads.emplace_back([&, worker] {
        for (gma::Index i = next++; i < count; i = next++) task(i, worker);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  gma::Index workers_;
};

/// One thread, many workers, the last task first and by the last worker: what depends on the order shows, and so does
/// scratch that a worker beyond the number of tasks would lack.
class Backwards : public gma::Executor {
 public:
  gma::Index workers() const override { return 50; }
  void run(gma::Index count, const gma::Task& task) const override {
    for (gma::Index i = count - 1; i >= 0; --i) task(i, workers() - 1 - i % workers());
  }
};

}  // namespace gma_test
