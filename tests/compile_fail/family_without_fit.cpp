// SPDX-License-Identifier: MIT
// Whoever fits mixtures of a family that has no fit is told what is missing.
// Expected: gma: this covariance family has no fit: there is no specialisation of gma::FamilyFit for it
#include <gma/mixture/fit.hpp>

#ifdef GMA_MUST_NOT_COMPILE
struct Family : gma::Diagonal {};
#else
using Family = gma::Diagonal;
#endif

double likelihood(const gma::Matrix<double>& tokens) { return gma::fit_mixture<double, Family>(3, tokens).means.sum(); }
