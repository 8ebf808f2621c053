// SPDX-License-Identifier: MIT
// A covariance family of a user's own keeps the contract and goes where gma's own go, with no line of the library for
// it.
#include "trial_family.hpp"

#include "gma/testing/family.hpp"
#include "layer_reference.hpp"
#include "trial_family_fit.hpp"

namespace gma_test {
namespace {

static_assert(gma::is_family<Halves> && gma::has_family_fit<Halves>);

TEST(TrialFamily, KeepsTheContract) { GMA_EXPECT_FAMILY(Halves); }

gma::LayerConfig small_config() {
  gma::LayerConfig config;
  config.width = 12;
  config.heads = 4;
  config.key_value_heads = 2;
  config.head_width = 4;
  config.components = {3, 2};
  config.shortest_time = 2;
  config.longest_time = 20;
  return config;
}

/// A layer whose scales are not all the same.
gma::AttentionLayer<double, Halves> some_layer() {
  auto layer = gma::random_layer<double, Halves>(small_config(), 1);
  Random random(2);
  for (auto& mixture : layer.mixtures) {
    for (auto& factor : mixture.factors) random.fill(factor.log_scales, 0.3);
  }
  return layer;
}

TEST(TrialFamily, GoesIntoALayer) {
  const auto layer = some_layer();
  Random random(3);
  const Matrix<double> x = random.matrix<double>(40, 12);
  EXPECT_TRUE(close(gma::forward(layer, x), reference_layer(layer, x), forward_tolerance<double>()));
}

TEST(TrialFamily, HasTheGradientsOfALayer) {
  auto layer = some_layer();
  Random random(4);
  Matrix<double> x = random.matrix<double>(13, 12);
  const Matrix<double> d_output = random.matrix<double>(13, 12);
  const auto loss = [&]() -> double { return gma::forward(layer, x).cwiseProduct(d_output).sum(); };
  auto gradients = gma::backward(layer, x, d_output);
  EXPECT_TRUE(close(gradients.x, gma::testing::difference_quotients(x, 3e-4, loss), difference_tolerance));
  for (std::size_t h = 0; h < layer.mixtures.size(); ++h) {
    for (std::size_t m = 0; m < layer.mixtures[h].factors.size(); ++m) {
      auto& given = layer.mixtures[h].factors[m];
      const auto& gradient = gradients.layer.mixtures[h].factors[m];
      EXPECT_TRUE(
          close(gradient.means, gma::testing::difference_quotients(given.means, 3e-4, loss), difference_tolerance));
      EXPECT_TRUE(close(gradient.log_scales, gma::testing::difference_quotients(given.log_scales, 3e-4, loss),
                        difference_tolerance));
    }
  }
}

TEST(TrialFamily, DecodesAsItTrains) {
  const auto layer = gma::compile(some_layer());
  Random random(5);
  const Matrix<double> x = random.matrix<double>(20, 12), y = gma::forward(layer, x);
  gma::LayerState<double> state = gma::begin_stream(layer);
  for (Index t = 0; t < x.rows(); ++t) {
    const Matrix<double> out = gma::step(layer, x.middleRows(t, 1), state);
    EXPECT_TRUE(close(out, y.middleRows(t, 1), forward_tolerance<double>())) << t;
  }
}

}  // namespace
}  // namespace gma_test
