// SPDX-License-Identifier: MIT
// The kernels on packets against their plain twins, at every size around a register block, and the promises that the
// operators rely on: one row's bits do not depend on its neighbours, NaN stays, what is far away is exactly zero.
#include "gma/kernels/mass.hpp"
#include "gma/kernels/products.hpp"
#include "gma/kernels/rows.hpp"
#include "gma/kernels/scan.hpp"
#include "gma/kernels/slot_forgetting_backward.hpp"
#include "gma/softmax/running_softmax.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

namespace kernels = gma::kernels;
using gma::Tile;

template <class S>
class Kernels : public testing::Test {
 protected:
  void SetUp() override {
    if constexpr (!kernels::has_packets<S>) GTEST_SKIP() << "no packets of this scalar on this machine";
  }
};
struct ScalarNames {
  template <class S>
  static std::string GetName(int) {
    return sizeof(S) == 4 ? "float" : "double";
  }
};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(Kernels, Scalars, ScalarNames);

template <class S>
Tile<S> tile(Matrix<S>& matrix, Index cols = -1) {
  return Tile<S>(matrix.data(), matrix.rows(), cols < 0 ? matrix.cols() : cols,
                 Eigen::OuterStride<>(matrix.outerStride()));
}

constexpr Index sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 17, 24, 31, 33, 48, 64, 65, 80, 97};

// Products -----------------------------------------------------------------------------------------------------------

TYPED_TEST(Kernels, ProductsEqualThePlainOnes) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    Random random(1);
    for (const Index rows : {1, 2, 3, 5, 6, 7, 12, 13, 25}) {
      for (const Index cols : sizes) {
        for (const Index depth : {0, 1, 3, 70}) {
          for (const bool transposed : {false, true}) {
            // Rows of all operands lie apart, and what lies between them is not to be touched.
            const Index gap = 3;
            Matrix<S> a = random.matrix<S>(transposed ? depth : rows, (transposed ? rows : depth) + gap);
            const Matrix<S> b = random.matrix<S>(depth, cols + gap), bias = random.matrix<S>(1, cols);
            const Matrix<S> c = random.matrix<S>(rows, cols + gap);
            for (const bool adds : {false, true}) {
              Matrix<S> fast = c, plain = c;
              kernels::Product<S> p{a.data(),
                                    transposed ? 1 : a.cols(),
                                    transposed ? a.cols() : 1,
                                    b.data(),
                                    b.cols(),
                                    fast.data(),
                                    fast.cols(),
                                    rows,
                                    depth,
                                    cols,
                                    adds ? nullptr : bias.data(),
                                    adds};
              kernels::packets::multiply(p);
              p.c = plain.data();
              kernels::plain::multiply(p);
              ASSERT_TRUE(close(fast, plain, forward_tolerance<S>()))
                  << rows << " x " << depth << " x " << cols << (transposed ? ", transposed" : "");
              ASSERT_TRUE(same_bits(fast.rightCols(gap), c.rightCols(gap)));
            }
          }
        }
      }
    }
  }
}

TYPED_TEST(Kernels, ARowOfAProductDoesNotDependOnItsNeighbours) {
  using S = TypeParam;
  Random random(2);
  for (const Index cols : {3, 16, 37, 64}) {
    Matrix<S> a = random.matrix<S>(23, 40), b = random.matrix<S>(40, cols), all(23, cols);
    gma::detail::product<S>(a, b, tile(all));
    for (Index first = 0; first < 23; ++first) {
      for (const Index count : {Index(1), Index(2), Index(5), Index(7)}) {
        if (first + count > 23) continue;
        Matrix<S> some(count, cols);
        const Matrix<S> rows = a.middleRows(first, count);
        gma::detail::product<S>(rows, b, tile(some));
        ASSERT_TRUE(same_bits(some, all.middleRows(first, count))) << first << " " << count << " " << cols;
      }
    }
  }
}

// Rows ---------------------------------------------------------------------------------------------------------------

TYPED_TEST(Kernels, SoftmaxAndItsGradientEqualThePlainOnes) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    Random random(3);
    for (const Index cols : sizes) {
      for (const Index rows : {1, 3, 4, 9}) {
        Matrix<S> fast = random.matrix<S>(rows, cols + 1, 4), plain = fast;
        kernels::packets::softmax_rows(tile(fast, cols));
        kernels::plain::softmax_rows(tile(plain, cols));
        ASSERT_TRUE(close(fast, plain, forward_tolerance<S>())) << rows << " x " << cols;
        ASSERT_TRUE(same_bits(fast.rightCols(1), plain.rightCols(1)));
        Matrix<S> d_fast = random.matrix<S>(rows, cols + 1), d_plain = d_fast;
        kernels::packets::softmax_backward_rows(tile(fast, cols), tile(d_fast, cols));
        kernels::plain::softmax_backward_rows(tile(plain, cols), tile(d_plain, cols));
        ASSERT_TRUE(close(d_fast, d_plain, forward_tolerance<S>()));
        Matrix<S> sums = random.matrix<S>(1, cols), plain_sums = sums;
        kernels::packets::add_column_sums(tile(fast, cols), sums.data());
        kernels::plain::add_column_sums(tile(fast, cols), plain_sums.data());
        ASSERT_TRUE(close(sums, plain_sums, forward_tolerance<S>()));
        const double dot = static_cast<double>(kernels::packets::dot(fast.data(), d_fast.data(), cols));
        const double expected = static_cast<double>(kernels::plain::dot(fast.data(), d_fast.data(), cols));
        ASSERT_NEAR(dot, expected, forward_tolerance<S>() * static_cast<double>(cols));
      }
    }
  }
}

TYPED_TEST(Kernels, SoftmaxKeepsNaNInItsRowAndWhatIsFarAwayIsZero) {
  using S = TypeParam;
  for (const Index cols : {3, 8, 16, 29, 64}) {
    Matrix<S> logits = Matrix<S>::Zero(6, cols);
    logits(2, cols - 1) = static_cast<S>(not_a_number);
    logits(3, 0) = S(200);
    logits(4, cols / 2) = -static_cast<S>(infinity);
    kernels::softmax_rows(tile(logits));
    EXPECT_TRUE(logits.row(2).array().isNaN().all()) << cols;
    EXPECT_TRUE(all_finite(logits.topRows(2)) && all_finite(logits.bottomRows(3)));
    EXPECT_EQ(logits(3, 0), S(1));
    if (sizeof(S) == 4) {  // exp(-200) is below float
      EXPECT_EQ(logits.row(3).tail(cols - 1).cwiseAbs().maxCoeff(), S(0));
    }
    EXPECT_LE(logits(4, cols / 2), std::numeric_limits<S>::min());
  }
}

TYPED_TEST(Kernels, ExponentialsAreAccurate) {
  using S = TypeParam;
  constexpr int N = kernels::widest<S>;
  double worst = 0;
  for (int i = 0; i < 40000; ++i) {
    kernels::Registers<S, N> x, y;
    for (int j = 0; j < N; ++j) x[j] = -S(86) * static_cast<S>(i * N + j) / static_cast<S>(40000 * N);
    kernels::exp_of_negative(kernels::Packet<S, N>::load(x)).store(y);
    for (int j = 0; j < N; ++j) {
      const double exact = std::exp(static_cast<double>(x[j]));
      const double error = std::abs(static_cast<double>(y[j]) - exact) / exact;
      worst = std::max(worst, error / (3e-7 - (kernels::has_fma ? 2e-8 : 8e-8) * static_cast<double>(x[j])));
    }
  }
  EXPECT_LE(worst, sizeof(S) == 4 ? 1 : 1e-8);  // in units of what the header says
}

TYPED_TEST(Kernels, ReciprocalsAreAccurate) {
  using S = TypeParam;
  constexpr int N = kernels::widest<S>;
  Random random(4);
  for (int i = 0; i < 2000; ++i) {
    kernels::Registers<S, N> x, y;
    for (int j = 0; j < N; ++j) x[j] = static_cast<S>(std::exp(80 * random.uniform() - 40));
    kernels::reciprocal(kernels::Packet<S, N>::load(x)).store(y);
    for (int j = 0; j < N; ++j) {
      ASSERT_NEAR(static_cast<double>(x[j]) * static_cast<double>(y[j]), 1.0,
                  4 * static_cast<double>(std::numeric_limits<S>::epsilon()));
    }
  }
}

TYPED_TEST(Kernels, ProductsOfRowsAndTheirGradientsEqualThePlainOnes) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    Random random(5);
    for (const Index rows : {1, 4, 7}) {
      for (const Index cols : sizes) {
        const Matrix<S> a = random.matrix<S>(1, rows), b = random.matrix<S>(1, cols);
        Matrix<S> fast(1, rows * cols), plain(1, rows * cols);
        fast.leftCols(rows) = plain.leftCols(rows) = a;
        kernels::packets::outer_product(fast.data(), rows, b.data(), cols, fast.data());
        kernels::plain::outer_product(plain.data(), rows, b.data(), cols, plain.data());
        ASSERT_TRUE(same_bits(fast, plain));
        Matrix<S> d_b(1, cols), plain_d_b(1, cols);
        kernels::packets::contract(a.data(), rows, b.data(), cols, fast.data(), d_b.data());
        kernels::plain::contract(a.data(), rows, b.data(), cols, plain.data(), plain_d_b.data());
        ASSERT_TRUE(close(d_b, plain_d_b, forward_tolerance<S>()));
        ASSERT_TRUE(close(fast.leftCols(rows), plain.leftCols(rows), forward_tolerance<S>()));
      }
    }
  }
}

TYPED_TEST(Kernels, SumsOfProductsEqualThePlainOnesWhereverRowsLie) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    Random random(11);
    for (const Index cols : sizes) {
      for (const int terms : {0, 1, 4}) {
        const Matrix<S> a = random.matrix<S>(5, cols), b = random.matrix<S>(5, cols);
        const S *rows[4], *weights[4];
        for (int i = 0; i < terms; ++i) rows[i] = a.row(i).data(), weights[i] = b.row(i).data();
        for (const bool adds : {false, true}) {
          Vector<S> fast = random.vector<S>(cols), plain = fast;
          Vector<S> moved = Vector<S>::Zero(cols + 1);
          moved.tail(cols) = fast;
          kernels::packets::sum_of_products(rows, weights, terms, cols, adds, fast.data());
          kernels::packets::sum_of_products(rows, weights, terms, cols, adds, moved.data() + 1);
          kernels::plain::sum_of_products(rows, weights, terms, cols, adds, plain.data());
          EXPECT_TRUE(close(fast, plain, forward_tolerance<S>())) << cols << " numbers, " << terms << " terms";
          EXPECT_TRUE(same_bits(moved.tail(cols), fast));
        }
      }
    }
  }
}

TYPED_TEST(Kernels, RunningSoftmaxEqualsThePlainOne) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    Random random(6);
    for (const Index queries : sizes) {
      Matrix<S> state[2] = {Matrix<S>::Zero(3, queries), Matrix<S>::Zero(3, queries)};
      state[0].row(0).setConstant(-static_cast<S>(infinity));
      state[1] = state[0];
      for (const Index keys : {1, 5, 9}) {
        Matrix<S> fast = random.matrix<S>(keys, queries, 3);
        fast(0, queries - 1) = -static_cast<S>(infinity);
        if (keys == 1) fast.setZero();
        Matrix<S> plain = fast;
        kernels::packets::running_softmax<kernels::widest<S>, 4>(tile(fast), &state[0](0, 0), &state[0](1, 0),
                                                                 &state[0](2, 0), 0);
        kernels::plain::running_softmax(tile(plain), &state[1](0, 0), &state[1](1, 0), &state[1](2, 0));
        ASSERT_TRUE(close(fast, plain, forward_tolerance<S>()));
        ASSERT_TRUE(close(state[0], state[1], forward_tolerance<S>())) << queries;
      }
    }
  }
}

// The scan -----------------------------------------------------------------------------------------------------------

TYPED_TEST(Kernels, ScansEqualThePlainOnesInBothDirections) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    Random random(7);
    for (const Index tokens : {1, 2, 7, 131}) {
      for (const Index rows : {1, 3, 4, 8, 14}) {
        for (const Index cols : sizes) {
          const Matrix<S> writes = random.matrix<S>(tokens, rows + 1), reads = random.matrix<S>(tokens, rows + 1);
          const Matrix<S> values = random.matrix<S>(tokens, cols + 1), before = random.matrix<S>(tokens, cols + 1);
          const Matrix<S> state = random.matrix<S>(rows, cols);
          for (const bool backwards : {false, true}) {
            const Index direction = backwards ? -1 : 1, first = backwards ? tokens - 1 : 0;
            for (const double factor : {1.0, 0.9, 0.5, 0.0}) {
              Matrix<S> out[2] = {before, before}, after[2] = {state, state};
              for (const int plain : {0, 1}) {
                if (factor == 0) after[plain](0, 0) = static_cast<S>(not_a_number);  // a restart forgets that, too
                const kernels::Scan<S> scan{tokens,
                                            rows,
                                            cols,
                                            {writes.row(first).data(), direction * writes.cols()},
                                            {values.row(first).data(), direction * values.cols()},
                                            {reads.row(first).data(), direction * reads.cols()},
                                            {out[plain].row(first).data(), direction * before.cols()},
                                            after[plain].data(),
                                            kernels::decay_of(static_cast<S>(std::log(factor))),
                                            kernels::decay_of(static_cast<S>(std::log(factor == 0 ? 0.75 : factor))),
                                            factor == 0.5};
                if (plain == 1) {
                  kernels::plain::scan(scan);
                } else {
                  kernels::scan(scan);  // on packets; one token is a case of its own
                }
              }
              ASSERT_TRUE(close(out[0], out[1], forward_tolerance<S>())) << tokens << " " << rows << " " << cols;
              ASSERT_TRUE(close(after[0], after[1], forward_tolerance<S>())) << tokens << " " << rows << " " << cols;
            }
          }
        }
      }
    }
  }
}

/// The state is multiplied once on the way in and once on the way out, also where a part of the scan has one token.
TYPED_TEST(Kernels, ScansOfAnyNumberOfPartsScaleTheStateOnce) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    constexpr Index rows = 5, cols = 7, part = kernels::packets::scan_tokens;
    Random random(10);
    for (const Index parts : {1, 2, 3, 4}) {
      for (const Index beyond : {-1, 0, 1, 2}) {
        const Index tokens = parts * part + beyond;
        const Matrix<S> writes = random.matrix<S>(tokens, rows), reads = random.matrix<S>(tokens, rows);
        const Matrix<S> values = random.matrix<S>(tokens, cols), state = random.matrix<S>(rows, cols, 100);
        Matrix<S> out[2] = {Matrix<S>(tokens, cols), Matrix<S>(tokens, cols)}, after[2] = {state, state};
        for (const int plain : {0, 1}) {
          kernels::Scan<S> scan{tokens,
                                rows,
                                cols,
                                {writes.data(), rows},
                                {values.data(), cols},
                                {reads.data(), rows},
                                {out[plain].data(), cols},
                                after[plain].data()};
          scan.before = kernels::decay_of(static_cast<S>(std::log(0.25)));
          scan.after = kernels::decay_of(static_cast<S>(std::log(0.5)));
          if (plain == 1) {
            kernels::plain::scan(scan);
          } else {
            kernels::scan(scan);
          }
        }
        EXPECT_TRUE(close(out[0], out[1], forward_tolerance<S>())) << tokens;
        EXPECT_TRUE(close(after[0], after[1], forward_tolerance<S>())) << tokens;
      }
    }
  }
}

TYPED_TEST(Kernels, AScanThatEndsInARestartLeavesZeros) {
  using S = TypeParam;
  Random random(8);
  for (const Index tokens : {1, 5}) {
    Matrix<S> writes = random.matrix<S>(tokens, 6), values = random.matrix<S>(tokens, 9), out(tokens, 9);
    Matrix<S> state = random.matrix<S>(6, 9);
    kernels::scan<S>({tokens,
                      6,
                      9,
                      {writes.data(), 6},
                      {values.data(), 9},
                      {writes.data(), 6},
                      {out.data(), 9},
                      state.data(),
                      {},
                      kernels::restart<S>()});
    EXPECT_EQ(state, (Matrix<S>::Zero(6, 9)));
  }
}

TYPED_TEST(Kernels, MassesAndTheirGradientsEqualThePlainOnes) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    Random random(9);
    constexpr Index tokens = 6;
    for (const Index cols : sizes) {
      for (const Normalization normalization : all_normalizations) {
        for (const bool scales : {false, true}) {
          const Matrix<S> q = random.matrix<S>(tokens, cols).cwiseAbs(), r = random.matrix<S>(tokens, cols).cwiseAbs();
          const Matrix<S> weights = random.matrix<S>(1, tokens).cwiseAbs();
          const Matrix<S> kept = random.matrix<S>(1, tokens).cwiseAbs(), shift = random.matrix<S>(1, tokens);
          const Matrix<S> base = random.matrix<S>(1, cols).cwiseAbs();
          const kernels::Decay<S> before = scales ? kernels::decay_of(S(-0.1)) : kernels::Decay<S>();
          const kernels::Decay<S> after = scales ? kernels::decay_of(S(-2)) : kernels::Decay<S>();
          Matrix<S> reads[2], writes[2], masses[2], mass[2], d_reads[2], d_writes[2], d_mass[2], energy[2];
          const Matrix<S> d = random.matrix<S>(tokens, cols), d_w = random.matrix<S>(tokens, cols);
          for (const int plain : {0, 1}) {
            reads[plain] = q;
            writes[plain] = r;
            masses[plain].resize(tokens, cols);
            mass[plain] = base;
            mass[plain](0, 0) = S(0);
            const kernels::Masses<S> p{normalization,
                                       tokens,
                                       cols,
                                       scales ? weights.data() : nullptr,
                                       scales ? kept.data() : nullptr,
                                       scales ? base.data() : nullptr,
                                       scales ? kept.data() : nullptr,
                                       {reads[plain].data(), cols},
                                       {writes[plain].data(), cols},
                                       {reads[plain].data(), cols},
                                       {writes[plain].data(), cols},
                                       mass[plain].data(),
                                       before,
                                       after,
                                       {masses[plain].data(), cols}};
            d_reads[plain] = d;
            d_writes[plain] = d_w;
            d_mass[plain] = base;
            energy[plain].resize(1, tokens);
            if (plain == 1) {
              kernels::plain::masses(p);
            } else {
              kernels::packets::masses(p);
            }
            masses[plain](1, 0) = S(0);  // below tiny_mass: no gradient
            const kernels::MassesBackward<S> b{normalization,
                                               tokens,
                                               cols,
                                               scales ? kept.data() : nullptr,
                                               scales ? base.data() : nullptr,
                                               kept.data(),
                                               scales ? shift.data() : nullptr,
                                               {q.data(), cols},
                                               {masses[plain].data(), cols},
                                               {d_reads[plain].data(), cols},
                                               {d_writes[plain].data(), cols},
                                               d_mass[plain].data(),
                                               before,
                                               after,
                                               energy[plain].data()};
            if (plain == 1) {
              kernels::plain::masses_backward(b);
            } else {
              kernels::packets::masses_backward(b);
            }
          }
          SCOPED_TRACE(std::string(name_of(normalization)) + " " + std::to_string(cols));
          ASSERT_TRUE(close(reads[0], reads[1], forward_tolerance<S>()));
          ASSERT_TRUE(close(writes[0], writes[1], forward_tolerance<S>()));
          ASSERT_TRUE(close(masses[0], masses[1], forward_tolerance<S>()));
          ASSERT_TRUE(close(mass[0], mass[1], forward_tolerance<S>()));
          ASSERT_TRUE(close(d_reads[0], d_reads[1], forward_tolerance<S>()));
          ASSERT_TRUE(close(d_writes[0], d_writes[1], forward_tolerance<S>()));
          ASSERT_TRUE(close(d_mass[0], d_mass[1], forward_tolerance<S>()));
          ASSERT_TRUE(close(energy[0], energy[1], forward_tolerance<S>()));
        }
      }
    }
  }
}

TYPED_TEST(Kernels, SumsOfTwoNumbersTakeInWhatOneRoundsAway) {
  using S = TypeParam;
  for (const Index count : sizes) {
    for (const double log_decay : {0.0, -1e-3, -2.0, -std::numeric_limits<double>::infinity()}) {
      Random random(10);
      Matrix<S> high[2], low[2];
      high[0] = high[1] = random.matrix<S>(1, count) * S(1000);
      low[0] = low[1] = Matrix<S>::Zero(1, count);
      Matrix<long double> expected = high[0].template cast<long double>();
      const kernels::Decay<S> decay = kernels::decay_of(static_cast<S>(log_decay));
      for (int step = 0; step < 200; ++step) {
        const Matrix<S> change = random.matrix<S>(1, count) * S(1e-3);
        kernels::settle(decay, change.data(), count, high[0].data(), low[0].data());
        kernels::plain::settle(decay, change.data(), count, high[1].data(), low[1].data());
        const long double factor = std::exp(static_cast<long double>(static_cast<S>(log_decay)));
        expected = expected * factor + change.template cast<long double>();
      }
      const long double eps = static_cast<long double>(std::numeric_limits<S>::epsilon());
      for (const int plain : {0, 1}) {
        const Matrix<long double> sum =
            high[plain].template cast<long double>() + low[plain].template cast<long double>();
        // Plain sums would be some 4 eps off. Fast forgetting leaves nothing but the last few numbers.
        const long double scale =
            log_decay < -1 ? 1e-3L * std::sqrt(static_cast<long double>(count)) : expected.norm() / 4;
        EXPECT_LE((sum - expected).norm(), eps * scale) << count << " " << log_decay;
      }
    }
  }
}

TYPED_TEST(Kernels, ACompensatedStepEqualsThePlainOne) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    Random random(11);
    for (const Index cols : sizes) {
      for (const double log_decay : {0.0, -1e-3, -2.0, -std::numeric_limits<double>::infinity()}) {
        constexpr Index rows = 5;
        const Matrix<S> state = random.matrix<S>(rows, cols), rest = random.matrix<S>(rows, cols) * S(1e-9);
        const Matrix<S> writes = random.matrix<S>(1, rows), reads = random.matrix<S>(1, rows);
        const Matrix<S> values = random.matrix<S>(1, cols);
        const S left = static_cast<S>(std::exp(log_decay));
        Matrix<S> out[2], after[2] = {state, state}, remainder[2] = {rest, rest};
        for (const int plain : {0, 1}) {
          out[plain].resize(1, cols);
          const kernels::Scan<S> scan{1,
                                      rows,
                                      cols,
                                      {writes.data(), rows},
                                      {values.data(), cols},
                                      {reads.data(), rows},
                                      {out[plain].data(), cols},
                                      after[plain].data(),
                                      kernels::decay_of(static_cast<S>(log_decay))};
          if (plain == 1) {
            kernels::plain::compensated_step(scan, remainder[plain].data(), left);
          } else {
            kernels::compensated_step(scan, remainder[plain].data(), left);
          }
        }
        ASSERT_TRUE(close(out[0], out[1], forward_tolerance<S>())) << cols;
        ASSERT_TRUE(close(after[0], after[1], forward_tolerance<S>())) << cols;
      }
    }
  }
}

/// Logs of decays: most near zero, and some anywhere down to minus infinity.
template <class S>
Matrix<S> logs_of_decays(Index rows, Index cols, Random& random) {
  Matrix<S> logs(rows, cols);
  for (Index i = 0; i < logs.size(); ++i) {
    const double kind = random.uniform(), size = random.uniform();
    const double log = kind < 0.7    ? -0.5 * size
                       : kind < 0.8  ? -5 * size
                       : kind < 0.9  ? 0
                       : kind < 0.95 ? -200 * size
                                     : -1e3;
    logs.data()[i] = kind > 0.97 ? -std::numeric_limits<S>::infinity() : static_cast<S>(log);
  }
  return logs;
}

TYPED_TEST(Kernels, DecaysOfSlotsAreAccurate) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    Random random(37);
    for (const Index cols : sizes) {
      const Matrix<S> logs = logs_of_decays<S>(9, cols, random);
      Vector<S> common = -random.vector<S>(9).cwiseAbs() * S(0.1), weights = Vector<S>::Constant(9, S(0.5));
      weights(4) = 0;
      Matrix<S> codes[2] = {Matrix<S>(9, cols), Matrix<S>(9, cols)};
      Vector<S> is_far[2] = {Vector<S>(9), Vector<S>(9)}, largest[2] = {Vector<S>(9), Vector<S>(9)};
      for (const int plain : {0, 1}) {
        const kernels::SlotDecays<S> p{9,
                                       cols,
                                       weights.data(),
                                       common.data(),
                                       {logs.data(), cols},
                                       {codes[plain].data(), cols},
                                       is_far[plain].data(),
                                       largest[plain].data()};
        plain == 1 ? kernels::plain::slot_decays(p) : kernels::slot_decays(p);
      }
      EXPECT_TRUE(same_bits(largest[0], largest[1]));
      EXPECT_TRUE(same_bits(is_far[0], is_far[1]));
      for (Index t = 0; t < 9; ++t) {
        for (Index k = 0; k < cols; ++k) {
          const double log = t == 4 ? 0 : static_cast<double>(S(logs(t, k) + common(t)));
          const double code = static_cast<double>(codes[0](t, k)),
                       eps = static_cast<double>(std::numeric_limits<S>::epsilon());
          if (log < (sizeof(S) == 4 ? -87 : -708)) {
            EXPECT_EQ(code, 2) << log;
          } else if (code > 0) {
            const double of_float = 3e-7 - (kernels::has_fma ? 2e-8 : 8e-8) * log;  // exp_of_negative()
            EXPECT_NEAR(code / std::exp(log), 1, sizeof(S) == 4 ? of_float : 4 * eps) << log;
            EXPECT_LE(log, -0.6931);
          } else {
            EXPECT_NEAR(code, std::expm1(log), -4 * eps * std::expm1(log)) << log;
          }
        }
      }
    }
  }
}

TYPED_TEST(Kernels, ScansOfSlotsEqualThePlainOnes) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    Random random(41);
    for (const Index cols : sizes) {
      for (const Index rows : {1, 2, 7, 24}) {
        for (const bool has_remainder : {false, true}) {
          constexpr Index tokens = 70;
          const Matrix<S> logs = logs_of_decays<S>(tokens, rows, random), writes = random.matrix<S>(tokens, rows);
          const Matrix<S> values = random.matrix<S>(tokens, cols), reads = random.matrix<S>(tokens, rows);
          Matrix<S> codes(tokens, rows);
          Vector<S> is_far(tokens), largest(tokens);
          kernels::slot_decays<S>({tokens,
                                   rows,
                                   nullptr,
                                   nullptr,
                                   {logs.data(), rows},
                                   {codes.data(), rows},
                                   is_far.data(),
                                   largest.data()});
          const Matrix<S> state = random.matrix<S>(rows, cols), rest = random.matrix<S>(rows, cols) * S(1e-9);
          Matrix<S> out[2], after[2] = {state, state}, low[2] = {rest, rest};
          for (const int plain : {0, 1}) {
            out[plain].resize(tokens, cols);
            const kernels::SlotScan<S> p{tokens,
                                         rows,
                                         cols,
                                         {writes.data(), rows},
                                         {values.data(), cols},
                                         {reads.data(), rows},
                                         {codes.data(), rows},
                                         is_far.data(),
                                         {out[plain].data(), cols},
                                         after[plain].data(),
                                         has_remainder ? low[plain].data() : nullptr};
            plain == 1 ? kernels::plain::slot_scan(p) : kernels::slot_scan(p);
          }
          ASSERT_TRUE(close(out[0], out[1], forward_tolerance<S>())) << rows << " x " << cols;
          ASSERT_TRUE(close(after[0], after[1], forward_tolerance<S>())) << rows << " x " << cols;
          Matrix<S> unread = state, unread_low = rest;
          kernels::slot_scan<S>({tokens,
                                 rows,
                                 cols,
                                 {writes.data(), rows},
                                 {values.data(), cols},
                                 {nullptr, 0},
                                 {codes.data(), rows},
                                 is_far.data(),
                                 {nullptr, 0},
                                 unread.data(),
                                 has_remainder ? unread_low.data() : nullptr});
          ASSERT_TRUE(same_bits(unread, after[0])) << rows << " x " << cols;
        }
      }
    }
  }
}

TYPED_TEST(Kernels, TokensOfSlotsBackwardEqualThePlainOnes) {
  using S = TypeParam;
  if constexpr (kernels::has_packets<S>) {
    Random random(43);
    for (const Index cols : sizes) {
      for (const bool has_remainder : {false, true}) {
        constexpr Index rows = 7;
        const Matrix<S> logs = logs_of_decays<S>(1, cols, random), sides = random.matrix<S>(2, cols);
        const Matrix<S> states = random.matrix<S>(2 * rows, cols), value = random.matrix<S>(2, rows);
        Matrix<S> codes(1, cols);
        Vector<S> is_far(1), largest(1);
        kernels::slot_decays<S>(
            {1, cols, nullptr, nullptr, {logs.data(), cols}, {codes.data(), cols}, is_far.data(), largest.data()});
        const Matrix<S> start = random.matrix<S>(rows, cols), rest = random.matrix<S>(rows, cols) * S(1e-9);
        Matrix<S> gradient[2] = {start, start}, low[2] = {rest, rest};
        Matrix<S> sums[2] = {Matrix<S>(3, cols), Matrix<S>(3, cols)},
                  d_value[2] = {Matrix<S>(1, rows), Matrix<S>(1, rows)};
        Matrix<S> replayed[2] = {Matrix<S>(2 * rows, cols), Matrix<S>(2 * rows, cols)};
        for (const int plain : {0, 1}) {
          const kernels::SlotTokenBackward<S> p{rows,
                                                cols,
                                                states.data(),
                                                states.data() + rows * cols,
                                                sides.data(),
                                                sides.data() + cols,
                                                codes.data(),
                                                value.data(),
                                                value.data() + rows,
                                                gradient[plain].data(),
                                                has_remainder ? low[plain].data() : nullptr,
                                                sums[plain].data(),
                                                sums[plain].data() + cols,
                                                sums[plain].data() + 2 * cols,
                                                d_value[plain].data()};
          replayed[plain].topRows(rows) = states.topRows(rows);
          const kernels::SlotReplay<S> replay{1,
                                              rows,
                                              cols,
                                              {sides.data(), cols},
                                              {value.data(), rows},
                                              {codes.data(), cols},
                                              is_far.data(),
                                              replayed[plain].data(),
                                              true};
          if (plain == 1) {
            kernels::plain::slot_token_backward(p);
            kernels::plain::slot_replay(replay);
          } else {
            kernels::slot_token_backward(p, is_far(0) == S(0));
            kernels::slot_replay(replay);
          }
        }
        ASSERT_TRUE(close(gradient[0], gradient[1], forward_tolerance<S>())) << cols;
        ASSERT_TRUE(close(sums[0], sums[1], forward_tolerance<S>())) << cols;
        ASSERT_TRUE(close(d_value[0], d_value[1], forward_tolerance<S>())) << cols;
        ASSERT_TRUE(close(replayed[0], replayed[1], forward_tolerance<S>())) << cols;
        const Matrix<S> other_logs = logs_of_decays<S>(1, cols, random), mass = random.matrix<S>(3, cols);
        Matrix<S> own(1, cols);
        kernels::slot_decays<S>(
            {1, cols, nullptr, nullptr, {other_logs.data(), cols}, {own.data(), cols}, is_far.data(), largest.data()});
        Matrix<S> d_mass[2], d_low[2], d_sides[2];
        for (const int plain : {0, 1}) {
          d_mass[plain] = mass.row(2);
          d_low[plain] = mass.row(2) * S(1e-9);
          d_sides[plain] = sides;
          const kernels::SlotMassBackward<S> p{cols,
                                               codes.data(),
                                               own.data(),
                                               mass.data(),
                                               mass.data() + cols,
                                               d_mass[plain].data(),
                                               has_remainder ? d_low[plain].data() : nullptr,
                                               d_sides[plain].data(),
                                               d_sides[plain].data() + cols};
          plain == 1 ? kernels::plain::slot_mass_backward(p) : kernels::slot_mass_backward(p);
        }
        ASSERT_TRUE(close(d_mass[0], d_mass[1], forward_tolerance<S>())) << cols;
        ASSERT_TRUE(close(d_sides[0], d_sides[1], forward_tolerance<S>())) << cols;
      }
    }
  }
}

TYPED_TEST(Kernels, FindsNumbersBetweenZeroAndALimit) {
  using S = TypeParam;
  for (const Index count : sizes) {
    Matrix<S> values = Matrix<S>::Ones(1, count);
    const auto found = [&] { return kernels::any_between_zero_and(S(1e-3), values.data(), count); };
    EXPECT_FALSE(found());
    values(0, count - 1) = S(1e-3);
    EXPECT_FALSE(found());
    values(0, count - 1) = S(0);
    EXPECT_FALSE(found());
    values(0, count / 2) = S(1e-30);
    EXPECT_TRUE(found());
  }
}

}  // namespace
}  // namespace gma_test
