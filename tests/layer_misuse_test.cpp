// SPDX-License-Identifier: MIT
// What a layer is not meant for: caches, gradients and states of others, the same state twice, streams without their
// beginnings, numbers that are not finite. Refused by name, and what is left as it was. And what may look like misuse
// and is not: expressions as inputs, layers that were not compiled.
#include <limits>

#include "gma/layer/layer_backward.hpp"
#include "gma/layer/layer_initialization.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

using Layer = gma::AttentionLayer<float>;

gma::LayerConfig small_config() {
  gma::LayerConfig config;
  config.width = 8;
  config.heads = 2;
  config.components = {2, 2};
  config.window = 3;
  return config;
}

struct Pass {
  Layer layer = gma::random_layer<float>(small_config(), 1);
  Matrix<float> x = Random(2).matrix<float>(6, 8), y{6, 8}, d_x{6, 8};
  gma::LayerCache<float> cache;
  gma::LayerGradientCache<float> scratch;
  void forward() { gma::forward_into(y, layer, x, cache); }
  void backward(Layer& gradient, const Layer& of) { gma::backward_into(d_x, gradient, of, x, cache, scratch); }
};

/// Configs of the same width, each other in one way.
std::vector<gma::LayerConfig> other_configs() {
  std::vector<gma::LayerConfig> configs;
  const auto add = [&](const auto& change) {
    configs.push_back(small_config());
    change(configs.back());
  };
  add([](gma::LayerConfig& c) { c.heads = 1; });
  add([](gma::LayerConfig& c) { c.heads = 4; });
  add([](gma::LayerConfig& c) { c.key_value_heads = 1; });
  add([](gma::LayerConfig& c) { c.head_width = 6; });
  add([](gma::LayerConfig& c) { c.value_width = 3; });
  add([](gma::LayerConfig& c) { c.components = {3, 2}; });
  add([](gma::LayerConfig& c) { c.components = {4}; });
  add([](gma::LayerConfig& c) { c.convolution = 1; });
  add([](gma::LayerConfig& c) { c.convolution = 3; });
  add([](gma::LayerConfig& c) { c.window = 0; });
  add([](gma::LayerConfig& c) { c.window = 4; });
  add([](gma::LayerConfig& c) { c.has_forgetting = false; });
  add([](gma::LayerConfig& c) { c.has_output_norm = false; });
  add([](gma::LayerConfig& c) { c.has_output_gate = false; });
  add([](gma::LayerConfig& c) { c.gate_activation = gma::GateActivation::sigmoid; });
  add([](gma::LayerConfig& c) { c.normalization = Normalization::row; });
  add([](gma::LayerConfig& c) { c.is_causal = c.has_forgetting = false, c.window = 0; });
  return configs;
}

TEST(LayerMisuse, CachesAndGradientsOfOtherLayersAreRefused) {
  Pass pass;
  Layer gradient(pass.layer.config);
  expect_error([&] { pass.backward(gradient, pass.layer); }, {"gma::backward: ", "d_output is 6 x 8, expected 0 x 8"});
  pass.forward();
  for (const gma::LayerConfig& config : other_configs()) {
    Layer other = gma::random_layer<float>(config, 2), other_gradient(config);
    expect_error([&] { pass.backward(other_gradient, pass.layer); }, {"gradient has another config"});
    expect_error([&] { pass.backward(other_gradient, other); }, {"cache is from a forward pass of a layer of another"});
  }
  EXPECT_TRUE((gradient.query_weight.array() == 0).all());
  pass.backward(gradient, pass.layer);
  EXPECT_FALSE((gradient.query_weight.array() == 0).all());
}

TEST(LayerMisuse, TheGatesActivationMattersWhereThereIsAGate) {
  for (const bool has_gate : {false, true}) {
    Pass pass;
    pass.layer.config.has_output_gate = has_gate;
    pass.layer = gma::random_layer<float>(pass.layer.config, 1);
    gma::LayerConfig other = pass.layer.config;
    other.gate_activation = gma::GateActivation::sigmoid;
    Layer gradient(other);
    pass.forward();
    if (has_gate) {
      expect_error([&] { pass.backward(gradient, pass.layer); }, {"gradient has another config"});
    } else {
      pass.backward(gradient, pass.layer);
      EXPECT_FALSE((gradient.query_weight.array() == 0).all());
    }
  }
}

TEST(LayerMisuse, ACacheServesLayersOfAnyConfigInTurn) {
  const Matrix<float> x = Random(2).matrix<float>(6, 8);
  gma::LayerCache<float> cache;
  Matrix<float> y(6, 8);
  for (const gma::LayerConfig& config : other_configs()) {
    gma::forward_into(y, gma::random_layer<float>(small_config(), 1), x, cache);
    const Layer layer = gma::random_layer<float>(config, 1);
    gma::forward_into(y, layer, x, cache);
    EXPECT_TRUE(same_bits(y, gma::forward(layer, x)));
  }
}

TEST(LayerMisuse, MixturesOfOtherSizesThanTheConfigsAreRefused) {
  Layer layer = gma::random_layer<float>(small_config(), 1);
  layer.mixtures[1].factors[0] = gma::Mixture<float>(3, 2);
  expect_error([&] { gma::compile(layer); }, {"layer.mixtures has 3 components in a factor, expected 2"});
}

TEST(LayerMisuse, MomentsOfAnotherLayerAreRefused) {
  Layer layer = gma::random_layer<float>(small_config(), 1);
  for (const gma::LayerConfig& config : other_configs()) {
    Layer moments(config);
    gma::LayerConfig like = small_config();
    like.normalization = config.normalization;
    if (gma::parameter_count(moments) == gma::parameter_count(layer) && config.components == like.components) continue;
    expect_error([&] { gma::visit_parameters([](const gma::Parameter&, auto a, auto b) { a += b; }, layer, moments); },
                 {"gma::visit_parameters: ", "as of the first layer"});
  }
}

TEST(LayerMisuse, ABackwardPassThroughAStreamNeedsItsBeginning) {
  Pass pass;
  Layer gradient(pass.layer.config), expected(pass.layer.config);
  std::vector<gma::LayerState<float>> states{gma::begin_stream(pass.layer)};
  const std::vector<gma::LayerState<float>> beginning = states;
  gma::forward_into(pass.y, pass.layer, pass.x, states, pass.cache);
  pass.backward(gradient, pass.layer);  // from a beginning: as without states
  pass.forward();
  pass.backward(expected, pass.layer);
  EXPECT_TRUE(same_bits(gradient.key_weight, expected.key_weight));

  const std::vector<gma::LayerState<float>> initial = states;
  gma::forward_into(pass.y, pass.layer, pass.x, states, pass.cache);
  expect_error([&] { pass.backward(gradient, pass.layer); }, {"initial is null", "went on"});
  const auto backward_from = [&](const std::vector<gma::LayerState<float>>& from) {
    gma::backward_into(pass.d_x, gradient, pass.layer, pass.x, pass.cache, pass.scratch, {}, &from);
  };
  expect_error([&] { backward_from(states); }, {"initial is at position 12 at 0, expected 6"});
  expect_error([&] { backward_from(beginning); }, {"initial is at position 0 at 0, expected 6"});
  backward_from(initial);

  states.front() = beginning.front();
  states.front().memories[1].mass(0) = 1;  // a beginning that is more than zeros
  gma::forward_into(pass.y, pass.layer, pass.x, states, pass.cache);
  expect_error([&] { pass.backward(gradient, pass.layer); }, {"initial is null"});
}

TEST(LayerMisuse, TheSameStateTwiceIsRefused) {
  const auto layer = gma::compile(gma::random_layer<float>(small_config(), 1));
  gma::LayerCache<float> cache;
  const Matrix<float> x = Random(2).matrix<float>(6, 8);
  Matrix<float> y(6, 8);
  gma::LayerState<float> a = gma::begin_stream(layer), b = a, c = a;
  const auto run = [&](const std::vector<gma::LayerState<float>*>& states) {
    gma::forward_into(y, layer, x, states, cache, gma::Sequences::packed({0, 1, 3, 6}));
  };
  expect_error([&] { run({&a, &b, &a}); }, {"states is the same one at 0 and 2"});
  expect_error([&] { run({&c, &b, &b}); }, {"states is the same one at 1 and 2"});
  expect_error([&] { run({&a, nullptr, &b}); }, {"states is null at 1"});
  EXPECT_EQ(a.position, 0);
  run({&c, &a, &b});
  EXPECT_EQ(a.position, 2);
}

TEST(LayerMisuse, PositionsNearTheLargestIndexAreRefused) {
  const auto layer = gma::compile(gma::random_layer<float>(small_config(), 1));
  gma::LayerState<float> state = gma::begin_stream(layer);
  const Matrix<float> x = Random(2).matrix<float>(6, 8);
  state.position = std::numeric_limits<Index>::max() - 2;
  expect_error([&] { gma::forward(layer, x, state); }, {"state.position is", "expected at most"});
  state.position = std::numeric_limits<Index>::max() / 2;
  gma::forward(layer, x, state);
  expect_error([&] { gma::forward(layer, x, state); }, {"state.position is"});
}

TEST(LayerMisuse, NumbersThatAreNotFinite) {
  gma::LayerConfig config = small_config();
  const Matrix<float> x = Random(2).matrix<float>(6, 8);
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  gma::Sequences sequences = gma::Sequences::padded({2, 2});
  sequences.keep = {1, 0, 0, 1, 1, 1};
  Layer layer = gma::random_layer<float>(config, 1);
  Matrix<float> bad = x;
  bad.row(1).setConstant(nan);  // of no sequence
  EXPECT_TRUE(gma::forward(layer, bad, sequences).allFinite());
  bad(4, 5) = nan;
  expect_error([&] { gma::forward(layer, bad, sequences); },
               {"gma::forward: x is nan at row 4, column 5, expected finite numbers"});
  bad(4, 5) = inf;
  bad(4, 6) = -inf;
  bad(4, 7) = inf;
  layer.forget_weight.setOnes();
  expect_error([&] { gma::forward(layer, bad, sequences); }, {"x is inf at row 4, column 5"});
  layer.forget_weight(1, 2) = nan;
  expect_error([&] { gma::forward(layer, x); },
               {"log_forgetting is ", "nan at row 0 of x for head 1", "gma::validate"});

  config.has_forgetting = false;  // reaches its own sequence, from that row on
  config.window = 0;
  const Layer without = gma::random_layer<float>(config, 1);
  bad = x;
  bad(4, 5) = nan;
  const Matrix<float> y = gma::forward(without, bad, gma::Sequences::packed({0, 3, 6})),
                      clean = gma::forward(without, x, gma::Sequences::packed({0, 3, 6}));
  EXPECT_TRUE(same_bits(y.topRows(4), clean.topRows(4)));
  EXPECT_FALSE(y.row(4).allFinite());
}

TEST(LayerMisuse, AnExpressionIsEvaluatedOnce) {
  const auto layer = gma::random_layer<float>(small_config(), 1);
  const auto compiled = gma::compile(layer);
  const Index count = 60;
  const Matrix<float> x = Random(2).matrix<float>(count, 8);
  long calls = 0;
  const auto counted = x.unaryExpr([&](float value) {
    ++calls;
    return value;
  });
  std::vector<std::int64_t> offsets;
  for (Index i = 0; i <= count; i += 3) offsets.push_back(i);
  for (const gma::Sequences& sequences :
       {gma::Sequences{}, gma::Sequences::packed(offsets), gma::Sequences::padded({10, 20, 5}),
        gma::Sequences::masked(std::vector<std::uint8_t>(static_cast<std::size_t>(count), 1))}) {
    calls = 0;
    EXPECT_TRUE(same_bits(gma::forward(compiled, counted, sequences), gma::forward(compiled, x, sequences)));
    EXPECT_EQ(calls, x.size());
    calls = 0;
    const auto gradients = gma::backward(layer, x, counted, sequences),
               expected = gma::backward(layer, x, x, sequences);
    EXPECT_TRUE(same_bits(gradients.x, expected.x));
    EXPECT_EQ(calls, x.size());
  }
  const Matrix<float> a = Random(3).matrix<float>(count, 5), b = Random(4).matrix<float>(5, 8), ab = a * b;
  EXPECT_TRUE(same_bits(gma::forward(compiled, a * b, gma::Sequences::packed(offsets)),
                        gma::forward(compiled, ab, gma::Sequences::packed(offsets))));
}

TEST(LayerMisuse, ALayerThatWasNotCompiledIsCompiledWhenItChanged) {
  Layer layer = gma::random_layer<float>(small_config(), 1);
  const Matrix<float> x = Random(2).matrix<float>(40, 8);
  gma::LayerCache<float> cache;
  gma::LayerState<float> state = gma::begin_stream(layer), other = state;
  Matrix<float> y(40, 8);
  for (Index t = 0; t < 40; ++t) {
    if (t == 10) layer.query_weight(3, 4) += 1;
    if (t == 15) layer.mixtures[1].factors[1].log_temperature += 0.5f;
    if (t == 20) layer.mixtures[0].factors[0].log_scales(1, 1) += 0.5f;
    if (t == 25) layer.forget_bias(1) += 1;
    if (t == 30) gma::forward_into(y, gma::random_layer<float>(small_config(), 9), x, cache);
    gma::step_into(y.row(0), layer, x.row(t), state, cache);
    EXPECT_TRUE(same_bits(y.row(0), gma::step(gma::compile(layer), x.row(t), other))) << t;
  }
}

}  // namespace
}  // namespace gma_test
