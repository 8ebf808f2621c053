// SPDX-License-Identifier: MIT
// Initialisations: what a random mixture holds, its bits, and fits to tokens that are easy, few, equal or far out.
#include "gma/mixture/fit.hpp"

#include <algorithm>

#include "support.hpp"

namespace gma_test {
namespace {

using gma::InitializationOptions;

/// Five well separated clouds of different spread and size.
Matrix<double> clouds(Index count, Index dim) {
  Random random(11);
  const Matrix<double> centers = random.matrix<double>(5, dim, 5);
  Matrix<double> tokens = random.matrix<double>(count, dim);
  for (Index i = 0; i < count; ++i) {
    const Index cloud = (i * i) % 5 == 4 ? 4 : i % 4;
    tokens.row(i) = centers.row(cloud) + tokens.row(i) * (0.2 + 0.2 * static_cast<double>(cloud));
  }
  return tokens;
}

template <class Covariance>
class Fit : public testing::Test {};
TYPED_TEST_SUITE(Fit, all_families::Covariances, FamilyNames);

// Random mixtures ----------------------------------------------------------------------------------------------------

TEST(RandomMixture, IsTheRecommendedStart) {
  const auto mixture = gma::random_mixture<double>(2000, 4, 1);
  gma::validate(mixture);
  EXPECT_EQ(mixture.means.rows(), 2000);
  EXPECT_EQ(mixture.means.cols(), 4);
  EXPECT_TRUE(mixture.weight_logits.isZero(0));
  EXPECT_TRUE(mixture.log_scales.isZero(0));
  EXPECT_DOUBLE_EQ(mixture.log_temperature, std::log(2.0));
  EXPECT_LT(std::abs(mixture.means.mean()), 4.0 / std::sqrt(8000.0));
  EXPECT_LT(std::abs(mixture.means.array().square().mean() - 1), 4 * std::sqrt(2.0 / 8000.0));
  EXPECT_LT(std::abs(mixture.means.array().pow(4).mean() - 3), 4 * std::sqrt(96.0 / 8000.0));
  EXPECT_TRUE((gma::random_mixture<float, gma::Full>(3, 2, 1).log_scales.isZero(0)));  // L = I: unit covariance
}

TEST(RandomMixture, DrawsANormalDistribution) {
  gma::Random random(5);
  constexpr int count = 100000;
  std::vector<double> draws(count);
  for (double& draw : draws) draw = random.normal();
  std::sort(draws.begin(), draws.end());
  double distance = 0;  // Kolmogorov and Smirnov's
  for (int i = 0; i < count; ++i) {
    const double expected = 0.5 * std::erfc(-draws[static_cast<std::size_t>(i)] / std::sqrt(2.0));
    distance = std::max({distance, std::abs(expected - double(i) / count), std::abs(expected - double(i + 1) / count)});
  }
  EXPECT_LT(distance * std::sqrt(double(count)), 1.63);  // exceeded by 1 % of samples
}

TEST(RandomMixture, HasTheSameBitsEverywhere) {
  const auto mixture = gma::random_mixture<double>(1, 4, 42);
  const double expected[] = {-0x1.af6df0655c689p+0, 0x1.c8e7d9eeb494p-2, 0x1.cde8baa8d4b7ap+0, 0x1.bce45e9dbe2b3p+1};
  for (Index i = 0; i < 4; ++i) EXPECT_EQ(mixture.means(0, i), expected[i]) << std::hexfloat << mixture.means(0, i);
  const auto larger = gma::random_mixture<double>(7, 4, 42);
  EXPECT_TRUE(same_bits(larger.means.topRows(1), mixture.means));
  EXPECT_FALSE(same_bits(gma::random_mixture<double>(1, 4, 43).means, mixture.means));
  EXPECT_TRUE(same_bits(gma::random_mixture<float>(1, 4, 42).means, mixture.means.cast<float>()));
}

TEST(RandomMixture, SplitsAProductInEqualParts) {
  const auto mixture = gma::random_product_mixture<float, gma::Tied>({16, 8, 2}, 12, 3);
  gma::validate(mixture);
  EXPECT_EQ(mixture.components(), 256);
  EXPECT_EQ(mixture.dim(), 12);
  ASSERT_EQ(mixture.factors.size(), 3u);
  EXPECT_EQ(mixture.factors[1].means.rows(), 8);
  EXPECT_EQ(mixture.factors[1].means.cols(), 4);
  EXPECT_FLOAT_EQ(mixture.factors[2].log_temperature, std::log(2.0f));
  EXPECT_FALSE(same_bits(mixture.factors[0].means.topRows(2), mixture.factors[2].means));
  EXPECT_TRUE(same_bits(mixture.factors[0].means, gma::random_mixture<float, gma::Tied>(16, 4, 3).means));
}

TEST(RandomMixture, RefusesSizesThatCannotBe) {
  expect_error([] { gma::random_mixture<double>(0, 4, 1); }, {"components is 0"});
  expect_error([] { gma::random_mixture<double>(4, 0, 1); }, {"dim is 0"});
  expect_error([] { gma::random_product_mixture<double>({4, 4}, 5, 1); }, {"random_product_mixture", "dim is 5", "2"});
  expect_error([] { gma::random_product_mixture<double>({4, 4}, 0, 1); }, {"dim is 0"});
  expect_error([] { gma::random_product_mixture<double>({}, 4, 1); }, {"components is empty"});
}

// Fits ---------------------------------------------------------------------------------------------------------------

TYPED_TEST(Fit, TheLikelihoodDoesNotFallOverEmSteps) {
  const Matrix<double> tokens = clouds(100, 3);
  Random random(2);
  Vector<double> weights = random.vector<double>(100).cwiseAbs();
  weights(7) = 0;
  for (const Index components : {1, 4, 9}) {
    double previous = -infinity;
    for (Index steps = 0; steps <= 12; ++steps) {
      InitializationOptions options;
      options.kmeans_iterations = 1;  // leave EM something to do
      options.em_iterations = steps;
      const auto mixture = gma::fit_mixture<double, TypeParam>(components, tokens, options, weights);
      gma::validate(mixture);
      const double likelihood = weights.dot(gma::log_density(mixture, tokens));
      EXPECT_GE(likelihood, previous - 1e-10 * std::abs(previous)) << components << " components, step " << steps;
      previous = likelihood;
    }
  }
}

TYPED_TEST(Fit, FindsSeparatedClouds) {
  const Matrix<double> tokens = clouds(200, 3);
  InitializationOptions options;
  options.em_iterations = 20;
  const auto fitted = gma::fit_mixture<double, TypeParam>(5, tokens, options);
  const auto single = gma::fit_mixture<double, TypeParam>(1, tokens, options);
  EXPECT_GT(gma::log_density(fitted, tokens).mean(), gma::log_density(single, tokens).mean() + 1);
  for (Index k = 0; k < 5; ++k) {  // every component has tokens near its mean
    EXPECT_LT((tokens.rowwise() - fitted.means.row(k)).rowwise().norm().minCoeff(), 1.0);
  }
  EXPECT_DOUBLE_EQ(fitted.log_temperature, 0.5 * std::log(3.0));
}

TYPED_TEST(Fit, MovesATwinOrADeadComponentToWhereItServes) {
  Random random(8);
  gma::detail::Samples samples{random.matrix<double>(90, 2), Vector<double>::Ones(90)};
  for (Index i = 0; i < 90; ++i) samples.tokens(i, 0) += 20.0 * static_cast<double>(i % 3);  // clouds at 0, 20 and 40
  for (const double spare : {0.0, -500.0}) {  // the twin of the component at 0, or out of reach of every token
    gma::Mixture<double, TypeParam> mixture(3, 2);
    mixture.means.col(0) << 0, 20, spare;
    const gma::detail::FitFloors floors{1e-4, 1e-3};
    double previous = gma::detail::log_likelihood(mixture, samples);
    for (int step = 0; step < 20; ++step) {
      gma::detail::maximize_likelihood(samples, 1, floors, mixture);
      const double likelihood = gma::detail::log_likelihood(mixture, samples);
      EXPECT_GE(likelihood, previous - 1e-10 * std::abs(previous)) << step;
      previous = likelihood;
    }
    for (const double center : {0.0, 20.0, 40.0}) {
      EXPECT_LT((mixture.means.col(0).array() - center).abs().minCoeff(), 1.0) << spare << "\n" << mixture.means;
    }
  }
}

TYPED_TEST(Fit, OfOneComponentIsMeanAndCovariance) {
  const Matrix<double> tokens = clouds(100, 3);
  Vector<double> weights = Vector<double>::LinSpaced(100, 0, 2);
  const Matrix<double> mean = weights.transpose() * tokens / weights.sum();
  const Matrix<double> centered = tokens.rowwise() - mean.row(0);
  const Matrix<double> covariance = centered.transpose() * weights.asDiagonal() * centered / weights.sum();
  const auto mixture = gma::fit_mixture<double, TypeParam>(1, tokens, {}, weights);
  EXPECT_TRUE(close(mixture.means, mean, 1e-12));
  if constexpr (std::is_same_v<TypeParam, gma::Full>) {
    Matrix<double> lower = Eigen::Map<const Matrix<double>>(mixture.log_scales.data(), 3, 3);
    EXPECT_EQ(lower(0, 1), 0);
    lower.diagonal() = lower.diagonal().array().exp().eval();
    EXPECT_TRUE(close(lower * lower.transpose(), covariance.inverse(), 1e-11));
  } else if constexpr (std::is_same_v<TypeParam, gma::Isotropic>) {
    EXPECT_NEAR(std::exp(2 * mixture.log_scales(0, 0)), covariance.trace() / 3, 1e-11 * covariance.trace());
  } else {
    const Vector<double> variances = (2 * mixture.log_scales.row(0).array()).exp().matrix().transpose();
    EXPECT_TRUE(close(variances, covariance.diagonal(), 1e-12));
  }
}

/// Every variance of a mixture, smallest first; for Full the eigenvalues.
template <class Covariance>
double smallest_variance(const gma::Mixture<double, Covariance>& mixture) {
  return std::exp(2 * mixture.log_scales.minCoeff());
}
double smallest_variance(const gma::Mixture<double, gma::Full>& mixture) {
  const Index d = mixture.dim();
  double smallest = infinity;
  for (Index k = 0; k < mixture.components(); ++k) {
    Matrix<double> lower = Eigen::Map<const Matrix<double>>(mixture.log_scales.row(k).data(), d, d);
    lower.diagonal() = lower.diagonal().array().exp().eval();
    const Matrix<double> precision = lower * lower.transpose();
    smallest = std::min(smallest, 1 / precision.operatorNorm());
  }
  return smallest;
}

template <class Covariance>
void expect_distinct(const gma::Mixture<double, Covariance>& mixture) {
  for (Index a = 0; a < mixture.components(); ++a) {
    for (Index b = 0; b < a; ++b) {
      const bool same_scales = mixture.log_scales.rows() == 1 || mixture.log_scales.row(a) == mixture.log_scales.row(b);
      EXPECT_FALSE(same_scales && mixture.means.row(a) == mixture.means.row(b)) << a << " and " << b << " are twins";
    }
  }
}

TYPED_TEST(Fit, OfDegenerateTokensIsValidAndDistinct) {
  Matrix<double> equal = Matrix<double>::Constant(10, 3, 2.5), few = equal, outlier = clouds(60, 3), flat = outlier;
  few.topRows(3).setZero();
  few.row(4) << 1, 2, 3;
  outlier.row(17).setConstant(1e6);
  flat.col(1).setConstant(-1);
  for (const Matrix<double>& tokens : {equal, few, outlier, flat, Matrix<double>(equal.topRows(1))}) {
    for (const Index em : {0, 1, 10}) {
      for (const Index components : {1, 4, 12}) {
        InitializationOptions options;
        options.em_iterations = em;
        options.variance_floor = 1e-3;
        const auto mixture = gma::fit_mixture<double, TypeParam>(components, tokens, options);
        gma::validate(mixture);
        EXPECT_GE(smallest_variance(mixture), 1e-3 * (1 - 1e-9));
        const Vector<double> weights = mixture.weight_logits.array().exp();
        EXPECT_NEAR(weights.sum(), 1, 1e-12);
        EXPECT_GE(weights.minCoeff(), 0.01 / static_cast<double>(components) * (1 - 1e-9));
        EXPECT_TRUE(all_finite(gma::log_density(mixture, tokens)));
        EXPECT_TRUE(all_finite(gma::responsibilities(mixture, tokens)));
        expect_distinct(mixture);
      }
    }
  }
}

TYPED_TEST(Fit, RepeatsFromItsSeedAndInFloat) {
  const Matrix<double> tokens = clouds(80, 4);
  InitializationOptions options;
  options.em_iterations = 3;
  options.seed = 9;
  options.temperature = 2;
  const auto a = gma::fit_mixture<double, TypeParam>(6, tokens, options);
  const auto b = gma::fit_mixture<double, TypeParam>(6, tokens, options);
  EXPECT_TRUE(same_bits(a.means, b.means) && same_bits(a.log_scales, b.log_scales) &&
              same_bits(a.weight_logits, b.weight_logits));
  EXPECT_DOUBLE_EQ(a.log_temperature, std::log(2.0));
  options.seed = 10;
  EXPECT_FALSE(same_bits(gma::fit_mixture<double, TypeParam>(6, tokens, options).means, a.means));
  options.seed = 9;
  const auto in_float = gma::fit_mixture<float, TypeParam>(6, tokens, options);  // the fit itself runs in double
  EXPECT_TRUE(same_bits(in_float.means, a.means.template cast<float>()));
}

TEST(FitWeights, OfZeroHideTheToken) {
  Matrix<double> tokens = clouds(50, 2);
  Vector<double> weights = Vector<double>::Ones(50);
  weights(3) = weights(20) = 0;
  tokens.row(3).setConstant(not_a_number);
  tokens.row(20).setConstant(infinity);
  Matrix<double> kept(48, 2);
  kept << tokens.topRows(3), tokens.middleRows(4, 16), tokens.bottomRows(29);
  InitializationOptions options;
  options.em_iterations = 4;
  const auto a = gma::fit_mixture<double>(4, tokens, options, weights);
  const auto b = gma::fit_mixture<double>(4, kept, options);
  EXPECT_TRUE(same_bits(a.means, b.means) && same_bits(a.log_scales, b.log_scales));
}

TEST(FitWeights, CountInTheCentersOfClusters) {
  gma::detail::Samples samples{clouds(40, 2), Vector<double>::LinSpaced(40, 0.1, 3)};
  gma::Random random(1);
  const gma::detail::Clusters one = gma::detail::kmeans(samples, 1, 5, 1.0, random);
  const Matrix<double> mean = samples.weights.transpose() * samples.tokens / samples.weights.sum();
  EXPECT_TRUE(close(one.centers, mean, 1e-12));
  const gma::detail::Clusters five = gma::detail::kmeans(samples, 5, 50, 1.0, random);
  for (Index k = 0; k < 5; ++k) {  // where Lloyd's iteration ends, every centre is the mean of what is nearest to it
    Matrix<double> sum = Matrix<double>::Zero(1, 2);
    double mass = 0;
    for (Index i = 0; i < 40; ++i) {
      if (five.nearest[static_cast<std::size_t>(i)] != k) continue;
      sum += samples.weights(i) * samples.tokens.row(i);
      mass += samples.weights(i);
    }
    EXPECT_TRUE(close(five.centers.row(k), sum / mass, 1e-12)) << k;
  }
}

TEST(FitWeights, CountAsSoManyTokens) {
  const Matrix<double> tokens = clouds(40, 2), twice = stacked(tokens, tokens);
  Vector<double> weights = Vector<double>::Constant(40, 2);
  const auto a = gma::fit_mixture<double, gma::Full>(1, tokens, {}, weights);
  const auto b = gma::fit_mixture<double, gma::Full>(1, twice);
  EXPECT_TRUE(close(a.means, b.means, 1e-12));
  EXPECT_TRUE(close(a.log_scales, b.log_scales, 1e-11));
}

TEST(FitProduct, FitsEveryFactorToItsColumns) {
  const Matrix<double> tokens = clouds(100, 6);
  InitializationOptions options;
  options.em_iterations = 2;
  const auto product = gma::fit_product_mixture<double>({4, 3}, tokens, options);
  gma::validate(product);
  EXPECT_EQ(product.components(), 12);
  const auto first = gma::fit_mixture<double>(4, tokens.leftCols(3), options);
  EXPECT_TRUE(same_bits(product.factors[0].means, first.means));
  for (Index k = 0; k < 3; ++k) {
    const auto& mean = product.factors[1].means.row(k);
    EXPECT_LT((tokens.rightCols(3).rowwise() - mean).rowwise().norm().minCoeff(), 2.0);
  }
}

/// Floors as low and as high as they may be, with equal tokens, whose variances are at the floor: fits and their
/// posteriors are finite in the mixture's scalar, and distinct.
template <class S>
void expect_floors_to_fit(double least, double most) {
  const Matrix<double> equal = Matrix<double>::Constant(20, 3, 0.25);
  for (const double floor : {least, 1e-12, 1e12, most}) {
    InitializationOptions options;
    options.variance_floor = floor;
    options.em_iterations = 2;
    options.temperature = 1;
    const auto check = [&](const auto& mixture) {
      gma::validate(mixture);
      EXPECT_TRUE(all_finite(gma::responsibilities(mixture, Matrix<S>(equal.template cast<S>())))) << floor;
    };
    all_families::for_each([&](auto family) { check(gma::fit_mixture<S, decltype(family)>(3, equal, options)); });
  }
  for (const double floor : {0.0, -1.0, least / 2, most * 2, infinity, not_a_number}) {
    InitializationOptions options;
    options.variance_floor = floor;
    expect_error([&] { gma::fit_mixture<S>(3, equal, options); }, {"variance_floor", "expected a positive number"});
  }
}

TEST(FitFloors, AreOfTheScalarsRange) {
  expect_floors_to_fit<float>(1e-28, 1e28);
  expect_floors_to_fit<double>(1e-230, 1e230);
  const Matrix<double> tokens = clouds(10, 4);
  for (const double weight : {1e-300, 1e-30, 1.0}) {
    InitializationOptions options;
    options.weight_floor = weight;
    options.em_iterations = 2;
    gma::validate(gma::fit_mixture<float>(5, tokens, options));
  }
  InitializationOptions options;
  options.weight_floor = 1e-310;
  expect_error([&] { gma::fit_mixture<float>(5, tokens, options); }, {"weight_floor"});
}

TEST(FitErrors, NameFunctionArgumentAndSizes) {
  const Matrix<double> tokens = clouds(10, 4);
  Matrix<double> bad = tokens;
  bad(6, 2) = not_a_number;
  Matrix<double> huge = tokens;
  huge(5, 1) = 1e200;
  Vector<double> negative = Vector<double>::Ones(10);
  negative(4) = -1;
  const auto with = [](auto member, auto value) {
    InitializationOptions options;
    options.*member = value;
    return options;
  };
  using O = InitializationOptions;
  expect_error([&] { gma::fit_mixture<double>(0, tokens); }, {"gma::fit_mixture", "components is 0"});
  expect_error([&] { gma::fit_mixture<double>(2, tokens.topRows(0)); }, {"tokens has 0 rows"});
  expect_error([&] { gma::fit_mixture<double>(2, tokens.leftCols(0)); }, {"tokens has 0 columns"});
  expect_error([&] { gma::fit_mixture<double>(2, tokens, {}, Vector<double>(Vector<double>::Zero(10))); },
               {"tokens has 10 rows", "positive weight"});
  expect_error([&] { gma::fit_mixture<double>(2, tokens, {}, Vector<double>(Vector<double>::Ones(9))); },
               {"weights has 9", "10"});
  expect_error([&] { gma::fit_mixture<double>(2, tokens, {}, negative); }, {"weights(4) is -1"});
  expect_error([&] { gma::fit_mixture<double>(2, bad); }, {"tokens", "not finite", "row 6"});
  expect_error([&] { gma::fit_mixture<double>(2, huge); }, {"tokens", "row 5"});
  expect_error([&] { gma::fit_mixture<float>(1, Matrix<double>(huge * 1e-110)); }, {"means", "finite"});
  expect_error([&] { gma::fit_mixture<double>(2, tokens, with(&O::kmeans_iterations, -1)); },
               {"kmeans_iterations is -1"});
  expect_error([&] { gma::fit_mixture<double>(2, tokens, with(&O::em_iterations, -1)); }, {"em_iterations is -1"});
  expect_error([&] { gma::fit_mixture<double>(2, tokens, with(&O::variance_floor, 0.0)); }, {"variance_floor is 0"});
  expect_error([&] { gma::fit_mixture<double>(2, tokens, with(&O::weight_floor, 2.0)); }, {"weight_floor is 2"});
  expect_error([&] { gma::fit_mixture<double>(2, tokens, with(&O::temperature, -1.0)); }, {"temperature is -1"});
  expect_error(
      [&] {
        gma::fit_product_mixture<double>({2, 2, 2}, tokens);
      },
      {"gma::fit_product_mixture", "dim is 4", "3"});
}

}  // namespace
}  // namespace gma_test
