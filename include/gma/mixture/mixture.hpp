// SPDX-License-Identifier: MIT
// The parameters of a Gaussian mixture, as an optimiser sees them: unconstrained numbers it may step freely.
// A new covariance family is a file of its own that keeps the contract of family.hpp, and nothing elsewhere.
#pragma once

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/core/counts.hpp"
#include "gma/core/resize.hpp"
#include "gma/core/types.hpp"
#include "gma/mixture/families/diagonal.hpp"
#include "gma/mixture/families/full.hpp"
#include "gma/mixture/families/isotropic.hpp"
#include "gma/mixture/families/tied.hpp"
#include "gma/mixture/family.hpp"

namespace gma {

/// p(x) = sum_k pi_k Normal(x; mu_k, Sigma_k), read through the tempered posterior r_k(x) = softmax_k(log p(x, k) /
/// tau). The gradient with respect to a mixture has the same type.
template <class S, class Covariance = Diagonal>
struct Mixture {
  static_assert(detail::has_family_name<Covariance> && detail::has_scale_shape<Covariance>,
                "gma: the second argument of a mixture is a covariance family: a struct with name, shares_scales and "
                "scale_cols, and with what else gma/mixture/family.hpp says");
  using Scalar = S;

  Mixture() = default;

  /// Equal weights, means at the origin, unit scales, temperature 1: a valid mixture of K components of width d, whose
  /// components are all the same. See initialization.hpp for useful ones. Throws if `components` or `dim` is below 1,
  /// or `components` above max_slots.
  Mixture(Index components, Index dim);

  Vector<S> weight_logits;  ///< K: pi = softmax(weight_logits)
  Matrix<S> means;          ///< K x d
  Matrix<S> log_scales;     ///< see the covariance family
  S log_temperature = 0;    ///< log tau

  Index components() const { return means.rows(); }
  Index dim() const { return means.cols(); }

  /// The same parameters in another scalar.
  template <class T>
  Mixture<T, Covariance> cast() const;
};

/// A mixture of mixtures, the cheap way to many slots: x is split into one part a factor, in order, and
///   r_(k1..kM)(x) = prod_m r^(m)_km(x_m).
/// Itself a Gaussian mixture with block-diagonal covariances: K = prod K_m slots for sum K_m densities. The slot index
/// is row-major over the factors, the last one fastest.
template <class S, class Covariance = Diagonal>
struct ProductMixture {
  using Scalar = S;

  std::vector<Mixture<S, Covariance>> factors;  ///< in the order of the parts of x

  Index components() const;  ///< product over the factors, the largest Index if it is more; 0 without factors
  Index dim() const;         ///< sum over the factors

  /// The same parameters in another scalar.
  template <class T>
  ProductMixture<T, Covariance> cast() const;
};

/// Throws std::invalid_argument that names the parameter if shapes do not fit together, if there is no component or no
/// dimension, if there are more than max_slots (2^24) components, or if a parameter is not finite. Cost: one pass over
/// the parameters. The operators check all but the last.
template <class S, class Covariance>
void validate(const Mixture<S, Covariance>& mixture);
template <class S, class Covariance>
void validate(const ProductMixture<S, Covariance>& mixture);

// Implementation -----------------------------------------------------------------------------------------------------

template <class S, class Covariance>
Mixture<S, Covariance>::Mixture(Index components, Index dim) {
  if (components < 1) detail::invalid_argument("Mixture", "components is ", components, ", expected at least 1");
  if (dim < 1) detail::invalid_argument("Mixture", "dim is ", dim, ", expected at least 1");
  if (components > max_slots) {
    detail::invalid_argument("Mixture", "components is ", components, ", expected at most ", max_slots);
  }
  weight_logits = Vector<S>::Constant(components, S(0));
  means = Matrix<S>::Constant(components, dim, S(0));
  log_scales = Matrix<S>::Constant(families::scale_rows<Covariance>(components), Covariance::scale_cols(dim), S(0));
}

template <class S, class Covariance>
template <class T>
Mixture<T, Covariance> Mixture<S, Covariance>::cast() const {
  Mixture<T, Covariance> result;
  result.weight_logits = weight_logits.template cast<T>();
  result.means = means.template cast<T>();
  result.log_scales = log_scales.template cast<T>();
  result.log_temperature = static_cast<T>(log_temperature);
  return result;
}

template <class S, class Covariance>
Index ProductMixture<S, Covariance>::components() const {
  Index product = factors.empty() ? 0 : 1;
  for (const Mixture<S, Covariance>& factor : factors)
    product = detail::product_of_counts(product, factor.components());
  return product;
}

template <class S, class Covariance>
Index ProductMixture<S, Covariance>::dim() const {
  Index sum = 0;
  for (const Mixture<S, Covariance>& factor : factors) sum = detail::sum_of_counts(sum, factor.dim());
  return sum;
}

template <class S, class Covariance>
template <class T>
ProductMixture<T, Covariance> ProductMixture<S, Covariance>::cast() const {
  ProductMixture<T, Covariance> result;
  for (const Mixture<S, Covariance>& factor : factors) result.factors.push_back(factor.template cast<T>());
  return result;
}

namespace detail {

/// `components` slots are not too many, in all.
inline void check_slots(const char* function, const char* argument, Index components) {
  if (components > max_slots) {
    invalid_argument(function, argument, " has ", components == max_index ? "at least " : "", components,
                     " slots, expected at most ", max_slots);
  }
}

/// Shapes of one mixture; `factor` is its place in a product, -1 where there is none. Text is made for errors only.
template <class S, class Covariance>
void check_factor(const char* function, const Mixture<S, Covariance>& mixture, Index factor) {
  const Index components = mixture.components(), dim = mixture.dim();
  const Index rows = families::scale_rows<Covariance>(components), cols = Covariance::scale_cols(dim);
  const bool fits = components >= 1 && dim >= 1 && mixture.weight_logits.size() == components &&
                    mixture.log_scales.rows() == rows && mixture.log_scales.cols() == cols;
  if (fits) return;
  const std::string name = factor < 0 ? "mixture" : "mixture.factors[" + std::to_string(factor) + "]";
  if (components < 1 || dim < 1) {
    invalid_argument(function, name, ".means is ", components, " x ", dim,
                     ", expected at least one component (row) and one dimension (column)");
  }
  check_size(function, (name + ".weight_logits").c_str(), "coefficients", mixture.weight_logits.size(), components,
             "one per component");
  check_shape(function, (name + ".log_scales").c_str(), mixture.log_scales.rows(), mixture.log_scales.cols(), rows,
              cols, Covariance::name);
}

template <class S, class Covariance>
void check_parameters(const char* function, const ProductMixture<S, Covariance>& mixture) {
  if (mixture.factors.empty()) invalid_argument(function, "mixture.factors is empty, expected at least one factor");
  for (std::size_t m = 0; m < mixture.factors.size(); ++m) {
    check_factor(function, mixture.factors[m], static_cast<Index>(m));
  }
  check_slots(function, "mixture", mixture.components());
}

template <class S, class Covariance>
void check_parameters(const char* function, const Mixture<S, Covariance>& mixture) {
  check_factor(function, mixture, -1);
  check_slots(function, "mixture", mixture.components());
}

template <class S, class Covariance>
void check_finite_parameters(const char* function, const Mixture<S, Covariance>& mixture, const std::string& name) {
  check_finite(function, name + ".weight_logits", mixture.weight_logits);
  check_finite(function, name + ".means", mixture.means);
  check_finite(function, name + ".log_scales", mixture.log_scales);
  if (!is_finite(mixture.log_temperature)) invalid_argument(function, name, ".log_temperature is not finite");
}

/// sum += term: gradients of several heads or sequences that share their parameters.
template <class S, class Covariance>
void add_parameters(Mixture<S, Covariance>& sum, const Mixture<S, Covariance>& term) {
  sum.weight_logits += term.weight_logits;
  sum.means += term.means;
  sum.log_scales += term.log_scales;
  sum.log_temperature += term.log_temperature;
}
template <class S, class Covariance>
void add_parameters(ProductMixture<S, Covariance>& sum, const ProductMixture<S, Covariance>& term) {
  for (std::size_t m = 0; m < sum.factors.size(); ++m) add_parameters(sum.factors[m], term.factors[m]);
}

template <class S, class Covariance>
void set_zero_like(Mixture<S, Covariance>& mixture, const Mixture<S, Covariance>& like) {
  set_constant(mixture.weight_logits, like.weight_logits.size(), S(0));
  set_constant(mixture.means, like.means.rows(), like.means.cols(), S(0));
  set_constant(mixture.log_scales, like.log_scales.rows(), like.log_scales.cols(), S(0));
  mixture.log_temperature = S(0);
}
template <class S, class Covariance>
void set_zero_like(ProductMixture<S, Covariance>& mixture, const ProductMixture<S, Covariance>& like) {
  mixture.factors.resize(like.factors.size());
  for (std::size_t m = 0; m < like.factors.size(); ++m) set_zero_like(mixture.factors[m], like.factors[m]);
}

}  // namespace detail

template <class S, class Covariance>
void validate(const Mixture<S, Covariance>& mixture) {
  detail::check_parameters("validate", mixture);
  detail::check_finite_parameters("validate", mixture, "mixture");
}

template <class S, class Covariance>
void validate(const ProductMixture<S, Covariance>& mixture) {
  detail::check_parameters("validate", mixture);
  for (std::size_t m = 0; m < mixture.factors.size(); ++m) {
    detail::check_finite_parameters("validate", mixture.factors[m], "mixture.factors[" + std::to_string(m) + "]");
  }
}

}  // namespace gma
