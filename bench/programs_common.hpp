// SPDX-License-Identifier: MIT
// What the programs share: inputs, the comparison of a result with one in double, and the functions that make each
// family.
#pragma once

#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <vector>

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

/// Inputs and outputs of every head.
template <class S>
struct Heads {
  std::vector<Inputs<S>> in;
  std::vector<Matrix<S>> out;
};

inline Matrix<float> normal_matrix(Index rows, Index cols, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  return Matrix<float>::NullaryExpr(rows, cols, [&] { return normal(generator); });
}

/// Seed number `which` of a head.
inline unsigned seed(Index head, unsigned which) { return 16 * static_cast<unsigned>(head) + which; }

inline Inputs<float> make_inputs(const Problem& p, Index head) {
  Inputs<float> in{normal_matrix(p.tokens, p.width, seed(head, 1)),
                   normal_matrix(p.tokens, p.width, seed(head, 2)),
                   normal_matrix(p.tokens, p.value_width, seed(head, 3)),
                   {}};
  if (p.pass == Pass::backward) in.d_output = normal_matrix(p.tokens, p.value_width, seed(head, 4));
  return in;
}

/// Those of another existing program, or new ones: at least problem.heads of them.
std::shared_ptr<Heads<float>> shared_heads(const Problem& problem);

inline double relative_error(const Matrix<float>& computed, const Matrix<double>& exact) {
  return (computed.cast<double>() - exact).norm() / std::max(exact.norm(), 1e-300);
}

/// The largest error(head) of the checked heads.
template <class Error>
double largest_error(Index heads, const Error& error) {
  double largest = 0;
  for (const Index head : std::set<Index>{0, heads - 1}) {
    const double e = error(head);
    if (!(e <= largest)) largest = e;
  }
  return largest;
}

std::unique_ptr<Program> make_gma_program(const Problem& problem);
std::unique_ptr<Program> make_gma_decoding_program(const Problem& problem, Index context);
std::unique_ptr<Program> make_sdpa_program(const Problem& problem);
std::unique_ptr<Program> make_sdpa_decoding_program(const Problem& problem, Index context);

}  // namespace bench
