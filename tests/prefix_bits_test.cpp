// SPDX-License-Identifier: MIT
// "Output i depends on tokens 0..i alone, to the bit": however many tokens follow and whatever they hold, light or
// heavy, short sequences or long ones, from nothing or from a memory that has seen much.
#include <algorithm>

#include "support.hpp"

namespace gma_test {
namespace {

constexpr Index components = 5, dim = 3, width = 6;

/// A sequence that may be cut anywhere.
template <class S>
struct Sequence {
  Matrix<S> queries, keys, values;
  TokenInputs<S> tokens;
  Memory<S> memory;

  Index size() const { return keys.rows(); }
};

/// `weight`: of every key, 0: none are given. `forgetting`: g of every token, 0: none is given.
template <class S>
Sequence<S> random_sequence(Index count, double weight, double forgetting, std::uint64_t seed) {
  Random random(seed);
  Sequence<S> sequence{random.matrix<S>(count, dim),
                       random.matrix<S>(count, dim),
                       random.matrix<S>(count, width),
                       {},
                       gma::empty_memory<S>(components, width)};
  if (weight > 0) sequence.tokens.key_weights = Vector<S>::Constant(count, static_cast<S>(weight));
  if (forgetting < 0) sequence.tokens.log_forgetting = Vector<S>::Constant(count, static_cast<S>(forgetting));
  return sequence;
}

template <class S>
gma::CompiledMixture<S> random_mixture() {
  Random random(1);
  gma::Mixture<S> mixture;
  randomize(mixture, components, dim, Regime::generic, random);
  return gma::compile(mixture);
}

/// Outputs of the first `count` tokens where nothing follows them.
template <class S>
Matrix<S> outputs(const gma::CompiledMixture<S>& mixture, const Sequence<S>& s, Index count, const Options& options,
                  gma::Workspace<S>& workspace) {
  Memory<S> memory = s.memory;
  Matrix<S> out(count, width);
  gma::causal_into(out, mixture, s.queries.topRows(count), s.keys.topRows(count), s.values.topRows(count), memory,
                   options, part_of(s.tokens, 0, count), workspace);
  return out;
}

/// Compares the prefixes of the given lengths with the same tokens of the whole sequence.
template <class S>
void check_prefixes(const gma::CompiledMixture<S>& mixture, const Sequence<S>& sequence, const Options& options,
                    const std::vector<Index>& lengths, gma::Workspace<S>& workspace) {
  const Matrix<S> whole = outputs(mixture, sequence, sequence.size(), options, workspace);
  ASSERT_TRUE(all_finite(whole));
  for (const Index length : lengths) {
    const Matrix<S> part = outputs(mixture, sequence, length, options, workspace);
    if (same_bits(part, whole.topRows(length))) continue;
    Index first = 0;
    while (same_bits(part.row(first), whole.row(first))) ++first;
    // One line says it: the other lengths of this sequence have the same fault.
    FAIL() << "the first " << length << " tokens: output " << first << " changes where " << sequence.size() - length
           << " tokens follow, relative difference " << relative_error(part, whole.topRows(length));
  }
}

template <class S>
struct PrefixBits : testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(PrefixBits, Scalars, );

std::vector<Index> every_length(Index last, Index step) {
  std::vector<Index> lengths;
  for (Index length = 0; length <= last; length += step) lengths.push_back(length);
  return lengths;
}

TYPED_TEST(PrefixBits, OfEveryLengthDoNotDependOnWhatFollows) {
  using S = TypeParam;
  const gma::CompiledMixture<S> mixture = random_mixture<S>();
  gma::Workspace<S> workspace;
  for (const double weight : {0.0, 1.0, 1000.0}) {
    for (const double forgetting : {0.0, -1e-4, -0.3}) {
      for (const Normalization normalization : all_normalizations) {
        for (const Index tile : {0, 40}) {
          SCOPED_TRACE(testing::Message() << "weight " << weight << ", g " << forgetting << ", "
                                          << name_of(normalization) << ", tile " << tile);
          Options options;
          options.normalization = normalization;
          options.tile = tile;
#ifdef GMA_REDUCED_TESTS
          constexpr Index step = 19;
#else
          const Index step = tile == 0 ? 1 : 7;
#endif
          check_prefixes(mixture, random_sequence<S>(700, weight, forgetting, 2), options, every_length(700, step),
                         workspace);
        }
      }
    }
  }
}

/// Cut into segments: what follows may begin new ones.
TYPED_TEST(PrefixBits, InSegmentsDoNotDependOnWhatFollows) {
  using S = TypeParam;
  const gma::CompiledMixture<S> mixture = random_mixture<S>();
  gma::Workspace<S> workspace;
  for (const double mass : {0.0, 40000.0}) {
    for (const double forgetting : {0.0, -1e-3}) {
      for (const Normalization normalization : all_normalizations) {
        for (const Index segment : {1, 33, 96}) {
          SCOPED_TRACE(testing::Message() << "mass " << mass << ", g " << forgetting << ", " << name_of(normalization)
                                          << ", segments of " << segment);
          Options options;
          options.normalization = normalization;
          options.segment = segment;
          Sequence<S> sequence = random_sequence<S>(300, 1, forgetting, 2);
          sequence.memory.mass.setConstant(static_cast<S>(mass / components));
          sequence.memory.slots.setConstant(static_cast<S>(mass / 7));
          std::vector<Index> lengths = every_length(300, 19);
          for (const Index next : {1, 32, 33, 34, 66, 67, 95, 96, 97, 192, 193, 297, 298, 299}) lengths.push_back(next);
          check_prefixes(mixture, sequence, options, lengths, workspace);
        }
      }
    }
  }
}

/// A memory that has seen much, of the mass at which a float stream begins to be summed in two levels and far beyond.
TYPED_TEST(PrefixBits, AfterAHeavyMemoryDoNotDependOnWhatFollows) {
  using S = TypeParam;
  const gma::CompiledMixture<S> mixture = random_mixture<S>();
  gma::Workspace<S> workspace;
  for (const double mass : {32700.0, 40000.0, 1e7}) {
    for (const double forgetting : {0.0, -1e-3}) {
      for (const Normalization normalization : all_normalizations) {
        SCOPED_TRACE(testing::Message() << "mass " << mass << ", g " << forgetting << ", " << name_of(normalization));
        Options options;
        options.normalization = normalization;
        Sequence<S> sequence = random_sequence<S>(400, 0, forgetting, 3);
        sequence.memory.mass.setConstant(static_cast<S>(mass / components));
        sequence.memory.slots.setConstant(static_cast<S>(mass / 7));
        check_prefixes(mixture, sequence, options,
                       {0, 1, 2, 50, 95, 96, 97, 120, 191, 192, 193, 287, 288, 289, 304, 305, 350, 384, 399},
                       workspace);
      }
    }
  }
}

TYPED_TEST(PrefixBits, OfLongSequencesDoNotDependOnWhatFollows) {
  using S = TypeParam;
  constexpr Index last = 36000;
  const gma::CompiledMixture<S> mixture = random_mixture<S>();
  gma::Workspace<S> workspace;
  for (const double forgetting : {0.0, -1e-5}) {
    for (const Normalization normalization : all_normalizations) {
      SCOPED_TRACE(testing::Message() << "g " << forgetting << ", " << name_of(normalization));
      Options options;
      options.normalization = normalization;
      // 342 x 96 = 32,832 is the first whole tile after a mass of 2^15.
      check_prefixes(mixture, random_sequence<S>(last, 0, forgetting, 4), options,
                     {32768, 32769, 32832, 32833, 32850, 32927, 32928, 32929, 33000, 33024, 35904, 35990}, workspace);
      options.segment = 4000;
      check_prefixes(mixture, random_sequence<S>(last, 0, forgetting, 4), options,
                     {3999, 4000, 4001, 32000, 32001, 32768, 32769, 32832, 32833, 33000, 35990}, workspace);
    }
  }
}

/// Tokens to come that are absent, heavier, restart the memory or are no numbers at all.
TYPED_TEST(PrefixBits, DoNotDependOnWhatTheFutureHolds) {
  using S = TypeParam;
  const gma::CompiledMixture<S> mixture = random_mixture<S>();
  gma::Workspace<S> workspace;
  for (const double weight : {1.0, 1000.0}) {
    for (int choice = 0; choice < 6; ++choice) {
      const Normalization normalization = all_normalizations[choice % 3];
      Options options;
      options.normalization = normalization;
      options.segment = choice < 3 ? 0 : 64;
      const Sequence<S> plain = random_sequence<S>(300, weight, -1e-4, 5);
      const Matrix<S> expected = outputs(mixture, plain, 300, options, workspace);
      for (const Index length : {1, 40, 95, 96, 97, 150, 192, 200, 288}) {
        for (int change = 0; change < 4; ++change) {
          SCOPED_TRACE(testing::Message() << "weight " << weight << ", " << name_of(normalization) << ", length "
                                          << length << ", change " << change);
          Sequence<S> other = plain;
          const Index after = 300 - length;
          if (change == 0) {
            other.keys.bottomRows(after).setConstant(static_cast<S>(not_a_number));
            other.queries.bottomRows(after).setConstant(static_cast<S>(not_a_number));
            other.values.bottomRows(after).setConstant(static_cast<S>(infinity));
          }
          if (change == 1) other.tokens.key_weights.tail(after).setConstant(S(0));
          if (change == 2) other.tokens.key_weights.tail(after).setConstant(S(1e6));
          if (change == 3) other.tokens.log_forgetting.tail(after).setConstant(-static_cast<S>(infinity));
          const Matrix<S> actual = outputs(mixture, other, 300, options, workspace);
          EXPECT_TRUE(same_bits(actual.topRows(length), expected.topRows(length)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace gma_test
