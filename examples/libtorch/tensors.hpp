// SPDX-License-Identifier: MIT
// torch's tensors as gma's operands, without a copy, and torch's threads as gma's executor.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <atomic>
#include <gma/heads/head_tensor.hpp>

#if AT_PARALLEL_OPENMP && !defined(_OPENMP)
#error "compile with -fopenmp: at::parallel_for, a template of torch's headers, runs on one thread without it"
#endif

namespace gma_torch {

using at::Tensor;
using gma::Index;

/// torch's threads: as many as torch.set_num_threads() says. Whichever is free takes the next task.
class Threads : public gma::Executor {
 public:
  Index workers() const override { return at::get_num_threads(); }
  void run(Index count, const gma::Task& task) const override {
    std::atomic<Index> next{0};
    at::parallel_for(0, workers(), 1, [&](Index, Index) {
      for (Index i = next++; i < count; i = next++) task(i, at::get_thread_num());
    });
  }
};

/// A tensor [B, H, N, width] of any strides.
template <class T>
gma::HeadTensor<T> heads(const Tensor& t) {
  return {static_cast<T*>(t.data_ptr()),
          t.size(0),
          t.size(2),
          t.size(1),
          t.size(3),
          t.stride(0),
          t.stride(2),
          t.stride(1),
          t.stride(3)};
}

/// The same as an operand of gma's verbs, which compute in S: numbers of S, bfloat16 or half.
template <class Operand, template <class> class Qualified, class S>
Operand operand(const Tensor& t) {
  if (t.scalar_type() == at::kBFloat16) return heads<Qualified<Eigen::bfloat16>>(t);
  if (t.scalar_type() == at::kHalf) return heads<Qualified<Eigen::half>>(t);
  return heads<Qualified<S>>(t);
}
template <class S>
gma::HeadsIn<S> in(const Tensor& t) {
  return operand<gma::HeadsIn<S>, std::add_const_t, S>(t);
}
template <class S>
gma::HeadsOut<S> out(const Tensor& t) {
  return operand<gma::HeadsOut<S>, std::remove_const_t, S>(t);
}

/// [N, D] of any strides, as a matrix.
template <class S>
auto matrix(const Tensor& t) {
  using Strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
  return Eigen::Map<gma::Matrix<S>, 0, Strides>(t.data_ptr<S>(), t.size(0), t.size(1),
                                                Strides(t.stride(0), t.stride(1)));
}

}  // namespace gma_torch
