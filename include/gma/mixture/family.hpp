// SPDX-License-Identifier: MIT
// The contract of a covariance family. A family is a struct of static members in a file of its own, of which
// families/diagonal.hpp is the model. No other file has to know it: Mixture<S, MyFamily> and its products then work in
// every operator, over heads, in layers and in files. A second file says how its scales are fitted to samples
// (family_fit.hpp), if they are to be. GMA_EXPECT_FAMILY(MyFamily) of gma/testing/family.hpp tests it.
//
//   struct MyFamily {
//     static constexpr const char* name = "my family";             in error messages and files
//     static constexpr bool shares_scales = false;                 true: log_scales has one row, of all components;
//                                                                  false: a row per component
//     static Index scale_cols(Index dim);                          the columns of log_scales, d being `dim`.
//                                                                  log_scales of zeros mean the unit covariance
//     static constexpr Features features = Features::squares;      the form of the logits (natural_parameters.hpp)
//     static constexpr bool log_scales_are_log_deviations = true;  log_scales hold logarithms of standard deviations,
//                                                                  one column per coordinate, or one for all
//
// The natural parameters, for beta = 1 / tau. Before compile() all parts of `natural` have their sizes, bias is log pi,
// and precisions (within their bound) and centre are set. compile() adds to bias and to log_normalizer, which gma
// divides by tau afterwards where that is due, and assigns weights: times beta, or, whitened, L_k as it is.
//
//     template <class S>
//     static void compile(const Mixture<S, MyFamily>& mixture, const S& beta, NaturalParameters<S>& natural);
//
// And the gradient back. `gradient` is that of bias and weights before they were multiplied by beta; whitened, that of
// L_k is in weights. Before pull_back() out.log_scales is zero, and out.means has its size. pull_back() assigns both;
// whitened, out.means is done already.
//
//     template <class S>
//     static void pull_back(const Mixture<S, MyFamily>& mixture, const NaturalParameters<S>& natural,
//                           const NaturalParameters<S>& gradient, Mixture<S, MyFamily>& out);
//
// Where log_scales_are_log_deviations is false, two more answers. precisions() is not asked of a whitened family; it
// sets 1 / sigma^2 with a row per component, or one if shares_scales, and a column per coordinate, or one.
// for_each_variance() calls f(double) with every variance; whitened, with the eigenvalues of every covariance.
//
//     template <class S>
//     static void precisions(const Mixture<S, MyFamily>& mixture, Matrix<S>& precisions);
//     template <class S, class F>
//     static void for_each_variance(const Mixture<S, MyFamily>& mixture, const F& f);
//
// For gma::reference, and so for the tests: log Normal(x; mu_k, Sigma_k), every constant included, as the plain formula
// that defines the family. It shares nothing with compile().
//
//     template <class S>
//     static S reference_log_density(const Mixture<S, MyFamily>& mixture, const RowVector<S>& x, Index k);
//   };
//
// is_family<F> says whether a struct keeps the contract. Where one is used that does not, a static_assert names what is
// missing. S is float, double or an automatic differentiation scalar: operations are taken one at a time, functions as
// `using std::exp; exp(x)`.
#pragma once

#include <cmath>
#include <string>
#include <type_traits>
#include <utility>

#include "gma/core/counts.hpp"
#include "gma/core/resize.hpp"
#include "gma/core/types.hpp"
#include "gma/mixture/natural_parameters.hpp"
#include "gma/mixture/natural_range.hpp"

namespace gma {

template <class S, class Covariance>
struct Mixture;  // mixture.hpp

/// What the files of families are written with.
namespace families {

/// Rows of log_scales.
template <class Covariance>
Index scale_rows(Index components) {
  return Covariance::shares_scales ? 1 : components;
}

/// a * b for sizes, without overflow: too large a product becomes the largest Index.
using detail::product_of_counts;

/// resize(matrix, rows, cols), which is safe where memory runs out (core/resize.hpp).
using detail::resize;

/// `value` within [low, high]; NaN stays NaN.
using detail::bounded;

/// mu_ki as tokens are counted: from the centre, if there is one.
template <class S, class Covariance>
S centered_mean(const Mixture<S, Covariance>& mixture, const NaturalParameters<S>& natural, Index k, Index i) {
  return natural.is_centered ? S(mixture.means(k, i) - natural.center(i)) : mixture.means(k, i);
}

/// The bound of the entries of a precision's factor L_k: within it, logits stay finite. A whitened family keeps to it.
template <class S, class Covariance>
S largest_factor(const Mixture<S, Covariance>& mixture, const S& beta) {
  using std::sqrt;
  return sqrt(detail::largest_precision(detail::reach_of(mixture.means, mixture.means.row(0)), beta));
}

}  // namespace families

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

template <class F, class = void>
inline constexpr bool has_family_name = false;
template <class F>
inline constexpr bool has_family_name<F, std::void_t<decltype(std::string(F::name))>> = true;

template <class F, class = void>
inline constexpr bool has_scale_shape = false;
template <class F>
inline constexpr bool has_scale_shape<
    F, std::void_t<decltype(Index(F::scale_cols(Index(1)))), std::enable_if_t<F::shares_scales || !F::shares_scales>>> =
    true;

template <class F, class = void>
inline constexpr bool has_features = false;
template <class F>
inline constexpr bool
    has_features<F, std::enable_if_t<F::features == Features::whitened || F::features != Features::whitened>> = true;

template <class F, class = void>
inline constexpr bool has_scale_meaning = false;
template <class F>
inline constexpr bool
    has_scale_meaning<F, std::enable_if_t<F::log_scales_are_log_deviations || !F::log_scales_are_log_deviations>> =
        true;

template <class F>
using MixtureOf = Mixture<double, F>;

template <class F, class = void>
inline constexpr bool has_compile = false;
template <class F>
inline constexpr bool
    has_compile<F, std::void_t<decltype(F::compile(std::declval<const MixtureOf<F>&>(), std::declval<const double&>(),
                                                   std::declval<NaturalParameters<double>&>()))>> = true;

template <class F, class = void>
inline constexpr bool has_pull_back = false;
template <class F>
inline constexpr bool
    has_pull_back<F, std::void_t<decltype(F::pull_back(
                         std::declval<const MixtureOf<F>&>(), std::declval<const NaturalParameters<double>&>(),
                         std::declval<const NaturalParameters<double>&>(), std::declval<MixtureOf<F>&>()))>> = true;

template <class F, class = void>
inline constexpr bool gives_precisions = false;
template <class F>
inline constexpr bool gives_precisions<
    F, std::void_t<decltype(F::precisions(std::declval<const MixtureOf<F>&>(), std::declval<Matrix<double>&>()))>> =
    true;

using VarianceVisitor = void (*)(double);
template <class F, class = void>
inline constexpr bool gives_variances = false;
template <class F>
inline constexpr bool
    gives_variances<F, std::void_t<decltype(F::for_each_variance(std::declval<const MixtureOf<F>&>(),
                                                                 std::declval<const VarianceVisitor&>()))>> = true;

template <class S, class F, class = void>
inline constexpr bool has_reference = false;
template <class S, class F>
inline constexpr bool
    has_reference<S, F,
                  std::void_t<decltype(F::reference_log_density(
                      std::declval<const Mixture<S, F>&>(), std::declval<const RowVector<S>&>(), Index(0)))>> = true;

/// The answers that are asked for only where log_scales are not the logarithms of standard deviations.
template <class F>
constexpr bool has_precisions() {
  if constexpr (has_scale_meaning<F> && has_features<F>) {
    return F::log_scales_are_log_deviations || F::features == Features::whitened || gives_precisions<F>;
  } else {
    return false;
  }
}
template <class F>
constexpr bool has_variances() {
  if constexpr (has_scale_meaning<F>) {
    return F::log_scales_are_log_deviations || gives_variances<F>;
  } else {
    return false;
  }
}

/// Linear features leave out the squares of the token, which cancel only where all components have the same.
template <class F>
constexpr bool has_fitting_features() {
  if constexpr (has_scale_shape<F> && has_features<F>) {
    return F::shares_scales || F::features != Features::linear;
  } else {
    return false;
  }
}

/// True, or one sentence per part that is missing.
template <class F>
constexpr bool check_family() {
  static_assert(has_family_name<F>,
                "gma: a covariance family has a static constexpr const char* name (gma/mixture/family.hpp)");
  static_assert(has_scale_shape<F>,
                "gma: a covariance family has a static constexpr bool shares_scales and a static Index "
                "scale_cols(Index dim) (gma/mixture/family.hpp)");
  static_assert(has_features<F>,
                "gma: a covariance family has a static constexpr Features features (gma/mixture/family.hpp)");
  static_assert(has_scale_meaning<F>,
                "gma: a covariance family has a static constexpr bool log_scales_are_log_deviations "
                "(gma/mixture/family.hpp)");
  static_assert(has_compile<F>,
                "gma: a covariance family has a static function compile(mixture, beta, natural) "
                "(gma/mixture/family.hpp)");
  static_assert(has_pull_back<F>,
                "gma: a covariance family has a static function pull_back(mixture, natural, gradient, out) "
                "(gma/mixture/family.hpp)");
  static_assert(has_precisions<F>(),
                "gma: a covariance family whose log_scales are no log deviations has a static function "
                "precisions(mixture, precisions), unless its features are whitened (gma/mixture/family.hpp)");
  static_assert(has_variances<F>(),
                "gma: a covariance family whose log_scales are no log deviations has a static function "
                "for_each_variance(mixture, f) (gma/mixture/family.hpp)");
  static_assert(has_fitting_features<F>(),
                "gma: a covariance family with linear features shares its scales (gma/mixture/family.hpp)");
  return true;
}

}  // namespace detail

/// Whether F keeps the contract above. reference_log_density() is not part of it.
template <class F>
inline constexpr bool is_family = detail::has_family_name<F>&& detail::has_scale_shape<F>&& detail::has_features<F>&&
                                      detail::has_scale_meaning<F>&& detail::has_compile<F>&& detail::has_pull_back<F>&&
                                      detail::has_precisions<F>() &&
                                  detail::has_variances<F>() && detail::has_fitting_features<F>();

}  // namespace gma
