// SPDX-License-Identifier: MIT
// Gradients of losses on responsibilities, and the diagnostics of a mixture: against the dense reference, central
// differences, and cases computed by hand.
#include "gma/mixture/usage.hpp"

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>
#include <Eigen/QR>

#include "gma/mixture/variances.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

template <class Family>
class Usages : public testing::Test {};
TYPED_TEST_SUITE(Usages, all_families::Flavours, FamilyNames);

/// The slopes of loss() in every coefficient of `numbers`.
template <class Derived, class Loss>
Matrix<double> differences(Eigen::MatrixBase<Derived>& numbers, Loss&& loss) {
  Matrix<double> result(numbers.rows(), numbers.cols());
  for (Index i = 0; i < numbers.rows(); ++i) {
    for (Index j = 0; j < numbers.cols(); ++j) result(i, j) = difference_quotient(numbers.derived()(i, j), 1e-3, loss);
  }
  return result;
}

/// `expected`, one matrix a parameter, against the parameters of `actual`; a scale for those that vanish.
template <class M>
void expect_gradients(M actual, const std::vector<Matrix<double>>& expected, double tolerance) {
  double scale = 0;
  for (const Matrix<double>& part : expected) scale = std::max(scale, 1e-3 * part.norm());
  std::size_t index = 0;
  for_each_parameter(actual, "", [&](const std::string& name, const auto& values) {
    const Matrix<double>& part = expected[index++];
    ASSERT_EQ(values.size(), part.size()) << name;
    EXPECT_LE((values.template cast<double>() - part).norm(), tolerance * std::max(part.norm(), scale)) << name;
  });
  EXPECT_EQ(index, expected.size());
}

/// Central differences of loss() in every parameter.
template <class M, class Loss>
std::vector<Matrix<double>> parameter_differences(M& mixture, Loss&& loss) {
  std::vector<Matrix<double>> parts;
  for_each_parameter(mixture, "",
                     [&](const std::string&, auto& values) { parts.push_back(differences(values, loss)); });
  return parts;
}
template <class M>
std::vector<Matrix<double>> parameters(M mixture) {
  std::vector<Matrix<double>> parts;
  for_each_parameter(mixture, "",
                     [&](const std::string&, const auto& values) { parts.push_back(values.template cast<double>()); });
  return parts;
}

template <class M>
M random_mixture(Index components, Index dim, std::uint64_t seed) {
  Random random(seed);
  M mixture;
  randomize(mixture, components, dim, Regime::generic, random);
  return mixture;
}

// Gradients of responsibilities --------------------------------------------------------------------------------------

TYPED_TEST(Usages, ResponsibilityGradientsAreThoseOfCentralDifferences) {
  using M = typename TypeParam::template Type<double>;
  M mixture = random_mixture<M>(6, 4, 1);
  Random random(2);
  Matrix<double> x = random.matrix<double>(13, 4);
  const Matrix<double> d = random.matrix<double>(13, 6);
  const auto loss = [&] { return gma::responsibilities(mixture, x).cwiseProduct(d).sum(); };
  const auto gradients = gma::responsibilities_backward(mixture, x, d);
  EXPECT_TRUE(close(gradients.tokens, differences(x, loss), difference_tolerance));
  expect_gradients(gradients.mixture, parameter_differences(mixture, loss), difference_tolerance);
}

TYPED_TEST(Usages, ResponsibilityGradientsOfManyTokensAreTheSumOverParts) {
  using M = typename TypeParam::template Type<double>;
  const M mixture = random_mixture<M>(6, 4, 3);
  for (const Index count : {1, 95, 96, 97, 3000}) {
    Random random(4);
    const Matrix<double> x = random.matrix<double>(count, 4), d = random.matrix<double>(count, 6);
    const auto whole = gma::responsibilities_backward(mixture, x, d);
    const Index half = count / 2;
    const auto top = gma::responsibilities_backward(mixture, x.topRows(half), d.topRows(half));
    const auto bottom = gma::responsibilities_backward(mixture, x.bottomRows(count - half), d.bottomRows(count - half));
    EXPECT_TRUE(close(whole.tokens, stacked(top.tokens, bottom.tokens), autodiff_tolerance));
    std::vector<Matrix<double>> sum = parameters(top.mixture);
    const std::vector<Matrix<double>> rest = parameters(bottom.mixture);
    for (std::size_t p = 0; p < sum.size(); ++p) sum[p] += rest[p];
    expect_gradients(whole.mixture, sum, autodiff_tolerance);
  }
}

TYPED_TEST(Usages, ResponsibilityGradientsInFloatAreCloseToDouble) {
  using M = typename TypeParam::template Type<float>;
  const M mixture = random_mixture<M>(6, 4, 5);
  Random random(6);
  const Matrix<float> x = random.matrix<float>(300, 4), d = random.matrix<float>(300, 6);
  const auto single = gma::responsibilities_backward(mixture, x, d);
  const auto wide = gma::responsibilities_backward(mixture.template cast<double>(), in_double(x), in_double(d));
  EXPECT_TRUE(close(single.tokens, wide.tokens, float_gradient_tolerance));
  expect_gradients(single.mixture, parameters(wide.mixture), float_gradient_tolerance);
}

TEST(ResponsibilityGradients, TakeAnyLayout) {
  const auto mixture = random_mixture<gma::Mixture<double>>(5, 3, 7);
  Random random(8);
  const Matrix<double> x = random.matrix<double>(200, 3), d = random.matrix<double>(200, 5);
  const Eigen::MatrixXd columns = x, d_columns = d;
  const auto expected = gma::responsibilities_backward(mixture, x, d);
  const auto actual = gma::responsibilities_backward(mixture, columns, d_columns);
  EXPECT_TRUE(same_bits(actual.tokens, expected.tokens));
  EXPECT_TRUE(same_bits(actual.mixture.means, expected.mixture.means));
  const auto expressions = gma::responsibilities_backward(mixture, x * 1.0, d * 1.0);
  EXPECT_TRUE(same_bits(expressions.tokens, expected.tokens));
  const auto nothing = gma::responsibilities_backward(mixture, x.topRows(0), d.topRows(0));
  EXPECT_EQ(nothing.tokens.rows(), 0);
  EXPECT_TRUE(nothing.mixture.means.isZero(0));
}

TEST(ResponsibilityGradients, NameWhatDoesNotFit) {
  const auto mixture = random_mixture<gma::Mixture<double>>(5, 3, 7);
  const Matrix<double> x = Matrix<double>::Ones(4, 3), d = Matrix<double>::Ones(4, 5);
  expect_error([&] { gma::responsibilities_backward(mixture, x.leftCols(2), d); },
               {"gma::responsibilities_backward", "X has 2 columns", "expected 3"});
  expect_error([&] { gma::responsibilities_backward(mixture, x, d.leftCols(4)); },
               {"gma::responsibilities_backward", "d_responsibilities is 4 x 4", "expected 4 x 5"});
  expect_error([&] { gma::responsibilities_backward(gma::Mixture<double>(), x, d); },
               {"gma::responsibilities_backward", "mixture.means is 0 x 0"});
}

// Usage --------------------------------------------------------------------------------------------------------------

double entropy(const Eigen::Ref<const Eigen::VectorXd>& p) {
  double sum = 0;
  for (Index k = 0; k < p.size(); ++k) sum -= p(k) > 0 ? p(k) * std::log(p(k)) : 0;
  return sum;
}

/// Weights in (0, 2), a fifth of them 0 but not the first.
template <class S>
Vector<S> random_weights(Index count, std::uint64_t seed) {
  Random random(seed);
  Vector<S> weights = random_tokens<S>(count, false, random).key_weights;
  if (count > 0) weights(0) = S(0.5);
  return weights;
}

template <class S, class M>
void expect_usage(const M& mixture, Index count, bool weighted) {
  Random random(11);
  Matrix<S> x = random.matrix<S>(count, 4);
  const Vector<S> weights = weighted ? random_weights<S>(count, 12) : Vector<S>();
  const Matrix<double> r =
      gma::reference::responsibilities(mixture.template cast<double>(), Matrix<double>(in_double(x)));
  Eigen::VectorXd mean = Eigen::VectorXd::Zero(r.cols());
  double token_entropy = 0, total = 0;
  Index present = 0;
  for (Index t = 0; t < count; ++t) {
    const double w = weighted ? static_cast<double>(weights(t)) : 1;
    if (!(w > 0)) {
      x.row(t).setConstant(static_cast<S>(t % 2 == 0 ? not_a_number : infinity));
      continue;
    }
    mean += w * r.row(t).transpose();
    token_entropy += w * entropy(r.row(t).transpose());
    total += w;
    ++present;
  }
  mean /= total;
  const gma::Usage<S> actual = gma::usage(mixture, x, weights);
  const double tolerance = forward_tolerance<S>();
  EXPECT_TRUE(close(actual.mean, mean, tolerance));
  EXPECT_NEAR(static_cast<double>(actual.mean.sum()), 1, tolerance);
  EXPECT_NEAR(static_cast<double>(actual.entropy), entropy(mean), tolerance);
  EXPECT_NEAR(static_cast<double>(actual.effective_components), std::exp(entropy(mean)), 10 * tolerance);
  EXPECT_NEAR(static_cast<double>(actual.token_entropy), token_entropy / total, tolerance);
  EXPECT_NEAR(static_cast<double>(gma::usage_penalty(mixture, x, weights)),
              std::log(static_cast<double>(mean.size())) - entropy(mean), tolerance);
  EXPECT_EQ(actual.dead, (mean.array() < 0.1 / static_cast<double>(mean.size())).count());
  EXPECT_EQ(actual.tokens, present);
}

TYPED_TEST(Usages, IsThatOfTheDenseReference) {
  for (const bool weighted : {false, true}) {
    for (const Index count : {1, 96, 97, 1000}) {
      expect_usage<double>(random_mixture<typename TypeParam::template Type<double>>(6, 4, 10), count, weighted);
      expect_usage<float>(random_mixture<typename TypeParam::template Type<float>>(6, 4, 10), count, weighted);
    }
  }
}

TYPED_TEST(Usages, OfNothingIsZero) {
  using M = typename TypeParam::template Type<float>;
  const M mixture = random_mixture<M>(6, 4, 13);
  const Matrix<float> absent = Matrix<float>::Constant(5, 4, static_cast<float>(not_a_number));
  for (const Index count : {0, 5}) {
    const Vector<float> weights = Vector<float>::Zero(count);
    const gma::Usage<float> usage = gma::usage(mixture, absent.topRows(count), weights);
    EXPECT_EQ(usage.mean, Vector<float>::Zero(6));
    EXPECT_EQ(usage.entropy, 0);
    EXPECT_EQ(usage.effective_components, 0);
    EXPECT_EQ(usage.token_entropy, 0);
    EXPECT_EQ(usage.dead, 0);
    EXPECT_EQ(usage.tokens, 0);
    const auto gradients = gma::usage_penalty_backward(mixture, absent.topRows(count), 1, weights);
    EXPECT_EQ(gradients.value, 0);
    EXPECT_EQ(gradients.tokens, Matrix<float>::Zero(count, 4));
    for (const Matrix<double>& part : parameters(gradients.mixture)) EXPECT_TRUE(part.isZero(0));
  }
}

TEST(Usage, ByHand) {
  gma::Mixture<double, gma::Isotropic> mixture(4, 1);
  mixture.means << -300, -100, 100, 300;
  Matrix<double> x(4, 1);
  x << -300, -300, -100, -300;  // responsibilities are 0 and 1 but for the smallest of numbers
  const gma::Usage<double> usage = gma::usage(mixture, x);
  EXPECT_TRUE(close(usage.mean, Eigen::Vector4d(0.75, 0.25, 0, 0), 1e-15));
  EXPECT_EQ(usage.dead, 2);
  EXPECT_NEAR(usage.token_entropy, 0, 1e-300);
  const double expected = 0.75 * std::log(4.0 / 3) + 0.25 * std::log(4.0);
  EXPECT_NEAR(usage.entropy, expected, 1e-14);
  EXPECT_NEAR(usage.effective_components, std::exp(expected), 1e-14);
  EXPECT_NEAR(gma::usage_penalty(mixture, x), std::log(4.0) - expected, 1e-14);
  EXPECT_TRUE(gma::usage_penalty_backward(mixture, x).mixture.means.allFinite());  // 0 log 0
  Vector<double> weights(4);
  weights << 1, 0, 1, 0;
  EXPECT_TRUE(close(gma::usage(mixture, x, weights).mean, Eigen::Vector4d(0.5, 0.5, 0, 0), 1e-15));
  const auto one = random_mixture<gma::Mixture<double>>(1, 3, 14);
  const gma::Usage<double> only = gma::usage(one, Random(1).matrix<double>(9, 3));
  EXPECT_EQ(only.mean(0), 1);
  EXPECT_EQ(only.entropy, 0);
  EXPECT_EQ(only.effective_components, 1);
}

TEST(Usage, TakesCompiledMixturesAndStorageTypes) {
  const auto mixture = random_mixture<gma::ProductMixture<float>>(6, 4, 15);
  const Matrix<float> x = Random(16).matrix<float>(100, 4);
  const gma::Usage<float> usage = gma::usage(mixture, x);
  EXPECT_TRUE(same_bits(gma::usage(gma::compile(mixture), x).mean, usage.mean));
  const Matrix<Eigen::bfloat16> stored = x.cast<Eigen::bfloat16>();
  const Matrix<float> rounded = stored.cast<float>();
  EXPECT_TRUE(same_bits(gma::usage(mixture, stored).mean, gma::usage(mixture, rounded).mean));
}

TEST(Usage, SumsOfFloatDoNotDrift) {
  gma::Mixture<float, gma::Isotropic> mixture(3, 1);  // three twins: every responsibility is 1/3
  const Matrix<float> x = Matrix<float>::Ones(300000, 1);
  const gma::Usage<float> usage = gma::usage(mixture, x);
  const double eps = static_cast<double>(std::numeric_limits<float>::epsilon());
  for (Index k = 0; k < 3; ++k) EXPECT_NEAR(static_cast<double>(usage.mean(k)), 1.0 / 3, eps);
  EXPECT_NEAR(static_cast<double>(usage.token_entropy), std::log(3.0), 4 * eps);
}

TEST(Usage, NamesWhatDoesNotFit) {
  const auto mixture = random_mixture<gma::Mixture<double>>(5, 3, 17);
  const Matrix<double> x = Matrix<double>::Ones(4, 3);
  const auto fails = [&](const Matrix<double>& tokens, const Vector<double>& weights,
                         const std::vector<std::string>& words) {
    const auto in = [&](const std::string& function) {
      std::vector<std::string> all = words;
      all.push_back("gma::" + function + ":");
      return all;
    };
    expect_error([&] { gma::usage(mixture, tokens, weights); }, in("usage"));
    expect_error([&] { gma::usage_penalty(mixture, tokens, weights); }, in("usage_penalty"));
    expect_error([&] { gma::usage_penalty_backward(mixture, tokens, 1, weights); }, in("usage_penalty_backward"));
  };
  fails(x.leftCols(2), {}, {"X has 2 columns", "expected 3"});
  fails(x, Vector<double>::Ones(3), {"weights has 3 coefficients", "expected 4"});
  for (const double bad : {-1.0, not_a_number, infinity}) {
    Vector<double> weights = Vector<double>::Ones(4);
    weights(2) = bad;
    fails(x, weights, {"weights is", "at token 2"});
  }
  expect_error([&] { gma::usage(gma::Mixture<double>(), x); }, {"gma::usage:", "mixture.means is 0 x 0"});
}

// The penalty --------------------------------------------------------------------------------------------------------

TYPED_TEST(Usages, PenaltyGradientsAreThoseOfCentralDifferences) {
  using M = typename TypeParam::template Type<double>;
  M mixture = random_mixture<M>(6, 4, 20);
  Matrix<double> x = Random(21).matrix<double>(17, 4);
  for (const Vector<double>& weights : {Vector<double>(), random_weights<double>(17, 22)}) {
    const auto loss = [&] { return 0.7 * gma::usage_penalty(mixture, x, weights); };
    const auto gradients = gma::usage_penalty_backward(mixture, x, 0.7, weights);
    EXPECT_EQ(gradients.value, gma::usage_penalty(mixture, x, weights));
    EXPECT_TRUE(close(gradients.tokens, differences(x, loss), difference_tolerance));
    expect_gradients(gradients.mixture, parameter_differences(mixture, loss), difference_tolerance);
  }
}

TYPED_TEST(Usages, PenaltyDoesNotSeeAbsentTokens) {
  using M = typename TypeParam::template Type<float>;
  const M mixture = random_mixture<M>(6, 4, 23);
  const Vector<float> weights = random_weights<float>(300, 24);
  const Matrix<float> x = Random(25).matrix<float>(300, 4);
  Matrix<float> poisoned = x;
  for (Index t = 0; t < 300; ++t) {
    if (!(weights(t) > 0)) poisoned.row(t).setConstant(static_cast<float>(not_a_number));
  }
  const auto expected = gma::usage_penalty_backward(mixture, x, 1, weights);
  const auto actual = gma::usage_penalty_backward(mixture, poisoned, 1, weights);
  EXPECT_EQ(actual.value, expected.value);
  EXPECT_TRUE(same_bits(actual.tokens, expected.tokens));
  const std::vector<Matrix<double>> a = parameters(actual.mixture), b = parameters(expected.mixture);
  for (std::size_t p = 0; p < a.size(); ++p) EXPECT_TRUE(same_bits(a[p], b[p]));
  for (Index t = 0; t < 300; ++t) EXPECT_TRUE(weights(t) > 0 || actual.tokens.row(t).isZero(0));
}

TYPED_TEST(Usages, PenaltyInFloatIsCloseToDouble) {
  using M = typename TypeParam::template Type<float>;
  const M mixture = random_mixture<M>(6, 4, 26);
  const Matrix<float> x = Random(27).matrix<float>(500, 4);
  const auto single = gma::usage_penalty_backward(mixture, x);
  const auto wide = gma::usage_penalty_backward(mixture.template cast<double>(), in_double(x));
  EXPECT_NEAR(static_cast<double>(single.value), wide.value, forward_tolerance<float>());
  EXPECT_TRUE(close(single.tokens, wide.tokens, float_gradient_tolerance));
  expect_gradients(single.mixture, parameters(wide.mixture), float_gradient_tolerance);
}

TEST(UsagePenalty, IsLeastAtUniformUsage) {
  gma::Mixture<double, gma::Diagonal> mixture(4, 2);  // corners of a square, and tokens that are as symmetric
  mixture.means << -1, -1, -1, 1, 1, -1, 1, 1;
  Matrix<double> x(8, 2);
  x << 1, 2, 1, -2, -1, 2, -1, -2, 2, 1, -2, 1, 2, -1, -2, -1;
  const auto even = gma::usage_penalty_backward(mixture, x);
  EXPECT_NEAR(even.value, 0, 1e-15);
  EXPECT_LT(even.tokens.norm(), 1e-15);
  EXPECT_LT(even.mixture.means.norm() + even.mixture.weight_logits.norm(), 1e-15);
  Random random(30);
  for (int trial = 0; trial < 20; ++trial) {
    gma::Mixture<double, gma::Diagonal> other = mixture;
    other.means += random.matrix<double>(4, 2, 0.3);
    other.weight_logits += random.vector<double>(4, 0.3);
    EXPECT_GT(gma::usage_penalty(other, x), 1e-6);
  }
}

TEST(UsagePenalty, StepsDownItReviveDeadComponents) {
  Random random(31);
  gma::Mixture<float, gma::Diagonal> mixture(8, 3);
  mixture.means = random.matrix<float>(8, 3, 0.5);
  mixture.means.bottomRows(5).array() += 2.5f;  // where few tokens are
  const Matrix<float> x = random.matrix<float>(400, 3);
  const gma::Usage<float> before = gma::usage(mixture, x);
  ASSERT_GE(before.dead, 4);
  float last = gma::usage_penalty(mixture, x);
  for (int step = 0; step < 30; ++step) {
    const auto gradients = gma::usage_penalty_backward(mixture, x);
    mixture.weight_logits -= gradients.mixture.weight_logits;
    mixture.means -= gradients.mixture.means;
    const float value = gma::usage_penalty(mixture, x);
    EXPECT_LT(value, last) << step;
    last = value;
  }
  const gma::Usage<float> after = gma::usage(mixture, x);
  EXPECT_GT(after.effective_components, before.effective_components + 1);
  EXPECT_LT(after.dead, before.dead);
}

// Variances ----------------------------------------------------------------------------------------------------------

TEST(Variances, OfEveryFamily) {
  gma::Mixture<double, gma::Isotropic> isotropic(3, 2);
  isotropic.log_scales << 0, std::log(2.0), std::log(0.5);
  const gma::VarianceRange<double> range = gma::variance_range(isotropic, 0.25, 4);
  EXPECT_NEAR(range.smallest, 0.25, 1e-15);
  EXPECT_NEAR(range.largest, 4, 1e-14);
  EXPECT_EQ(range.below, 1);
  EXPECT_EQ(range.above, 1);
  EXPECT_EQ(range.count, 3);
  gma::Mixture<float, gma::Diagonal> diagonal(3, 2);
  EXPECT_EQ(gma::variance_range(diagonal).count, 6);
  EXPECT_EQ(gma::variance_range(diagonal).smallest, 1);
  EXPECT_EQ(gma::variance_range(diagonal).largest, 1);
  EXPECT_EQ(gma::variance_range(gma::Mixture<float, gma::Tied>(3, 2)).count, 2);
  gma::ProductMixture<float, gma::Diagonal> product;
  product.factors = {diagonal, diagonal};
  product.factors[1].log_scales(2, 1) = std::log(1e-2f);  // as clamped to the bound in float
  product.factors[1].log_scales(0, 0) = std::log(1e2f);
  const gma::VarianceRange<float> both = gma::variance_range(product);
  EXPECT_EQ(both.below, 1);
  EXPECT_EQ(both.above, 1);
  EXPECT_EQ(both.count, 12);
  EXPECT_EQ(gma::variance_range(product, 1e-5, 1e5).below, 0);
}

TEST(Variances, OfFullAreTheEigenvaluesOfTheCovariance) {
  for (const Index d : {1, 2, 5, 24}) {
    Random random(40);
    gma::Mixture<double, gma::Full> mixture;
    randomize(mixture, 3, d, Regime::generic, random);
    double smallest = infinity, largest = 0;
    for (Index k = 0; k < 3; ++k) {
      Eigen::MatrixXd lower = Eigen::MatrixXd::Zero(d, d);
      for (Index i = 0; i < d; ++i) {
        for (Index j = 0; j < i; ++j) lower(i, j) = mixture.log_scales(k, i * d + j);
        lower(i, i) = std::exp(mixture.log_scales(k, i * d + i));
      }
      const Eigen::VectorXd precisions =
          Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(lower * lower.transpose()).eigenvalues();
      smallest = std::min(smallest, 1 / precisions.maxCoeff());
      largest = std::max(largest, 1 / precisions.minCoeff());
    }
    const gma::VarianceRange<double> range = gma::variance_range(mixture);
    EXPECT_NEAR(range.smallest / smallest, 1, 1e-12) << d;
    EXPECT_NEAR(range.largest / largest, 1, 1e-9) << d;  // the other side squares the condition number
    EXPECT_EQ(range.count, 3 * d);
  }
}

/// Sigma = Q diag(variances) Q^T with variances of 16 orders of magnitude: all of them come back.
TEST(Variances, OfFullAreAccurateWhereCovariancesAreNot) {
  const Index d = 5;
  Eigen::VectorXd scales(d);
  scales << 1e-4, 1e-2, 1, 1e2, 1e4;
  const Eigen::MatrixXd q = Eigen::HouseholderQR<Eigen::MatrixXd>(Random(41).matrix<double>(d, d)).householderQ() *
                            Eigen::MatrixXd::Identity(d, d);
  // L L^T = A A^T with A = Q diag(1 / scales): L is R^T of the QR decomposition of A^T.
  const Eigen::MatrixXd a = q * scales.cwiseInverse().asDiagonal();
  const Eigen::MatrixXd r =
      Eigen::HouseholderQR<Eigen::MatrixXd>(a.transpose()).matrixQR().triangularView<Eigen::Upper>();
  gma::Mixture<double, gma::Full> mixture(1, d);
  for (Index i = 0; i < d; ++i) {
    const double sign = r(i, i) < 0 ? -1 : 1;
    for (Index j = i; j < d; ++j) mixture.log_scales(0, j * d + i) = sign * r(i, j);
    mixture.log_scales(0, i * d + i) = std::log(std::abs(r(i, i)));
  }
  const gma::VarianceRange<double> range = gma::variance_range(mixture, 2e-8, 0.5e8);
  EXPECT_NEAR(range.smallest / 1e-8, 1, 1e-6);
  EXPECT_NEAR(range.largest / 1e8, 1, 1e-6);
  EXPECT_EQ(range.below, 1);
  EXPECT_EQ(range.above, 1);
}

TEST(Variances, NameWhatIsWrong) {
  gma::Mixture<double> mixture(2, 3);
  expect_error([&] { gma::variance_range(mixture, 2, 1); }, {"gma::variance_range", "lower is 2", "upper is 1"});
  expect_error([&] { gma::variance_range(mixture, not_a_number); }, {"gma::variance_range", "lower is"});
  expect_error([&] { gma::variance_range(gma::Mixture<double>()); }, {"gma::variance_range", "mixture.means is 0 x 0"});
  mixture.log_scales(1, 2) = not_a_number;
  expect_error([&] { gma::variance_range(mixture); }, {"gma::variance_range", "log_scales", "row 1, column 2"});
  gma::ProductMixture<double> product;
  expect_error([&] { gma::variance_range(product); }, {"gma::variance_range", "mixture.factors is empty"});
  product.factors = {gma::Mixture<double>(2, 3), mixture};
  expect_error([&] { gma::variance_range(product); }, {"gma::variance_range", "mixture.factors[1].log_scales"});
}

}  // namespace
}  // namespace gma_test
