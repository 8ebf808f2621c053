// SPDX-License-Identifier: MIT
// The edges: nothing to read, far tokens, very sharp and very wide components, twins, masks over everything, masses
// around tiny_mass, a million tokens in float, weights of huge range. Everything stays finite and as close as the
// logits allow.
#include "support.hpp"

namespace gma_test {
namespace {

Options with(Normalization normalization, Index tile = 0) {
  Options options;
  options.normalization = normalization;
  options.tile = tile;
  return options;
}

template <class S>
class Extremes : public testing::Test {};
struct ScalarNames {
  template <class S>
  static std::string GetName(int) {
    return sizeof(S) == 4 ? "float" : "double";
  }
};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(Extremes, Scalars, ScalarNames);

template <class M>
bool all_finite_gradients(gma::Gradients<M> gradients) {
  bool finite = true;
  for_each_part(gradients, true, [&](const std::string&, auto& part) { finite = finite && all_finite(part); });
  return finite;
}

/// Forward and backward, bidirectional and causal: everything finite.
template <class M, class S>
void expect_finite(const M& mixture, const Matrix<S>& queries, const Matrix<S>& keys, const Matrix<S>& values,
                   const TokenInputs<S>& tokens = {}) {
  EXPECT_TRUE(all_finite(gma::responsibilities(mixture, queries)));
  EXPECT_TRUE(all_finite(gma::log_density(mixture, queries)));
  for (const Normalization normalization : all_normalizations) {
    SCOPED_TRACE(name_of(normalization));
    const Options options = with(normalization, 4);
    const Matrix<S> whole = gma::bidirectional(mixture, queries, keys, values, options, tokens);
    const Matrix<S> causal = gma::causal(mixture, queries, keys, values, options, tokens);
    EXPECT_TRUE(all_finite(whole) && all_finite(causal));
    if (normalization != Normalization::none) {  // a mean lies within its values, in the convex hull of them and zero
      const double bound = static_cast<double>(values.size() == 0 ? S(0) : values.cwiseAbs().maxCoeff()) * 1.001;
      EXPECT_LE(static_cast<double>(whole.cwiseAbs().maxCoeff()), bound);
      EXPECT_LE(static_cast<double>(causal.cwiseAbs().maxCoeff()), bound);
    }
    EXPECT_TRUE(
        all_finite_gradients(gma::bidirectional_backward(mixture, queries, keys, values, values, options, tokens)));
    EXPECT_TRUE(all_finite_gradients(gma::causal_backward(mixture, queries, keys, values, values, options, tokens)));
  }
}

TYPED_TEST(Extremes, NoTokens) {
  using S = TypeParam;
  Random random(1);
  gma::Mixture<S, gma::Diagonal> mixture;
  randomize(mixture, 4, 3, Regime::generic, random);
  const Matrix<S> none(0, 3), no_values(0, 2), queries = random.matrix<S>(5, 3);
  EXPECT_EQ(gma::responsibilities(mixture, none).rows(), 0);
  EXPECT_EQ(gma::log_density(mixture, none).size(), 0);
  for (const Normalization normalization : all_normalizations) {
    const Options options = with(normalization);
    EXPECT_TRUE(gma::bidirectional(mixture, queries, none, no_values, options).isZero(0));
    EXPECT_EQ(gma::bidirectional(mixture, none, queries, queries, options).rows(), 0);
    EXPECT_EQ(gma::causal(mixture, none, none, no_values, options).cols(), 2);
    const auto gradients =
        gma::bidirectional_backward(mixture, queries, none, no_values, random.matrix<S>(5, 2), options);
    EXPECT_TRUE(gradients.queries.isZero(0) && gradients.mixture.means.isZero(0));
    EXPECT_EQ(gradients.keys.rows(), 0);
    EXPECT_EQ(gma::causal_backward(mixture, none, none, no_values, no_values, options).memory.slots.rows(), 4);
  }
  Memory<S> memory;
  gma::write(mixture, none, no_values, memory);
  EXPECT_TRUE(same_bits(memory, gma::empty_memory<S>(4, 2)));
  EXPECT_TRUE(gma::read(mixture, queries, memory).isZero(0));
  const Memory<S> d_memory{random.matrix<S>(4, 2), random.vector<S>(4), S(0)};
  EXPECT_TRUE(same_bits(gma::write_backward(mixture, none, no_values, d_memory).memory, d_memory));
  EXPECT_EQ(gma::bidirectional(mixture, queries, queries, Matrix<S>(5, 0)).cols(), 0);  // values of no width
}

TYPED_TEST(Extremes, TokensFarFromEveryComponent) {
  using S = TypeParam;
  const auto check = [&](auto mixture) {
    Random random(2);
    for (const double distance : {10.0, 1e3, 1e6}) {
      randomize(mixture, 4, 3, Regime::generic, random);
      const Matrix<S> far = random.matrix<S>(13, 3, distance), values = random.matrix<S>(13, 2);
      SCOPED_TRACE(distance);
      expect_finite(mixture, far, far, values);
      const auto wide = mixture.template cast<double>();
      const double tolerance = forward_tolerance<S>() * std::max(largest_logit(wide, in_double(far)), 1.0);
      for (const Normalization normalization : all_normalizations) {
        const Matrix<double> expected = gma::reference::attention(wide, in_double(far), in_double(far),
                                                                  in_double(values), with(normalization), true);
        EXPECT_TRUE(close(gma::causal(mixture, far, far, values, with(normalization)), expected, tolerance));
      }
    }
  };
  all_families::for_each([&](auto family) { check(gma::Mixture<S, decltype(family)>()); });
  check(gma::ProductMixture<S, gma::Diagonal>());
}

TYPED_TEST(Extremes, VeryNarrowAndVeryWideComponents) {
  using S = TypeParam;
  const auto check = [&](auto mixture) {
    Random random(3);
    randomize(mixture, 4, 3, Regime::generic, random);
    const Matrix<S> tokens = random.matrix<S>(13, 3), values = random.matrix<S>(13, 2);
    for (const double log_scale : {-10.0, 10.0}) {
      SCOPED_TRACE(log_scale);
      auto extreme = mixture;
      for_each_parameter(extreme, "", [&](const std::string& name, auto& part) {
        if (name.find("log_scales") != std::string::npos) part.setConstant(static_cast<S>(log_scale));
      });
      expect_finite(extreme, tokens, tokens, values);
      const auto wide = extreme.template cast<double>();
      const double tolerance = forward_tolerance<S>() * largest_logit(wide, in_double(tokens));
      const Matrix<double> expected = gma::reference::responsibilities(wide, in_double(tokens));
      EXPECT_TRUE(close(gma::responsibilities(extreme, tokens), expected, tolerance));
    }
    auto mixed = mixture;  // one of them narrow, one wide
    for_each_parameter(mixed, "", [&](const std::string& name, auto& part) {
      if (name.find("log_scales") == std::string::npos || part.rows() < 2) return;
      part.row(0).setConstant(S(-10));
      part.row(1).setConstant(S(10));
    });
    expect_finite(mixed, tokens, tokens, values);
  };
  all_families::for_each([&](auto family) {
    if constexpr (decltype(family)::log_scales_are_log_deviations) check(gma::Mixture<S, decltype(family)>());
  });
  check(gma::ProductMixture<S, gma::Diagonal>());
}

/// Whatever an optimiser makes of a parameter, numbers stay finite: it counts as at the bound of what can be computed.
template <class S, class M>
void expect_finite_at_the_ends(M mixture) {
  Random random(5);
  randomize(mixture, 4, 2, Regime::generic, random);
  const Matrix<S> tokens = random.matrix<S>(7, 2), values = random.matrix<S>(7, 1);
  const auto set = [](M& extreme, const std::string& parameter, double value) {
    for_each_parameter(extreme, "", [&](const std::string& name, auto& part) {
      if (name.find(parameter) != std::string::npos) part.setConstant(static_cast<S>(value));
    });
  };
  const auto check = [&](const M& extreme) {
    expect_finite(extreme, tokens, tokens, values);
    const Matrix<S> r = gma::responsibilities(extreme, tokens);
    EXPECT_LE((r.rowwise().sum().array() - S(1)).abs().maxCoeff(), S(1e-5));
  };
  for (const double log_scale : {-1e30, -1e4, -40.0, 0.0, 40.0, 1e4, 1e30}) {
    for (const double log_temperature : {-1e30, -1e3, -20.0, 0.0, 20.0, 1e3, 1e30}) {
      SCOPED_TRACE(log_scale);
      SCOPED_TRACE(log_temperature);
      M extreme = mixture;
      set(extreme, "log_scales", log_scale);
      set(extreme, "log_temperature", log_temperature);
      check(extreme);
      for_each_parameter(extreme, "", [&](const std::string& name, auto& part) {
        if (name.find("weight_logits") != std::string::npos) part(0) = S(1e30);
        if (name.find("weight_logits") != std::string::npos) part(part.size() - 1) = S(-1e30);
      });
      check(extreme);
    }
  }
}

TYPED_TEST(Extremes, ParametersAtTheirEnds) {
  all_families::for_each(
      [](auto family) { expect_finite_at_the_ends<TypeParam>(gma::Mixture<TypeParam, decltype(family)>()); });
  expect_finite_at_the_ends<TypeParam>(gma::ProductMixture<TypeParam, gma::Diagonal>());
}

/// Within the bounds nothing changes: mixtures of very small and of very large tokens are those of tokens of unit size.
TYPED_TEST(Extremes, UnitsOfMeasureDoNotMatter) {
  using S = TypeParam;
  Random random(6);
  gma::Mixture<S, gma::Diagonal> mixture;
  randomize(mixture, 4, 3, Regime::generic, random);
  const Matrix<S> tokens = random.matrix<S>(20, 3);
  const Matrix<S> expected = gma::responsibilities(mixture, tokens);
  for (const int exponent : {-45, -20, 20, 45}) {  // powers of two change no digit
    auto scaled = mixture;
    scaled.means *= static_cast<S>(std::ldexp(1.0, exponent));
    scaled.log_scales.array() += static_cast<S>(exponent * 0.6931471805599453);
    const Matrix<S> r = gma::responsibilities(scaled, Matrix<S>(tokens * static_cast<S>(std::ldexp(1.0, exponent))));
    EXPECT_TRUE(close(r, expected, forward_tolerance<S>() * 4)) << exponent;  // the log scales are rounded
  }
}

/// Components of weight zero are not there, in gradients either.
TYPED_TEST(Extremes, WeightsOfZero) {
  using S = TypeParam;
  Random random(7);
  gma::Mixture<S, gma::Diagonal> mixture;
  randomize(mixture, 4, 3, Regime::generic, random);
  mixture.weight_logits(1) = -static_cast<S>(infinity);
  const Matrix<S> tokens = random.matrix<S>(9, 3), values = random.matrix<S>(9, 2);
  EXPECT_LE(gma::responsibilities(mixture, tokens).col(1).maxCoeff(), std::numeric_limits<S>::min());
  expect_finite(mixture, tokens, tokens, values);
}

TYPED_TEST(Extremes, TwinsShareAndAnImpossibleComponentGetsNothing) {
  using S = TypeParam;
  Random random(4);
  gma::Mixture<S, gma::Diagonal> mixture(3, 2);
  random.fill(mixture.means);
  mixture.means.row(1) = mixture.means.row(0);
  mixture.weight_logits(2) = S(-1000);
  const Matrix<S> tokens = random.matrix<S>(9, 2), values = random.matrix<S>(9, 2);
  const Matrix<S> r = gma::responsibilities(mixture, tokens);
  EXPECT_TRUE(same_bits(r.col(0), r.col(1)));
  EXPECT_LT(r.col(2).maxCoeff(), S(1e-30));
  expect_finite(mixture, tokens, tokens, values);  // the third slot has no mass
  const Matrix<S> mean = values.colwise().mean().replicate(9, 1);
  EXPECT_TRUE(close(gma::bidirectional(mixture, tokens, tokens, values), mean, forward_tolerance<S>()));
}

TYPED_TEST(Extremes, AllKeysAbsentReadsAsZero) {
  using S = TypeParam;
  Random random(5);
  gma::Mixture<S, gma::Diagonal> mixture;
  randomize(mixture, 4, 3, Regime::generic, random);
  const Matrix<S> queries = random.matrix<S>(13, 3), d_output = random.matrix<S>(13, 2);
  const Matrix<S> keys = Matrix<S>::Constant(13, 3, static_cast<S>(not_a_number));
  const Matrix<S> values = Matrix<S>::Constant(13, 2, static_cast<S>(infinity));
  const TokenInputs<S> tokens{Vector<S>::Zero(13), Vector<S>::Constant(13, static_cast<S>(not_a_number))};
  for (const Normalization normalization : all_normalizations) {
    const Options options = with(normalization, 4);
    EXPECT_TRUE(gma::bidirectional(mixture, queries, keys, values, options, tokens).isZero(0));
    EXPECT_TRUE(gma::causal(mixture, queries, keys, values, options, tokens).isZero(0));
    const auto a = gma::bidirectional_backward(mixture, queries, keys, values, d_output, options, tokens);
    const auto b = gma::causal_backward(mixture, queries, keys, values, d_output, options, tokens);
    for (const auto& gradients : {a, b}) {
      EXPECT_TRUE(gradients.keys.isZero(0) && gradients.values.isZero(0) && gradients.queries.isZero(0));
      EXPECT_TRUE(gradients.key_weights.isZero(0) && gradients.log_forgetting.isZero(0));
      EXPECT_TRUE(gradients.mixture.means.isZero(0) && gradients.mixture.log_scales.isZero(0));
    }
  }
  Memory<S> memory;
  gma::write(mixture, keys, values, memory, tokens);
  EXPECT_TRUE(same_bits(memory, gma::empty_memory<S>(4, 2)));
}

TYPED_TEST(Extremes, MassesAroundTheSmallest) {
  using S = TypeParam;
  Random random(6);
  gma::Mixture<S, gma::Diagonal> mixture;
  randomize(mixture, 4, 3, Regime::generic, random);
  const auto wide = mixture.template cast<double>();
  const Matrix<S> tokens = random.matrix<S>(13, 3), values = random.matrix<S>(13, 2);
  for (const double exponent : {-30., -38., -40., -42., -60., -120.}) {
    SCOPED_TRACE(exponent);
    const TokenInputs<S> inputs{Vector<S>::Constant(13, static_cast<S>(std::exp2(exponent))), Vector<S>()};
    expect_finite(mixture, tokens, tokens, values, inputs);
    for (const Normalization normalization : all_normalizations) {
      const Matrix<double> expected = gma::reference::attention(
          wide, in_double(tokens), in_double(tokens), in_double(values), with(normalization), true, in_double(inputs));
      EXPECT_TRUE(close(gma::causal(mixture, tokens, tokens, values, with(normalization, 4), inputs), expected,
                        forward_tolerance<S>()));
    }
  }
}

TYPED_TEST(Extremes, WeightsOfHugeRange) {
  using S = TypeParam;
  Random random(7);
  gma::Mixture<S, gma::Diagonal> mixture;
  randomize(mixture, 4, 3, Regime::generic, random);
  const auto wide = mixture.template cast<double>();
  const Matrix<S> tokens = random.matrix<S>(40, 3), values = random.matrix<S>(40, 2);
  TokenInputs<S> inputs{Vector<S>(40), Vector<S>(40)};
  for (Index j = 0; j < 40; ++j) {
    inputs.key_weights(j) = static_cast<S>(std::pow(10.0, 30 * (2 * random.uniform() - 1)));
    inputs.log_forgetting(j) = static_cast<S>(-std::pow(10.0, 4 * random.uniform() - 3));  // -0.001 to -10
  }
  expect_finite(mixture, tokens, tokens, values, inputs);
  for (const Normalization normalization : {Normalization::slot, Normalization::row}) {
    const Matrix<double> expected = gma::reference::attention(
        wide, in_double(tokens), in_double(tokens), in_double(values), with(normalization), true, in_double(inputs));
    EXPECT_TRUE(close(gma::causal(mixture, tokens, tokens, values, with(normalization, 6), inputs), expected,
                      forward_tolerance<S>()));
  }
}

TYPED_TEST(Extremes, ForgettingThatUnderflowsIsARestart) {
  using S = TypeParam;
  Random random(8);
  gma::Mixture<S, gma::Diagonal> mixture;
  randomize(mixture, 4, 3, Regime::generic, random);
  const Matrix<S> tokens = random.matrix<S>(13, 3), values = random.matrix<S>(13, 2);
  TokenInputs<S> inputs{Vector<S>(), Vector<S>::Constant(13, S(-1))};
  inputs.log_forgetting(6) = S(-1e5);
  expect_finite(mixture, tokens, tokens, values, inputs);
  const Matrix<S> underflown = gma::causal(mixture, tokens, tokens, values, with(Normalization::slot, 4), inputs);
  inputs.log_forgetting(6) = -static_cast<S>(infinity);
  EXPECT_TRUE(
      same_bits(gma::causal(mixture, tokens, tokens, values, with(Normalization::slot, 4), inputs), underflown));
  inputs.log_forgetting.setConstant(S(-50));  // products over a tile underflow in float
  expect_finite(mixture, tokens, tokens, values, inputs);
}

// Long streams -------------------------------------------------------------------------------------------------------

TEST(LongStream, AMillionTokensInFloatStayCloseToDouble) {
#ifdef GMA_REDUCED_TESTS
  constexpr Index count = 20000;
#else
  constexpr Index count = 1000000;
#endif
  constexpr Index block = 1000;
  Random random(9);
  gma::Mixture<float, gma::Tied> mixture;
  randomize(mixture, 4, 2, Regime::generic, random);
  const auto wide = mixture.cast<double>();
  // Values with a mean, so that slots grow and rounding could pile up; a bounded pool of tokens keeps the test quick.
  const Matrix<float> pool = random.matrix<float>(4 * block, 2);
  Matrix<float> values = random.matrix<float>(4 * block, 2);
  values.array() += 1.0f;
  const auto tile_up = [&](const Matrix<float>& from) { return Matrix<float>(from.replicate(count / (4 * block), 1)); };
  const Matrix<float> keys = tile_up(pool), all_values = tile_up(values);
  const double tolerance = forward_tolerance<float>() * largest_logit(wide, in_double(pool));
  for (const Normalization normalization : {Normalization::slot, Normalization::row}) {
    const Matrix<float> last = pool.bottomRows(block);
    const Matrix<float> in_float = gma::bidirectional(mixture, last, keys, all_values, with(normalization));
    const Matrix<double> exact =
        gma::bidirectional(wide, in_double(last), in_double(pool), in_double(values), with(normalization));
    EXPECT_TRUE(close(in_float, exact, tolerance)) << "bidirectional, " << name_of(normalization);
    const Matrix<float> causal = gma::causal(mixture, keys, keys, all_values, with(normalization)).bottomRows(block);
    Memory<double> memory;
    Matrix<double> expected;
    for (Index begin = 0; begin < count; begin += block) {
      const Index from = begin % (4 * block);
      expected = gma::causal(wide, in_double(pool).middleRows(from, block), in_double(pool).middleRows(from, block),
                             in_double(values).middleRows(from, block), memory, with(normalization));
    }
    EXPECT_TRUE(close(causal, expected, tolerance)) << "causal, " << name_of(normalization);
  }
}

/// Heavy tokens bring the scan to lay its state aside after a tile or two: what lies aside is read, forgotten and
/// restarted like the rest.
TEST(LongStream, WhatIsLaidAsideIsReadAndForgotten) {
  constexpr Index count = 300;
  Random random(10);
  gma::Mixture<float, gma::Tied> mixture;
  randomize(mixture, 5, 3, Regime::generic, random);
  const auto wide = mixture.cast<double>();
  const Matrix<float> queries = random.matrix<float>(count, 3), keys = random.matrix<float>(count, 3);
  const Matrix<float> values = random.matrix<float>(count, 4);
  for (const double forgetting : {0.0, -1e-3, -0.4}) {
    for (const bool restarts : {false, true}) {
      TokenInputs<float> tokens{Vector<float>::Constant(count, 3000),
                                Vector<float>::Constant(count, static_cast<float>(forgetting))};
      if (restarts) tokens.log_forgetting(230) = -static_cast<float>(infinity);
      for (const Normalization normalization : all_normalizations) {
        Memory<float> memory;
        Memory<double> expected;
        const Matrix<float> out = gma::causal(mixture, queries, keys, values, memory, with(normalization), tokens);
        EXPECT_TRUE(close(out,
                          gma::reference::attention(wide, in_double(queries), in_double(keys), in_double(values),
                                                    with(normalization), true, in_double(tokens)),
                          forward_tolerance<float>()))
            << forgetting << ", " << name_of(normalization);
        dense_write(wide, in_double(keys), in_double(values), expected, in_double(tokens));
        EXPECT_TRUE(close(in_double(memory), expected, forward_tolerance<float>()));
      }
    }
  }
}

}  // namespace
}  // namespace gma_test
