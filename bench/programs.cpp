// SPDX-License-Identifier: MIT
// Facts about a program that need no run, the choice of its class, and the inputs that programs share.
#include "programs.hpp"

#include <map>
#include <tuple>

#include "programs_common.hpp"

#ifndef GMA_BENCH_FLAGS
#define GMA_BENCH_FLAGS "unknown flags"
#endif

namespace bench {

const char* name(Covariance covariance) { return covariance == Covariance::tied ? "tied" : "diagonal"; }

std::string name(const Problem& problem) {
  std::string text = problem.attention == Operator::gma
                         ? std::string("GMA ") + name(problem.covariance) + " K=" + std::to_string(problem.components)
                     : problem.attention == Operator::sdpa_tiled ? std::string("SDPA tiled")
                                                                 : std::string("SDPA dense");
  if (problem.is_causal) text += ", causal";
  if (problem.forgets) text += ", forgetting";
  if (problem.forgets_by_slot) text += ", slots forgetting";
  if (problem.storage == Storage::bfloat16) text += ", bfloat16";
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
  const double h = static_cast<double>(problem.heads);
  const bool is_backward = problem.pass == Pass::backward;
  if (problem.attention == Operator::gma) {
    const double features = problem.covariance == Covariance::tied ? d : 2 * d;
    if (!is_backward) return h * 2 * n * k * (2 * features + 2 * e);
    return h * 2 * n * k * (7 * features + (problem.is_causal ? 7 : 5) * e);
  }
  return h * 2 * n * n * (is_backward ? 3 * d + 2 * e : d + e) * (problem.is_causal ? 0.5 : 1);
}

double necessary_bytes(const Problem& problem) {
  if (problem.attention != Operator::sdpa_dense) return 0;
  const double n = static_cast<double>(problem.tokens);
  return n * n * sizeof(float) * (problem.pass == Pass::backward ? 3 : 1);
}

double tolerated_error(const Problem& problem) { return problem.storage == Storage::bfloat16 ? 1e-2 : 1e-4; }

std::shared_ptr<Heads<float>> shared_heads(const Problem& problem) {
  static std::map<std::tuple<Index, Index, Index, Pass>, std::weak_ptr<Heads<float>>> living;
  std::weak_ptr<Heads<float>>& known =
      living[std::make_tuple(problem.tokens, problem.width, problem.value_width, problem.pass)];
  std::shared_ptr<Heads<float>> heads = known.lock();
  if (heads && static_cast<Index>(heads->in.size()) >= problem.heads) return heads;
  heads = std::make_shared<Heads<float>>();
  for (Index h = 0; h < problem.heads; ++h) {
    heads->in.push_back(make_inputs(problem, h));
    heads->out.push_back(Matrix<float>::Zero(problem.tokens, problem.value_width));
  }
  known = heads;
  return heads;
}

std::unique_ptr<Program> make_program(const Problem& problem) {
  return problem.attention == Operator::gma ? make_gma_program(problem) : make_sdpa_program(problem);
}

std::unique_ptr<Program> make_decoding_program(const Problem& problem, Index context) {
  return problem.attention == Operator::gma ? make_gma_decoding_program(problem, context)
                                            : make_sdpa_decoding_program(problem, context);
}

}  // namespace bench
