// SPDX-License-Identifier: MIT
// The attention layer: against its definition, its gradients against differences, and what a user may rely on: splits
// anywhere, batches that do not disturb each other, padding that reaches nothing, threads that move no bit.
#include <algorithm>
#include <map>

#include "gma/baselines/layer_features.hpp"
#include "layer_reference.hpp"
#include "layer_support.hpp"

namespace gma_test {
namespace {

LayerConfig small_config() { return config_of_width(12); }

/// Every choice of the config away from its default, and all of them.
std::vector<std::pair<std::string, LayerConfig>> all_configs() {
  std::vector<std::pair<std::string, LayerConfig>> configs;
  const auto add = [&](const char* name, const auto& change) {
    LayerConfig config = small_config();
    change(config);
    configs.emplace_back(name, config);
  };
  add("default", [](LayerConfig&) {});
  add("no convolution", [](LayerConfig& c) { c.convolution = 1; });
  add("two taps", [](LayerConfig& c) { c.convolution = 2; });
  add("no forgetting", [](LayerConfig& c) { c.has_forgetting = false; });
  add("neither norm nor gate", [](LayerConfig& c) { c.has_output_norm = c.has_output_gate = false; });
  add("output norm", [](LayerConfig& c) { c.has_output_gate = false; });
  add("silu gate", [](LayerConfig& c) { c.has_output_norm = false; });
  add("norm and sigmoid gate", [](LayerConfig& c) { c.gate_activation = GateActivation::sigmoid; });
  add("sigmoid gate", [](LayerConfig& c) {
    c.has_output_norm = false;
    c.gate_activation = GateActivation::sigmoid;
  });
  add("row", [](LayerConfig& c) { c.normalization = Normalization::row; });
  add("none", [](LayerConfig& c) { c.normalization = Normalization::none; });
  add("one mixture a head", [](LayerConfig& c) { c.components = {5}; });
  add("one head", [](LayerConfig& c) { c.heads = c.key_value_heads = 1; });
  add("no groups", [](LayerConfig& c) { c.key_value_heads = 0; });
  add("forgetting of slots", [](LayerConfig& c) { c.slot_forgetting_rank = 3; });
  add("forgetting of slots alone", [](LayerConfig& c) {
    c.slot_forgetting_rank = 1;
    c.has_forgetting = false;
    c.normalization = Normalization::row;
  });
  add("window", [](LayerConfig& c) { c.window = 5; });
  add("window of one", [](LayerConfig& c) { c.window = 1; });
  add("window longer than a block", [](LayerConfig& c) {
    c.window = 150;
    c.gate_activation = GateActivation::sigmoid;
  });
  add("bidirectional", [](LayerConfig& c) { c.is_causal = c.has_forgetting = false; });
  return configs;
}

template <class F>
void for_each_config(F&& f) {
  for (const auto& [name, config] : all_configs()) {
    SCOPED_TRACE(name);
    f(config);
  }
}

TEST(Layer, IsWhatItsDefinitionSays) {
  for_each_config([](const LayerConfig& config) {
    const Layer layer = layer_of(config);
    Random random(2);
    for (const Index n : {0, 1, 3, 70, 230}) {
      const Matrix<double> x = random.matrix<double>(n, 12);
      EXPECT_TRUE(close(gma::forward(layer, x), reference_layer(layer, x), forward_tolerance<double>())) << n;
      EXPECT_TRUE(same_bits(gma::forward(gma::compile(layer), x), gma::forward(layer, x))) << n;
    }
  });
}

TEST(Layer, OtherFamilies) {
  LayerConfig config = small_config();
  Random random(2);
  const Matrix<double> x = random.matrix<double>(40, 12);
  const auto check = [&](const auto& layer) {
    EXPECT_TRUE(close(gma::forward(layer, x), reference_layer(layer, x), forward_tolerance<double>()));
  };
  all_families::for_each([&](auto family) { check(gma::random_layer<double, decltype(family)>(config, 1)); });
}

TEST(Layer, FloatIsCloseToDouble) {
  LayerConfig config = small_config();
  config.width = 32;
  config.heads = config.key_value_heads = 2;
  config.head_width = config.value_width = 16;
  const auto check = [&] {
    const auto layer = gma::random_layer<float>(config, 3);
    Layer exact(config);
    gma::visit_parameters([](const gma::Parameter&, auto to, const auto& from) { to = from.template cast<double>(); },
                          exact, layer);
    Random random(4);
    const Matrix<float> x = random.matrix<float>(500, 32);
    EXPECT_TRUE(close(gma::forward(layer, x), reference_layer(exact, in_double(x)), forward_tolerance<float>()));
  };
  check();
  config.window = 64;
  check();
  config.has_output_norm = config.has_output_gate = true;
  for (const GateActivation activation : {GateActivation::sigmoid, GateActivation::silu}) {
    config.gate_activation = activation;
    check();
  }
}

/// The loss sum(y o d_output), differentiated by hand and by difference quotients. Every third number of every
/// parameter.
template <class L>
void expect_gradients(L& layer, Matrix<double>& x, const Sequences& sequences, const LayerOptions& options) {
  Random random(5);
  const Matrix<double> d_output = random.matrix<double>(x.rows(), x.cols());
  const auto loss = [&]() -> double {
    LayerCache<double> cache;
    Matrix<double> y(x.rows(), x.cols());
    gma::forward_into(y, layer, x, cache, sequences, options);
    double penalty = 0;
    if constexpr (std::is_same_v<L, Layer>) {
      for (Index h = 0; options.usage_penalty != 0 && h < static_cast<Index>(layer.mixtures.size()); ++h) {
        const auto& mixture = layer.mixtures[static_cast<std::size_t>(h)];
        penalty += options.usage_penalty *
                   gma::usage_penalty(mixture, cache.keys.middleCols(h * mixture.dim(), mixture.dim()));
      }
    }
    return y.cwiseProduct(d_output).sum() + penalty;
  };
  const auto differences = [&](auto values) -> Matrix<double> {
    Matrix<double> result = Matrix<double>::Zero(values.rows(), values.cols());
    for (Index i = 0; i < values.size(); i += 3) result.data()[i] = difference_quotient(values.data()[i], 3e-4, loss);
    return result;
  };
  const auto thirds = [](Matrix<double> values) -> Matrix<double> {
    for (Index i = 0; i < values.size(); ++i) {
      if (i % 3 != 0) values.data()[i] = 0;
    }
    return values;
  };
  auto gradients = gma::backward(layer, x, d_output, sequences, options);
  gma::visit_parameters(
      [&](const gma::Parameter& parameter, Eigen::Map<Matrix<double>> values, Eigen::Map<Matrix<double>> gradient) {
        EXPECT_TRUE(close(thirds(gradient), differences(values), difference_tolerance)) << parameter.name;
      },
      layer, gradients.layer);
  EXPECT_TRUE(close(thirds(gradients.x), differences(Eigen::Map<Matrix<double>>(x.data(), x.rows(), x.cols())),
                    difference_tolerance));
}

TEST(Layer, GradientsAgainstDifferences) {
  for_each_config([](const LayerConfig& config) {
    Layer layer = layer_of(config);
    Random random(6);
    Matrix<double> x = random.matrix<double>(17, 12);
    expect_gradients(layer, x, {}, {});
  });
}

#ifndef GMA_REDUCED_TESTS
TEST(Layer, OtherFeatureMapsInPlaceOfMixtures) {
  LayerConfig config = small_config();
  config.normalization = Normalization::row;
  Random random(6);
  Matrix<double> x = random.matrix<double>(17, 12);
  const auto check = [&](auto layer) {
    expect_gradients(layer, x, {}, {});
    const auto compiled = gma::compile(layer);
    LayerState<double> state = gma::begin_stream(compiled);
    const Matrix<double> whole = gma::forward(layer, x);
    Matrix<double> parts(17, 12);
    parts.topRows(10) = gma::forward(compiled, x.topRows(10), state);
    for (Index t = 10; t < 17; ++t) parts.row(t) = gma::step(compiled, x.row(t), state);
    EXPECT_TRUE(close(parts, whole, forward_tolerance<double>()));
  };
  check(gma::random_layer<double, gma::baselines::Elu>(config, 1));
  check(gma::random_layer<double, gma::baselines::RandomFeatures>(config, 1));
}
#endif

TEST(Layer, GradientsOfBatchesAgainstDifferences) {
  LayerConfig config = small_config();
  config.has_output_gate = config.has_output_norm = true;
  config.window = 3;
  Random random(6);
  Matrix<double> x = random.matrix<double>(14, 12);
  for (const GateActivation activation : {GateActivation::silu, GateActivation::sigmoid}) {
    config.gate_activation = activation;
    Layer gated = layer_of(config);
    expect_gradients(gated, x, Sequences::packed({0, 6, 6, 7, 14}), {});
  }
  Layer layer = layer_of(config);
  Sequences padded = Sequences::padded({6, 4});
  padded.keep.assign(14, 1);
  padded.keep[2] = padded.keep[7] = 0;
  expect_gradients(layer, x, padded, {});
  LayerOptions options;
  options.usage_penalty = 3;
  expect_gradients(layer, x, {}, options);
}

TEST(Layer, GradientsAreAddedAndFromStatesToo) {
  // Two halves, the second from the state that the first left: no gradient crosses, so each half's gradient is the
  // difference quotient of its own loss with that state held fixed.
  LayerConfig config = small_config();
  config.window = 6;
  Layer layer = layer_of(config);
  Random random(8);
  const Matrix<double> x = random.matrix<double>(11, 12), dy = random.matrix<double>(11, 12);
  std::vector<LayerState<double>> initial{gma::begin_stream(layer)};
  gma::forward(layer, random.matrix<double>(9, 12), initial.front());
  const auto loss = [&]() -> double {
    LayerState<double> state = initial.front();
    return gma::forward(layer, x, state).cwiseProduct(dy).sum();
  };
  LayerCache<double> cache;
  gma::LayerGradientCache<double> scratch;
  Layer gradient(layer.config);
  Matrix<double> y(11, 12), d_x(11, 12);
  std::vector<LayerState<double>> states = initial;
  gma::forward_into(y, layer, x, states, cache, {});
  for (int twice = 0; twice < 2; ++twice) {
    gma::backward_into(d_x, gradient, layer, dy, cache, scratch, {}, &initial);
  }
  const std::vector<std::pair<double*, double>> gradients = {{&layer.key_filter(1, 0), gradient.key_filter(1, 0)},
                                                             {&layer.key_weight(2, 3), gradient.key_weight(2, 3)},
                                                             {&layer.forget_bias(1), gradient.forget_bias(1)},
                                                             {&layer.window_bias(2), gradient.window_bias(2)}};
  for (const auto& [parameter, actual] : gradients) {
    const double twice = 2 * difference_quotient(*parameter, 3e-4, loss);
    EXPECT_NEAR(actual, twice, difference_tolerance * std::max(1.0, std::abs(twice)));
  }
}

TEST(Layer, AnySplitIsOnePass) {
  for_each_config([](const LayerConfig& config) {
    if (!config.is_causal) return;
    const Layer layer = layer_of(config);
    const auto compiled = gma::compile(layer);
    Random random(3);
    const Matrix<double> x = random.matrix<double>(29, 12), whole = gma::forward(layer, x);
    for (const std::vector<Index>& cuts :
         {std::vector<Index>{0, 1, 29}, std::vector<Index>{0, 2, 5, 5, 6, 28, 29}, std::vector<Index>{0, 29}}) {
      LayerState<double> state = gma::begin_stream(compiled);
      Matrix<double> parts(29, 12);
      for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        parts.middleRows(cuts[i], cuts[i + 1] - cuts[i]) =
            gma::forward(compiled, x.middleRows(cuts[i], cuts[i + 1] - cuts[i]), state);
      }
      EXPECT_TRUE(close(parts, whole, forward_tolerance<double>()));
      EXPECT_EQ(state.position, 29);
    }
    LayerState<double> state = gma::begin_stream(compiled);
    const std::size_t size = gma::bytes(state);
    Matrix<double> steps(29, 12);
    for (Index t = 0; t < 29; ++t) steps.row(t) = gma::step(compiled, x.row(t), state);
    EXPECT_TRUE(close(steps, whole, forward_tolerance<double>()));
    EXPECT_EQ(gma::bytes(state), size);
    gma::reset(state);
    EXPECT_TRUE(same_bits(gma::forward(compiled, x, state), whole));
  });
}

/// small_config() with a window.
LayerConfig window_config() {
  LayerConfig config = small_config();
  config.window = 5;
  return config;
}

TEST(Layer, WhereAStreamStandsMovesNoBit) {
  // Positions of the window are counted within a block of tokens: a stream of millions is as accurate as its beginning.
  const auto layer = gma::compile(layer_of(window_config()));
  Random random(3);
  const Matrix<double> x = random.matrix<double>(9, 12), y = random.matrix<double>(5, 12);
  LayerState<double> state = gma::begin_stream(layer);
  gma::forward(layer, x, state);
  LayerState<double> late = state;
  late.position += 4'000'000;
  EXPECT_TRUE(same_bits(gma::forward(layer, y, late), gma::forward(layer, y, state)));
}

TEST(Layer, ForkedStreamsGoTheirOwnWays) {
  const auto layer = gma::compile(layer_of(window_config()));
  Random random(3);
  const Matrix<double> x = random.matrix<double>(12, 12), y = random.matrix<double>(5, 12);
  LayerState<double> state = gma::begin_stream(layer);
  gma::forward(layer, x, state);
  LayerState<double> fork = state;
  const Matrix<double> first = gma::forward(layer, y, state);
  EXPECT_TRUE(same_bits(gma::forward(layer, y, fork), first));
}

TEST(Layer, SequencesOfABatchAreStrangers) {
  for_each_config([](const LayerConfig& config) {
    const Layer layer = layer_of(config);
    Random random(3);
    const std::vector<Index> lengths = {7, 0, 1, 120, 3};
    std::vector<Matrix<double>> alone;
    Matrix<double> packed(131, 12), expected(131, 12);
    std::vector<std::int64_t> offsets{0};
    for (const Index length : lengths) {
      alone.push_back(random.matrix<double>(length, 12));
      packed.middleRows(offsets.back(), length) = alone.back();
      expected.middleRows(offsets.back(), length) = gma::forward(layer, alone.back());
      offsets.push_back(offsets.back() + length);
    }
    EXPECT_TRUE(same_bits(gma::forward(layer, packed, Sequences::packed(offsets)), expected));

    // The same padded to one length, the padding poisoned, in another order.
    const Index longest = 125;
    Matrix<double> padded = Matrix<double>::Constant(5 * longest, 12, not_a_number);
    Matrix<double> padded_expected = Matrix<double>::Zero(5 * longest, 12);
    std::vector<std::int64_t> padded_lengths;
    for (Index b = 0; b < 5; ++b) {
      const Matrix<double>& x = alone[static_cast<std::size_t>(4 - b)];
      padded.middleRows(b * longest, x.rows()) = x;
      padded_expected.middleRows(b * longest, x.rows()) = gma::forward(layer, x);
      padded_lengths.push_back(x.rows());
    }
    EXPECT_TRUE(same_bits(gma::forward(layer, padded, Sequences::padded(padded_lengths)), padded_expected));
  });
}

TEST(Layer, WhereASequenceLiesInABatchMovesNoBit) {
  // Widths that no vector register divides, where heads and tails of rows could be computed by other means.
  Random random(5);
  const auto check = [&](const auto& compiled, const LayerConfig& config) {
    for (const Index before : {0, 1, 3}) {
      for (const Index count : {1, 2, 7}) {
        const Matrix<float> x = random.matrix<float>(before + count + 2, config.width);
        std::vector<LayerState<float>> states(3, gma::begin_stream(compiled)), alone(1);
        gma::forward(compiled, random.matrix<float>(7, config.width), states[1]);
        alone.front() = states[1];
        LayerCache<float> cache;
        Matrix<float> y(x.rows(), x.cols()), z(count, x.cols());
        gma::forward_into(y, compiled, x, states, cache, Sequences::packed({0, before, before + count, x.rows()}));
        gma::forward_into(z, compiled, x.middleRows(before, count), alone, cache);
        EXPECT_TRUE(same_bits(z, y.middleRows(before, count))) << before << " rows before " << count;
      }
    }
  };
  for (const Index heads : {1, 3, 5}) {
    for (const Index head_width : {10, 20}) {
      SCOPED_TRACE(testing::Message() << heads << " heads of " << head_width);
      LayerConfig config;
      config.width = heads * head_width;
      config.heads = heads;
      config.components = {4, 3};
      config.has_output_gate = config.has_output_norm = true;
      config.window = 6;
      check(gma::compile(gma::random_layer<float>(config, 1)), config);
      check(gma::compile(gma::random_layer<float, gma::Isotropic>(config, 1)), config);
#ifndef GMA_REDUCED_TESTS
      config.normalization = Normalization::row;
      check(gma::compile(gma::random_layer<float, gma::baselines::RandomFeatures>(config, 1)), config);
#endif
    }
  }
}

TEST(Layer, MaskedTokensAreNotThere) {
  const Layer layer = layer_of(window_config());
  Random random(3);
  Matrix<double> x = random.matrix<double>(10, 12), d_output = random.matrix<double>(10, 12);
  Sequences mask = Sequences::masked({0, 0, 1, 1, 0, 1, 1, 1, 0, 1});
  std::vector<Index> kept;
  for (Index i = 0; i < 10; ++i) {
    if (mask.keep[static_cast<std::size_t>(i)] != 0) {
      kept.push_back(i);
    } else {
      x.row(i).setConstant(i % 2 == 0 ? not_a_number : infinity);
      d_output.row(i).setConstant(not_a_number);
    }
  }
  Matrix<double> short_x(6, 12), short_dy(6, 12);
  for (Index i = 0; i < 6; ++i) {
    short_x.row(i) = x.row(kept[static_cast<std::size_t>(i)]);
    short_dy.row(i) = d_output.row(kept[static_cast<std::size_t>(i)]);
  }
  const Matrix<double> y = gma::forward(layer, x, mask), short_y = gma::forward(layer, short_x);
  auto gradients = gma::backward(layer, x, d_output, mask), short_gradients = gma::backward(layer, short_x, short_dy);
  Matrix<double> expected = Matrix<double>::Zero(10, 12), expected_dx = expected;
  for (Index i = 0; i < 6; ++i) {
    expected.row(kept[static_cast<std::size_t>(i)]) = short_y.row(i);
    expected_dx.row(kept[static_cast<std::size_t>(i)]) = short_gradients.x.row(i);
  }
  EXPECT_TRUE(same_bits(y, expected));
  EXPECT_TRUE(same_bits(gradients.x, expected_dx));
  gma::visit_parameters([](const gma::Parameter& parameter, const auto& a,
                           const auto& b) { EXPECT_TRUE(same_bits(a, b)) << parameter.name; },
                        gradients.layer, short_gradients.layer);
}

TEST(Layer, LaterTokensMoveNoBit) {
  const Layer layer = layer_of(window_config());
  Random random(3);
  Matrix<double> x = random.matrix<double>(40, 12);
  const Matrix<double> y = gma::forward(layer, x);
  x.bottomRows(15) = random.matrix<double>(15, 12);
  EXPECT_TRUE(same_bits(gma::forward(layer, x).topRows(25), y.topRows(25)));
}

TEST(Layer, SameBitsWhateverRunsIt) {
  const Backwards backwards;
  const Threads threads(3);
  for_each_config([&](const LayerConfig& config) {
    const Layer layer = layer_of(config);
    Random random(3);
    const Matrix<double> x = random.matrix<double>(300, 12), d_output = random.matrix<double>(300, 12);
    const Sequences sequences = Sequences::packed({0, 100, 300});
    const Matrix<double> y = gma::forward(layer, x, sequences);
    auto gradients = gma::backward(layer, x, d_output, sequences);
    for (const gma::Executor* executor :
         {static_cast<const gma::Executor*>(&backwards), static_cast<const gma::Executor*>(&threads)}) {
      LayerOptions options;
      options.executor = executor;
      EXPECT_TRUE(same_bits(gma::forward(layer, x, sequences, options), y));
      auto again = gma::backward(layer, x, d_output, sequences, options);
      EXPECT_TRUE(same_bits(again.x, gradients.x));
      gma::visit_parameters([](const gma::Parameter& parameter, const auto& a,
                               const auto& b) { EXPECT_TRUE(same_bits(a, b)) << parameter.name; },
                            again.layer, gradients.layer);
    }
  });
}

TEST(Layer, ManyStreamsAtOnce) {
  const auto layer = gma::compile(layer_of(window_config()));
  Random random(3);
  LayerCache<double> cache;
  std::vector<LayerState<double>> states(3, gma::begin_stream(layer));
  LayerState<double> alone = states.front();
  Matrix<double> y(3, 12);
  for (int t = 0; t < 6; ++t) {
    const Matrix<double> x = random.matrix<double>(3, 12);
    gma::forward_into(y, layer, x, states, cache, Sequences::packed({0, 1, 2, 3}));
    EXPECT_TRUE(same_bits(gma::step(layer, x.row(1), alone), y.row(1)));
  }
  EXPECT_TRUE(same_bits(alone.memories[1], states[1].memories[1]));
  EXPECT_TRUE(same_bits(alone.history, states[1].history));
  EXPECT_TRUE(same_bits(alone.window_keys, states[1].window_keys));
  EXPECT_TRUE(same_bits(alone.window_values, states[1].window_values));
}

TEST(Layer, SixteenBitInputAndOutput) {
  const auto layer = gma::random_layer<float>(small_config(), 1);
  Random random(3);
  const Matrix<Eigen::bfloat16> x = random.matrix<float>(20, 12).cast<Eigen::bfloat16>();
  Matrix<Eigen::bfloat16> y(20, 12);
  LayerCache<float> cache;
  gma::forward_into(y, layer, x, cache);
  const Matrix<float> expected = gma::forward(layer, Matrix<float>(x.cast<float>()));
  EXPECT_TRUE(same_bits(y, expected.cast<Eigen::bfloat16>()));
}

TEST(Layer, NamesGroupsAndShapesOfItsParameters) {
  LayerConfig config = window_config();
  config.has_output_gate = config.has_output_norm = true;
  Layer layer(config);
  std::map<std::string, std::pair<gma::ParameterGroup, std::vector<Index>>> seen;
  Index count = 0;
  gma::visit_parameters(
      [&](const gma::Parameter& parameter, const auto& values) {
        EXPECT_TRUE(seen.emplace(parameter.name, std::pair(parameter.group, parameter.shape)).second);
        count += values.size();
      },
      layer);
  const auto expect = [&](const char* name, gma::ParameterGroup group, const std::vector<Index>& shape) {
    ASSERT_EQ(seen.count(name), 1u) << name;
    EXPECT_TRUE(seen[name] == std::pair(group, shape)) << name;
  };
  using Group = gma::ParameterGroup;
  expect("query.weight", Group::matrix, {16, 12});
  expect("key.weight", Group::matrix, {8, 12});
  expect("value.weight", Group::matrix, {6, 12});
  expect("value.filter", Group::vector, {6, 4});
  expect("forget.weight", Group::matrix, {2, 12});
  expect("forget.bias", Group::vector, {2});
  expect("forget.rate", Group::vector, {2});
  expect("window.weight", Group::matrix, {4, 12});
  expect("window.bias", Group::vector, {4});
  expect("mixtures.1.factors.0.means", Group::mixture, {3, 2});
  expect("mixtures.1.factors.1.weight_logits", Group::mixture, {2});
  expect("mixtures.0.factors.1.log_temperature", Group::mixture, {});
  expect("norm.gain", Group::vector, {12});
  expect("gate.weight", Group::matrix, {12, 12});
  expect("output.weight", Group::matrix, {12, 12});
  EXPECT_EQ(seen.size(), 14u + 2 * 2 * 4);
  EXPECT_EQ(gma::parameter_count(layer), count);
}

TEST(Layer, StartsAsRecommended) {
  LayerConfig config;
  config.width = 64;
  config.heads = 6;
  config.head_width = 16;
  config.window = 64;
  const auto layer = gma::random_layer<double>(config, 7);
  EXPECT_NEAR(std::exp(-layer.forget_bias(0)), 16, 1e-9);
  EXPECT_NEAR(std::exp(-layer.forget_bias(5)), 512, 1e-9);
  EXPECT_NEAR(layer.forget_bias(2) - layer.forget_bias(1), layer.forget_bias(1) - layer.forget_bias(0), 1e-12);
  EXPECT_TRUE((layer.window_bias.array() == -2).all());
  EXPECT_NEAR(layer.window_weight.norm() / layer.forget_weight.norm(), 1, 0.2);
  EXPECT_NEAR(layer.mixtures[3].factors[1].log_temperature, std::log(std::sqrt(8.0)), 1e-15);
  EXPECT_EQ(layer.mixtures[0].components(), 64);
  EXPECT_NE(layer.mixtures[0].factors[0].means(0, 0), layer.mixtures[1].factors[0].means(0, 0));
  EXPECT_NEAR(layer.query_weight.squaredNorm() / 96, 1, 0.1);
  EXPECT_TRUE(same_bits(gma::random_layer<double>(config, 7).query_weight, layer.query_weight));
  gma::validate(layer);
}

TEST(Layer, ErrorsNameWhatIsWrongAndChangeNothing) {
  const auto expect_config = [](const std::vector<std::string>& words, const auto& spoil) {
    LayerConfig config = small_config();
    spoil(config);
    expect_error([&] { Layer layer(config); }, words);
  };
  expect_config({"LayerConfig: ", "width is 0"}, [](LayerConfig& c) { c.width = 0; });
  expect_config({"heads is 0"}, [](LayerConfig& c) { c.heads = 0; });
  expect_config({"width is 12 for 5 heads"}, [](LayerConfig& c) { c.heads = 5, c.head_width = 0; });
  expect_config({"key_value_heads is 3", "divisor of heads (4)"}, [](LayerConfig& c) { c.key_value_heads = 3; });
  expect_config({"components has 3 factors", "head_width of 4"}, [](LayerConfig& c) { c.components = {2, 2, 2}; });
  expect_config({"components is 0"}, [](LayerConfig& c) { c.components = {0}; });
  expect_config({"convolution is 0"}, [](LayerConfig& c) { c.convolution = 0; });
  expect_config({"has_forgetting", "bidirectional"}, [](LayerConfig& c) { c.is_causal = false; });
  expect_config({"window is -1"}, [](LayerConfig& c) { c.window = -1; });
  expect_config({"window is 8", "bidirectional"}, [](LayerConfig& c) {
    c.is_causal = c.has_forgetting = false;
    c.window = 8;
  });
  expect_config({"head_width is 3", "window of 8", "even"}, [](LayerConfig& c) {
    c.components = {4};
    c.head_width = 3;
    c.window = 8;
  });
  expect_config({"shortest_time"}, [](LayerConfig& c) { c.longest_time = 1; });

  const Layer layer = layer_of(window_config());
  Random random(1);
  const Matrix<double> x = random.matrix<double>(5, 12);
  Matrix<double> out = Matrix<double>::Constant(5, 12, 7);
  std::vector<LayerState<double>> states{gma::begin_stream(layer)};
  LayerCache<double> cache;
  gma::forward_into(out, layer, x, states, cache, {});
  const LayerState<double> before = states.front();
  expect_error([&] { gma::forward(layer, random.matrix<double>(5, 11)); }, {"gma::forward: x has 11 columns", "12"});
  expect_error([&] { gma::forward_into(out, layer, x.topRows(4), cache); }, {"out is 5 x 12, expected 4 x 12"});
  expect_error(
      [&] {
        gma::forward_into(out, layer, x, states, cache, Sequences::packed({0, 2, 5}));
      },
      {"states has 1 entries, expected 2"});
  std::vector<LayerState<double>> none;
  expect_error([&] { gma::forward_into(out, layer, x, none, cache, {}); }, {"states has 0 entries, expected 1"});
  expect_error(
      [&] {
        gma::forward_into(out, layer, x, states, cache, Sequences::packed({0, 2}));
      },
      {"sequences.offsets"});
  Matrix<double> poisoned = x;
  poisoned(3, 3) = not_a_number;
  expect_error([&] { gma::forward(layer, poisoned, states.front()); }, {"log_forgetting is", "nan"});
  EXPECT_TRUE(same_bits(states.front().memories[0], before.memories[0]));
  EXPECT_TRUE(same_bits(states.front().history, before.history));
  EXPECT_TRUE(same_bits(states.front().window_keys, before.window_keys));
  EXPECT_EQ(states.front().position, before.position);
  LayerState<double> foreign = before;
  foreign.memories.pop_back();
  expect_error([&] { gma::step(layer, x.row(0), foreign); }, {"state.memories has 1 entries, expected 2"});
  expect_error([&] { gma::step(layer, x, states.front()); }, {"gma::step: x has 5 rows, expected 1"});
  foreign = before;
  foreign.window_keys.resize(2, 8);
  expect_error([&] { gma::step(layer, x.row(0), foreign); }, {"state.window_keys is 2 x 8, expected 4 x 8"});
  foreign = before;
  foreign.position = -1;
  expect_error([&] { gma::step(layer, x.row(0), foreign); }, {"state.position is -1"});
  Layer broken = layer;
  broken.window_bias.resize(3);
  expect_error([&] { gma::forward(broken, x); }, {"layer.window_bias has 3 coefficients, expected 4"});
  broken = layer;
  broken.key_weight.resize(3, 3);
  expect_error([&] { gma::forward(broken, x); }, {"layer.key_weight is 3 x 3, expected 8 x 12"});
  broken = layer;
  broken.mixtures[1].factors[0].means(1, 1) = infinity;
  expect_error([&] { gma::validate(broken); }, {"layer.mixtures.1.factors.0.means", "not finite"});
  LayerConfig both = small_config();
  both.is_causal = both.has_forgetting = false;
  expect_error([&] { gma::begin_stream(Layer(both)); }, {"begin_stream", "causal"});
  gma::LayerGradientCache<double> scratch;
  Layer gradient(layer.config);
  Matrix<double> d_x(4, 12);
  expect_error([&] { gma::backward_into(d_x, gradient, layer, x.topRows(4), cache, scratch); },
               {"gma::backward: d_output is 4 x 12, expected 5 x 12"});
}

}  // namespace
}  // namespace gma_test
