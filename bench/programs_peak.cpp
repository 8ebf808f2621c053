// SPDX-License-Identifier: MIT
// Programs that measure the machine: the multiply-adds of one core, and a large Eigen product.
#include <cmath>

#include "gma/kernels/packets.hpp"
#include "programs_common.hpp"

namespace bench {
namespace {

using Packet = gma::kernels::Packet<float>;

/// Independent chains: at least the latency of a multiply-add times the number of units that start one per cycle.
constexpr int chains = gma::kernels::registers >= 32 ? 16 : 10;
constexpr Index iterations = 1 << 16;

/// Hides a value from the compiler, so that it cannot drop, merge or reorder the operations.
EIGEN_STRONG_INLINE void keep_alive(Packet& packet) {
#if defined(__GNUC__) && defined(EIGEN_VECTORIZE_AVX512)
  asm volatile("" : "+v"(packet.x));
#elif defined(__GNUC__) && defined(EIGEN_VECTORIZE_SSE)
  asm volatile("" : "+x"(packet.x));
#elif defined(__GNUC__) && defined(__aarch64__)
  asm volatile("" : "+w"(packet.x));
#else
  static_cast<void>(packet);
#endif
}

class Peak : public Program {
 public:
  void run() override {
    Packet sums[chains];
    const Packet factor = Packet::all(0.999F), step = Packet::all(1e-3F);
    GMA_UNROLL
    for (int c = 0; c < chains; ++c) sums[c] = Packet::all(1 + static_cast<float>(c));
    for (Index i = 0; i < iterations; ++i) {
      GMA_UNROLL
      for (int c = 0; c < chains; ++c) {
        sums[c] = multiply_add(sums[c], factor, step);
        keep_alive(sums[c]);
      }
    }
    Packet total = Packet::all(0);
    GMA_UNROLL
    for (int c = 0; c < chains; ++c) total = total + sums[c];
    sum_ = total.sum();
  }

  /// Every chain converges to 1.
  double error() override {
    run();
    constexpr double numbers = chains * gma::kernels::widest<float>;
    return std::abs(static_cast<double>(sum_) / numbers - 1);
  }

 private:
  float sum_ = 0;
};

class Product : public Program {
 public:
  explicit Product(Index n) : a_(normal_matrix(n, n, 6)), b_(normal_matrix(n, n, 7)), c_(n, n) {}
  void run() override { c_.noalias() = a_ * b_; }

  /// The error of one row, against Eigen in double.
  double error() override {
    run();
    const Matrix<double> exact = a_.row(0).cast<double>() * b_.cast<double>();
    return relative_error(c_.row(0), exact);
  }

 private:
  Matrix<float> a_, b_, c_;
};

}  // namespace

std::unique_ptr<Program> make_product_program(Index n) { return std::make_unique<Product>(n); }

double product_flops(Index n) { return 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n); }

std::unique_ptr<Program> make_peak_program() { return std::make_unique<Peak>(); }

double peak_flops() { return 2.0 * gma::kernels::widest<float> * chains * static_cast<double>(iterations); }

}  // namespace bench
