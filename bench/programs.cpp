// SPDX-License-Identifier: MIT
// What is known of a program without running it, and which class runs it.
#include "programs.hpp"

#include "programs_common.hpp"

#ifndef GMA_BENCH_FLAGS
#define GMA_BENCH_FLAGS "unknown flags"
#endif

namespace bench {
namespace {

class Product : public Program {
 public:
  explicit Product(Index n) : a_(normal_matrix(n, n, 6)), b_(normal_matrix(n, n, 7)), c_(n, n) {}
  void run() override { c_.noalias() = a_ * b_; }
  double error() override { return 0; }

 private:
  Matrix<float> a_, b_, c_;
};

}  // namespace

std::string name(const Problem& problem) {
  std::string text = problem.attention == Operator::gma          ? "GMA K=" + std::to_string(problem.components)
                     : problem.attention == Operator::sdpa_tiled ? std::string("SDPA tiled")
                                                                 : std::string("SDPA dense");
  if (problem.is_causal) text += ", causal";
  return text;
}

Build build() {
  const auto version = [](int world, int major, int minor) {
    return std::to_string(world) + "." + std::to_string(major) + "." + std::to_string(minor);
  };
#if defined(__clang__)
  const std::string compiler = "clang " __clang_version__;
#elif defined(__GNUC__)
  const std::string compiler = "g++ " __VERSION__;
#else
  const std::string compiler = "unknown compiler";
#endif
  return {compiler, GMA_BENCH_FLAGS, version(EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION),
          Eigen::internal::packet_traits<float>::size};
}

double useful_flops(const Problem& problem) {
  const double n = static_cast<double>(problem.tokens), k = static_cast<double>(problem.components);
  const double d = static_cast<double>(problem.width), e = static_cast<double>(problem.value_width);
  const bool is_backward = problem.pass == Pass::backward;
  if (problem.attention == Operator::gma) {
    const double features = problem.covariance == Covariance::tied ? d : 2 * d;
    return 2 * n * k * (2 * features + 2 * e) * (is_backward ? (problem.is_causal ? 3 : 2.5) : 1);
  }
  return 2 * n * n * (d + e) * (problem.is_causal ? 0.5 : 1) * (is_backward ? 2.5 : 1);
}

double necessary_bytes(const Problem& problem) {
  if (problem.attention != Operator::sdpa_dense) return 0;
  const double n = static_cast<double>(problem.tokens);
  return n * n * sizeof(float) * (problem.pass == Pass::backward ? 3 : 1);
}

std::unique_ptr<Program> make_program(const Problem& problem) {
  return problem.attention == Operator::gma ? make_gma_program(problem) : make_sdpa_program(problem);
}

std::unique_ptr<Program> make_decoding_program(const Problem& problem, Index context) {
  return problem.attention == Operator::gma ? make_gma_decoding_program(problem, context)
                                            : make_sdpa_decoding_program(problem, context);
}

std::unique_ptr<Program> make_product_program(Index n) { return std::make_unique<Product>(n); }

}  // namespace bench
