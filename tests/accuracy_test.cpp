// SPDX-License-Identifier: MIT
// The accuracy contract as a table: outputs, memories and gradients of every verb in float are those in double, at any
// length, for every normalisation, without forgetting and with time constants from 16 to 1,000,000, and with values
// whose mean is far from 0. GMA_ACCURACY=full runs all of it at N = 1,048,576 and prints the figures.
#include "accuracy.hpp"

namespace gma_test {
namespace {

Options with(Normalization normalization) {
  Options options;
  options.normalization = normalization;
  return options;
}

/// A stream of unit spread, with values around `mean` and gradients of the outputs around a third of it.
struct Stream {
  gma::Mixture<float> mixture;
  gma::Mixture<double> wide;
  Matrix<float> queries, keys, values, d_output;
  TokenInputs<float> tokens;
  Memory<float> d_memory;

  /// time: the forgetting's time constant, around which it varies from token to token; 0: nothing is forgotten.
  Stream(Index count, double time, double mean, Index components = 8, Index dim = 4, Index width = 4) {
    Random random(5);
    randomize(mixture, components, dim, Regime::generic, random);
    wide = mixture.cast<double>();
    queries = random.matrix<float>(count, dim);
    keys = random.matrix<float>(count, dim);
    values = random.matrix<float>(count, width);
    d_output = random.matrix<float>(count, width);
    values.array() += static_cast<float>(mean);
    d_output.array() += static_cast<float>(mean / 3);
    if (time > 0) {
      tokens.log_forgetting.resize(count);
      for (Index i = 0; i < count; ++i) {
        tokens.log_forgetting(i) = static_cast<float>(-(0.5 + random.uniform()) / time);
      }
    }
    d_memory.slots = random.matrix<float>(components, width);
    d_memory.mass = random.vector<float>(components);
  }
};

void check_forward(const Stream& s, const Options& options) {
  const TokenInputs<double> tokens = in_double(s.tokens);
  const Matrix<double> q = in_double(s.queries), k = in_double(s.keys), v = in_double(s.values);
  Memory<float> memory, written;
  Memory<double> wide_memory, wide_written;
  const Matrix<float> y = causal(s.mixture, s.queries, s.keys, s.values, memory, options, s.tokens);
  const Matrix<double> wide_y = causal(s.wide, q, k, v, wide_memory, options, tokens);
  expect_accurate("causal outputs", y, wide_y);
  expect_accurate("causal memory", memory, wide_memory);
  write(s.mixture, s.keys, s.values, written, s.tokens);
  write(s.wide, k, v, wide_written, tokens);
  expect_accurate("write memory", written, wide_written);
  expect_accurate("read outputs", read(s.mixture, s.queries, written, options), read(s.wide, q, wide_written, options));
  expect_accurate("bidirectional outputs", bidirectional(s.mixture, s.queries, s.keys, s.values, options, s.tokens),
                  bidirectional(s.wide, q, k, v, options, tokens));
}

void check_backward(const Stream& s, const Options& options) {
  const TokenInputs<double> tokens = in_double(s.tokens);
  const Matrix<double> q = in_double(s.queries), k = in_double(s.keys), v = in_double(s.values),
                       dy = in_double(s.d_output);
  expect_accurate("causal", causal_backward(s.mixture, s.queries, s.keys, s.values, s.d_output, options, s.tokens),
                  causal_backward(s.wide, q, k, v, dy, options, tokens), causal_bounds);
  expect_accurate("bidirectional",
                  bidirectional_backward(s.mixture, s.queries, s.keys, s.values, s.d_output, options, s.tokens),
                  bidirectional_backward(s.wide, q, k, v, dy, options, tokens), bidirectional_bounds);
  Memory<float> memory;
  write(s.mixture, s.keys, s.values, memory, s.tokens);
  expect_accurate("read", read_backward(s.mixture, s.queries, memory, s.d_output, options),
                  read_backward(s.wide, q, whole(memory), dy, options));
  if (options.normalization != Normalization::none) return;  // write() has none
  expect_accurate("write", write_backward(s.mixture, s.keys, s.values, s.d_memory, s.tokens),
                  write_backward(s.wide, k, v, in_double(s.d_memory), tokens));
}

// The table ----------------------------------------------------------------------------------------------------------

struct Row {
  double time;
  Normalization normalization;
  double mean;
  bool is_long;  // of 1,048,576 tokens in every run
};

std::vector<Row> table() {
  std::vector<Row> rows;
  for (const double time : {0., 16., 512., 8192., 1e6}) {
    for (const Normalization normalization : all_normalizations) {
      for (const double mean : {0., 3., 10.}) {
        const bool is_long = mean == 3 && ((time == 0 && normalization == Normalization::slot) ||
                                           (time == 8192 && normalization == Normalization::row));
        rows.push_back({time, normalization, mean, is_long});
      }
    }
  }
  return rows;
}

/// Without GMA_ACCURACY=full: values of mean 3, the means 0 and 10 where nothing is forgotten and where it is slowest.
bool is_in_short_table(const Row& row) { return row.mean == 3 || row.time == 0 || row.time == 1e6; }

class Accuracy : public testing::TestWithParam<Row> {};
INSTANTIATE_TEST_SUITE_P(Table, Accuracy, testing::ValuesIn(table()), [](const auto& chosen) {
  const Row& row = chosen.param;
  return std::string("time") + std::to_string(static_cast<long>(row.time)) + name_of(row.normalization) + "mean" +
         std::to_string(static_cast<int>(row.mean));
});

TEST_P(Accuracy, OfEveryVerb) {
  const Row& row = GetParam();
  if (!runs_full() && !is_in_short_table(row)) GTEST_SKIP() << "part of GMA_ACCURACY=full";
  const Index count = runs_full() || row.is_long ? Index(1) << 20 : Index(1) << 17;
  const Stream stream(count, row.time, row.mean);
  check_forward(stream, with(row.normalization));
  check_backward(stream, with(row.normalization));
}

/// In segments whose own sums are short, and in segments that are themselves long streams.
TEST(AccuracyOfSegments, IsThatOfOnePass) {
  const Index count = runs_full() ? Index(1) << 20 : Index(1) << 17;
  for (const double time : {0., 8192.}) {
    for (const Normalization normalization : all_normalizations) {
      const Stream s(count, time, 3);
      const TokenInputs<double> tokens = in_double(s.tokens);
      const Matrix<double> q = in_double(s.queries), k = in_double(s.keys), v = in_double(s.values),
                           dy = in_double(s.d_output);
      Memory<double> wide_memory;
      const Matrix<double> wide_y = causal(s.wide, q, k, v, wide_memory, with(normalization), tokens);
      const auto wide = causal_backward(s.wide, q, k, v, dy, with(normalization), tokens);
      for (const Index segment : {3000, 50000}) {
        SCOPED_TRACE(testing::Message() << "time " << time << ", " << name_of(normalization) << ", segments of "
                                        << segment);
        Options options = with(normalization);
        options.segment = segment;
        Memory<float> memory;
        const Matrix<float> y = causal(s.mixture, s.queries, s.keys, s.values, memory, options, s.tokens);
        expect_accurate("causal outputs", y, wide_y);
        expect_accurate("causal memory", memory, wide_memory);
        expect_accurate("causal",
                        causal_backward(s.mixture, s.queries, s.keys, s.values, s.d_output, options, s.tokens), wide,
                        causal_bounds);
      }
    }
  }
}

// What double itself is measured by ----------------------------------------------------------------------------------

/// Causal outputs by loops over tokens and slots, in long double; the memory is left in `memory`.
Matrix<double> plain_causal(const Matrix<double>& q, const Matrix<double>& r, const Matrix<double>& values,
                            const Vector<double>& log_forgetting, Normalization normalization, Memory<double>& memory) {
  const Index K = q.cols(), e = values.cols();
  std::vector<long double> slots(static_cast<std::size_t>(K * e), 0), mass(static_cast<std::size_t>(K), 0);
  Matrix<double> y(q.rows(), e);
  for (Index i = 0; i < q.rows(); ++i) {
    const long double lambda = std::exp(static_cast<long double>(log_forgetting(i)));
    long double total = 0;
    for (Index k = 0; k < K; ++k) {
      long double& m = mass[static_cast<std::size_t>(k)];
      m = lambda * m + static_cast<long double>(r(i, k));
      total += static_cast<long double>(q(i, k)) * m;
      for (Index j = 0; j < e; ++j) {
        long double& slot = slots[static_cast<std::size_t>(k * e + j)];
        slot = lambda * slot + static_cast<long double>(r(i, k)) * static_cast<long double>(values(i, j));
      }
    }
    for (Index j = 0; j < e; ++j) {
      long double sum = 0;
      for (Index k = 0; k < K; ++k) {
        long double term = static_cast<long double>(q(i, k)) * slots[static_cast<std::size_t>(k * e + j)];
        if (normalization == Normalization::slot) term /= mass[static_cast<std::size_t>(k)];
        sum += term;
      }
      y(i, j) = static_cast<double>(normalization == Normalization::row ? sum / total : sum);
    }
  }
  memory = gma::empty_memory<double>(K, e);
  for (Index k = 0; k < K; ++k) {
    memory.mass(k) = static_cast<double>(mass[static_cast<std::size_t>(k)]);
    for (Index j = 0; j < e; ++j) memory.slots(k, j) = static_cast<double>(slots[static_cast<std::size_t>(k * e + j)]);
  }
  return y;
}

TEST(AccuracyOfDouble, OfALongStreamAgainstPlainLoops) {
  const Stream s(Index(1) << 17, 8192, 3);
  const Matrix<double> q = in_double(s.queries), k = in_double(s.keys), v = in_double(s.values);
  const TokenInputs<double> tokens = in_double(s.tokens);
  const Matrix<double> q_r = gma::reference::responsibilities(s.wide, q),
                       k_r = gma::reference::responsibilities(s.wide, k);
  for (const Normalization normalization : all_normalizations) {
    SCOPED_TRACE(name_of(normalization));
    Memory<double> memory, plain_memory;
    const Matrix<double> y = causal(s.wide, q, k, v, memory, with(normalization), tokens);
    const Matrix<double> plain = plain_causal(q_r, k_r, v, tokens.log_forgetting, normalization, plain_memory);
    EXPECT_TRUE(close(y, plain, forward_tolerance<double>()));
    EXPECT_TRUE(close(memory.slots, plain_memory.slots, forward_tolerance<double>()));
    EXPECT_TRUE(close(memory.mass, plain_memory.mass, forward_tolerance<double>()));
  }
}

/// The slope of sum(y d_output) along one random direction of everything that has a gradient.
TEST(AccuracyOfDouble, OfLongGradientsAgainstDifferences) {
  const Stream s(Index(1) << 15, 8192, 3);
  const Matrix<double> q = in_double(s.queries), k = in_double(s.keys), v = in_double(s.values),
                       dy = in_double(s.d_output);
  const TokenInputs<double> tokens = in_double(s.tokens);
  Random random(9);
  Matrix<double> to_q = random.matrix<double>(q.rows(), q.cols()), to_k = random.matrix<double>(k.rows(), k.cols()),
                 to_v = random.matrix<double>(v.rows(), v.cols());
  Vector<double> to_g = random.vector<double>(k.rows(), 1e-5);
  gma::Mixture<double> to_m;
  randomize(to_m, s.wide.components(), s.wide.dim(), Regime::generic, random);
  for (const Normalization normalization : all_normalizations) {
    for (const bool is_causal : {true, false}) {
      SCOPED_TRACE(std::string(name_of(normalization)) + (is_causal ? " causal" : " bidirectional"));
      const Options options = with(normalization);
      double along = 0;
      const auto loss = [&] {
        gma::Mixture<double> m = s.wide;
        m.means += along * to_m.means;
        m.log_scales += along * to_m.log_scales;
        m.weight_logits += along * to_m.weight_logits;
        m.log_temperature += along * to_m.log_temperature;
        TokenInputs<double> t = tokens;
        t.log_forgetting += along * to_g;
        const Matrix<double> x = q + along * to_q, y = k + along * to_k, z = v + along * to_v;
        const Matrix<double> out = is_causal ? causal(m, x, y, z, options, t) : bidirectional(m, x, y, z, options, t);
        return out.cwiseProduct(dy).sum();
      };
      const auto g = is_causal ? causal_backward(s.wide, q, k, v, dy, options, tokens)
                               : bidirectional_backward(s.wide, q, k, v, dy, options, tokens);
      const double slope =
          g.queries.cwiseProduct(to_q).sum() + g.keys.cwiseProduct(to_k).sum() + g.values.cwiseProduct(to_v).sum() +
          g.log_forgetting.dot(to_g) + g.mixture.means.cwiseProduct(to_m.means).sum() +
          g.mixture.log_scales.cwiseProduct(to_m.log_scales).sum() + g.mixture.weight_logits.dot(to_m.weight_logits) +
          g.mixture.log_temperature * to_m.log_temperature;
      EXPECT_NEAR(difference_quotient(along, 1e-4, loss), slope, 1e-6 * std::abs(slope));
    }
  }
}

// Away from the table ------------------------------------------------------------------------------------------------

/// The stream goes on from a memory that is much heavier than its tokens: the gradient of the forgetting is the
/// difference of two energies of the old memory.
TEST(AccuracyOfGradients, FromAHeavyMemory) {
  for (const Normalization normalization : {Normalization::slot, Normalization::row, Normalization::none}) {
    for (const Index count : {33, 48, 67}) {
      for (const double time : {16., 512., 1e6}) {
        for (const double mean : {0., 3.}) {
          SCOPED_TRACE(std::string(name_of(normalization)) + ", " + std::to_string(count) + " tokens, time " +
                       std::to_string(time) + ", mean " + std::to_string(mean));
          const Stream s(count, time, mean);
          Random random(3);
          Memory<float> memory = gma::empty_memory<float>(8, 4);
          for (Index k = 0; k < 8; ++k) {
            memory.mass(k) = static_cast<float>(5e4 * (0.5 + random.uniform()));
            for (Index j = 0; j < 4; ++j) {
              memory.slots(k, j) = memory.mass(k) * static_cast<float>(mean + 0.1 * random.normal());
            }
          }
          const auto found = causal_backward(s.mixture, s.queries, s.keys, s.values, s.d_output, memory,
                                             Memory<float>(), with(normalization), s.tokens);
          const auto expected = causal_backward(s.wide, in_double(s.queries), in_double(s.keys), in_double(s.values),
                                                in_double(s.d_output), in_double(memory), Memory<double>(),
                                                with(normalization), in_double(s.tokens));
          expect_accurate("heavy memory", found, expected);
        }
      }
    }
  }
}

TEST(AccuracyOfGradients, OfValuesOfMean1000) {
  for (const Normalization normalization : {Normalization::slot, Normalization::row}) {
    for (const double time : {0., 512.}) {
      SCOPED_TRACE(std::string(name_of(normalization)) + ", time " + std::to_string(time));
      Stream s(Index(1) << 16, time, 1000);
      Random random(8);
      random.fill(s.d_output);
      check_forward(s, with(normalization));
      check_backward(s, with(normalization));
    }
  }
}

TEST(AccuracyOfGradients, OfTokensAndMeansFarOut) {
  for (const Normalization normalization : all_normalizations) {
    for (const double time : {0., 512.}) {
      SCOPED_TRACE(std::string(name_of(normalization)) + ", time " + std::to_string(time));
      Stream s(Index(1) << 14, time, 3);
      for (Matrix<float>* part : {&s.queries, &s.keys, &s.mixture.means}) part->array() += 10000.0F;
      s.wide = s.mixture.cast<double>();
      check_forward(s, with(normalization));
      check_backward(s, with(normalization));
    }
  }
}

}  // namespace
}  // namespace gma_test
