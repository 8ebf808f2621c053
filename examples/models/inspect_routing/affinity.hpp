// SPDX-License-Identifier: MIT
//
// For display: the weight that the query of token i puts on the value of token j through the memory, dense.
//
//   mass_i = exp(g_i) mass_{i-1} + r_i                           r: responsibilities of keys, g: log-forgetting
//   a_ij   = sum_k q_ik / mass_ik  r_jk exp(g_{j+1} + ... + g_i)  for j <= i, else 0
//
// If the memory is empty at the beginning, every row sums to 1, and a part of its columns to at most 1.
#pragma once

#include <algorithm>
#include <cmath>
#include <gma/core/numeric.hpp>

#include "transformer/types.hpp"

namespace inspect_routing {

using transformer::Index;
using transformer::Matrix;
using transformer::Vector;

// queries, keys: responsibilities, N x K; log_forgetting: N, or empty if nothing is forgotten. Returns N x N.
inline Matrix<double> affinity(const Matrix<double>& queries, const Matrix<double>& keys,
                               const Vector<double>& log_forgetting) {
  const Index n = keys.rows();
  Matrix<double> result = Matrix<double>::Zero(n, n);
  Matrix<double> written = Matrix<double>::Zero(n, keys.cols());  // what is left of every key, slot by slot
  Eigen::RowVectorXd mass = Eigen::RowVectorXd::Zero(keys.cols());
  for (Index i = 0; i < n; ++i) {
    const double kept = log_forgetting.size() == 0 ? 1.0 : std::exp(log_forgetting(i));
    written.topRows(i) *= kept;
    written.row(i) = keys.row(i);
    mass = mass * kept + keys.row(i);
    const Eigen::RowVectorXd coefficients = queries.row(i).array() / mass.array().max(double(gma::tiny_mass));
    result.row(i).head(i + 1) = coefficients * written.topRows(i + 1).transpose();
  }
  return result;
}

}  // namespace inspect_routing
