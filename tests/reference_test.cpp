// SPDX-License-Identifier: MIT
// The reference, which everything else is compared with, against cases computed by hand; its dense form and its
// recurrence against the equations (3) to (8) once more.
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

/// (8), (4), (5), (6) once more, in matrices, from the responsibilities q of the queries and r of the keys.
Matrix<double> recurrence(const Matrix<double>& q, const Matrix<double>& r, const Matrix<double>& values,
                          Memory<double>& memory, const TokenInputs<double>& tokens, Normalization normalization) {
  Matrix<double> y(q.rows(), values.cols());
  for (Index t = 0; t < q.rows(); ++t) {
    if (tokens.key_weights(t) > 0) {
      const double lambda = std::exp(tokens.log_forgetting(t)), weight = tokens.key_weights(t);
      memory.slots = (lambda * memory.slots + weight * r.row(t).transpose() * values.row(t)).eval();
      memory.mass = (lambda * memory.mass + weight * r.row(t).transpose()).eval();
      memory.log_forgetting += tokens.log_forgetting(t);
    }
    const Vector<double> mass = memory.mass.cwiseMax(gma::tiny_mass);
    if (normalization == Normalization::none) y.row(t) = q.row(t) * memory.slots;
    if (normalization == Normalization::slot) y.row(t) = q.row(t).cwiseQuotient(mass.transpose()) * memory.slots;
    if (normalization == Normalization::row)
      y.row(t) = q.row(t) * memory.slots / std::max(q.row(t).dot(memory.mass), gma::tiny_mass);
  }
  return y;
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
    const Matrix<double> r = gma::reference::responsibilities(mixture, keys);
    for (const Normalization normalization : all_normalizations) {
      SCOPED_TRACE(std::string(name_of(normalization)) + ", N = " + std::to_string(count));
      const Matrix<double> causal =
          gma::reference::attention(mixture, queries, keys, values, with(normalization), true, tokens);
      const Matrix<double> whole =
          gma::reference::attention(mixture, queries, keys, values, with(normalization), false, tokens);
      Memory<double> memory = gma::empty_memory<double>(4, 2), expected = memory;
      const Matrix<double> y = recurrence(q, r, values, expected, tokens, normalization);
      EXPECT_TRUE(close(causal, y, 1e-14));
      EXPECT_TRUE(close(gma::reference::causal(mixture, queries, keys, values, with(normalization), tokens), y, 1e-14));
      // In two parts, the memory carried on.
      const Index half = count / 2;
      Matrix<double> parts(count, 2);
      for (const auto& [begin, size] :
           {std::pair<Index, Index>(0, half), std::pair<Index, Index>(half, count - half)}) {
        parts.middleRows(begin, size) = gma::reference::causal(
            mixture, queries.middleRows(begin, size), keys.middleRows(begin, size), values.middleRows(begin, size),
            memory, with(normalization), part_of(tokens, begin, size));
      }
      EXPECT_TRUE(close(parts, y, 1e-14));
      EXPECT_TRUE(close(memory, expected, 1e-14));
      // Every query reads the memory after the last token.
      for (Index t = 0; t < count; ++t) {
        Memory<double> last = expected;
        TokenInputs<double> absent{Vector<double>::Zero(1), Vector<double>::Zero(1)};
        const Matrix<double> read = gma::reference::causal(mixture, queries.middleRows(t, 1), keys.middleRows(t, 1),
                                                           values.middleRows(t, 1), last, with(normalization), absent);
        EXPECT_TRUE(close(whole.row(t), read, 1e-14));
      }
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
  EXPECT_TRUE(close(gma::reference::causal(mixture, x, x, values, {}), expected,
                    2.0 * static_cast<double>(std::numeric_limits<float>::epsilon())));
}

}  // namespace
}  // namespace gma_test
