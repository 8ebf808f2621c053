// SPDX-License-Identifier: MIT
// The contract of a covariance family's fit: how samples are standardised, and which scales maximise the likelihood of
// given moments. A family whose mixtures are to be fitted by fit_mixture() (fit.hpp) specialises FamilyFit in a file of
// its own, of which families/diagonal_fit.hpp is the model:
//
//   template <>
//   struct gma::FamilyFit<MyFamily> {
//     static constexpr bool needs_covariances = false;             whether maximize_scales() reads more of the samples'
//                                                                  covariances than their diagonals
//
// Rows x - mu_k become Sigma_k^(-1/2) (x - mu_k), with any square root; returned is log det Sigma_k^(-1/2).
//
//     static double standardize(const Mixture<double, MyFamily>& mixture, Index k, Matrix<double>& rows);
//
// The other way: a row of standard normal numbers becomes one of covariance Sigma_k.
//
//     static void displace(const Mixture<double, MyFamily>& mixture, Index k, Matrix<double>& row);
//
// The log_scales of the greatest likelihood for these moments, among those with no variance below `floor`. The maximum
// is exact, which is why no step of a fit lowers the likelihood. A component that is dead keeps its scales.
//
//     static void maximize_scales(const FitMoments& moments, double floor, Mixture<double, MyFamily>& mixture);
//   };
#pragma once

#include <type_traits>
#include <utility>

#include "gma/mixture/mixture.hpp"

namespace gma {

/// Moments of the samples of every component about its mean.
struct FitMoments {
  Vector<double> mass;    ///< K: sum_j w_j r_jk
  Matrix<double> first;   ///< K x d: the mean
  Matrix<double> second;  ///< K x d, the covariance's diagonal; if the family needs_covariances K x d*d, all of it
  double dead_mass = 0;   ///< a component of this mass or less is dead

  /// Whether so little of the samples belongs to component k that they say nothing of it.
  bool is_dead(Index k) const { return !(mass(k) > dead_mass); }
};

/// The fit of one covariance family. There is none where a family has no specialisation.
template <class Covariance>
struct FamilyFit;

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

template <class F, class = void>
inline constexpr bool has_fit_declaration = false;
template <class F>
inline constexpr bool has_fit_declaration<F, std::void_t<decltype(sizeof(FamilyFit<F>))>> = true;

template <class F, class = void>
inline constexpr bool has_fit_functions = false;
template <class F>
inline constexpr bool has_fit_functions<
    F, std::void_t<std::enable_if_t<FamilyFit<F>::needs_covariances || !FamilyFit<F>::needs_covariances>,
                   decltype(double(FamilyFit<F>::standardize(std::declval<const Mixture<double, F>&>(), Index(0),
                                                             std::declval<Matrix<double>&>()))),
                   decltype(FamilyFit<F>::displace(std::declval<const Mixture<double, F>&>(), Index(0),
                                                   std::declval<Matrix<double>&>())),
                   decltype(FamilyFit<F>::maximize_scales(std::declval<const FitMoments&>(), double(),
                                                          std::declval<Mixture<double, F>&>()))>> = true;

template <class F>
constexpr bool check_family_fit() {
  static_assert(has_fit_declaration<F>,
                "gma: this covariance family has no fit: there is no specialisation of gma::FamilyFit for it, or its "
                "header is not included (gma/mixture/family_fit.hpp)");
  static_assert(!has_fit_declaration<F> || has_fit_functions<F>,
                "gma: a FamilyFit has needs_covariances, standardize(mixture, k, rows), displace(mixture, k, row) and "
                "maximize_scales(moments, floor, mixture), all static (gma/mixture/family_fit.hpp)");
  return true;
}

}  // namespace detail

/// Whether mixtures of the family F can be fitted.
template <class F>
inline constexpr bool has_family_fit = detail::has_fit_functions<F>;

}  // namespace gma
