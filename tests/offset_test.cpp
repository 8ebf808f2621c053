// SPDX-License-Identifier: MIT
// Means and tokens shifted together: the posterior, and all that is made of it, is as accurate in float ten thousand
// standard deviations from the origin as at it. What is right is computed in double, from the same numbers of float.
#include "gma/mixture/fit.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

/// Components of deviations around 0.5 whose coordinates all lie around `offset`, and tokens among them.
template <class Flavour>
struct Shifted {
  typename Flavour::template Type<float> mixture;
  typename Flavour::template Type<double> wide;
  Matrix<float> tokens, keys, values;

  explicit Shifted(double offset) {
    constexpr bool is_full = std::is_same_v<Flavour, Flat<gma::Full>>;
    Random random(1);
    randomize(mixture, 6, 4, Regime::generic, random);
    const auto shift = static_cast<float>(offset);
    for_each_parameter(mixture, "", [&](const std::string& name, auto& part) {
      if (name.find("means") != std::string::npos) part.array() += shift;
      if (name.find("log_scales") != std::string::npos) part.array() -= is_full ? 0.0f : 0.7f;
      if (name.find("log_temperature") != std::string::npos) part.setConstant(0.2f);
    });
    tokens = random.matrix<float>(130, 4).array() + shift;
    keys = random.matrix<float>(130, 4).array() + shift;
    values = random.matrix<float>(130, 3);
    wide = mixture.template cast<double>();
  }
};

Options with(Normalization normalization) {
  Options options;
  options.normalization = normalization;
  return options;
}

template <class Flavour>
class Offset : public testing::Test {};
TYPED_TEST_SUITE(Offset, all_families::Flavours, FamilyNames);

constexpr double offsets[] = {0, 3, 30, -300, 5000, -50000};

TYPED_TEST(Offset, ForwardVerbs) {
  for (const double offset : offsets) {
    SCOPED_TRACE(offset);
    const Shifted<TypeParam> problem(offset);
    const auto& mixture = problem.mixture;
    const auto& wide = problem.wide;
    const Matrix<float>&tokens = problem.tokens, &keys = problem.keys, &values = problem.values;
    const Matrix<double> exact = gma::reference::responsibilities(wide, in_double(tokens));
    EXPECT_TRUE(close(gma::responsibilities(mixture, tokens), exact, forward_tolerance<float>()));
    EXPECT_TRUE(close(gma::responsibilities(gma::compile(mixture), tokens), exact, forward_tolerance<float>()));
    const Matrix<double> joint = gma::reference::joint_log_density(wide, in_double(tokens));
    const Vector<double> density = joint.array().exp().rowwise().sum().log();
    EXPECT_TRUE(close(gma::log_density(mixture, tokens), density, forward_tolerance<float>()));
    EXPECT_TRUE(close(gma::usage(mixture, tokens).mean, Vector<double>(exact.colwise().mean().transpose()),
                      forward_tolerance<float>()));
    for (const Normalization normalization : all_normalizations) {
      for (const bool is_causal : {false, true}) {
        const Matrix<double> expected = gma::reference::attention(wide, in_double(tokens), in_double(keys),
                                                                  in_double(values), with(normalization), is_causal);
        const Matrix<float> actual = is_causal ? gma::causal(mixture, tokens, keys, values, with(normalization))
                                               : gma::bidirectional(mixture, tokens, keys, values, with(normalization));
        EXPECT_TRUE(close(actual, expected, forward_tolerance<float>()));
      }
    }
  }
}

TYPED_TEST(Offset, Gradients) {
  for (const double offset : offsets) {
    SCOPED_TRACE(offset);
    const Shifted<TypeParam> problem(offset);
    Random random(2);
    const Matrix<float> d_output = random.matrix<float>(130, 3);
    auto expected = gma::bidirectional_backward(problem.wide, in_double(problem.tokens), in_double(problem.keys),
                                                in_double(problem.values), in_double(d_output));
    auto actual = gma::bidirectional_backward(problem.mixture, problem.tokens, problem.keys, problem.values, d_output);
    std::vector<Matrix<double>> parts;
    for_each_part(expected, false, [&](const std::string&, auto& part) { parts.emplace_back(part); });
    std::size_t next = 0;
    for_each_part(actual, false, [&](const std::string& name, auto& part) {
      const Matrix<double>& right = parts[next++];
      if (name.find("log_temperature") == std::string::npos) {  // one number, a sum that cancels
        EXPECT_TRUE(close(part, right, float_gradient_tolerance)) << name;
      }
    });
    const auto penalty = gma::usage_penalty_backward(problem.mixture, problem.tokens);
    const auto exact = gma::usage_penalty_backward(problem.wide, in_double(problem.tokens));
    EXPECT_TRUE(close(penalty.tokens, exact.tokens, float_gradient_tolerance));
  }
}

/// Double is as accurate far out as it is at the origin, so that it may be compared with.
TYPED_TEST(Offset, DoubleAgainstTheReference) {
  for (const double offset : offsets) {
    const Shifted<TypeParam> problem(offset);
    EXPECT_TRUE(close(gma::responsibilities(problem.wide, in_double(problem.tokens)),
                      gma::reference::responsibilities(problem.wide, in_double(problem.tokens)),
                      forward_tolerance<double>()));
  }
}

/// Raw data as they come: a fit far from the origin is right for its data.
template <class Covariance>
void fit_far_out() {
  Random random(3);
  Matrix<float> data = random.matrix<float>(400, 3);
  for (Index i = 0; i < 400; ++i) data.row(i).array() += 5000.0f + 3.0f * static_cast<float>(i % 4);
  gma::InitializationOptions options;
  options.em_iterations = 5;
  options.temperature = 1;
  const auto mixture = gma::fit_mixture<float, Covariance>(4, data, options);
  const auto wide = mixture.template cast<double>();
  EXPECT_TRUE(close(gma::responsibilities(mixture, data), gma::reference::responsibilities(wide, in_double(data)),
                    forward_tolerance<float>()));
  EXPECT_GT(gma::usage(mixture, data).effective_components, 3.9f);
}
TEST(Fits, OfDataFarOut) {
  all_families::for_each([](auto family) { fit_far_out<decltype(family)>(); });
}

template <class Covariance>
bool is_centered(const gma::Mixture<float, Covariance>& mixture) {
  return gma::compile(mixture).factors.front().is_centered;
}

/// Where means lie around the origin tokens are read where they lie, at no cost; a component far from all others, or
/// coordinates far apart, are no reason to give the others up.
TEST(Center, IsChosenWhereItIsWorthIt) {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    for (const Index components : {4, 8, 64}) {
      EXPECT_FALSE(is_centered(gma::random_mixture<float>(components, 32, seed)));
      EXPECT_FALSE(is_centered(gma::random_mixture<float, gma::Tied>(components, 32, seed)));
      EXPECT_FALSE(is_centered(gma::random_mixture<float, gma::Isotropic>(components, 32, seed)));
    }
  }
  auto mixture = gma::random_mixture<float>(8, 3, 1);
  mixture.log_scales.setConstant(-5);  // narrow, and yet around the origin
  mixture.log_temperature = 0;
  EXPECT_FALSE(is_centered(mixture));
  mixture.means.col(1).array() += 1000.0f;
  mixture.means(2, 1) = 0;  // far from the others
  const auto natural = gma::compile(mixture).factors.front();
  EXPECT_TRUE(natural.is_centered);
  EXPECT_EQ(natural.center(0), 0.0f);
  EXPECT_NEAR(natural.center(1), 1000.0f, 2.0f);
  EXPECT_EQ(natural.center(2), 0.0f);
  mixture.means(0, 0) = static_cast<float>(not_a_number);  // not a number to put in order
  EXPECT_EQ(gma::compile(mixture).factors.front().center(0), 0.0f);
}

/// One compiled mixture, or one workspace, serves mixtures near the origin and far from it in turn.
TEST(Center, IsForgottenWithItsMixture) {
  Random random(4);
  gma::Mixture<float> near_one, far_one;
  randomize(near_one, 5, 3, Regime::generic, random);
  far_one = near_one;
  far_one.means.array() += 1000.0f;
  const Matrix<float> x = random.matrix<float>(20, 3), far = x.array() + 1000.0f, v = random.matrix<float>(20, 2);
  gma::Workspace<float> workspace;
  Matrix<float> out(20, 2);
  const Matrix<float> expected = gma::bidirectional(near_one, x, x, v);
  for (int round = 0; round < 3; ++round) {
    gma::bidirectional_into(out, far_one, far, far, v, Options{}, {}, workspace);
    EXPECT_TRUE(close(out, expected, 1e-3));  // tokens are rounded far out
    gma::bidirectional_into(out, near_one, x, x, v, Options{}, {}, workspace);
    EXPECT_TRUE(same_bits(out, expected));
  }
}

}  // namespace
}  // namespace gma_test
