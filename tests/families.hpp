// SPDX-License-Identifier: MIT
// The one list of gma's covariance families, for every test that goes through all of them. The oracle of
// differential/ has formulas of its own, and with them a list of its own.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "gma/mixture/mixture.hpp"

namespace gma_test {

/// What typed tests go through: mixtures, and product mixtures, of a family and in any scalar.
template <class Covariance>
struct Flat {
  template <class S>
  using Type = gma::Mixture<S, Covariance>;
  static constexpr const char* name = Covariance::name;
};
template <class Covariance>
struct Product {
  template <class S>
  using Type = gma::ProductMixture<S, Covariance>;
  static constexpr const char* name = "product";
};

/// Covariance families, as lists for typed tests and for loops. Flavours are all of them, and a product mixture.
template <class... Families>
struct FamilyList {
  using Covariances = testing::Types<Families...>;
  using Flavours = testing::Types<Flat<Families>..., Product<gma::Diagonal>>;
  /// f(family), an empty struct, whose type says which.
  template <class F>
  static void for_each(F&& f) {
    (f(Families()), ...);
  }
};

/// Every family of gma's.
using all_families = FamilyList<gma::Isotropic, gma::Diagonal, gma::Tied, gma::Full>;

struct FamilyNames {
  template <class Family>
  static std::string GetName(int) {
    return Family::name;
  }
};

}  // namespace gma_test
