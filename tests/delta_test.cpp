// SPDX-License-Identifier: MIT
// The gated delta rule: against its recurrence, in any split, its gradients against differences and automatic ones.
#include "gma/baselines/delta_backward.hpp"

#include <unsupported/Eigen/AutoDiff>

#include "gma/baselines/delta_reference.hpp"
#include "gma/baselines/feature_maps.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

using gma::Gradients;
using gma::baselines::DeltaOptions;

template <class M>
struct Problem {
  using S = typename M::Scalar;

  M mixture;
  Matrix<S> queries, keys, values, d_output;
  Memory<S> memory, d_memory;
  TokenInputs<S> tokens;
  DeltaOptions options;

  Problem(Index count, bool is_centred, bool has_tokens, std::uint64_t seed) {
    Random random(seed);
    randomize(mixture, 6, 4, Regime::generic, random);
    queries = random.matrix<S>(count, 4);
    keys = random.matrix<S>(count, 4);
    values = random.matrix<S>(count, 5);
    d_output = random.matrix<S>(count, 5);
    for (Memory<S>* m : {&memory, &d_memory}) {
      *m = gma::empty_memory<S>(6, 5);
      random.fill(m->slots);
    }
    options.is_centred = is_centred;
    if (!has_tokens) return;
    tokens.key_weights.resize(count);
    tokens.log_forgetting.resize(count);
    for (Index t = 0; t < count; ++t) {
      tokens.key_weights(t) = t % 7 == 3 ? S(0) : static_cast<S>(random.uniform());
      tokens.log_forgetting(t) = static_cast<S>(-random.uniform() * (t % 5 == 0 ? 3 : 0.1));
    }
  }

  Matrix<S> expected(Memory<S>& m) const {
    return gma::baselines::reference::causal_delta(mixture, queries, keys, values, m, options.is_centred, tokens);
  }
};

template <class S>
class Delta : public testing::Test {};
using Scalars = testing::Types<float, double>;
struct ScalarName {
  template <class S>
  static std::string GetName(int) {
    return std::is_same_v<S, float> ? "float" : "double";
  }
};
TYPED_TEST_SUITE(Delta, Scalars, ScalarName);

TYPED_TEST(Delta, IsTheRecurrence) {
  using S = TypeParam;
  for (const Index count : {1, 2, 31, 32, 33, 100, 300}) {
    for (const bool is_centred : {false, true}) {
      for (const bool has_tokens : {false, true}) {
        SCOPED_TRACE(testing::Message() << count << " tokens" << (is_centred ? ", centred" : "")
                                        << (has_tokens ? ", weights and forgetting" : ""));
        const Problem<gma::ProductMixture<S>> p(count, is_centred, has_tokens, 3);
        Memory<S> memory = p.memory, expected_memory = p.memory;
        const Matrix<S> y =
            gma::baselines::causal_delta(p.mixture, p.queries, p.keys, p.values, memory, p.options, p.tokens);
        EXPECT_TRUE(close(y, p.expected(expected_memory), forward_tolerance<S>()));
        EXPECT_TRUE(close(memory.slots, expected_memory.slots, forward_tolerance<S>()));
        EXPECT_EQ(memory.mass, Vector<S>::Zero(6));
        Memory<S> zeros;
        EXPECT_TRUE(close(gma::baselines::causal_delta(p.mixture, p.queries, p.keys, p.values, p.options, p.tokens),
                          p.expected(zeros), forward_tolerance<S>()));
      }
    }
  }
}

TYPED_TEST(Delta, GivesTheSameInAnySplitAndForAnyTile) {
  using S = TypeParam;
  const Index count = 150;
  const Problem<gma::Mixture<S>> p(count, true, true, 5);
  Memory<S> whole = p.memory;
  const Matrix<S> y = gma::baselines::causal_delta(p.mixture, p.queries, p.keys, p.values, whole, p.options, p.tokens);
  for (const Index tile : {1, 7, 64, 1000}) {
    DeltaOptions options = p.options;
    options.tile = tile;
    Memory<S> memory = p.memory;
    EXPECT_TRUE(close(gma::baselines::causal_delta(p.mixture, p.queries, p.keys, p.values, memory, options, p.tokens),
                      y, forward_tolerance<S>()));
  }
  for (const Index part : {1, 40, 149}) {
    Memory<S> memory = p.memory;
    Matrix<S> parts(count, 5);
    for (Index begin = 0; begin < count; begin += part) {
      const Index now = std::min(part, count - begin);
      const TokenInputs<S> tokens{p.tokens.key_weights.segment(begin, now),
                                  p.tokens.log_forgetting.segment(begin, now)};
      gma::baselines::causal_delta_into(parts.middleRows(begin, now), p.mixture, p.queries.middleRows(begin, now),
                                        p.keys.middleRows(begin, now), p.values.middleRows(begin, now), memory,
                                        p.options, tokens);
    }
    EXPECT_TRUE(close(parts, y, forward_tolerance<S>()));
    EXPECT_TRUE(close(memory.slots, whole.slots, forward_tolerance<S>()));
    EXPECT_EQ(memory.log_forgetting < S(0), true);
  }
}

TYPED_TEST(Delta, ChangesNoBitForLaterTokensAbsentOnesOrWhatARestartCutsOff) {
  using S = TypeParam;
  const S nan = std::numeric_limits<S>::quiet_NaN();
  const Index count = 90;
  Problem<gma::Mixture<S>> p(count, true, true, 7);
  const Matrix<S> y = gma::baselines::causal_delta(p.mixture, p.queries, p.keys, p.values, p.options, p.tokens);
  for (const Index seen : {1, 20, 33, 64}) {
    Problem<gma::Mixture<S>> changed = p;
    changed.queries.bottomRows(count - seen).setConstant(nan);
    changed.keys.bottomRows(count - seen).setConstant(nan);
    changed.values.bottomRows(count - seen).setConstant(nan);
    const Matrix<S> prefix =
        gma::baselines::causal_delta(p.mixture, changed.queries, changed.keys, changed.values, p.options, p.tokens);
    EXPECT_TRUE(same_bits(Matrix<S>(prefix.topRows(seen)), Matrix<S>(y.topRows(seen)))) << seen;
  }
  Problem<gma::Mixture<S>> absent = p;
  for (Index t = 3; t < count; t += 7) {  // of weight zero
    absent.keys.row(t).setConstant(nan);
    absent.values.row(t).setConstant(std::numeric_limits<S>::infinity());
    absent.tokens.log_forgetting(t) = nan;
  }
  EXPECT_TRUE(same_bits(
      gma::baselines::causal_delta(p.mixture, p.queries, absent.keys, absent.values, p.options, absent.tokens), y));
  for (const Index restart : {33, 64, 70}) {
    Problem<gma::Mixture<S>> cut = p;
    cut.tokens.key_weights(restart) = S(0.5);
    cut.tokens.log_forgetting(restart) = -std::numeric_limits<S>::infinity();
    Memory<S> poisoned = p.memory;
    poisoned.slots.setConstant(nan);
    const Index left = count - restart;
    cut.values.topRows(restart).setConstant(nan);
    const Matrix<S> after =
        gma::baselines::causal_delta(p.mixture, p.queries, p.keys, cut.values, poisoned, p.options, cut.tokens);
    Memory<S> fresh;
    const TokenInputs<S> tokens{cut.tokens.key_weights.tail(left), cut.tokens.log_forgetting.tail(left)};
    const auto rest = [&](const Matrix<S>& x) { return Matrix<S>(x.bottomRows(left)); };
    const Matrix<S> alone = gma::baselines::reference::causal_delta(p.mixture, rest(p.queries), rest(p.keys),
                                                                    rest(p.values), fresh, true, tokens);
    EXPECT_TRUE(close(Matrix<S>(after.bottomRows(left)), alone, forward_tolerance<S>())) << restart;
    EXPECT_TRUE(close(poisoned.slots, fresh.slots, forward_tolerance<S>()));
  }
}

/// The loss <d_output, y> + <d_memory, memory after> by the reference.
template <class M>
typename M::Scalar loss(const Problem<M>& p) {
  using S = typename M::Scalar;
  Memory<S> memory = p.memory;
  const Matrix<S> y = p.expected(memory);
  return y.cwiseProduct(p.d_output).sum() + memory.slots.cwiseProduct(p.d_memory.slots).sum();
}

/// Fourth-order differences of the loss along every number of `numbers`, a member of `p`.
template <class M, class Numbers>
Matrix<double> differences(Problem<M>& p, Numbers& numbers) {
  Matrix<double> result(numbers.rows(), numbers.cols());
  const double h = 1e-3;
  for (Index i = 0; i < numbers.rows(); ++i) {
    for (Index j = 0; j < numbers.cols(); ++j) {
      const double x = numbers(i, j);
      const auto at = [&](double shift) {
        numbers(i, j) = x + shift;
        return loss(p);
      };
      result(i, j) = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      numbers(i, j) = x;
    }
  }
  return result;
}

TEST(DeltaBackward, AgreesWithDifferences) {
  for (const Index count : {1, 5, 40}) {
    for (const bool is_centred : {false, true}) {
      for (const bool has_tokens : {false, true}) {
        SCOPED_TRACE(testing::Message() << count << (is_centred ? " centred" : "") << (has_tokens ? " tokens" : ""));
        Problem<gma::ProductMixture<double>> p(count, is_centred, has_tokens, 11);
        if (has_tokens) {  // away from the ends, where differences have one side
          p.tokens.key_weights.array() = p.tokens.key_weights.array().max(0.1);
          p.tokens.log_forgetting.array() -= 0.05;
        }
        p.options.tile = 16;
        p.options.checkpoint_interval = 20;
        const Gradients<gma::ProductMixture<double>> g = gma::baselines::causal_delta_backward(
            p.mixture, p.queries, p.keys, p.values, p.d_output, p.memory, p.d_memory, p.options, p.tokens);
        EXPECT_TRUE(close(g.queries, differences(p, p.queries), 1e-7));
        EXPECT_TRUE(close(g.keys, differences(p, p.keys), 1e-7));
        EXPECT_TRUE(close(g.values, differences(p, p.values), 1e-7));
        EXPECT_TRUE(close(g.memory.slots, differences(p, p.memory.slots), 1e-7));
        if (has_tokens) {
          EXPECT_TRUE(close(Matrix<double>(g.key_weights), differences(p, p.tokens.key_weights), 1e-7));
          EXPECT_TRUE(close(Matrix<double>(g.log_forgetting), differences(p, p.tokens.log_forgetting), 1e-7));
        }
        for (std::size_t m = 0; m < 2; ++m) {
          auto& factor = p.mixture.factors[m];
          const auto& d = g.mixture.factors[m];
          EXPECT_TRUE(close(d.means, differences(p, factor.means), 1e-7));
          EXPECT_TRUE(close(d.log_scales, differences(p, factor.log_scales), 1e-7));
          EXPECT_TRUE(close(Matrix<double>(d.weight_logits), differences(p, factor.weight_logits), 1e-7));
          Eigen::Map<Matrix<double>> temperature(&factor.log_temperature, 1, 1);
          EXPECT_NEAR(d.log_temperature, differences(p, temperature)(0, 0), 1e-7);
        }
      }
    }
  }
}

#ifndef GMA_REDUCED_TESTS
using Autodiff = Eigen::AutoDiffScalar<Eigen::VectorXd>;

/// f(numbers) for everything that a gradient has a part for, in one order.
template <class M, class F>
void for_each_part(M& mixture, Matrix<typename M::Scalar>& queries, Matrix<typename M::Scalar>& keys,
                   Matrix<typename M::Scalar>& values, Memory<typename M::Scalar>& memory,
                   TokenInputs<typename M::Scalar>& tokens, const F& f) {
  for (auto& factor : mixture.factors) {
    f(factor.means);
    f(factor.log_scales);
    f(factor.weight_logits);
    Eigen::Map<Matrix<typename M::Scalar>> temperature(&factor.log_temperature, 1, 1);
    f(temperature);
  }
  f(queries);
  f(keys);
  f(values);
  f(memory.slots);
  f(tokens.key_weights);
  f(tokens.log_forgetting);
}

TEST(DeltaBackward, AgreesWithAutomaticDifferentiation) {
  for (const bool is_centred : {false, true}) {
    Problem<gma::ProductMixture<double>> p(13, is_centred, true, 17);
    p.tokens.log_forgetting(6) = -std::numeric_limits<double>::infinity();
    p.tokens.key_weights(6) = 0.7;
    p.options.tile = 5;
    p.options.checkpoint_interval = 5;
    Problem<gma::ProductMixture<Autodiff>> lifted(1, is_centred, false, 1);
    const auto lift = [](const auto& matrix) { return matrix.template cast<Autodiff>().eval(); };
    lifted.mixture = p.mixture.cast<Autodiff>();
    lifted.queries = lift(p.queries);
    lifted.keys = lift(p.keys);
    lifted.values = lift(p.values);
    lifted.memory = {lift(p.memory.slots), lift(p.memory.mass), Autodiff(0)};
    lifted.tokens = {lift(p.tokens.key_weights), lift(p.tokens.log_forgetting)};
    lifted.options = p.options;
    Index count = 0, index = 0;
    const auto visit = [&](const auto& f) {
      for_each_part(lifted.mixture, lifted.queries, lifted.keys, lifted.values, lifted.memory, lifted.tokens, f);
    };
    visit([&](auto& numbers) { count += numbers.size(); });
    visit([&](auto& numbers) {
      for (Index i = 0; i < numbers.size(); ++i) {
        numbers.data()[i].derivatives() = Eigen::VectorXd::Unit(count, index++);
      }
    });
    Memory<Autodiff> memory = lifted.memory;
    const Matrix<Autodiff> y = gma::baselines::causal_delta(lifted.mixture, lifted.queries, lifted.keys, lifted.values,
                                                            memory, lifted.options, lifted.tokens);
    const Autodiff loss =
        y.cwiseProduct(lift(p.d_output)).sum() + memory.slots.cwiseProduct(lift(p.d_memory.slots)).sum();

    Gradients<gma::ProductMixture<double>> g = gma::baselines::causal_delta_backward(
        p.mixture, p.queries, p.keys, p.values, p.d_output, p.memory, p.d_memory, p.options, p.tokens);
    TokenInputs<double> d_tokens{g.key_weights, g.log_forgetting};
    index = 0;
    for_each_part(g.mixture, g.queries, g.keys, g.values, g.memory, d_tokens, [&](auto& numbers) {
      Vector<double> expected = loss.derivatives().segment(index, numbers.size());
      index += numbers.size();
      for (Index i = 0; i < numbers.size(); ++i) {  // the weight of an absent token, and a restart, have no gradient
        const bool is_token = numbers.size() == 13;
        if (is_token && (p.tokens.key_weights(i) == 0 || !std::isfinite(expected(i)))) expected(i) = 0;
      }
      EXPECT_TRUE(
          close(Vector<double>(Eigen::Map<const Vector<double>>(numbers.data(), numbers.size())), expected, 1e-10));
    });
  }
}
#endif

TEST(Delta, InFloatIsCloseToDoubleAlongALongStream) {
  constexpr Index count = 200000;
  for (const bool is_centred : {false, true}) {
    Problem<gma::ProductMixture<float>> p(count, is_centred, false, 43);  // nothing is forgotten
    p.values.array() += 3;
    const auto wide = [](const auto& x) { return x.template cast<double>().eval(); };
    Memory<float> memory;
    Memory<double> exact_memory;
    const Matrix<float> y = gma::baselines::causal_delta(p.mixture, p.queries, p.keys, p.values, memory, p.options);
    const Matrix<double> exact = gma::baselines::causal_delta(p.mixture.cast<double>(), wide(p.queries), wide(p.keys),
                                                              wide(p.values), exact_memory, p.options);
    EXPECT_TRUE(close(wide(y), exact, 1e-5));
    EXPECT_TRUE(close(Matrix<double>(wide(y).bottomRows(100)), Matrix<double>(exact.bottomRows(100)), 1e-5));
    // Centred features sum to zero: what slots have in common is neither written, nor read, nor corrected.
    EXPECT_TRUE(close(wide(memory.slots), exact_memory.slots, is_centred ? 2e-3 : 1e-5));
  }
}

TEST(DeltaBackward, InFloatIsCloseToDoubleAlongALongStream) {
  constexpr Index count = 20000;
  Problem<gma::ProductMixture<float>> p(count, true, true, 19);
  const auto wide = [](const auto& x) { return x.template cast<double>().eval(); };
  const gma::ProductMixture<double> mixture = p.mixture.cast<double>();
  const TokenInputs<double> tokens{wide(p.tokens.key_weights), wide(p.tokens.log_forgetting)};
  const Gradients<gma::ProductMixture<float>> g =
      gma::baselines::causal_delta_backward(p.mixture, p.queries, p.keys, p.values, p.d_output, p.options, p.tokens);
  const Gradients<gma::ProductMixture<double>> exact = gma::baselines::causal_delta_backward(
      mixture, wide(p.queries), wide(p.keys), wide(p.values), wide(p.d_output), p.options, tokens);
  EXPECT_TRUE(close(wide(g.queries), exact.queries, 1e-5));
  EXPECT_TRUE(close(wide(g.keys), exact.keys, 1e-5));
  EXPECT_TRUE(close(wide(g.values), exact.values, 1e-5));
  EXPECT_TRUE(close(wide(g.key_weights), exact.key_weights, 1e-5));
  EXPECT_TRUE(close(wide(g.log_forgetting), exact.log_forgetting, 1e-5));
  EXPECT_TRUE(close(wide(g.mixture.factors[0].means), exact.mixture.factors[0].means, 1e-5));
  EXPECT_TRUE(close(wide(g.mixture.factors[1].log_scales), exact.mixture.factors[1].log_scales, 1e-5));
}

TEST(DeltaBackward, ComputesWhatIsAskedForAndNothingElse) {
  using M = gma::Mixture<double>;
  const Problem<M> p(50, false, true, 23);
  const Gradients<M> all = gma::baselines::causal_delta_backward(p.mixture, p.queries, p.keys, p.values, p.d_output,
                                                                 p.memory, p.d_memory, p.options, p.tokens);
  Matrix<double> keys(50, 4), forgetting(50, 1);
  gma::GradientTargets<M> targets;
  targets.keys = keys;
  targets.log_forgetting = forgetting;
  gma::baselines::causal_delta_backward_into(targets, p.mixture, p.queries, p.keys, p.values, p.d_output, p.memory,
                                             p.d_memory, p.options, p.tokens);
  EXPECT_TRUE(same_bits(keys, all.keys));
  EXPECT_TRUE(same_bits(Matrix<double>(forgetting), Matrix<double>(all.log_forgetting)));
  // Inputs may lie in the gradients.
  Gradients<M> g;
  g.queries = p.queries;
  g.keys = p.keys;
  g.values = p.values;
  g.memory = p.memory;
  gma::baselines::causal_delta_backward_into(g, p.mixture, g.queries, g.keys, g.values, p.d_output, g.memory,
                                             p.d_memory, p.options, p.tokens);
  EXPECT_TRUE(same_bits(g.queries, all.queries));
  EXPECT_TRUE(same_bits(g.values, all.values));
  EXPECT_TRUE(same_bits(g.memory.slots, all.memory.slots));
}

TEST(Delta, OverTheTokensThemselvesIsGatedDeltaNet) {
  Random random(29);
  const Matrix<double> queries = random.matrix<double>(70, 8), keys = random.matrix<double>(70, 8),
                       values = random.matrix<double>(70, 3);
  const TokenInputs<double> tokens{Vector<double>::Constant(70, 0.6), Vector<double>::Constant(70, -0.05)};
  const gma::baselines::IdentityFeatures<double> features(8);
  Matrix<double> slots = Matrix<double>::Zero(8, 3);
  EXPECT_TRUE(close(gma::baselines::causal_delta(features, queries, keys, values, {}, tokens),
                    gma::baselines::reference::delta<double>(queries, keys, values, slots, tokens), 1e-12));
}

TEST(Delta, RecallsAValueThatWasOverwritten) {
  // Three orthogonal keys; the first is written again. A sum would answer with both of its values.
  const gma::baselines::IdentityFeatures<double> features(4);
  Matrix<double> keys = Matrix<double>::Identity(4, 4), values = Random(31).matrix<double>(4, 2);
  keys.row(3) = keys.row(0);
  const Matrix<double> y = gma::baselines::causal_delta(features, keys, keys, values);
  EXPECT_TRUE(close(y, values, 1e-5));
}

TEST(Delta, RefusesWhatDoesNotFitAndNamesIt) {
  using M = gma::Mixture<float>;
  Problem<M> p(6, false, true, 37);
  p.tokens.key_weights(4) = 2.5F;
  expect_error([&] { gma::baselines::causal_delta(p.mixture, p.queries, p.keys, p.values, {}, p.tokens); },
               {"gma::causal_delta: tokens.key_weights is 2.5 at token 4, expected a write strength of at most 2"});
  Memory<float> other = gma::empty_memory<float>(5, 5);
  expect_error([&] { gma::baselines::causal_delta(p.mixture, p.queries, p.keys, p.values, other); },
               {"gma::causal_delta: memory.slots is 5 x 5, expected 6 x 5 (components x value width)"});
  const Matrix<float> short_output = p.d_output.topRows(5);
  expect_error([&] { gma::baselines::causal_delta_backward(p.mixture, p.queries, p.keys, p.values, short_output); },
               {"gma::causal_delta_backward: d_output is 5 x 5, expected 6 x 5 (queries x value width)"});
}

TEST(Delta, WritesIntoItsInputsAndColumnMajorBlocks) {
  using M = gma::Mixture<float>;
  const Problem<M> p(80, true, true, 41);
  const Matrix<float> y = gma::baselines::causal_delta(p.mixture, p.queries, p.keys, p.values, p.options, p.tokens);
  Matrix<float> values = p.values;
  gma::baselines::causal_delta_into(values, p.mixture, p.queries, p.keys, values, p.options, p.tokens);
  EXPECT_TRUE(same_bits(values, y));
  Eigen::MatrixXf wide = Eigen::MatrixXf::Zero(90, 9);
  gma::baselines::causal_delta_into(wide.block(3, 2, 80, 5), p.mixture, p.queries, p.keys, p.values, p.options,
                                    p.tokens);
  EXPECT_TRUE(same_bits(Matrix<float>(wide.block(3, 2, 80, 5)), y));
}

}  // namespace
}  // namespace gma_test
