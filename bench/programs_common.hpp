// SPDX-License-Identifier: MIT
// What the programs share: inputs, how a result is compared with one in double, and where each family is made.
#pragma once

#include <algorithm>
#include <memory>
#include <random>

#include "programs.hpp"

namespace bench {

using gma::Matrix;

/// Up to this length all outputs are compared with the dense form.
inline constexpr Index checked_densely = 1024;

template <class S>
struct Inputs {
  Matrix<S> queries, keys, values, d_output;

  template <class T>
  Inputs<T> cast() const {
    return {queries.template cast<T>(), keys.template cast<T>(), values.template cast<T>(),
            d_output.template cast<T>()};
  }
};

inline Matrix<float> normal_matrix(Index rows, Index cols, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  return Matrix<float>::NullaryExpr(rows, cols, [&] { return normal(generator); });
}

inline Inputs<float> make_inputs(const Problem& p) {
  return {normal_matrix(p.tokens, p.width, 1), normal_matrix(p.tokens, p.width, 2),
          normal_matrix(p.tokens, p.value_width, 3), normal_matrix(p.tokens, p.value_width, 4)};
}

inline double relative_error(const Matrix<float>& computed, const Matrix<double>& exact) {
  return (computed.cast<double>() - exact).norm() / std::max(exact.norm(), 1e-300);
}

std::unique_ptr<Program> make_gma_program(const Problem& problem);
std::unique_ptr<Program> make_gma_decoding_program(const Problem& problem, Index context);
std::unique_ptr<Program> make_sdpa_program(const Problem& problem);
std::unique_ptr<Program> make_sdpa_decoding_program(const Problem& problem, Index context);

}  // namespace bench
