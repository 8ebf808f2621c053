// SPDX-License-Identifier: MIT
#include "executor.hpp"

#ifdef _OPENMP
#include "gma/core/openmp.hpp"
#else
#include <atomic>
#include <thread>
#include <vector>
#endif

namespace bench {
namespace {

#ifdef _OPENMP
using Threads = gma::OpenMpExecutor;
#else
/// Threads that start and end with every call: good enough for heads, which take milliseconds.
class Threads : public gma::Executor {
 public:
  explicit Threads(gma::Index threads) : threads_(threads) {}

  gma::Index workers() const override { return threads_; }
  void run(gma::Index count, const gma::Task& task) const override {
    std::atomic<gma::Index> next{0};
    const auto work = [&](gma::Index worker) {
      for (gma::Index i = next++; i < count; i = next++) task(i, worker);
    };
    std::vector<std::thread> threads;
    for (gma::Index worker = 1; worker < threads_; ++worker) threads.emplace_back(work, worker);
    work(0);
    for (std::thread& thread : threads) thread.join();
  }

 private:
  gma::Index threads_;
};
#endif

}  // namespace

std::unique_ptr<gma::Executor> make_executor(gma::Index threads) {
  return threads > 1 ? std::make_unique<Threads>(threads) : nullptr;
}

const char* executor_name() {
#ifdef _OPENMP
  return "OpenMP";
#else
  return "std::thread";
#endif
}

}  // namespace bench
