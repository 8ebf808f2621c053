// SPDX-License-Identifier: MIT
// The tests that users get for families and feature maps of their own: gma's own pass them, and a faulty one does not.
#include <gtest/gtest-spi.h>

#include "gma/baselines/feature_maps.hpp"
#include "gma/testing/family.hpp"
#include "gma/testing/feature_map.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

template <class Family>
class OwnFamilies : public testing::Test {};
TYPED_TEST_SUITE(OwnFamilies, all_families::Covariances, FamilyNames);
TYPED_TEST(OwnFamilies, KeepTheContract) { GMA_EXPECT_FAMILY(TypeParam); }

TEST(OwnFeatureMaps, KeepTheContract) {
  GMA_EXPECT_FEATURE_MAP(gma::baselines::EluFeatures<double>(5));
  GMA_EXPECT_FEATURE_MAP(gma::baselines::PositiveRandomFeatures<double>(16, 5, 1));
  GMA_EXPECT_FEATURE_MAP(gma::baselines::IdentityFeatures<double>(5));
}

/// elu(x) + 1 with a mistake.
struct FaultyMap : gma::FeatureMap<FaultyMap> {
  using Scalar = double;
  enum class Mistake { none, negative, neighbours, gradient };
  inline static Mistake mistake = Mistake::none;
  gma::baselines::EluFeatures<double> map;

  FaultyMap() = default;
  explicit FaultyMap(Index dim) : map(dim) {}
  Index components() const { return map.components(); }
  Index dim() const { return map.dim(); }
  void check(const char* function) const { map.check(function); }
  void evaluate(const gma::ConstTile<double>& x, gma::Tile<double> r) const {
    map.evaluate(x, r);
    if (mistake == Mistake::negative) r.array() -= 1;
    if (mistake == Mistake::neighbours) r.array() += 1e-3 * static_cast<double>(x.rows());
  }
  void backward(const gma::ConstTile<double>& x, const gma::Tile<double>& r, gma::Tile<double> d_r,
                gma::Tile<double> d_x) const {
    map.backward(x, r, d_r, d_x);
    if (mistake == Mistake::gradient) d_x *= 1.001;
  }
};

/// One standard deviation for all: log_scales is 1 x 1. Right, or with one of the mistakes that a family can have.
struct OneScale {
  enum class Mistake { none, logits, means_gradient, scales_gradient, normalizer };
  inline static Mistake mistake = Mistake::none;

  static constexpr const char* name = "one scale";
  static constexpr bool shares_scales = true;
  static constexpr bool log_scales_are_log_deviations = true;
  static constexpr gma::Features features = gma::Features::linear;
  static Index scale_cols(Index /*dim*/) { return 1; }

  template <class S>
  static void compile(const gma::Mixture<S, OneScale>& mixture, const S& beta, gma::NaturalParameters<S>& natural) {
    const S p = natural.precisions(0, 0);
    for (Index k = 0; k < mixture.components(); ++k) {
      for (Index i = 0; i < mixture.dim(); ++i) {
        const S mu = gma::families::centered_mean(mixture, natural, k, i);
        natural.weights(i, k) = mu * p * beta;
        natural.bias(k) -= mu * mu * p * S(mistake == Mistake::logits ? 0.51 : 0.5);
      }
    }
    if (mistake == Mistake::normalizer) return;
    natural.log_normalizer -= mixture.log_scales(0, 0) * S(static_cast<double>(mixture.dim()));
  }
  template <class S>
  static void pull_back(const gma::Mixture<S, OneScale>& mixture, const gma::NaturalParameters<S>& natural,
                        const gma::NaturalParameters<S>& gradient, gma::Mixture<S, OneScale>& out) {
    const S p = natural.precisions(0, 0);
    for (Index k = 0; k < mixture.components(); ++k) {
      const S db = gradient.bias(k);
      for (Index i = 0; i < mixture.dim(); ++i) {
        const S mu = gma::families::centered_mean(mixture, natural, k, i), dw = gradient.weights(i, k);
        out.means(k, i) = p * (mistake == Mistake::means_gradient ? dw : S(dw - mu * db));
        out.log_scales(0, 0) += p * mu * (mu * db - S(mistake == Mistake::scales_gradient ? 1 : 2) * dw);
      }
    }
  }
  template <class S>
  static S reference_log_density(const gma::Mixture<S, OneScale>& mixture, const gma::RowVector<S>& x, Index k) {
    using std::exp;
    const S s = mixture.log_scales(0, 0);
    const gma::RowVector<S> z = (x - mixture.means.row(k)) * exp(-s);
    return S(-0.5) * z.squaredNorm() - S(static_cast<double>(mixture.dim())) * (s + S(0.91893853320467274178));
  }
};

/// How many expectations fail in run().
template <class Run>
int failures_of(const Run& run) {
  testing::TestPartResultArray results;
  {
    const testing::ScopedFakeTestPartResultReporter reporter(
        testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
    run();
  }
  return results.size();
}

TEST(Mistakes, OfAFamilyAreFound) {
  using Mistake = OneScale::Mistake;
  for (const Mistake mistake :
       {Mistake::none, Mistake::logits, Mistake::means_gradient, Mistake::scales_gradient, Mistake::normalizer}) {
    OneScale::mistake = mistake;
    EXPECT_EQ(failures_of([] { GMA_EXPECT_FAMILY(OneScale); }) > 0, mistake != Mistake::none)
        << static_cast<int>(mistake);
  }
}

TEST(Mistakes, OfAFeatureMapAreFound) {
  using Mistake = FaultyMap::Mistake;
  for (const Mistake mistake : {Mistake::none, Mistake::negative, Mistake::neighbours, Mistake::gradient}) {
    FaultyMap::mistake = mistake;
    EXPECT_EQ(failures_of([] { GMA_EXPECT_FEATURE_MAP(FaultyMap(5)); }) > 0, mistake != Mistake::none)
        << static_cast<int>(mistake);
  }
}

}  // namespace
}  // namespace gma_test
