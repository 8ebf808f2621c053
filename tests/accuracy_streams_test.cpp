// SPDX-License-Identifier: MIT
// The accuracy contract over long streams: single steps, chunks of any length and one pass agree with each other and
// with double, no slot stops learning, memories of long streams merge, are saved and go on. GMA_ACCURACY=full runs
// 25 million tokens instead of 200,000 and prints the figures.
#include <limits>
#include <sstream>

#include "accuracy.hpp"
#include "gma/baselines/feature_maps.hpp"

namespace gma_test {
namespace {

constexpr Index pool_size = 49 * 4096;  // 200,704 tokens, which the full run takes in again and again

Options with(Normalization normalization) {
  Options options;
  options.normalization = normalization;
  return options;
}

/// 200,704 tokens, values of mean 1.
struct Pool {
  gma::CompiledMixture<float> mixture;
  gma::CompiledMixture<double> wide;
  Matrix<float> queries, keys, values;
  TokenInputs<float> tokens;

  explicit Pool(double time, Index count = pool_size) {
    Random random(4);
    gma::Mixture<float> m;
    randomize(m, 4, 2, Regime::generic, random);
    mixture = compile(m);
    wide = compile(m.cast<double>());
    queries = random.matrix<float>(count, 2);
    keys = random.matrix<float>(count, 2);
    values = random.matrix<float>(count, 2);
    values.array() += 1;
    if (time > 0) {
      tokens.log_forgetting.resize(count);
      for (Index i = 0; i < count; ++i) {
        tokens.log_forgetting(i) = static_cast<float>(-(0.5 + random.uniform()) / time);
      }
    }
  }
  Index size() const { return keys.rows(); }

  /// All tokens once more into `memory`, `chunk` at a time.
  Matrix<float> in_chunks(Index chunk, Normalization normalization, Memory<float>& memory) const {
    Matrix<float> out(size(), values.cols());
    gma::Workspace<float> workspace;
    for (Index begin = 0; begin < size(); begin += chunk) {
      const Index count = std::min(chunk, size() - begin);
      auto rows = out.middleRows(begin, count);
      causal_into(rows, mixture, queries.middleRows(begin, count), keys.middleRows(begin, count),
                  values.middleRows(begin, count), memory, with(normalization), part_of(tokens, begin, count),
                  workspace);
    }
    return out;
  }
};

class LongStreams : public testing::TestWithParam<std::pair<double, Normalization>> {};
INSTANTIATE_TEST_SUITE_P(Streams, LongStreams,
                         testing::Values(std::pair(0., Normalization::slot), std::pair(0., Normalization::row),
                                         std::pair(1e6, Normalization::none), std::pair(8192., Normalization::slot)),
                         [](const auto& stream) {
                           return std::string("time") + std::to_string(static_cast<long>(stream.param.first)) +
                                  name_of(stream.param.second);
                         });

TEST_P(LongStreams, StepsChunksAndOnePassAgree) {
  const auto [time, normalization] = GetParam();
  const Pool pool(time);
  const Matrix<double> q = in_double(pool.queries), k = in_double(pool.keys), v = in_double(pool.values);
  const TokenInputs<double> tokens = in_double(pool.tokens);
  const int rounds = runs_full() ? 125 : 1;
  const std::vector<Index> chunks = {1, 3, 95, 256, pool.size()};
  std::vector<Memory<float>> memories(chunks.size());
  Memory<double> wide_memory;
  for (int round = 1; round <= rounds; ++round) {
    if (runs_full() && (round == 1 || round % 25 == 0))
      std::printf("%s tokens\n", std::to_string(round * pool.size()).c_str());
    const Matrix<double> wide_y = causal(pool.wide, q, k, v, wide_memory, with(normalization), tokens);
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      const Matrix<float> y = pool.in_chunks(chunks[i], normalization, memories[i]);
      if (round != 1 && round % 25 != 0) continue;
      const std::string name = "chunks of " + std::to_string(chunks[i]);
      expect_accurate(name + " outputs", y, wide_y);
      expect_accurate(name + " memory", memories[i], wide_memory);
    }
  }
}

/// A mass of 2^24 takes in a token of weight 1 only because of its remainder.
TEST(HeavyMemories, GoOnLearning) {
  for (const float old_value : {0.0F, 1.0F}) {
    for (const Index chunk : {1, 2, 50, 100}) {
      SCOPED_TRACE("old value " + std::to_string(old_value) + ", chunks of " + std::to_string(chunk));
      const float value = old_value == 0.0F ? 1.0F : 0.9F;
      Memory<float> memory;
      memory.mass = Vector<float>::Constant(1, 0x1p24F);
      memory.slots = Matrix<float>::Constant(1, 1, 0x1p24F * old_value);
      const auto mixture = compile(gma::Mixture<float>(1, 1));
      const Matrix<float> tokens = Matrix<float>::Constant(chunk, 1, 0.5F),
                          values = Matrix<float>::Constant(chunk, 1, value);
      Matrix<float> out(chunk, 1);
      gma::Workspace<float> workspace;
      const Index calls = (Index(1) << 21) / chunk;
      for (Index i = 0; i < calls; ++i) {
        causal_into(out, mixture, tokens, tokens, values, memory, Options{}, TokenInputs<float>{}, workspace);
      }
      const double count = static_cast<double>(calls * chunk), mass = 0x1p24 + count,
                   mean = (0x1p24 * static_cast<double>(old_value) + count * static_cast<double>(value)) / mass;
      expect_figure("mean of a heavy slot", std::abs(static_cast<double>(out(chunk - 1, 0)) - mean) / mean);
      expect_figure("mass of a heavy slot", std::abs(static_cast<double>(memory.mass(0)) - mass) / mass);
    }
  }
}

/// write() in calls of any length is one write.
TEST(LongMemories, AreWrittenInCallsOfAnyLength) {
  for (const double time : {0., 1e6}) {
    const Pool pool(time);
    Memory<double> expected;
    write(pool.wide, in_double(pool.keys), in_double(pool.values), expected, in_double(pool.tokens));
    for (const Index chunk : {1, 7, 500}) {
      Memory<float> memory;
      gma::Workspace<float> workspace;
      for (Index begin = 0; begin < pool.size(); begin += chunk) {
        const Index count = std::min(chunk, pool.size() - begin);
        write(pool.mixture, pool.keys.middleRows(begin, count), pool.values.middleRows(begin, count), memory,
              part_of(pool.tokens, begin, count), workspace);
      }
      expect_accurate("write in calls of " + std::to_string(chunk), memory, expected);
    }
  }
}

TEST(LongMemories, Merge) {
  for (const double time : {0., 8192., 1e6}) {
    SCOPED_TRACE(time);
    const Pool pool(time);
    Memory<double> expected;
    write(pool.wide, in_double(pool.keys), in_double(pool.values), expected, in_double(pool.tokens));
    for (const Index piece : {Index(100352), Index(4096), Index(64)}) {
      Memory<float> left, right;  // from the first on, and from the last on
      std::vector<Memory<float>> pieces;
      for (Index begin = 0; begin < pool.size(); begin += piece) {
        pieces.emplace_back();
        write(pool.mixture, pool.keys.middleRows(begin, piece), pool.values.middleRows(begin, piece), pieces.back(),
              part_of(pool.tokens, begin, piece));
      }
      for (const Memory<float>& next : pieces) left = merge(left, next);
      for (auto next = pieces.rbegin(); next != pieces.rend(); ++next) right = merge(*next, right);
      const std::string name = "merge of pieces of " + std::to_string(piece);
      expect_accurate(name + " from the left", left, expected);
      expect_accurate(name + " from the right", right, expected);
      expect_figure(name + " log_forgetting",
                    std::abs(static_cast<double>(left.log_forgetting) - expected.log_forgetting),
                    contract * std::abs(expected.log_forgetting));
    }
  }
}

TEST(LongMemories, GoOnWithTheSameBitsWhenSavedAndLoaded) {
  for (const double time : {0., 8192.}) {
    const Pool pool(time), more(time, 500);
    Memory<float> memory;
    pool.in_chunks(pool.size(), Normalization::slot, memory);
    ASSERT_NE(memory.mass_remainder.size(), 0);
    ASSERT_GT(memory.mass_remainder.cwiseAbs().maxCoeff() + memory.slots_remainder.cwiseAbs().maxCoeff(), 0);
    std::stringstream stream;
    save(memory, stream);
    Memory<float> again;
    load(again, stream);
    for (const Index chunk : {1, 95, 256}) {
      const Matrix<float> y = more.in_chunks(chunk, Normalization::slot, memory);
      EXPECT_TRUE(same_bits(more.in_chunks(chunk, Normalization::slot, again), y)) << chunk;
      EXPECT_TRUE(same_bits(memory, again));
      EXPECT_TRUE(same_bits(memory.mass_remainder, again.mass_remainder));
      EXPECT_TRUE(same_bits(memory.slots_remainder, again.slots_remainder));
      EXPECT_EQ(memory.tokens, again.tokens);
    }
  }
}

/// The state of a state-space model has masses of both signs.
TEST(SignedMemories, AreSavedAndGoOn) {
  const gma::baselines::IdentityFeatures<float> features(4);
  Random random(2);
  const Matrix<float> x = random.matrix<float>(9, 4);
  Memory<float> memory, written;
  causal(features, x, x, x, memory, with(Normalization::none));
  write(features, x, x, written);
  ASSERT_LT(memory.mass.minCoeff(), 0);
  for (const Memory<float>* before : {&memory, &written}) {
    EXPECT_TRUE(before->has_signed_mass);
    std::stringstream stream;
    save(*before, stream);
    Memory<float> again;
    load(again, stream);
    EXPECT_TRUE(again.has_signed_mass);
    EXPECT_TRUE(merge(again, gma::empty_memory<float>(4, 4)).has_signed_mass);
    Memory<float> copy = *before;
    EXPECT_TRUE(same_bits(causal(features, x, x, x, again, with(Normalization::none)),
                          causal(features, x, x, x, copy, with(Normalization::none))));
  }
  reset(memory);
  EXPECT_FALSE(memory.has_signed_mass);
}

Index subnormal_numbers(const Matrix<float>& numbers) {
  return (numbers.array() != 0 && numbers.array().abs() < std::numeric_limits<float>::min()).count();
}
Index subnormal_numbers(const Memory<float>& memory) {
  return subnormal_numbers(memory.slots) + subnormal_numbers(Matrix<float>(memory.mass)) +
         subnormal_numbers(memory.slots_remainder) + subnormal_numbers(Matrix<float>(memory.mass_remainder));
}

/// A slot that no token comes near any more fades. Subnormal numbers would round to themselves and stay for ever.
TEST(VanishedSlots, BecomeZero) {
  gma::Mixture<float> m(4, 1);
  m.means << -300, 0, 100, 300;
  const auto mixture = compile(m);
  const Index count = 2000;
  Random random(6);
  Matrix<float> keys = random.matrix<float>(count, 1, 0.1);
  keys(0, 0) = -300;
  keys(1, 0) = 100;
  keys(2, 0) = 300;
  const Matrix<float> values = random.matrix<float>(count, 3);
  for (const float forgetting : {0.3F, 0.01F, 0.6F, 1.2F}) {
    // As many tokens as the slot that was written first needs to fall below 2^-149.
    TokenInputs<float> tokens;
    tokens.log_forgetting = Vector<float>::Constant(count, -forgetting);
    const int rounds = forgetting < 0.1F ? 8 : 1;
    for (const Index chunk : {Index(1), Index(2), Index(3), Index(40), Index(95), Index(256), count}) {
      SCOPED_TRACE(std::to_string(forgetting) + ", chunks of " + std::to_string(chunk));
      Memory<float> memory, written;
      for (int round = 0; round < rounds; ++round) {
        for (Index begin = 0; begin < count; begin += chunk) {
          const Index size = std::min(chunk, count - begin);
          const Matrix<float> k = round == 0 ? Matrix<float>(keys.middleRows(begin, size))
                                             : Matrix<float>(Matrix<float>::Constant(size, 1, 0.2F));
          const Matrix<float> v = values.middleRows(begin, size);
          const TokenInputs<float> part = part_of(tokens, begin, size);
          causal(mixture, k, k, v, memory, Options{}, part);
          write(mixture, k, v, written, part);
        }
      }
      EXPECT_EQ(subnormal_numbers(memory), 0) << memory.slots;
      EXPECT_EQ(subnormal_numbers(written), 0) << written.slots;
      EXPECT_EQ(memory.mass(0), 0);
      EXPECT_EQ(written.mass(0), 0);
      EXPECT_GT(memory.mass(1), 0.5);
    }
  }
}

/// The same in a memory that keeps a remainder.
TEST(VanishedSlots, OfALongMemoryBecomeZero) {
  gma::Mixture<float> m(3, 1);
  m.means << -300, 0, 300;
  const auto mixture = compile(m);
  const Index count = 400;
  Random random(6);
  const Matrix<float> keys = random.matrix<float>(count, 1, 0.1), values = random.matrix<float>(count, 3);
  TokenInputs<float> tokens;
  tokens.log_forgetting = Vector<float>::Constant(count, -0.3F);
  for (const Index chunk : {Index(1), Index(3), Index(95), count}) {
    SCOPED_TRACE(chunk);
    Memory<float> memory = gma::empty_memory<float>(3, 3);
    memory.mass.setConstant(50000);
    memory.slots.setConstant(20000);
    Memory<float> written = memory;
    for (Index begin = 0; begin < count; begin += chunk) {
      const Index size = std::min(chunk, count - begin);
      const Matrix<float> k = keys.middleRows(begin, size), v = values.middleRows(begin, size);
      const TokenInputs<float> part = part_of(tokens, begin, size);
      causal(mixture, k, k, v, memory, Options{}, part);
      write(mixture, k, v, written, part);
    }
    ASSERT_NE(memory.mass_remainder.size(), 0);
    EXPECT_EQ(subnormal_numbers(memory), 0) << memory.slots << "\n" << memory.slots_remainder;
    EXPECT_EQ(subnormal_numbers(written), 0) << written.slots << "\n" << written.slots_remainder;
    EXPECT_EQ(memory.mass(0) + written.mass(0), 0);
    EXPECT_GT(memory.mass(1), 0.5);
  }
}

}  // namespace
}  // namespace gma_test
