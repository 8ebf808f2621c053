// SPDX-License-Identifier: MIT
//
// Entropies and mutual information of counts, in nats. 0 log 0 is 0.
#pragma once

#include <algorithm>
#include <cmath>

#include "transformer/types.hpp"

namespace inspect_routing {

using transformer::Index;
using transformer::Matrix;
using transformer::Vector;

// -sum p log p with p = w / sum w; 0 where everything is 0. Weights must not be negative.
template <class Weights>
double entropy(const Eigen::DenseBase<Weights>& weights) {
  double total = 0, sum = 0;
  for (Index i = 0; i < weights.size(); ++i) {
    const double w = double(weights.derived()(i));
    if (w <= 0) continue;
    total += w;
    sum += w * std::log(w);
  }
  return total > 0 ? (std::max)(0.0, std::log(total) - sum / total) : 0.0;
}

// A component is dead if its share is below a tenth of an even share: u_k < 0.1 / K.
inline bool is_dead(double share, Index components) { return share * double(components) < 0.1; }

inline Index dead_components(const Vector<double>& usage) {
  Index count = 0;
  for (Index k = 0; k < usage.size(); ++k) count += is_dead(usage(k), usage.size()) ? 1 : 0;
  return count;
}

// For two labels a and c of the same tokens.
struct MutualInformation {
  double information = 0;      // I(a, c)
  double row_entropy = 0;      // H(a)
  double column_entropy = 0;   // H(c)
  double normalised() const {  // 2 I / (H(a) + H(c)), from 0 (independent) to 1 (each determines the other)
    const double sum = row_entropy + column_entropy;
    return sum > 0 ? 2 * information / sum : 0.0;
  }
};

// counts(a, c): tokens with these labels. Chance alone adds about (rows - 1)(columns - 1) / (2 tokens).
inline MutualInformation mutual_information(const Matrix<double>& counts) {
  MutualInformation result;
  result.row_entropy = entropy(Vector<double>(counts.rowwise().sum()));
  result.column_entropy = entropy(Vector<double>(counts.colwise().sum().transpose()));
  const Eigen::Map<const Vector<double>> flat(counts.data(), counts.size());
  result.information = (std::max)(0.0, result.row_entropy + result.column_entropy - entropy(flat));
  return result;
}

}  // namespace inspect_routing
