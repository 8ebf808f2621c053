// SPDX-License-Identifier: MIT
//
// A pool of threads that exist as long as the program trains. parallel_for(n, task) runs task(i, worker) for i in [0,
// n). Any worker may take any i, so a task may write only data that belongs to i, or scratch memory of its worker.
// Results then do not depend on the number of threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "types.hpp"

namespace transformer {

class ThreadPool {
 public:
  using Task = std::function<void(Index i, Index worker)>;

  // threads = 0: as many as the machine has. The calling thread is worker 0.
  explicit ThreadPool(Index threads = 0) {
    if (threads <= 0) threads = Index(std::thread::hardware_concurrency());
    if (threads <= 0) threads = 1;
    for (Index worker = 1; worker < threads; ++worker) threads_.emplace_back([this, worker] { serve(worker); });
  }
  ~ThreadPool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      is_stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  Index size() const { return Index(threads_.size()) + 1; }

  // Returns when all are done. The first exception of a task is thrown here.
  void parallel_for(Index count, const Task& task) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      task_ = &task;
      count_ = count;
      next_ = 0;
      busy_ = Index(threads_.size());
      ++generation_;
    }
    wake_.notify_all();
    work(0);
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [this] { return busy_ == 0; });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  void serve(Index worker) {
    std::uint64_t seen = 0;
    for (;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return is_stopping_ || generation_ != seen; });
        if (is_stopping_) return;
        seen = generation_;
      }
      work(worker);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (--busy_ == 0) idle_.notify_one();
    }
  }

  void work(Index worker) {
    for (Index i = next_++; i < count_; i = next_++) {
      try {
        (*task_)(i, worker);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  const Task* task_ = nullptr;
  Index count_ = 0, busy_ = 0;
  std::atomic<Index> next_{0};
  std::uint64_t generation_ = 0;
  bool is_stopping_ = false;
  std::exception_ptr error_;
};

}  // namespace transformer
