// SPDX-License-Identifier: MIT
// The dense reference, which everything else is compared with, against cases computed by hand and against the equations
// as recurrences: (3) to (6), (7) and (8), one loop a sum.
#include "support.hpp"

namespace gma_test {
namespace {

Options with(Normalization normalization) {
  Options options;
  options.normalization = normalization;
  return options;
}

/// Two components of unit variance at -1 and 1: r_2(x) = 1 / (1 + exp(-2 x)), so r_2(log(3) / 2) = 3/4.
gma::Mixture<double, gma::Isotropic> two_components() {
  gma::Mixture<double, gma::Isotropic> mixture(2, 1);
  mixture.means << -1, 1;
  return mixture;
}

TEST(Reference, ResponsibilitiesByHand) {
  auto mixture = two_components();
  Matrix<double> x(2, 1);
  x << 0, 0.5 * std::log(3.0);
  Matrix<double> expected(2, 2);
  expected << 0.5, 0.5, 0.25, 0.75;
  EXPECT_TRUE(close(gma::reference::responsibilities(mixture, x), expected, 1e-15));
  mixture.log_temperature = std::log(0.5);  // logits twice as far apart: odds squared
  expected << 0.5, 0.5, 0.1, 0.9;
  EXPECT_TRUE(close(gma::reference::responsibilities(mixture, x), expected, 1e-15));
  mixture.weight_logits << std::log(3.0), 0;  // prior odds 3 to 1, tempered too
  expected << 0.9, 0.1, 0.5, 0.5;
  EXPECT_TRUE(close(gma::reference::responsibilities(mixture, x), expected, 1e-15));
}

TEST(Reference, LogDensityByHand) {
  // Standard deviations 1/2 and 2 on two axes; at one standard deviation each, log N = -log 2 pi - log 1 - 1.
  gma::Mixture<double, gma::Diagonal> diagonal(1, 2);
  diagonal.means << 1, 2;
  diagonal.log_scales << std::log(0.5), std::log(2.0);
  Matrix<double> x(1, 2);
  x << 1.5, 4;
  EXPECT_NEAR(gma::reference::joint_log_density(diagonal, x)(0, 0), -std::log(2 * 3.141592653589793) - 1, 1e-14);
  // Precision factor L = [2 0; 1 1]: L^T (x - mu) for (0.5, 2) is (2*0.5 + 1*2, 2) = (3, 2); log det L = log 2.
  gma::Mixture<double, gma::Full> full(1, 2);
  full.means = diagonal.means;
  full.log_scales << std::log(2.0), 77, 1, 0;  // the 77 stands above the diagonal and is ignored
  EXPECT_NEAR(gma::reference::joint_log_density(full, x)(0, 0),
              -std::log(2 * 3.141592653589793) + std::log(2.0) - 0.5 * (9 + 4), 1e-14);
}

TEST(Reference, ProductIndexIsRowMajorOverTheFactors) {
  gma::ProductMixture<double, gma::Isotropic> mixture;
  mixture.factors = {two_components(), two_components()};
  mixture.factors[1].weight_logits << std::log(9.0), 0;
  Matrix<double> x(1, 2);
  x << 0.5 * std::log(3.0), 0;
  Matrix<double> expected(1, 4);
  expected << 0.25 * 0.9, 0.25 * 0.1, 0.75 * 0.9, 0.75 * 0.1;
  EXPECT_TRUE(close(gma::reference::responsibilities(mixture, x), expected, 1e-15));
}

TEST(Reference, AffinityByHand) {
  const auto mixture = two_components();
  const double third = 0.5 * std::log(3.0);
  Matrix<double> x(2, 1);  // responsibilities (1/4, 3/4) and (1/2, 1/2)
  x << third, 0;
  Matrix<double> none(2, 2), slot(2, 2), row(2, 2);
  none << 10. / 16, 1. / 2, 1. / 2, 1. / 2;
  // masses (3/4, 5/4): columns of the key responsibilities become (1/3, 3/5) and (2/3, 2/5)
  slot << 0.25 / 3 + 0.75 * 0.6, 0.25 * 2 / 3 + 0.75 * 0.4, 0.5 / 3 + 0.5 * 0.6, 0.5 * 2 / 3 + 0.5 * 0.4;
  row << 10. / 18, 8. / 18, 0.5, 0.5;
  EXPECT_TRUE(close(gma::reference::affinity(mixture, x, x, with(Normalization::none), false), none, 1e-15));
  EXPECT_TRUE(close(gma::reference::affinity(mixture, x, x, with(Normalization::slot), false), slot, 1e-15));
  EXPECT_TRUE(close(gma::reference::affinity(mixture, x, x, with(Normalization::row), false), row, 1e-15));
  // Causal: row 0 sees key 0 alone. Slot: every slot's mean is then that of key 0.
  none(0, 1) = 0;
  slot.row(0) << 1, 0;
  row.row(0) << 1, 0;
  EXPECT_TRUE(close(gma::reference::affinity(mixture, x, x, with(Normalization::none), true), none, 1e-15));
  EXPECT_TRUE(close(gma::reference::affinity(mixture, x, x, with(Normalization::slot), true), slot, 1e-15));
  EXPECT_TRUE(close(gma::reference::affinity(mixture, x, x, with(Normalization::row), true), row, 1e-15));
  // Weight 2 on key 0, and half of it forgotten before key 1 is written: the same as weights 1 and 1 at row 1.
  TokenInputs<double> tokens;
  tokens.key_weights = Vector<double>::Ones(2);
  tokens.key_weights(0) = 2;
  tokens.log_forgetting = Vector<double>::Zero(2);
  tokens.log_forgetting(1) = -std::log(2.0);
  none(0, 0) *= 2;
  EXPECT_TRUE(close(gma::reference::affinity(mixture, x, x, with(Normalization::none), true, tokens), none, 1e-15));
  EXPECT_TRUE(close(gma::reference::affinity(mixture, x, x, with(Normalization::slot), true, tokens), slot, 1e-15));
}

TEST(Reference, WhatIsAbsentOrForgottenIsNotThere) {
  const auto mixture = two_components();
  Matrix<double> x(3, 1);
  x << 0.3, not_a_number, -0.2;
  Matrix<double> values = Matrix<double>::Constant(3, 2, infinity);
  values.row(0) << 1, 2;
  values.row(2) << 3, 4;
  TokenInputs<double> tokens;
  tokens.key_weights = Vector<double>::Ones(3);
  tokens.key_weights(1) = 0;
  tokens.log_forgetting = Vector<double>::Zero(3);
  tokens.log_forgetting(1) = -infinity;  // absent, so nothing is forgotten
  Matrix<double> queries = x;
  queries(1) = 0;
  for (const Normalization normalization : all_normalizations) {
    Matrix<double> two(2, 1), two_values(2, 2);
    two << 0.3, -0.2;
    two_values << 1, 2, 3, 4;
    const Matrix<double> all =
        gma::reference::attention(mixture, queries, x, values, with(normalization), true, tokens);
    const Matrix<double> present = gma::reference::attention(mixture, two, two, two_values, with(normalization), true);
    EXPECT_TRUE(close(all.row(0), present.row(0), 1e-15));
    EXPECT_TRUE(close(all.row(2), present.row(1), 1e-15));
  }
  tokens.log_forgetting(2) = -infinity;  // a restart: only key 2 is left, and its value is what slot and row read
  const Matrix<double> restarted =
      gma::reference::attention(mixture, queries, x, values, with(Normalization::slot), true, tokens);
  EXPECT_TRUE(close(restarted.row(2), values.row(2), 1e-15));
  tokens.key_weights.setZero();  // nothing at all reads as zero
  EXPECT_TRUE(
      gma::reference::attention(mixture, queries, x, values, with(Normalization::row), false, tokens).isZero(0));
}

/// (4), (5), (6) from a memory, as sums.
gma::RowVector<double> read_row(const Memory<double>& memory, const Matrix<double>& q, Index i,
                                Normalization normalization) {
  gma::RowVector<double> y = gma::RowVector<double>::Zero(memory.slots.cols());
  double total = 0;
  for (Index k = 0; k < memory.mass.size(); ++k) {
    const double mass = std::max(memory.mass(k), gma::tiny_mass);
    y += q(i, k) * memory.slots.row(k) / (normalization == Normalization::slot ? mass : 1.0);
    total += q(i, k) * memory.mass(k);
  }
  return normalization == Normalization::row ? gma::RowVector<double>(y / std::max(total, gma::tiny_mass)) : y;
}

TEST(Reference, IsTheRecurrence) {
  for (const Index count : {1, 6, 23}) {
    Random random(3);
    gma::Mixture<double, gma::Diagonal> mixture;
    randomize(mixture, 4, 3, Regime::generic, random);
    const Matrix<double> queries = random.matrix<double>(count, 3);
    Matrix<double> keys = random.matrix<double>(count, 3), values = random.matrix<double>(count, 2);
    const TokenInputs<double> tokens = random_tokens<double>(count, true, random);
    poison_absent(tokens, keys, values);
    const Matrix<double> q = gma::reference::responsibilities(mixture, queries);
    for (const Normalization normalization : all_normalizations) {
      const Matrix<double> causal =
          gma::reference::attention(mixture, queries, keys, values, with(normalization), true, tokens);
      const Matrix<double> whole =
          gma::reference::attention(mixture, queries, keys, values, with(normalization), false, tokens);
      Memory<double> memory;
      Matrix<double> expected(count, 2);
      for (Index t = 0; t < count; ++t) {  // (8)
        dense_write(mixture, keys.middleRows(t, 1), values.middleRows(t, 1), memory, part_of(tokens, t, 1));
        expected.row(t) = read_row(memory, q, t, normalization);
      }
      EXPECT_TRUE(close(causal, expected, 1e-14)) << name_of(normalization) << ", N = " << count;
      for (Index t = 0; t < count; ++t) expected.row(t) = read_row(memory, q, t, normalization);
      EXPECT_TRUE(close(whole, expected, 1e-14)) << name_of(normalization) << ", N = " << count;
    }
  }
}

TEST(Reference, IsComputedInDoubleForFloat) {
  Random random(4);
  gma::Mixture<float, gma::Full> mixture;
  randomize(mixture, 3, 3, Regime::generic, random);
  const Matrix<float> x = random.matrix<float>(20, 3), values = random.matrix<float>(20, 2);
  const Matrix<float> y = gma::reference::attention(mixture, x, x, values, {}, true);
  const Matrix<double> expected =
      gma::reference::attention(mixture.cast<double>(), in_double(x), in_double(x), in_double(values), {}, true);
  EXPECT_TRUE(close(y, expected, 2.0 * static_cast<double>(std::numeric_limits<float>::epsilon())));
}

}  // namespace
}  // namespace gma_test
