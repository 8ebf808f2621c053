// SPDX-License-Identifier: MIT
// Slots that forget at their own rates: against the recurrence and the dense form, in any split, by steps, through
// memories and merges, and their gradients against differences and automatic ones.
#include "gma/baselines/feature_maps.hpp"

#include <unsupported/Eigen/AutoDiff>

#include "executors.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

using gma::Gradients;

constexpr double infinity = std::numeric_limits<double>::infinity();

template <class M>
struct Problem {
  using S = typename M::Scalar;

  M mixture;
  Matrix<S> queries, keys, values, d_output;
  Memory<S> memory, d_memory;
  TokenInputs<S> tokens;
  Options options;

  /// `is_smooth`: no token is absent and no slot restarts, so that differences have two sides.
  Problem(Index count, Normalization normalization, bool is_smooth, std::uint64_t seed, Index components = 6,
          Index width = 5) {
    Random random(seed);
    randomize(mixture, components, 4, Regime::generic, random);
    const Index K = mixture.components();
    queries = random.matrix<S>(count, 4);
    keys = random.matrix<S>(count, 4);
    values = random.matrix<S>(count, width);
    d_output = random.matrix<S>(count, width);
    for (Memory<S>* m : {&memory, &d_memory}) {
      *m = gma::empty_memory<S>(K, width);
      random.fill(m->slots);
      for (Index k = 0; k < K; ++k) m->mass(k) = static_cast<S>(random.uniform());
    }
    options.normalization = normalization;
    tokens.key_weights.resize(count);
    tokens.log_forgetting.resize(count);
    tokens.slot_log_forgetting.resize(count, K);
    for (Index t = 0; t < count; ++t) {
      tokens.key_weights(t) = !is_smooth && t % 7 == 3 ? S(0) : static_cast<S>(random.uniform() + 0.05);
      tokens.log_forgetting(t) = static_cast<S>(-random.uniform() * 0.1 - 0.01);
      for (Index k = 0; k < K; ++k) {
        const double kind = random.uniform(), size = random.uniform();
        double log = kind < 0.1 ? -0.01 - 3 * size : -0.01 - 0.3 * size;
        if (!is_smooth && kind > 0.9) log = 0;
        if (!is_smooth && kind > 0.97) log = kind > 0.98 ? -infinity : -100;
        tokens.slot_log_forgetting(t, k) = static_cast<S>(log);
      }
    }
  }

  Matrix<S> expected(Memory<S>& m) const {
    return gma::reference::causal(mixture, queries, keys, values, m, options, tokens);
  }
  Matrix<S> computed(Memory<S>& m) const { return gma::causal(mixture, queries, keys, values, m, options, tokens); }
  TokenInputs<S> tokens_of(Index begin, Index count) const {
    return {tokens.key_weights.segment(begin, count), tokens.log_forgetting.segment(begin, count),
            tokens.slot_log_forgetting.middleRows(begin, count)};
  }
  /// Tokens [begin, begin + count) from `m`.
  Matrix<S> part(Index begin, Index count, Memory<S>& m, gma::Workspace<S>* workspace = nullptr) const {
    const auto rows = [&](const Matrix<S>& x) { return x.middleRows(begin, count); };
    return gma::causal(mixture, rows(queries), rows(keys), rows(values), m, options, tokens_of(begin, count),
                       workspace);
  }
  Gradients<M> gradients() const {
    return gma::causal_backward(mixture, queries, keys, values, d_output, memory, d_memory, options, tokens);
  }
  void poison_absent() {
    for (Index t = 0; t < keys.rows(); ++t) {
      if (tokens.key_weights(t) > S(0)) continue;
      const S nan = std::numeric_limits<S>::quiet_NaN();
      keys.row(t).setConstant(nan);
      values.row(t).setConstant(nan);
      tokens.log_forgetting(t) = nan;
      tokens.slot_log_forgetting.row(t).setConstant(nan);
    }
  }
};

template <class S>
bool same_memory(const Memory<S>& a, const Memory<S>& b) {
  return same_bits(a.slots, b.slots) && same_bits(Matrix<S>(a.mass), Matrix<S>(b.mass)) &&
         same_bits(a.slots_remainder, b.slots_remainder) && a.tokens == b.tokens;
}

template <class S>
class SlotForgetting : public testing::Test {};
using Scalars = testing::Types<float, double>;
struct ScalarName {
  template <class S>
  static std::string GetName(int) {
    return std::is_same_v<S, float> ? "float" : "double";
  }
};
TYPED_TEST_SUITE(SlotForgetting, Scalars, ScalarName);

TYPED_TEST(SlotForgetting, IsTheRecurrenceAndItsDenseForm) {
  using S = TypeParam;
  for (const Normalization normalization : all_normalizations) {
    for (const Index count : {1, 5, 130}) {
      for (const Index width : {1, 5, 48}) {
        SCOPED_TRACE(testing::Message() << name_of(normalization) << " " << count << " " << width);
        Problem<gma::ProductMixture<S>> p(count, normalization, false, 3, 21, width);
        p.poison_absent();
        Memory<S> memory = p.memory, expected = p.memory;
        const Matrix<S> y = p.computed(memory), reference = p.expected(expected);
        EXPECT_TRUE(close(y, reference, forward_tolerance<S>()));
        EXPECT_TRUE(close(memory.slots, expected.slots, forward_tolerance<S>()));
        EXPECT_TRUE(close(Matrix<S>(memory.mass), Matrix<S>(expected.mass), forward_tolerance<S>()));
        const Matrix<S> dense =
            gma::reference::attention(p.mixture, p.queries, p.keys, p.values, p.options, true, p.tokens);
        EXPECT_TRUE(close(gma::causal(p.mixture, p.queries, p.keys, p.values, p.options, p.tokens), dense,
                          forward_tolerance<S>()));
      }
    }
  }
}

TYPED_TEST(SlotForgetting, WithTheSameRateInEverySlotIsForgetting) {
  using S = TypeParam;
  Problem<gma::Mixture<S>> p(200, Normalization::slot, true, 5);
  p.tokens.slot_log_forgetting.setConstant(S(0));
  const Matrix<S> common = gma::causal(p.mixture, p.queries, p.keys, p.values, p.options, p.tokens);
  TokenInputs<S> one_rate{p.tokens.key_weights, p.tokens.log_forgetting};
  EXPECT_TRUE(
      close(gma::causal(p.mixture, p.queries, p.keys, p.values, p.options, one_rate), common, forward_tolerance<S>()));
  p.tokens.slot_log_forgetting.colwise() = p.tokens.log_forgetting;
  p.tokens.log_forgetting.resize(0);
  EXPECT_TRUE(
      close(gma::causal(p.mixture, p.queries, p.keys, p.values, p.options, p.tokens), common, forward_tolerance<S>()));
}

TYPED_TEST(SlotForgetting, GivesTheSameBitsInAnySplitAndInSteps) {
  using S = TypeParam;
  constexpr Index count = 800;  // a float memory begins to keep a remainder on the way
  Problem<gma::ProductMixture<S>> p(count, Normalization::slot, true, 7, 21, 19);
  p.tokens.log_forgetting.setConstant(S(0));
  p.tokens.slot_log_forgetting.col(0).setConstant(S(0));
  p.tokens.slot_log_forgetting(400, 3) = S(-infinity);
  for (const Normalization normalization : all_normalizations) {
    p.options.normalization = normalization;
    Memory<S> whole = p.memory;
    const Matrix<S> y = p.computed(whole);
    gma::Workspace<S> workspace;
    for (const Index step : {1, 7, 96, 333}) {
      SCOPED_TRACE(testing::Message() << name_of(normalization) << " " << step);
      Memory<S> memory = p.memory;
      Matrix<S> parts(count, 19);
      for (Index t = 0; t < count; t += step) {
        const Index now = (std::min)(step, count - t);
        parts.middleRows(t, now) = p.part(t, now, memory, &workspace);
      }
      EXPECT_TRUE(same_bits(parts, y));
      EXPECT_TRUE(same_memory(memory, whole));
    }
    Problem<gma::ProductMixture<S>> other = p;
    other.options.tile = 50;
    Memory<S> memory = p.memory;
    EXPECT_TRUE(same_bits(other.computed(memory), y));
  }
}

TYPED_TEST(SlotForgetting, LaterTokensAndMaskedContentsChangeNoBit) {
  using S = TypeParam;
  Problem<gma::Mixture<S>> p(150, Normalization::slot, false, 9, 17);
  Memory<S> memory = p.memory, other_memory = p.memory;
  const Matrix<S> y = p.computed(memory);
  p.poison_absent();
  EXPECT_TRUE(same_bits(p.computed(other_memory), y));
  EXPECT_TRUE(same_memory(other_memory, memory));
  for (Matrix<S>* x : {&p.queries, &p.keys, &p.values}) x->bottomRows(50).setConstant(S(3));
  p.tokens.slot_log_forgetting.bottomRows(50).setConstant(S(-infinity));
  other_memory = p.memory;
  EXPECT_TRUE(same_bits(Matrix<S>(p.computed(other_memory).topRows(100)), Matrix<S>(y.topRows(100))));
}

TYPED_TEST(SlotForgetting, ARestartClearsItsSlotAlone) {
  using S = TypeParam;
  Problem<gma::Mixture<S>> p(20, Normalization::none, true, 13);
  p.tokens.slot_log_forgetting(8, 2) = S(-infinity);
  Memory<S> poisoned = p.memory, clean = p.memory;
  poisoned.slots.row(2).setConstant(std::numeric_limits<S>::quiet_NaN());
  clean.slots.row(2).setZero();
  p.computed(poisoned);
  p.computed(clean);
  EXPECT_TRUE(same_bits(poisoned.slots, clean.slots));
  p.tokens.slot_log_forgetting.row(12).setConstant(S(-infinity));
  Memory<S> from_zero = gma::empty_memory<S>(6, 5), memory = p.memory;
  const Matrix<S> y = p.computed(memory), rest = p.part(12, 8, from_zero);
  EXPECT_TRUE(same_bits(Matrix<S>(y.bottomRows(8)), rest));
  EXPECT_TRUE(same_bits(memory.slots, from_zero.slots));
}

TYPED_TEST(SlotForgetting, WritesLeaveTheMemoryOfThePass) {
  using S = TypeParam;
  const Problem<gma::ProductMixture<S>> p(300, Normalization::row, false, 15);
  Memory<S> written = p.memory, passed = p.memory;
  gma::write(p.mixture, p.keys, p.values, written, p.options, p.tokens);
  p.computed(passed);
  EXPECT_TRUE(same_memory(written, passed));
  EXPECT_EQ(written.log_forgetting, passed.log_forgetting);
}

TYPED_TEST(SlotForgetting, SegmentsMerge) {
  using S = TypeParam;
  Problem<gma::Mixture<S>> p(90, Normalization::slot, false, 17);
  Memory<S> whole = p.memory, first = p.memory, second;
  p.computed(whole);
  p.part(0, 40, first);
  p.part(40, 50, second);
  Vector<S> total = Vector<S>::Zero(6);
  for (Index t = 40; t < 90; ++t) {
    if (p.tokens.key_weights(t) > S(0)) total += p.tokens.slot_log_forgetting.row(t).transpose();
  }
  const Memory<S> merged = gma::merge(first, second, total);
  EXPECT_TRUE(close(merged.slots, whole.slots, forward_tolerance<S>()));
  EXPECT_TRUE(close(Matrix<S>(merged.mass), Matrix<S>(whole.mass), forward_tolerance<S>()));
  EXPECT_NEAR(static_cast<double>(merged.log_forgetting), static_cast<double>(whole.log_forgetting), 1e-5);
  total(2) = S(1);
  expect_error([&] { gma::merge(first, second, total); }, {"gma::merge: slot_log_forgetting is 1 at slot 2"});
}

/// The loss <d_output, y> + <d_memory, memory after> by the reference.
template <class M>
typename M::Scalar loss(const Problem<M>& p) {
  Memory<typename M::Scalar> memory = p.memory;
  const Matrix<typename M::Scalar> y = p.expected(memory);
  return y.cwiseProduct(p.d_output).sum() + memory.slots.cwiseProduct(p.d_memory.slots).sum() +
         memory.mass.dot(p.d_memory.mass);
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

TEST(SlotForgettingBackward, AgreesWithDifferences) {
  for (const Normalization normalization : all_normalizations) {
    for (const Index count : {1, 5, 40}) {
      SCOPED_TRACE(testing::Message() << name_of(normalization) << " " << count);
      Problem<gma::ProductMixture<double>> p(count, normalization, true, 11);
      p.options.tile = 16;
      p.options.checkpoint_interval = 20;
      const auto g = p.gradients();
      EXPECT_TRUE(close(g.queries, differences(p, p.queries), 1e-7));
      EXPECT_TRUE(close(g.keys, differences(p, p.keys), 1e-7));
      EXPECT_TRUE(close(g.values, differences(p, p.values), 1e-7));
      EXPECT_TRUE(close(g.memory.slots, differences(p, p.memory.slots), 1e-7));
      EXPECT_TRUE(close(Matrix<double>(g.memory.mass), differences(p, p.memory.mass), 1e-7));
      EXPECT_TRUE(close(Matrix<double>(g.key_weights), differences(p, p.tokens.key_weights), 1e-7));
      EXPECT_TRUE(close(Matrix<double>(g.log_forgetting), differences(p, p.tokens.log_forgetting), 1e-7));
      EXPECT_TRUE(close(g.slot_log_forgetting, differences(p, p.tokens.slot_log_forgetting), 1e-7));
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
  f(memory.mass);
  f(tokens.key_weights);
  f(tokens.log_forgetting);
  f(tokens.slot_log_forgetting);
}

TEST(SlotForgettingBackward, AgreesWithAutomaticDifferentiation) {
  using Lifted = gma::ProductMixture<Autodiff>;
  constexpr Index count = 13;
  for (const Normalization normalization : all_normalizations) {
    Problem<gma::ProductMixture<double>> p(count, normalization, false, 19);
    p.tokens.log_forgetting(6) = -infinity;
    p.tokens.slot_log_forgetting(8, 1) = -infinity;
    p.options.tile = 5;
    p.options.checkpoint_interval = 5;
    const auto lift = [](const auto& matrix) { return matrix.template cast<Autodiff>().eval(); };
    Lifted mixture = p.mixture.cast<Autodiff>();
    Matrix<Autodiff> queries = lift(p.queries), keys = lift(p.keys), values = lift(p.values);
    Memory<Autodiff> memory{lift(p.memory.slots), lift(p.memory.mass), Autodiff(0)};
    TokenInputs<Autodiff> tokens{lift(p.tokens.key_weights), lift(p.tokens.log_forgetting),
                                 lift(p.tokens.slot_log_forgetting)};
    Index total = 0, index = 0;
    const auto visit = [&](const auto& f) { for_each_part(mixture, queries, keys, values, memory, tokens, f); };
    visit([&](auto& numbers) { total += numbers.size(); });
    visit([&](auto& numbers) {
      for (Index i = 0; i < numbers.size(); ++i) {
        numbers.data()[i].derivatives() = Eigen::VectorXd::Unit(total, index++);
      }
    });
    Memory<Autodiff> after = memory;
    const Matrix<Autodiff> y = gma::causal(mixture, queries, keys, values, after, p.options, tokens);
    const Autodiff loss = y.cwiseProduct(lift(p.d_output)).sum() +
                          after.slots.cwiseProduct(lift(p.d_memory.slots)).sum() +
                          after.mass.dot(lift(p.d_memory.mass));

    auto g = p.gradients();
    TokenInputs<double> d_tokens{g.key_weights, g.log_forgetting, g.slot_log_forgetting};
    index = 0;
    for_each_part(g.mixture, g.queries, g.keys, g.values, g.memory, d_tokens, [&](auto& numbers) {
      Vector<double> expected = loss.derivatives().segment(index, numbers.size());
      index += numbers.size();
      for (Index i = 0; i < numbers.size(); ++i) {  // the weight of an absent token, and a restart, have no gradient
        const bool is_token = numbers.size() == count;
        if (is_token && (p.tokens.key_weights(i) == 0 || !std::isfinite(expected(i)))) expected(i) = 0;
        if (!std::isfinite(expected(i))) expected(i) = 0;
      }
      EXPECT_TRUE(
          close(Vector<double>(Eigen::Map<const Vector<double>>(numbers.data(), numbers.size())), expected, 1e-10));
    });
  }
}
#endif

TEST(SlotForgettingBackward, OfAWriteIsThatOfAPassWithoutReads) {
  Problem<gma::ProductMixture<double>> p(50, Normalization::slot, false, 21);
  p.poison_absent();
  p.d_output.setZero();
  const auto expected = p.gradients();
  Gradients<gma::ProductMixture<double>> g;
  gma::write_backward_into(g, p.mixture, p.keys, p.values, p.memory, p.d_memory, p.options, p.tokens);
  EXPECT_TRUE(close(g.keys, expected.keys, 1e-12));
  EXPECT_TRUE(close(g.values, expected.values, 1e-12));
  EXPECT_TRUE(close(Matrix<double>(g.key_weights), Matrix<double>(expected.key_weights), 1e-12));
  EXPECT_TRUE(close(Matrix<double>(g.log_forgetting), Matrix<double>(expected.log_forgetting), 1e-12));
  EXPECT_TRUE(close(g.slot_log_forgetting, expected.slot_log_forgetting, 1e-12));
  EXPECT_TRUE(close(g.memory.slots, expected.memory.slots, 1e-12));
  EXPECT_TRUE(close(Matrix<double>(g.memory.mass), Matrix<double>(expected.memory.mass), 1e-12));
  EXPECT_TRUE(close(g.mixture.factors[0].means, expected.mixture.factors[0].means, 1e-12));
}

TEST(SlotForgettingBackward, WritesWhereItIsTold) {
  using M = gma::Mixture<double>;
  const Problem<M> p(50, Normalization::slot, false, 23);
  const Gradients<M> all = p.gradients();
  Matrix<double> wide(50, 9), forgetting(50, 1);
  gma::GradientTargets<M> targets;
  targets.slot_log_forgetting = wide.middleCols(2, 6);
  targets.log_forgetting = forgetting;
  gma::causal_backward_into(targets, p.mixture, p.queries, p.keys, p.values, p.d_output, p.memory, p.d_memory,
                            p.options, p.tokens);
  EXPECT_TRUE(same_bits(Matrix<double>(wide.middleCols(2, 6)), all.slot_log_forgetting));
  EXPECT_TRUE(same_bits(Matrix<double>(forgetting), Matrix<double>(all.log_forgetting)));
}

TEST(SlotForgetting, OverAFeatureMap) {
  Problem<gma::Mixture<double>> p(60, Normalization::row, false, 25, 4);
  const gma::baselines::EluFeatures<double> map(4);
  Memory<double> memory;
  const Matrix<double> y = gma::causal(map, p.queries, p.keys, p.values, memory, p.options, p.tokens);
  Matrix<double> slots = Matrix<double>::Zero(4, 5);
  Vector<double> mass = Vector<double>::Zero(4);
  const auto feature = [](double x) { return x > 0 ? x + 1 : std::exp(x); };
  for (Index t = 0; t < 60; ++t) {
    double z = 0;
    Vector<double> sum = Vector<double>::Zero(5);
    for (Index k = 0; k < 4; ++k) {
      const double w = p.tokens.key_weights(t), r = w > 0 ? w * feature(p.keys(t, k)) : 0;
      const double lambda = w > 0 ? std::exp(p.tokens.log_forgetting(t) + p.tokens.slot_log_forgetting(t, k)) : 1;
      slots.row(k) = lambda * slots.row(k) + r * p.values.row(t);
      mass(k) = lambda * mass(k) + r;
      z += feature(p.queries(t, k)) * mass(k);
      sum += feature(p.queries(t, k)) * slots.row(k).transpose();
    }
    EXPECT_TRUE(close(Vector<double>(y.row(t).transpose()), Vector<double>(sum / z), 1e-12));
  }
}

/// Two sequences, two key heads and groups of two query heads.
struct HeadProblem {
  using M = gma::ProductMixture<double>;
  static constexpr Index rows = 30, first = 11, group = 2, slots = 6, dim = 4, width = 3;

  std::vector<M> mixtures{2};
  Matrix<double> queries, keys, values, d_output;
  gma::HeadInputs<double> inputs;

  HeadProblem() {
    Random random(31);
    for (M& mixture : mixtures) randomize(mixture, slots, dim, Regime::generic, random);
    queries = random.matrix<double>(rows, 2 * group * dim);
    keys = random.matrix<double>(rows, 2 * dim);
    values = random.matrix<double>(rows, 2 * width);
    d_output = random.matrix<double>(rows, 2 * group * width);
    inputs.sequences = gma::Sequences::packed({0, first, rows});
    inputs.key_weights = random.vector<double>(rows).cwiseAbs();
    inputs.key_weights(5) = 0;
    inputs.log_forgetting = -0.1 * random.matrix<double>(rows, 2).cwiseAbs();
    inputs.slot_log_forgetting = -0.2 * random.matrix<double>(rows, 2 * slots).cwiseAbs();
    inputs.slot_log_forgetting(8, 3) = -infinity;
  }

  /// f(begin, count, key head, query head) for every sequence and query head.
  template <class F>
  void for_each(const F& f) const {
    for (const auto& [begin, count] :
         {std::pair<Index, Index>(0, first), std::pair<Index, Index>(first, rows - first)}) {
      for (Index h = 0; h < 2 * group; ++h) f(begin, count, h / group, h);
    }
  }
  static Matrix<double> part(const Matrix<double>& x, Index begin, Index count, Index head, Index columns) {
    return x.block(begin, head * columns, count, columns);
  }
  TokenInputs<double> tokens(Index begin, Index count, Index head) const {
    return {inputs.key_weights.segment(begin, count), inputs.log_forgetting.col(head).segment(begin, count),
            part(inputs.slot_log_forgetting, begin, count, head, slots)};
  }
  const M& mixture(Index head) const { return mixtures[static_cast<std::size_t>(head)]; }
};

TEST(SlotForgetting, OfManyHeadsIsThatOfEach) {
  const HeadProblem p;
  const Matrix<double> y = gma::causal(p.mixtures, p.queries, p.keys, p.values, {}, p.inputs);
  p.for_each([&](Index begin, Index count, Index head, Index query_head) {
    const Matrix<double> expected = gma::causal(
        p.mixture(head), p.part(p.queries, begin, count, query_head, p.dim), p.part(p.keys, begin, count, head, p.dim),
        p.part(p.values, begin, count, head, p.width), {}, p.tokens(begin, count, head));
    EXPECT_TRUE(same_bits(p.part(y, begin, count, query_head, p.width), expected));
  });
  const Threads threads(3);
  Options options;
  options.executor = &threads;
  EXPECT_TRUE(same_bits(gma::causal(p.mixtures, p.queries, p.keys, p.values, options, p.inputs), y));
  options.segment = 4;
  EXPECT_TRUE(same_bits(gma::causal(p.mixtures, p.queries, p.keys, p.values, options, p.inputs), y));
  HeadProblem wrong = p;
  wrong.inputs.slot_log_forgetting(20, 8) = 0.25;
  expect_error([&] { gma::causal(p.mixtures, p.queries, p.keys, p.values, {}, wrong.inputs); },
               {"gma::causal: inputs.slot_log_forgetting is 0.25 at row 20, head 1, slot 2"});
}

TEST(SlotForgetting, OfManyHeadsByStepsIsThePass) {
  const HeadProblem p;
  gma::HeadInputs<double> inputs = p.inputs;
  inputs.sequences = {};
  std::vector<Memory<double>> whole, memories;
  const Matrix<double> y = gma::causal(p.mixtures, p.queries, p.keys, p.values, whole, {}, inputs);
  gma::Workspace<double> workspace;
  for (Index t = 0; t < p.rows; ++t) {
    gma::HeadInputs<double> one;
    one.key_weights = p.inputs.key_weights.segment(t, 1);
    one.log_forgetting = p.inputs.log_forgetting.row(t);
    one.slot_log_forgetting = p.inputs.slot_log_forgetting.row(t);
    const Matrix<double> step = gma::causal(p.mixtures, Matrix<double>(p.queries.row(t)), Matrix<double>(p.keys.row(t)),
                                            Matrix<double>(p.values.row(t)), memories, {}, one, workspace);
    EXPECT_TRUE(same_bits(step, Matrix<double>(y.row(t))));
  }
  EXPECT_TRUE(same_memory(memories[1], whole[1]));
}

TEST(SlotForgettingBackward, OfManyHeadsIsTheSumOverEach) {
  const HeadProblem p;
  const auto g = gma::causal_backward(p.mixtures, p.queries, p.keys, p.values, p.d_output, {}, p.inputs);
  Matrix<double> slots = Matrix<double>::Zero(p.rows, 2 * p.slots), keys = Matrix<double>::Zero(p.rows, 2 * p.dim);
  p.for_each([&](Index begin, Index count, Index head, Index query_head) {
    const auto one =
        gma::causal_backward(p.mixture(head), p.part(p.queries, begin, count, query_head, p.dim),
                             p.part(p.keys, begin, count, head, p.dim), p.part(p.values, begin, count, head, p.width),
                             p.part(p.d_output, begin, count, query_head, p.width), {}, p.tokens(begin, count, head));
    slots.block(begin, head * p.slots, count, p.slots) += one.slot_log_forgetting;
    keys.block(begin, head * p.dim, count, p.dim) += one.keys;
  });
  EXPECT_TRUE(close(g.slot_log_forgetting, slots, 1e-12));
  EXPECT_TRUE(close(g.keys, keys, 1e-12));
  const Threads threads(3);
  Options options;
  options.executor = &threads;
  const auto by_threads = gma::causal_backward(p.mixtures, p.queries, p.keys, p.values, p.d_output, options, p.inputs);
  EXPECT_TRUE(same_bits(by_threads.slot_log_forgetting, g.slot_log_forgetting));
  options.segment = 4;
  const auto by_segments = gma::causal_backward(p.mixtures, p.queries, p.keys, p.values, p.d_output, options, p.inputs);
  EXPECT_TRUE(same_bits(by_segments.slot_log_forgetting, g.slot_log_forgetting));
  EXPECT_TRUE(same_bits(by_segments.keys, g.keys));
}

TEST(SlotForgetting, RefusesWhatDoesNotFitAndNamesIt) {
  Problem<gma::Mixture<double>> p(8, Normalization::slot, true, 27);
  Memory<double> memory;
  const auto refuses = [&](const char* message) { expect_error([&] { p.computed(memory); }, {message}); };
  p.tokens.slot_log_forgetting(3, 2) = 0.5;
  refuses("gma::causal: tokens.slot_log_forgetting is 0.5 at token 3, slot 2, expected a number <= 0 or -inf");
  p.tokens.slot_log_forgetting.resize(8, 5);
  refuses("gma::causal: tokens.slot_log_forgetting is 8 x 5, expected 8 x 6 (keys x components)");
  p.tokens.slot_log_forgetting.setZero(8, 6);
  expect_error([&] { gma::bidirectional(p.mixture, p.queries, p.keys, p.values, p.options, p.tokens); },
               {"only causal() and write() forget by slot"});
}

/// A float stream beside the same in double, with slots that forget slowly, or not at all.
template <class Forgetting>
void expect_accurate(Index count, const Forgetting& forgetting) {
  using M = gma::Mixture<float>;
  Random random(29);
  M mixture;
  randomize(mixture, 8, 4, Regime::generic, random);
  Matrix<float> queries = random.matrix<float>(count, 4), keys = random.matrix<float>(count, 4);
  Matrix<float> values = random.matrix<float>(count, 4);
  values.array() += 3;
  TokenInputs<float> tokens;
  tokens.slot_log_forgetting.resize(count, 8);
  for (Index k = 0; k < 8; ++k) tokens.slot_log_forgetting.col(k).setConstant(static_cast<float>(forgetting(k)));
  const auto wide = [](const auto& x) { return x.template cast<double>().eval(); };
  const TokenInputs<double> exact_tokens{{}, {}, wide(tokens.slot_log_forgetting)};
  Memory<float> memory;
  Memory<double> exact_memory;
  const Matrix<float> y = gma::causal(mixture, queries, keys, values, memory, {}, tokens);
  const Matrix<double> exact =
      gma::causal(mixture.cast<double>(), wide(queries), wide(keys), wide(values), exact_memory, {}, exact_tokens);
  EXPECT_TRUE(close(wide(y), exact, 1e-5));
  EXPECT_TRUE(close(Matrix<double>(wide(y).bottomRows(100)), Matrix<double>(exact.bottomRows(100)), 1e-5));
  EXPECT_TRUE(close(wide(memory.slots), exact_memory.slots, 1e-5));
  EXPECT_TRUE(close(Matrix<double>(wide(memory.mass)), Matrix<double>(exact_memory.mass), 1e-5));
}

TEST(SlotForgetting, InFloatIsCloseToDoubleAlongAMillionTokens) {
  expect_accurate(1000000, [](Index k) { return k == 0 ? 0.0 : -std::pow(10.0, -static_cast<double>(k)); });
}
TEST(SlotForgetting, InFloatIsCloseToDoubleJustBeforeARemainder) {
  expect_accurate(100000, [](Index k) { return -1.0 / (300 + 25 * static_cast<double>(k)); });
}

TEST(SlotForgettingBackward, InFloatIsCloseToDoubleAlongALongStream) {
  constexpr Index count = 20000;
  Problem<gma::ProductMixture<float>> p(count, Normalization::slot, true, 33, 12);
  p.values.array() += 3;
  p.tokens.slot_log_forgetting *= 0.01F;
  p.tokens.log_forgetting *= 0.01F;
  const auto wide = [](const auto& x) { return x.template cast<double>().eval(); };
  const TokenInputs<double> tokens{wide(p.tokens.key_weights), wide(p.tokens.log_forgetting),
                                   wide(p.tokens.slot_log_forgetting)};
  const auto g = gma::causal_backward(p.mixture, p.queries, p.keys, p.values, p.d_output, p.options, p.tokens);
  const auto exact = gma::causal_backward(p.mixture.cast<double>(), wide(p.queries), wide(p.keys), wide(p.values),
                                          wide(p.d_output), p.options, tokens);
  EXPECT_TRUE(close(wide(g.queries), exact.queries, 1e-5));
  EXPECT_TRUE(close(wide(g.keys), exact.keys, 1e-5));
  EXPECT_TRUE(close(wide(g.values), exact.values, 1e-5));
  EXPECT_TRUE(close(Matrix<double>(wide(g.key_weights)), Matrix<double>(exact.key_weights), 1e-5));
  EXPECT_TRUE(close(Matrix<double>(wide(g.log_forgetting)), Matrix<double>(exact.log_forgetting), 1e-5));
  EXPECT_TRUE(close(wide(g.slot_log_forgetting), exact.slot_log_forgetting, 1e-5));
  EXPECT_TRUE(close(wide(g.mixture.factors[0].means), exact.mixture.factors[0].means, 1e-5));
}

}  // namespace
}  // namespace gma_test
