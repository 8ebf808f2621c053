// SPDX-License-Identifier: MIT
// What must hold of the operators whatever the numbers: sums, means, permutations, causality to the bit, splits,
// merges, masks, restarts, layouts and storage types.
#include <numeric>

#include "support.hpp"

namespace gma_test {
namespace {

using Diagonal = gma::Mixture<double, gma::Diagonal>;

/// Tokens of one stream for a mixture of width 4, and a memory that has seen others.
template <class S>
struct Stream {
  Matrix<S> queries, keys, values;
  TokenInputs<S> tokens;
  Memory<S> memory;
};

template <class S, class M>
Stream<S> make_stream(const M& mixture, Index count, std::uint64_t seed, bool restarts = true) {
  Random random(seed);
  Stream<S> stream{random.matrix<S>(count, 4),
                   random.matrix<S>(count, 4),
                   random.matrix<S>(count, 3),
                   random_tokens<S>(count, restarts, random),
                   {}};
  poison_absent(stream.tokens, stream.keys, stream.values);
  gma::write(mixture, random.matrix<S>(9, 4), random.matrix<S>(9, 3), stream.memory);
  return stream;
}

template <class S>
Stream<S> part_of(const Stream<S>& stream, Index begin, Index count) {
  return {stream.queries.middleRows(begin, count), stream.keys.middleRows(begin, count),
          stream.values.middleRows(begin, count), gma_test::part_of(stream.tokens, begin, count), stream.memory};
}

template <class S, class M>
Matrix<S> run(const M& mixture, const Stream<S>& stream, Memory<S>& memory, const Options& options) {
  return gma::causal(mixture, stream.queries, stream.keys, stream.values, memory, options, stream.tokens);
}

Options with(Normalization normalization, Index tile = 0) {
  Options options;
  options.normalization = normalization;
  options.tile = tile;
  options.checkpoint_interval = 8;
  return options;
}

template <class S>
class Properties : public testing::Test {};
struct ScalarNames {
  template <class S>
  static std::string GetName(int) {
    return sizeof(S) == 4 ? "float" : "double";
  }
};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(Properties, Scalars, ScalarNames);

/// f(name, mixture, normalization) over every family and normalisation.
template <class S, class F>
void for_each_case(F&& f) {
  for (const auto& [name, mixture] : every_family<S>(4, 4, Regime::generic, 21)) {
    for (const Normalization normalization : all_normalizations) {
      SCOPED_TRACE(name + ", " + name_of(normalization));
      f(mixture, normalization);
    }
  }
}

// Sums and means -----------------------------------------------------------------------------------------------------

TYPED_TEST(Properties, ResponsibilitiesAreRowsThatSumToOne) {
  using S = TypeParam;
  Random random(1);
  const Matrix<S> tokens = random.matrix<S>(200, 4);
  for (const Regime regime : all_regimes) {
    for (const auto& [name, mixture] : every_family<S>(6, 4, regime, 5)) {
      const Matrix<S> r = gma::responsibilities(mixture, tokens);
      ASSERT_EQ(r.cols(), 6);
      EXPECT_GE(r.minCoeff(), S(0)) << name;
      EXPECT_LE((r.rowwise().sum().array() - S(1)).abs().maxCoeff(), 8 * std::numeric_limits<S>::epsilon()) << name;
    }
  }
}

TYPED_TEST(Properties, ResponsibilitiesAndLogDensityEqualTheReference) {
  Random random(2);
  const Matrix<TypeParam> tokens = random.matrix<TypeParam>(150, 4);
  const auto check = [&](auto mixture) {
    randomize(mixture, 6, 4, Regime::generic, random);
    const auto wide = mixture.template cast<double>();
    EXPECT_TRUE(close(gma::responsibilities(mixture, tokens), gma::reference::responsibilities(wide, in_double(tokens)),
                      forward_tolerance<TypeParam>()));
    const Matrix<double> joint = gma::reference::joint_log_density(wide, in_double(tokens));
    const Vector<double> expected = joint.array().exp().rowwise().sum().log().matrix();
    EXPECT_TRUE(close(gma::log_density(mixture, tokens), expected, forward_tolerance<TypeParam>()));
  };
  all_families::for_each([&](auto family) { check(gma::Mixture<TypeParam, decltype(family)>()); });
  check(gma::ProductMixture<TypeParam, gma::Full>());
}

TYPED_TEST(Properties, OneComponentReadsTheMeanOfTheValues) {
  using S = TypeParam;
  Random random(3);
  gma::Mixture<S, gma::Diagonal> mixture(1, 4);
  random.fill(mixture.means);
  const Matrix<S> x = random.matrix<S>(50, 4), values = random.matrix<S>(50, 3);
  Matrix<double> running(50, 3), whole(50, 3);
  for (Index i = 0; i < 50; ++i) running.row(i) = in_double(values).topRows(i + 1).colwise().mean();
  whole = running.bottomRows(1).replicate(50, 1);
  for (const Normalization normalization : {Normalization::slot, Normalization::row}) {
    EXPECT_TRUE(close(gma::bidirectional(mixture, x, x, values, with(normalization)), whole, forward_tolerance<S>()));
    EXPECT_TRUE(close(gma::causal(mixture, x, x, values, with(normalization)), running, forward_tolerance<S>()));
  }
}

TYPED_TEST(Properties, RowNormalisationReproducesConstantValues) {
  for (const auto& [name, mixture] : every_family<TypeParam>(4, 4, Regime::generic, 8)) {
    Stream<TypeParam> stream = make_stream<TypeParam>(mixture, 40, 4);
    stream.values.setConstant(TypeParam(2.5));
    stream.memory = {};
    stream.tokens.key_weights(0) = TypeParam(1);  // the first row is to read something
    stream.tokens.log_forgetting(0) = TypeParam(0);
    stream.keys.row(0).setZero();
    const Matrix<TypeParam> expected = Matrix<TypeParam>::Constant(40, 3, TypeParam(2.5));
    EXPECT_TRUE(
        close(run(mixture, stream, stream.memory, with(Normalization::row)), expected, forward_tolerance<TypeParam>()))
        << name;
  }
}

// Order --------------------------------------------------------------------------------------------------------------

TYPED_TEST(Properties, BidirectionalIsPermutationEquivariant) {
  using S = TypeParam;
  for_each_case<S>([](const auto& mixture, Normalization normalization) {
    Random random(5);
    const Matrix<S> queries = random.matrix<S>(70, 4), keys = random.matrix<S>(70, 4);
    const Matrix<S> values = random.matrix<S>(70, 3);
    Eigen::PermutationMatrix<Eigen::Dynamic> permutation(70), other(70);
    for (int i = 0; i < 70; ++i) permutation.indices()(i) = (i * 27 + 5) % 70, other.indices()(i) = (i * 11 + 3) % 70;
    const Matrix<S> plain = gma::bidirectional(mixture, queries, keys, values, with(normalization, 16));
    const Matrix<S> permuted =
        gma::bidirectional(mixture, permutation * queries, other * keys, other * values, with(normalization, 16));
    EXPECT_TRUE(close(permuted, Matrix<S>(permutation * plain), forward_tolerance<S>()));
  });
}

TYPED_TEST(Properties, CausalOutputsDoNotSeeTheFutureByOneBit) {
  using S = TypeParam;
  constexpr Index n = 23;
  for_each_case<S>([&](const auto& mixture, Normalization normalization) {
    const Stream<S> stream = make_stream<S>(mixture, n, 6, false);
    for (const Index tile : {0, 5}) {
      Memory<S> memory = stream.memory;
      const Matrix<S> expected = run(mixture, stream, memory, with(normalization, tile));
      ASSERT_TRUE(all_finite(expected));
      for (Index t = 0; t + 1 < n; ++t) {
        for (int change = 0; change < 5; ++change) {
          Stream<S> other = stream;
          for (Index j = t + 1; j < n; ++j) {
            if (change == 0) other.keys.row(j).setConstant(static_cast<S>(not_a_number));
            if (change == 0) other.values.row(j).setConstant(static_cast<S>(infinity));
            if (change == 0) other.queries.row(j).setConstant(static_cast<S>(not_a_number));
            if (change == 1) other.keys.row(j).setConstant(S(j)), other.values.row(j).setConstant(S(-3));
            if (change >= 1) other.tokens.key_weights(j) = S(j % 3);
            other.tokens.log_forgetting(j) = change == 3 ? -static_cast<S>(infinity) : S(-j) / S(8);
            if (change == 4) other.tokens.key_weights(j) = S(0);
          }
          memory = stream.memory;
          const Matrix<S> actual = run(mixture, other, memory, with(normalization, tile));
          EXPECT_TRUE(same_bits(actual.topRows(t + 1), expected.topRows(t + 1)))
              << "tile " << tile << ", after token " << t << ", change " << change;
        }
      }
    }
  });
}

TYPED_TEST(Properties, EverySplitEqualsOnePass) {
  using S = TypeParam;
  constexpr Index n = 23;
  for_each_case<S>([&](const auto& mixture, Normalization normalization) {
    const Stream<S> stream = make_stream<S>(mixture, n, 7);
    const Options options = with(normalization, 6);
    Memory<S> after = stream.memory;
    const Matrix<S> expected = run(mixture, stream, after, options);
    for (Index split = 0; split <= n; ++split) {
      Memory<S> memory = stream.memory;
      const Matrix<S> first = run(mixture, part_of(stream, 0, split), memory, options);
      const Matrix<S> second = run(mixture, part_of(stream, split, n - split), memory, options);
      EXPECT_TRUE(close(stacked(first, second), expected, forward_tolerance<S>())) << "split at " << split;
      EXPECT_TRUE(close(memory, after, forward_tolerance<S>())) << "split at " << split;
    }
    Memory<S> memory = stream.memory;  // prefill eleven, then decode a token at a time
    Matrix<S> actual(n, 3);
    actual.topRows(11) = run(mixture, part_of(stream, 0, 11), memory, options);
    for (Index t = 11; t < n; ++t) actual.row(t) = run(mixture, part_of(stream, t, 1), memory, options);
    EXPECT_TRUE(close(actual, expected, forward_tolerance<S>()));
    EXPECT_TRUE(close(memory, after, forward_tolerance<S>()));
  });
}

TYPED_TEST(Properties, TheLastCausalRowIsTheBidirectionalOne) {
  using S = TypeParam;
  for_each_case<S>([](const auto& mixture, Normalization normalization) {
    Stream<S> stream = make_stream<S>(mixture, 37, 8);
    const Matrix<S> whole =
        gma::bidirectional(mixture, stream.queries, stream.keys, stream.values, with(normalization), stream.tokens);
    const Matrix<S> causal =
        gma::causal(mixture, stream.queries, stream.keys, stream.values, with(normalization), stream.tokens);
    EXPECT_TRUE(close(causal.bottomRows(1), whole.bottomRows(1), forward_tolerance<S>()));
    Memory<S> memory;
    gma::write(mixture, stream.keys, stream.values, memory, stream.tokens);
    const Matrix<S> read = gma::read(mixture, stream.queries, memory, with(normalization));
    EXPECT_TRUE(close(read, whole, forward_tolerance<S>()));
  });
}

// Memories -----------------------------------------------------------------------------------------------------------

TYPED_TEST(Properties, MergeIsAssociativeAndEqualsOnePass) {
  using S = TypeParam;
  for (const bool restarts : {false, true}) {
    for (const auto& [name, mixture] : every_family<S>(4, 4, Regime::generic, 9)) {
      const Stream<S> stream = make_stream<S>(mixture, 60, 10, restarts);
      Memory<S> whole;
      gma::write(mixture, stream.keys, stream.values, whole, stream.tokens);
      std::vector<Memory<S>> parts(3);
      for (int p = 0; p < 3; ++p) {
        const Stream<S> part = part_of(stream, 20 * p, 20);
        gma::write(mixture, part.keys, part.values, parts[static_cast<std::size_t>(p)], part.tokens);
      }
      const Memory<S> left = gma::merge(gma::merge(parts[0], parts[1]), parts[2]);
      const Memory<S> right = gma::merge(parts[0], gma::merge(parts[1], parts[2]));
      EXPECT_TRUE(close(left, whole, forward_tolerance<S>())) << name;
      EXPECT_TRUE(close(right, whole, forward_tolerance<S>())) << name;
      EXPECT_TRUE(same_bits(gma::merge(whole, Memory<S>()), whole));
      EXPECT_TRUE(same_bits(gma::merge(Memory<S>(), whole), whole));
      Memory<S> nothing = whole;
      gma::reset(nothing);
      EXPECT_TRUE(nothing.slots.isZero(0) && nothing.mass.isZero(0) && nothing.log_forgetting == S(0));
      EXPECT_TRUE(same_bits(gma::merge(nothing, whole).slots, whole.slots));
    }
  }
}

TYPED_TEST(Properties, ARestartCutsOffAllThatCameBefore) {
  using S = TypeParam;
  constexpr Index n = 20, at = 11;
  for_each_case<S>([&](const auto& mixture, Normalization normalization) {
    Stream<S> stream = make_stream<S>(mixture, n, 11, false);
    stream.tokens.key_weights(at) = S(1);
    stream.tokens.log_forgetting(at) = -static_cast<S>(infinity);
    Random random(12);
    stream.keys.row(at) = random.matrix<S>(1, 4);
    stream.values.row(at) = random.matrix<S>(1, 3);
    for (const Index tile : {0, 6}) {
      const Stream<S> rest = part_of(stream, at, n - at);
      Memory<S> fresh, memory = stream.memory;
      const Matrix<S> expected = run(mixture, rest, fresh, with(normalization, tile));
      for (const double poison : {1.0, not_a_number}) {
        Stream<S> poisoned = stream;
        poisoned.keys.topRows(at) *= static_cast<S>(poison);
        poisoned.values.topRows(at) *= static_cast<S>(poison);
        memory = stream.memory;
        memory.slots *= static_cast<S>(poison);
        memory.mass *= static_cast<S>(poison);
        const Matrix<S> actual = run(mixture, poisoned, memory, with(normalization, tile));
        EXPECT_TRUE(close(actual.bottomRows(n - at), expected, forward_tolerance<S>())) << poison;
        EXPECT_TRUE(close(memory, fresh, forward_tolerance<S>())) << poison;
        memory = stream.memory;
        memory.slots *= static_cast<S>(poison);
        gma::write(mixture, poisoned.keys, poisoned.values, memory, poisoned.tokens);
        EXPECT_TRUE(close(memory, fresh, forward_tolerance<S>())) << poison;
      }
    }
  });
}

// Masks --------------------------------------------------------------------------------------------------------------

template <class M>
void expect_same_gradients(const gma::Gradients<M>& a, const gma::Gradients<M>& b) {
  EXPECT_TRUE(same_bits(a.queries, b.queries));
  EXPECT_TRUE(same_bits(a.keys, b.keys));
  EXPECT_TRUE(same_bits(a.values, b.values));
  EXPECT_TRUE(same_bits(a.key_weights, b.key_weights));
  EXPECT_TRUE(same_bits(a.log_forgetting, b.log_forgetting));
  EXPECT_TRUE(same_bits(a.memory, b.memory));
  EXPECT_TRUE(same_bits(a.mixture.means, b.mixture.means));
  EXPECT_TRUE(same_bits(a.mixture.log_scales, b.mixture.log_scales));
  EXPECT_TRUE(same_bits(a.mixture.weight_logits, b.mixture.weight_logits));
  EXPECT_EQ(a.mixture.log_temperature, b.mixture.log_temperature);
}

/// Exactly zero where the token is absent, finite everywhere.
template <class M, class S>
void expect_absent_gradients(const gma::Gradients<M>& gradients, const TokenInputs<S>& tokens) {
  EXPECT_TRUE(all_finite(gradients.keys) && all_finite(gradients.values) && all_finite(gradients.key_weights) &&
              all_finite(gradients.log_forgetting) && all_finite(gradients.mixture.means) &&
              all_finite(gradients.mixture.log_scales) && all_finite(gradients.mixture.weight_logits));
  for (Index j = 0; j < tokens.key_weights.size(); ++j) {
    if (tokens.key_weights(j) > S(0)) {
      EXPECT_GT(gradients.values.row(j).norm(), S(0));
      continue;
    }
    EXPECT_TRUE(gradients.keys.row(j).isZero(0) && gradients.values.row(j).isZero(0));
    EXPECT_EQ(gradients.key_weights(j), S(0));
    EXPECT_EQ(gradients.log_forgetting(j), S(0));
  }
}

TYPED_TEST(Properties, ContentsOfAbsentTokensChangeNoBit) {
  using S = TypeParam;
  Random random(15);
  gma::Mixture<S, gma::Diagonal> mixture;
  randomize(mixture, 4, 4, Regime::generic, random);
  const Stream<S> poisoned = make_stream<S>(mixture, 29, 16, false);
  Stream<S> filled = poisoned;
  for (Index j = 0; j < 29; ++j) {
    if (filled.tokens.key_weights(j) > S(0)) continue;
    filled.keys.row(j) = random.matrix<S>(1, 4);
    filled.values.row(j) = random.matrix<S>(1, 3, 100);
    filled.tokens.log_forgetting(j) = j % 2 == 0 ? S(3) : -static_cast<S>(infinity);
  }
  const Matrix<S> d_output = random.matrix<S>(29, 3);
  const Memory<S> d_memory{random.matrix<S>(4, 3), random.vector<S>(4), S(0.5)};
  const auto& p = poisoned;
  const auto& f = filled;
  for (const Normalization normalization : all_normalizations) {
    const Options options = with(normalization, 6);
    EXPECT_TRUE(same_bits(gma::bidirectional(mixture, p.queries, p.keys, p.values, options, p.tokens),
                          gma::bidirectional(mixture, f.queries, f.keys, f.values, options, f.tokens)));
    Memory<S> memory = p.memory, other = p.memory;
    EXPECT_TRUE(same_bits(run(mixture, p, memory, options), run(mixture, f, other, options)));
    EXPECT_TRUE(same_bits(memory, other));
    gma::write(mixture, p.keys, p.values, memory, p.tokens);
    gma::write(mixture, f.keys, f.values, other, f.tokens);
    EXPECT_TRUE(same_bits(memory, other));

    auto a = gma::bidirectional_backward(mixture, p.queries, p.keys, p.values, d_output, options, p.tokens);
    auto b = gma::bidirectional_backward(mixture, f.queries, f.keys, f.values, d_output, options, f.tokens);
    expect_same_gradients(a, b);
    expect_absent_gradients(a, p.tokens);
    a = gma::causal_backward(mixture, p.queries, p.keys, p.values, d_output, p.memory, d_memory, options, p.tokens);
    b = gma::causal_backward(mixture, f.queries, f.keys, f.values, d_output, f.memory, d_memory, options, f.tokens);
    expect_same_gradients(a, b);
    expect_absent_gradients(a, p.tokens);
    a = gma::write_backward(mixture, p.keys, p.values, d_memory, p.tokens, p.memory);
    b = gma::write_backward(mixture, f.keys, f.values, d_memory, f.tokens, f.memory);
    expect_same_gradients(a, b);
    expect_absent_gradients(a, p.tokens);
  }
}

// Gradients compose --------------------------------------------------------------------------------------------------

TEST(Composition, BidirectionalBackwardIsReadThenWriteBackward) {
  Random random(17);
  Diagonal mixture;
  randomize(mixture, 4, 4, Regime::generic, random);
  const Stream<double> s = make_stream<double>(mixture, 29, 18);
  const Matrix<double> d_output = random.matrix<double>(29, 3);
  for (const Normalization normalization : all_normalizations) {
    const Options options = with(normalization, 6);
    const auto whole = gma::bidirectional_backward(mixture, s.queries, s.keys, s.values, d_output, options, s.tokens);
    Memory<double> memory;
    gma::write(mixture, s.keys, s.values, memory, s.tokens);
    const auto of_read = gma::read_backward(mixture, s.queries, memory, d_output, options);
    const auto of_write = gma::write_backward(mixture, s.keys, s.values, of_read.memory, s.tokens);
    EXPECT_TRUE(close(of_read.queries, whole.queries, 1e-12));
    EXPECT_TRUE(close(of_write.keys, whole.keys, 1e-12));
    EXPECT_TRUE(close(of_write.values, whole.values, 1e-12));
    EXPECT_TRUE(close(of_write.key_weights, whole.key_weights, 1e-12));
    EXPECT_TRUE(close(of_write.log_forgetting, whole.log_forgetting, 1e-12));
    EXPECT_TRUE(close(of_write.memory, whole.memory, 1e-12));
    EXPECT_TRUE(close(of_read.mixture.means + of_write.mixture.means, whole.mixture.means, 1e-12));
    EXPECT_TRUE(close(of_read.mixture.log_scales + of_write.mixture.log_scales, whole.mixture.log_scales, 1e-12));
  }
}

TEST(Composition, CausalBackwardThroughASplitIsOnePass) {
  Random random(19);
  Diagonal mixture;
  randomize(mixture, 4, 4, Regime::generic, random);
  const Stream<double> s = make_stream<double>(mixture, 29, 20, false);
  const Matrix<double> d_output = random.matrix<double>(29, 3);
  const Memory<double> d_memory{random.matrix<double>(4, 3), random.vector<double>(4), 0.7};
  for (const Normalization normalization : all_normalizations) {
    const Options options = with(normalization, 6);
    const auto whole =
        gma::causal_backward(mixture, s.queries, s.keys, s.values, d_output, s.memory, d_memory, options, s.tokens);
    for (const Index split : {0, 1, 6, 13, 28, 29}) {
      const Stream<double> a = part_of(s, 0, split), b = part_of(s, split, 29 - split);
      Memory<double> memory = s.memory;
      run(mixture, a, memory, options);
      const auto late = gma::causal_backward(mixture, b.queries, b.keys, b.values, d_output.bottomRows(29 - split),
                                             memory, d_memory, options, b.tokens);
      const auto early = gma::causal_backward(mixture, a.queries, a.keys, a.values, d_output.topRows(split), s.memory,
                                              late.memory, options, a.tokens);
      EXPECT_TRUE(close(stacked(early.queries, late.queries), whole.queries, 1e-11)) << split;
      EXPECT_TRUE(close(stacked(early.keys, late.keys), whole.keys, 1e-11)) << split;
      EXPECT_TRUE(close(stacked(early.values, late.values), whole.values, 1e-11)) << split;
      EXPECT_TRUE(close(stacked(early.key_weights, late.key_weights), whole.key_weights, 1e-11)) << split;
      EXPECT_TRUE(close(stacked(early.log_forgetting, late.log_forgetting), whole.log_forgetting, 1e-11)) << split;
      EXPECT_TRUE(close(early.memory, whole.memory, 1e-11)) << split;
      EXPECT_TRUE(close(early.mixture.means + late.mixture.means, whole.mixture.means, 1e-11)) << split;
    }
    for (const Index interval : {1, 7, 1000}) {  // moves the last bits, nothing else
      Options other = options;
      other.checkpoint_interval = interval;
      other.tile = interval == 7 ? 0 : 4;
      const auto same =
          gma::causal_backward(mixture, s.queries, s.keys, s.values, d_output, s.memory, d_memory, other, s.tokens);
      EXPECT_TRUE(close(same.keys, whole.keys, 1e-11));
      EXPECT_TRUE(close(same.log_forgetting, whole.log_forgetting, 1e-11));
      EXPECT_TRUE(close(same.mixture.log_scales, whole.mixture.log_scales, 1e-11));
    }
  }
}

/// Segments of a write run side by side; what they leave behind decays by all tokens after them, not by the next
/// segment's alone. A small tile cuts few tokens into many segments.
TEST(Composition, GradientsOfAWriteInManySegmentsAreThoseOfOne) {
  Random random(22);
  Diagonal mixture;
  randomize(mixture, 4, 4, Regime::generic, random);
  for (const Index count : {33, 49, 65, 80, 200}) {
    const Matrix<double> queries = random.matrix<double>(count, 4), keys = random.matrix<double>(count, 4);
    const Matrix<double> values = random.matrix<double>(count, 3), d_output = random.matrix<double>(count, 3);
    for (const double forgetting : {0.0, -0.01, -0.1}) {
      TokenInputs<double> tokens;
      tokens.log_forgetting = Vector<double>::Constant(count, forgetting);
      for (const Normalization normalization : all_normalizations) {
        SCOPED_TRACE(testing::Message() << count << " tokens, " << name_of(normalization) << ", g " << forgetting);
        const auto one =
            gma::bidirectional_backward(mixture, queries, keys, values, d_output, with(normalization, count), tokens);
        const auto many =
            gma::bidirectional_backward(mixture, queries, keys, values, d_output, with(normalization, 4), tokens);
        EXPECT_TRUE(close(many.queries, one.queries, 1e-12));
        EXPECT_TRUE(close(many.keys, one.keys, 1e-12));
        EXPECT_TRUE(close(many.values, one.values, 1e-12));
        EXPECT_TRUE(close(many.log_forgetting, one.log_forgetting, 1e-12));
        EXPECT_TRUE(close(many.memory, one.memory, 1e-12));
        EXPECT_TRUE(close(many.mixture.means, one.mixture.means, 1e-12));
      }
    }
  }
}

/// The same at the tile that write_backward() takes: four segments, the last of them short.
TEST(Composition, WriteBackwardThroughASplitIsOnePass) {
  constexpr Index count = 1300;
  Random random(23);
  Diagonal mixture;
  randomize(mixture, 4, 4, Regime::generic, random);
  const Matrix<double> keys = random.matrix<double>(count, 4), values = random.matrix<double>(count, 3);
  const Memory<double> initial{random.matrix<double>(4, 3), random.vector<double>(4).cwiseAbs(), -1};
  const Memory<double> d_memory{random.matrix<double>(4, 3), random.vector<double>(4), 0.7};
  TokenInputs<double> tokens;
  tokens.log_forgetting = Vector<double>::Constant(count, -0.001);
  const auto whole = gma::write_backward(mixture, keys, values, d_memory, tokens, initial);
  Index end = count;
  gma::Gradients<Diagonal> part;
  part.memory = d_memory;
  for (const Index begin : {1000, 384, 100, 0}) {  // the last part first, each from the memory before it
    Memory<double> before = initial;
    gma::write(mixture, keys.topRows(begin), values.topRows(begin), before, gma_test::part_of(tokens, 0, begin));
    part = gma::write_backward(mixture, keys.middleRows(begin, end - begin), values.middleRows(begin, end - begin),
                               part.memory, gma_test::part_of(tokens, begin, end - begin), before);
    EXPECT_TRUE(close(part.keys, whole.keys.middleRows(begin, end - begin), 1e-11)) << begin;
    EXPECT_TRUE(close(part.values, whole.values.middleRows(begin, end - begin), 1e-11)) << begin;
    EXPECT_TRUE(close(part.log_forgetting, whole.log_forgetting.segment(begin, end - begin), 1e-11)) << begin;
    end = begin;
  }
  EXPECT_TRUE(close(part.memory, whole.memory, 1e-11));
}

// Layouts and storage ------------------------------------------------------------------------------------------------

using ColumnMajor = Eigen::MatrixXd;

TEST(Layouts, AnyEigenMatrixIsAccepted) {
  Random random(23);
  Diagonal mixture;
  randomize(mixture, 4, 4, Regime::generic, random);
  const Stream<double> s = make_stream<double>(mixture, 29, 24);
  const Matrix<double> d_output = random.matrix<double>(29, 3);
  const Options options = with(Normalization::slot, 6);
  const Matrix<double> causal = gma::causal(mixture, s.queries, s.keys, s.values, options, s.tokens);
  const Matrix<double> whole = gma::bidirectional(mixture, s.queries, s.keys, s.values, options, s.tokens);
  const auto gradients = gma::causal_backward(mixture, s.queries, s.keys, s.values, d_output, options, s.tokens);

  const ColumnMajor q = s.queries, k = s.keys, v = s.values, dy = d_output;
  EXPECT_TRUE(close(gma::causal(mixture, q, k, v, options, s.tokens), causal, 1e-12));
  EXPECT_TRUE(close(gma::bidirectional(mixture, q, k, v, options, s.tokens), whole, 1e-12));
  EXPECT_TRUE(close(gma::causal_backward(mixture, q, k, v, dy, options, s.tokens).keys, gradients.keys, 1e-12));
  EXPECT_TRUE(close(gma::responsibilities(mixture, q), gma::responsibilities(mixture, s.queries), 1e-12));
  EXPECT_TRUE(close(gma::log_density(mixture, q), gma::log_density(mixture, s.queries), 1e-12));

  // Queries, keys and values side by side in one buffer, and every second column of another.
  Matrix<double> packed(29, 4 + 4 + 3);
  packed << s.queries, s.keys, s.values;
  EXPECT_TRUE(
      close(gma::causal(mixture, packed.leftCols(4), packed.middleCols(4, 4), packed.rightCols(3), options, s.tokens),
            causal, 1e-12));
  Matrix<double> spread = Matrix<double>::Constant(29, 8, not_a_number);
  using Strided = Eigen::Map<Matrix<double>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
  Strided every_second(spread.data(), 29, 4, {8, 2});
  every_second = s.queries;
  EXPECT_TRUE(close(gma::causal(mixture, every_second, s.keys, s.values, options, s.tokens), causal, 1e-12));

  // Expressions, and a reference.
  const Matrix<double> half = s.queries * 0.5;
  const Eigen::Ref<const Matrix<double>> reference(s.keys);
  EXPECT_TRUE(close(gma::causal(mixture, half + half, reference, s.values * 1.0, options, s.tokens), causal, 1e-12));
  EXPECT_TRUE(close(gma::causal_backward(mixture, half * 2, s.keys, s.values, d_output + Matrix<double>::Zero(29, 3),
                                         options, s.tokens)
                        .values,
                    gradients.values, 1e-12));
}

template <class Storage>
void check_storage() {
  Random random(25);
  gma::Mixture<float, gma::Diagonal> mixture;
  randomize(mixture, 4, 4, Regime::generic, random);
  const Matrix<Storage> queries = random.matrix<float>(29, 4).cast<Storage>();
  const Matrix<Storage> keys = random.matrix<float>(29, 4).cast<Storage>();
  const Matrix<Storage> values = random.matrix<float>(29, 3).cast<Storage>();
  const Matrix<float> q = queries.template cast<float>(), k = keys.template cast<float>();
  const Matrix<float> v = values.template cast<float>();
  const double tolerance = forward_tolerance<float>();
  EXPECT_TRUE(close(gma::causal(mixture, queries, keys, values), gma::causal(mixture, q, k, v), tolerance));
  EXPECT_TRUE(
      close(gma::bidirectional(mixture, queries, keys, values), gma::bidirectional(mixture, q, k, v), tolerance));
  const auto stored = gma::causal_backward(mixture, queries, keys, values, values);
  EXPECT_TRUE(close(stored.keys, gma::causal_backward(mixture, q, k, v, v).keys, float_gradient_tolerance));
  Matrix<Storage> out(29, 3);
  gma::Workspace<float> workspace;
  gma::causal_into(out, mixture, queries, keys, values, {}, TokenInputs<float>(), workspace);
  const Matrix<Storage> rounded = gma::causal(mixture, q, k, v).template cast<Storage>();
  EXPECT_TRUE(close(out.template cast<float>(), rounded.template cast<float>(), 1e-2));
}
TEST(Layouts, SixteenBitStorageIsAccepted) {
  check_storage<Eigen::bfloat16>();
  check_storage<Eigen::half>();
}

TEST(Layouts, IntoABlockOfABiggerBufferTouchesNothingElse) {
  Random random(26);
  Diagonal mixture;
  randomize(mixture, 4, 4, Regime::generic, random);
  const Stream<double> s = make_stream<double>(mixture, 29, 27);
  const Options options = with(Normalization::slot, 6);
  Memory<double> memory = s.memory;
  const Matrix<double> expected[] = {gma::bidirectional(mixture, s.queries, s.keys, s.values, options, s.tokens),
                                     gma::causal(mixture, s.queries, s.keys, s.values, options, s.tokens),
                                     gma::read(mixture, s.queries, s.memory, options),
                                     run(mixture, s, memory, options)};
  const double mark = 12345;
  std::vector<double> buffer(31 * 9);
  const auto check = [&](auto&& out, const char* layout) {
    gma::Workspace<double> workspace;
    for (int verb = 0; verb < 4; ++verb) {
      std::fill(buffer.begin(), buffer.end(), mark);
      Memory<double> resumed = s.memory;
      if (verb == 0) {
        gma::bidirectional_into(out, mixture, s.queries, s.keys, s.values, options, s.tokens, workspace);
      } else if (verb == 1) {
        gma::causal_into(out, mixture, s.queries, s.keys, s.values, options, s.tokens, workspace);
      } else if (verb == 2) {
        gma::read_into(out, mixture, s.queries, s.memory, options, workspace);
      } else {
        gma::causal_into(out, mixture, s.queries, s.keys, s.values, resumed, options, s.tokens, workspace);
        EXPECT_TRUE(close(resumed, memory, 1e-12));
      }
      EXPECT_TRUE(close(out, expected[verb], 1e-12)) << layout << ", verb " << verb;
      const auto untouched = std::count(buffer.begin(), buffer.end(), mark);
      EXPECT_EQ(untouched, 31 * 9 - 29 * 3) << layout << ", verb " << verb;
    }
  };
  check(Eigen::Map<Matrix<double>, 0, Eigen::OuterStride<>>(buffer.data() + 10, 29, 3, Eigen::OuterStride<>(9)),
        "row-major block");
  check(Eigen::Map<Matrix<double>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>(buffer.data() + 10, 29, 3, {9, 2}),
        "strided");
  check(Eigen::Map<ColumnMajor, 0, Eigen::OuterStride<>>(buffer.data() + 10, 29, 3, Eigen::OuterStride<>(31)),
        "column-major block");
  Eigen::Map<Matrix<double>> whole(buffer.data(), 31, 9);
  check(whole.block(1, 4, 29, 3), "block expression");
}

TEST(Layouts, AWorkspaceAndACompiledMixtureChangeNoBit) {
  Random random(28);
  gma::ProductMixture<double, gma::Diagonal> mixture;
  randomize(mixture, 4, 4, Regime::generic, random);
  const auto compiled = gma::compile(mixture);
  gma::Workspace<double> workspace;
  for (const Index count : {29, 5, 40}) {
    const Stream<double> s = make_stream<double>(mixture, count, 29);
    const Matrix<double> expected = gma::causal(mixture, s.queries, s.keys, s.values, {}, s.tokens);
    Matrix<double> out(count, 3);
    gma::causal_into(out, compiled, s.queries, s.keys, s.values, {}, s.tokens, workspace);
    EXPECT_TRUE(same_bits(out, expected));
    const auto bytes = workspace.bytes();
    gma::causal_into(out, compiled, s.queries, s.keys, s.values, {}, s.tokens, workspace);
    EXPECT_EQ(workspace.bytes(), bytes);
    EXPECT_TRUE(same_bits(gma::responsibilities(mixture, s.queries), gma::responsibilities(compiled, s.queries)));
    Memory<double> a, b;
    gma::write(mixture, s.keys, s.values, a, s.tokens);
    gma::write(compiled, s.keys, s.values, b, s.tokens);
    EXPECT_TRUE(same_bits(a, b));
  }
}

}  // namespace
}  // namespace gma_test
