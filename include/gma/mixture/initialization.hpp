// SPDX-License-Identifier: MIT
// Mixtures to start training from, from a seed alone: the same bits on every platform. For mixtures fitted to sample
// tokens see fit.hpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/core/random.hpp"
#include "gma/mixture/mixture.hpp"

namespace gma {

/// The recommended start for training, for tokens of unit root mean square: means from Normal(0, I), unit scales, equal
/// weights, tau = sqrt(dim). (At tau = 1 most components would never receive a token.) The same seed gives the same
/// first rows of means for any number of components. Throws std::invalid_argument if `components` or `dim` is below 1.
template <class S, class Covariance = Diagonal>
Mixture<S, Covariance> random_mixture(Index components, Index dim, std::uint64_t seed);

/// One random mixture a factor, of components[m] components each; `dim` is the sum of the factors' dims and is split in
/// equal parts: random_product_mixture<float>({16, 16}, 64, seed) has 256 slots and factors of width 32. Throws
/// std::invalid_argument if `dim` is no multiple of the number of factors, or if there are more than max_slots slots.
template <class S, class Covariance = Diagonal>
ProductMixture<S, Covariance> random_product_mixture(const std::vector<Index>& components, Index dim,
                                                     std::uint64_t seed);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

template <class S, class Covariance>
Mixture<S, Covariance> random_mixture(Index components, Index dim, Random& random) {
  Mixture<double, Covariance> mixture(components, dim);
  random.fill_normal(mixture.means);
  mixture.log_temperature = 0.5 * std::log(static_cast<double>(dim));
  return mixture.template cast<S>();
}

/// The slots of a product mixture of factors of these sizes.
inline Index slots_of(const std::vector<Index>& components) {
  Index slots = 1;
  for (const Index count : components) slots = product_of_counts(slots, count);
  return slots;
}

/// Width of each of the factors that `dim` columns are split into. Their slots are not too many.
inline Index factor_width(const char* function, const std::vector<Index>& components, Index dim) {
  if (components.empty()) invalid_argument(function, "components is empty, expected one size per factor");
  const Index factors = static_cast<Index>(components.size());
  if (dim < factors || dim % factors != 0) {
    invalid_argument(function, "dim is ", dim, ", expected a positive multiple of ", factors,
                     " (the number of factors)");
  }
  check_slots(function, "components", slots_of(components));
  return dim / factors;
}

}  // namespace detail

template <class S, class Covariance>
Mixture<S, Covariance> random_mixture(Index components, Index dim, std::uint64_t seed) {
  Random random(seed);
  return detail::random_mixture<S, Covariance>(components, dim, random);
}

template <class S, class Covariance>
ProductMixture<S, Covariance> random_product_mixture(const std::vector<Index>& components, Index dim,
                                                     std::uint64_t seed) {
  const Index width = detail::factor_width("random_product_mixture", components, dim);
  Random random(seed);
  ProductMixture<S, Covariance> mixture;
  for (const Index count : components) {
    mixture.factors.push_back(detail::random_mixture<S, Covariance>(count, width, random));
  }
  return mixture;
}

}  // namespace gma
