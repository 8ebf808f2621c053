// SPDX-License-Identifier: MIT
// Mixtures to start from, fitted to sample tokens by k-means++ and expectation-maximisation. Fits run in double for
// every scalar; one repeats to the bit on one build, and elsewhere up to the rounding of sums. Not part of gma.hpp: it
// takes some seconds to compile.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/mixture/em.hpp"
#include "gma/mixture/initialization.hpp"
#include "gma/mixture/kmeans.hpp"

namespace gma {

/// How a mixture is fitted to samples.
struct InitializationOptions {
  std::uint64_t seed = 0;        ///< of the random numbers of k-means++
  Index kmeans_iterations = 20;  ///< at most; fewer when the clusters no longer change. 0: k-means++ seeds only
  Index em_iterations = 0;       ///< EM steps after k-means; the log-likelihood does not fall over any of them
  /// No variance, for Full none in any direction, is fitted below it. Within 1e-28 and 1e28 for a mixture of float,
  /// 1e-230 and 1e230 of double: what its compiled form can tell apart.
  double variance_floor = 1e-4;
  double weight_floor = 1e-2;  ///< no component's weight is fitted below this part of 1/K; from 1e-300 to 1
  double temperature = 0;      ///< tau of the result; 0: the square root of the routing width
};

/// A mixture of `components` components fitted to the rows of `tokens`, N x d of any scalar: k-means++ and Lloyd's
/// iteration, then EM. `weights`, N or empty, are the tokens' weights; where one is 0 the token is not looked at.
///
/// Works with fewer distinct tokens than components too (the surplus components are placed at random near the tokens,
/// with small weights), with equal tokens (variances stay at the floor) and with outliers. No two components are equal.
/// Cost O(N K d) a step, for Full O(N K d^2). Throws std::invalid_argument if no token has a positive weight, if a
/// token that counts is not finite or exceeds 1e100, or if an option is out of range.
template <class S, class Covariance = Diagonal, class Derived>
Mixture<S, Covariance> fit_mixture(Index components, const Eigen::MatrixBase<Derived>& tokens,
                                   const InitializationOptions& options = {}, const Vector<S>& weights = Vector<S>());

/// Fits each factor to its part of the columns, which are split in equal parts. Otherwise as fit_mixture().
template <class S, class Covariance = Diagonal, class Derived>
ProductMixture<S, Covariance> fit_product_mixture(const std::vector<Index>& components,
                                                  const Eigen::MatrixBase<Derived>& tokens,
                                                  const InitializationOptions& options = {},
                                                  const Vector<S>& weights = Vector<S>());

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

template <class S>
void check_options(const char* function, const InitializationOptions& options) {
  constexpr bool is_float = std::is_same_v<S, float>;
  constexpr double least = is_float ? 1e-28 : 1e-230, most = is_float ? 1e28 : 1e230;
  const auto check = [&](bool is_valid, const char* name, double value, const char* expected) {
    if (!is_valid) invalid_argument(function, "options.", name, " is ", value, ", expected ", expected);
  };
  check(options.kmeans_iterations >= 0, "kmeans_iterations", static_cast<double>(options.kmeans_iterations),
        "0 or more");
  check(options.em_iterations >= 0, "em_iterations", static_cast<double>(options.em_iterations), "0 or more");
  check(options.variance_floor >= least && options.variance_floor <= most, "variance_floor", options.variance_floor,
        is_float ? "a positive number from 1e-28 to 1e28" : "a positive number from 1e-230 to 1e230");
  check(options.weight_floor >= 1e-300 && options.weight_floor <= 1, "weight_floor", options.weight_floor,
        "a number from 1e-300 to 1");
  check(is_finite(options.temperature) && options.temperature >= 0, "temperature", options.temperature,
        "a positive number, or 0 for the square root of the routing width");
}

/// The tokens that count, in double.
template <class Derived, class S>
Samples samples(const char* function, const Eigen::MatrixBase<Derived>& tokens, const Vector<S>& weights) {
  const Matrix<double> all = tokens.template cast<double>();
  if (all.cols() < 1) invalid_argument(function, "tokens has 0 columns, expected at least 1");
  if (weights.size() != 0) {
    check_size(function, "weights", "coefficients", weights.size(), all.rows(), "one per token, or none");
  }
  Samples result{Matrix<double>(all.rows(), all.cols()), Vector<double>(all.rows())};
  Index count = 0;
  for (Index i = 0; i < all.rows(); ++i) {
    const double weight = weights.size() == 0 ? 1.0 : static_cast<double>(weights(i));
    if (!is_finite(weight) || weight < 0) {
      invalid_argument(function, "weights(", i, ") is ", weight, ", expected a finite number that is not negative");
    }
    if (!(weight > 0)) continue;
    if (!(all.row(i).array().abs() <= 1e100).all()) {
      invalid_argument(function, "tokens has a coefficient that is not finite or exceeds 1e100 in row ", i);
    }
    result.tokens.row(count) = all.row(i);
    result.weights(count++) = weight;
  }
  if (count == 0) {
    invalid_argument(function, "tokens has ", all.rows(), " rows, none of positive weight, expected at least 1");
  }
  result.tokens.conservativeResize(count, Eigen::NoChange);
  result.weights.conservativeResize(count);
  result.weights /= result.weights.maxCoeff();
  return result;
}

template <class S, class Covariance>
Mixture<S, Covariance> fit_mixture(const char* function, Index components, const Samples& samples,
                                   const InitializationOptions& options, Random& random) {
  static_assert(check_family<Covariance>() && check_family_fit<Covariance>());
  if (components < 1) invalid_argument(function, "components is ", components, ", expected at least 1");
  check_slots(function, "components", components);
  const FitFloors floors{options.variance_floor, options.weight_floor / static_cast<double>(components)};
  const double spread = std::exp(single_gaussian<Isotropic>(samples, floors).log_scales(0, 0));
  const Clusters clusters = kmeans(samples, components, options.kmeans_iterations, spread, random);
  Mixture<double, Covariance> mixture = mixture_of_clusters<Covariance>(samples, clusters, floors);
  maximize_likelihood(samples, options.em_iterations, floors, mixture);
  separate_twins(random, mixture);
  const double width = static_cast<double>(samples.dim());
  mixture.log_temperature = options.temperature > 0 ? std::log(options.temperature) : 0.5 * std::log(width);
  const Mixture<S, Covariance> result = mixture.template cast<S>();
  check_finite_parameters(function, result, "the result");  // tokens beyond the range of S
  return result;
}

}  // namespace detail

template <class S, class Covariance, class Derived>
Mixture<S, Covariance> fit_mixture(Index components, const Eigen::MatrixBase<Derived>& tokens,
                                   const InitializationOptions& options, const Vector<S>& weights) {
  detail::check_options<S>("fit_mixture", options);
  Random random(options.seed);
  return detail::fit_mixture<S, Covariance>("fit_mixture", components, detail::samples("fit_mixture", tokens, weights),
                                            options, random);
}

template <class S, class Covariance, class Derived>
ProductMixture<S, Covariance> fit_product_mixture(const std::vector<Index>& components,
                                                  const Eigen::MatrixBase<Derived>& tokens,
                                                  const InitializationOptions& options, const Vector<S>& weights) {
  constexpr const char* function = "fit_product_mixture";
  const Index width = detail::factor_width(function, components, tokens.cols());
  detail::check_options<S>(function, options);
  const detail::Samples samples = detail::samples(function, tokens, weights);
  Random random(options.seed);
  ProductMixture<S, Covariance> mixture;
  for (std::size_t m = 0; m < components.size(); ++m) {
    const detail::Samples part{samples.tokens.middleCols(static_cast<Index>(m) * width, width), samples.weights};
    mixture.factors.push_back(detail::fit_mixture<S, Covariance>(function, components[m], part, options, random));
  }
  return mixture;
}

}  // namespace gma
