// SPDX-License-Identifier: MIT
// What the library offers for the rest of a model, beside the layer: random numbers, elementwise functions, products,
// root mean squares, rotary positions.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "gma/core/elementwise.hpp"
#include "gma/core/random.hpp"
#include "gma/kernels/products.hpp"
#include "gma/layer/part_unit_rms.hpp"
#include "gma/softmax/rotary.hpp"
#include "gma/testing/comparisons.hpp"

namespace gma_test {
namespace {

using gma::ConstTile;
using gma::Index;
using gma::Matrix;
using gma::Tile;
using gma::testing::close;

template <class S>
constexpr double eps = static_cast<double>(std::numeric_limits<S>::epsilon());

template <class S>
Matrix<S> random_matrix(gma::Random& random, Index rows, Index cols) {
  Matrix<double> result(rows, cols);
  random.fill_normal(result);
  return result.template cast<S>();
}

template <class Call>
void expect_error(const Call& call, const std::string& words) {
  try {
    call();
    ADD_FAILURE() << "no exception; expected one that says " << words;
  } catch (const std::invalid_argument& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what() << " lacks " << words;
  }
}

template <class S>
Tile<S> tile(Matrix<S>& m) {
  return {m.data(), m.rows(), m.cols(), Eigen::OuterStride<>(m.cols())};
}
template <class S>
ConstTile<S> tile(const Matrix<S>& m) {
  return {m.data(), m.rows(), m.cols(), Eigen::OuterStride<>(m.cols())};
}

/// The standard says what std::mt19937_64 draws; stream 0 is the engine itself.
TEST(RandomNumbers, AreThoseOfTheEngine) {
  gma::Random random(5489);
  std::uint64_t last = 0;
  for (int i = 0; i < 10000; ++i) last = random.bits();
  EXPECT_EQ(last, 9981545732273789042u);
}

TEST(RandomNumbers, StreamsDiffer) {
  std::set<std::uint64_t> first;
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    for (std::uint64_t stream = 0; stream < 30; ++stream) first.insert(gma::Random(seed, stream).bits());
  }
  EXPECT_EQ(first.size(), 900u);
  EXPECT_EQ(gma::Random(3, 4).bits(), gma::Random(3, 4).bits());
}

/// Over streams, not within one: the first numbers of many generators.
TEST(RandomNumbers, FirstNumbersOfStreamsAreUniform) {
  std::vector<int> counts(10);
  for (std::uint64_t stream = 0; stream < 10000; ++stream) ++counts[gma::Random(1, stream).below(10)];
  for (const int count : counts) EXPECT_NEAR(count, 1000, 5 * 30);  // five standard deviations
}

TEST(RandomNumbers, BelowIsUniformUpToTheLargestCount) {
  gma::Random random(2);
  EXPECT_EQ(random.below(1), 0u);
  constexpr std::uint64_t three_quarters = std::uint64_t(3) << 62;
  int lower_third = 0;
  for (int i = 0; i < 3000; ++i) {
    const std::uint64_t draw = random.below(three_quarters);
    ASSERT_LT(draw, three_quarters);
    lower_third += draw < three_quarters / 3;  // a remainder alone would put a half here
  }
  EXPECT_NEAR(lower_third, 1000, 5 * 26);
}

template <class S>
struct BuildingBlocks : testing::Test {};
using Scalars = testing::Types<float, double>;
struct ScalarName {
  template <class S>
  static std::string GetName(int) {
    return std::is_same_v<S, float> ? "float" : "double";
  }
};
TYPED_TEST_SUITE(BuildingBlocks, Scalars, ScalarName);

TYPED_TEST(BuildingBlocks, ElementwiseFunctions) {
  using S = TypeParam;
  for (const Index count : {0, 1, 63, 64, 65, 200}) {
    gma::Random random(1);
    const Matrix<S> z = S(3) * random_matrix<S>(random, count, 1);
    Matrix<S> soft = z, sigmoid = z, silu = z;
    gma::softplus(soft.data(), count);
    gma::sigmoid(sigmoid.data(), count);
    gma::silu(silu.data(), count);
    for (Index i = 0; i < count; ++i) {
      const double x = static_cast<double>(z(i, 0)), s = 1 / (1 + std::exp(-x)), tolerance = 8 * eps<S>;
      EXPECT_NEAR(static_cast<double>(soft(i, 0)), std::log1p(std::exp(x)), tolerance * (1 + std::abs(x)));
      EXPECT_NEAR(static_cast<double>(sigmoid(i, 0)), s, tolerance);
      EXPECT_NEAR(static_cast<double>(silu(i, 0)), x * s, tolerance * (1 + std::abs(x)));
      S alone = z(i, 0);
      gma::silu(&alone, 1);
      EXPECT_EQ(alone, silu(i, 0));  // the same bits wherever the number lies
    }
  }
  S extremes[] = {S(-200), S(200)};
  gma::softplus(extremes, 2);
  EXPECT_NEAR(static_cast<double>(extremes[0]), 0, 1e-30);
  EXPECT_EQ(extremes[1], S(200));
}

TYPED_TEST(BuildingBlocks, Products) {
  using S = TypeParam;
  gma::Random random(1);
  for (const Index n : {0, 1, 2, 7, 65}) {
    const Matrix<S> a = random_matrix<S>(random, n, 9), b = random_matrix<S>(random, 9, 21),
                    d = random_matrix<S>(random, n, 30);
    Matrix<S> c;
    gma::product_into(c, a, b);
    const Matrix<double> product = a.template cast<double>() * b.template cast<double>();
    EXPECT_TRUE(close(c, product, 20 * eps<S>));
    Matrix<S> wide = Matrix<S>::Constant(n, 25, S(7));
    gma::product_into(Tile<S>(wide.data(), n, 21, Eigen::OuterStride<>(25)), a, b);
    EXPECT_TRUE(wide.leftCols(21) == c);
    EXPECT_TRUE((wide.rightCols(4).array() == S(7)).all());
    Matrix<S> sum = random_matrix<S>(random, 9, 20);
    const Matrix<double> expected =
        sum.template cast<double>() + a.template cast<double>().transpose() * d.leftCols(20).template cast<double>();
    gma::add_transposed_product_into(tile(sum), a, d.leftCols(20));
    EXPECT_TRUE(close(sum, expected, 20 * eps<S>));
  }
  Matrix<S> c(2, 3);
  const Matrix<S> a = random_matrix<S>(random, 2, 4), b = random_matrix<S>(random, 5, 3);
  expect_error([&] { gma::product_into(c, a, b); }, "gma::product_into: b is 5 x 3, expected 4 x 3");
  expect_error([&] { gma::add_transposed_product_into(tile(c), a, b); },
               "gma::add_transposed_product_into: b has 5 rows, expected 2");
}

TEST(UnitRms, BackwardIsTheSlope) {
  gma::Random random(1);
  Matrix<double> z = random_matrix<double>(random, 5, 12), n, inverse(5, 3);
  const Matrix<double> dn = random_matrix<double>(random, 5, 12);
  const auto loss = [&] {
    n = z;
    gma::unit_rms_in_place(tile(n), tile(inverse));
    return n.cwiseProduct(dn).sum();
  };
  loss();
  for (Index t = 0; t < 5; ++t) {
    for (Index h = 0; h < 3; ++h) {
      const auto head = z.row(t).segment(4 * h, 4);
      const double rms = std::sqrt(head.squaredNorm() / 4 + 1e-5);
      EXPECT_LT((n.row(t).segment(4 * h, 4) - head / rms).norm(), 1e-14);
    }
  }
  Matrix<double> dz = dn;
  gma::unit_rms_backward_in_place(tile(std::as_const(n)), tile(std::as_const(inverse)), tile(dz));
  for (Index i = 0; i < z.size(); ++i) {
    EXPECT_NEAR(dz.data()[i], gma::testing::difference_quotient(z.data()[i], 3e-4, loss), 1e-8);
  }
  Matrix<double> wrong(5, 5);
  expect_error([&] { gma::unit_rms_in_place(tile(z), tile(wrong)); },
               "gma::unit_rms_in_place: inverse is 5 x 5, expected 5 rows (one per token) and heads that divide 12");
}

TYPED_TEST(BuildingBlocks, RotaryPositions) {
  using S = TypeParam;
  constexpr Index tokens = 70, heads = 3, d = 10;
  gma::Random random(1);
  const Matrix<S> x = random_matrix<S>(random, tokens, heads * d), table = gma::rotary_table<S>(100, d);
  Matrix<S> y = x;
  gma::rotate_in_place(tile(y), heads, table, 20);
  for (Index t = 0; t < tokens; ++t) {
    for (Index h = 0; h < heads; ++h) {
      for (Index i = 0; i < d / 2; ++i) {
        const double angle = (20.0 + double(t)) * std::pow(10000.0, -2.0 * double(i) / d);
        const double a = double(x(t, h * d + i)), b = double(x(t, h * d + d / 2 + i));
        EXPECT_NEAR(double(y(t, h * d + i)), a * std::cos(angle) - b * std::sin(angle), 10 * eps<S>);
        EXPECT_NEAR(double(y(t, h * d + d / 2 + i)), a * std::sin(angle) + b * std::cos(angle), 10 * eps<S>);
      }
    }
  }
  gma::rotate_backward_in_place(tile(y), heads, table, 20);  // the gradient of a rotation is the reverse rotation
  EXPECT_TRUE(close(y, x, 10 * eps<S>));
  expect_error([&] { gma::rotate_in_place(tile(y), heads, table, 31); },
               "gma::rotate_in_place: the table has 100 positions, expected at least 101");
  expect_error([&] { gma::rotate_in_place(tile(y), 2, table, 0); }, "gma::rotate_in_place: x has 30 columns");
  expect_error([] { gma::rotary_table<S>(4, 5); }, "expected no negative number and an even width");
}

}  // namespace
}  // namespace gma_test
