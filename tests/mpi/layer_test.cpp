// SPDX-License-Identifier: MIT
// A layer over ranks is a layer of one process, forward and backward, and so is a training step.
#include "gma/mpi/layer.hpp"

#include "../layer_support.hpp"
#include "support.hpp"

namespace {

using namespace gma_test;

template <class S>
using LayerOf = gma::AttentionLayer<S>;

LayerConfig config_of(Index convolution, Index window) {
  LayerConfig config = config_of_width(6);
  config.convolution = convolution;
  config.window = window;
  return config;
}

template <class S, class From>
LayerOf<S> cast(const LayerOf<From>& layer) {
  LayerOf<S> result(layer.config);
  gma::visit_parameters([](const gma::Parameter&, Eigen::Map<Matrix<S>> to,
                           const Eigen::Map<const Matrix<From>>& from) { to = from.template cast<S>(); },
                        result, layer);
  return result;
}

template <class S>
Matrix<S> numbers_of(const LayerOf<S>& layer) {
  std::vector<S> all;
  gma::visit_parameters(
      [&](const gma::Parameter&, const Eigen::Map<const Matrix<S>>& values) {
        all.insert(all.end(), values.data(), values.data() + values.size());
      },
      layer);
  return Eigen::Map<Matrix<S>>(all.data(), Index(all.size()), 1);
}

/// Every number of a state but its position, as one column.
template <class S>
Matrix<S> numbers_of(const LayerState<S>& state) {
  std::vector<S> all;
  const auto put = [&](const auto& m) { all.insert(all.end(), m.data(), m.data() + m.size()); };
  put(state.history);
  put(state.window_keys);
  put(state.window_values);
  for (const Memory<S>& memory : state.memories) {
    put(memory.slots);
    put(memory.mass);
    all.push_back(memory.log_forgetting);
  }
  return Eigen::Map<Matrix<S>>(all.data(), Index(all.size()), 1);
}

template <class S>
LayerState<S> random_gradient(const LayerOf<S>& layer, Random& random) {
  LayerState<S> state = gma::begin_stream(layer);
  random.fill(state.history);
  random.fill(state.window_keys);
  random.fill(state.window_values);
  for (Memory<S>& memory : state.memories) {
    random.fill(memory.slots);
    random.fill(memory.mass);
  }
  return state;
}

template <class From, class S>
LayerState<S> cast(const LayerState<From>& from, const LayerOf<S>& layer) {
  LayerState<S> state = gma::begin_stream(layer);
  state.history = from.history.template cast<S>();
  state.window_keys = from.window_keys.template cast<S>();
  state.window_values = from.window_values.template cast<S>();
  state.position = from.position;
  for (std::size_t h = 0; h < from.memories.size(); ++h) {
    state.memories[h].slots = from.memories[h].slots.template cast<S>();
    state.memories[h].mass = from.memories[h].mass.template cast<S>();
    state.memories[h].log_forgetting = static_cast<S>(from.memories[h].log_forgetting);
    state.memories[h].tokens = static_cast<S>(from.memories[h].tokens);
  }
  return state;
}

/// A float layer is a product of more rounded parts than one operator: eight times its tolerances.
template <class S>
constexpr double layer_factor = std::is_same_v<S, float> ? 8 : 1;

template <class S>
void expect_layer(const LayerConfig& config, Index tokens, Cut cut, bool goes_on) {
  SCOPED_TRACE(testing::Message() << "convolution " << config.convolution << " window " << config.window << " tokens "
                                  << tokens << " " << name_of(cut) << (goes_on ? " goes on" : ""));
  Random random(5);
  // Both scalars get the same numbers, those of float.
  const LayerOf<float> rounded = cast<float>(layer_of(config));
  const LayerOf<S> layer = cast<S>(rounded);
  const LayerOf<double> truth = cast<double>(rounded);
  const Matrix<S> x = random.matrix<S>(tokens, config.width), d_output = random.matrix<S>(tokens, config.width);
  const Matrix<double> wide_x = x.template cast<double>(), wide_d_output = d_output.template cast<double>();

  // One process, in double.
  std::vector<LayerState<double>> initial{gma::begin_stream(truth)};
  if (goes_on) {
    gma::forward(truth, random.matrix<double>(3, config.width), initial[0]);
    initial[0] = cast(cast(initial[0], rounded), truth);
  }
  const std::vector<LayerState<double>> d_final{cast(random_gradient(rounded, random), truth)};
  std::vector<LayerState<double>> states = initial, d_initial(1);
  LayerCache<double> cache;
  gma::LayerGradientCache<double> scratch;
  Matrix<double> y(tokens, config.width), d_x(tokens, config.width);
  LayerOf<double> gradient(config);
  gma::set_zero(gradient);
  gma::forward_into(y, truth, wide_x, states, cache);
  gma::backward_into(d_x, gradient, truth, wide_d_output, cache, scratch, {}, &initial, &d_final, &d_initial);

  // All ranks.
  const Segment s = segment_of(cut, tokens);
  gma::mpi::LayerSegment<S> segment;
  if (ranks().rank() == 0 && goes_on) segment.before = cast(initial[0], layer);
  const Matrix<S> out = gma::mpi::forward(ranks(), layer, s.of(x), segment);
  const double factor = layer_factor<S>;
  Comparisons all;
  all.add("output", out, s.of(y), factor * forward_tolerance<S>());
  const auto here = [](const auto& numbers, bool is_compared) {
    return numbers.topRows(is_compared ? numbers.rows() : 0).eval();
  };
  all.add("the state after the sequence", here(numbers_of(segment.after), ranks().is_last()),
          here(numbers_of(states[0]), ranks().is_last()), factor * forward_tolerance<S>());
  if (ranks().is_last()) {
    EXPECT_EQ(segment.after.position, states[0].position);
  }

  LayerOf<S> sum(config);
  gma::set_zero(sum);
  const LayerState<S> d_last = cast(d_final[0], layer);
  const Matrix<S> d_segment = gma::mpi::backward(ranks(), layer, s.of(d_output), sum, segment, {}, &d_last);
  const double tolerance = factor * (std::is_same_v<S, float> ? float_gradient_tolerance : autodiff_tolerance);
  all.add("x", d_segment, s.of(d_x), tolerance);
  all.add("parameters", numbers_of(sum), numbers_of(gradient), tolerance);
  all.add_same(numbers_of(sum));
  all.add("the state before the sequence", here(numbers_of(segment.d_before), ranks().rank() == 0),
          here(numbers_of(d_initial[0]), ranks().rank() == 0), tolerance);
  all.settle();
}

TEST(MpiLayer, IsThatOfOneProcess) {
  for (const Cut cut : all_cuts) {
    for (const auto& [convolution, window] : {std::pair<Index, Index>{1, 0}, {4, 0}, {1, 5}, {4, 6}}) {
      for (const bool goes_on : {false, true}) {
        expect_layer<double>(config_of(convolution, window), 47, cut, goes_on);
        if (goes_on) expect_layer<float>(config_of(convolution, window), 47, cut, goes_on);
      }
    }
  }
}

TEST(MpiLayer, SegmentsMayBeShorterThanWhatTheLayerLooksBackOver) {
  for (const Cut cut : all_cuts) {
    for (const Index tokens : {1, 2, 5, 11, 20}) {
      for (const bool goes_on : {false, true}) expect_layer<double>(config_of(4, 7), tokens, cut, goes_on);
    }
  }
}

TEST(MpiLayer, WithoutForgettingNormAndGate) {
  LayerConfig config = config_of(3, 0);
  config.has_forgetting = config.has_output_norm = config.has_output_gate = false;
  config.normalization = Normalization::row;
  expect_layer<double>(config, 40, Cut::uneven, true);
}

/// Twenty steps of gradient descent on two layers, one after the other, towards random outputs: the parameters then
/// agree as gradients do.
TEST(MpiLayer, TrainingIsThatOfOneProcess) {
  const LayerConfig config = config_of(4, 5);
  const Index tokens = 90;
  Random random(11);
  const Matrix<double> x = random.matrix<double>(tokens, config.width), y = random.matrix<double>(tokens, config.width);
  LayerOf<double> a = layer_of(config, 1), b = layer_of(config, 2), c = a, d = b;
  const auto descend = [](LayerOf<double>& layer, const LayerOf<double>& gradient) {
    gma::visit_parameters([](const gma::Parameter&, Eigen::Map<Matrix<double>> p,
                             const Eigen::Map<const Matrix<double>>& g) { p -= 2e-4 * g; },
                          layer, gradient);
  };
  const Segment s = segment_of(Cut::uneven, tokens);
  gma::mpi::LayerSegment<double> first, second;
  double loss = 0, last_loss = std::numeric_limits<double>::infinity();
  for (int step = 0; step < 20; ++step) {
    LayerCache<double> cache_a, cache_b;
    gma::LayerGradientCache<double> scratch;
    LayerOf<double> da(config), db(config), dc(config), dd(config);
    for (LayerOf<double>* gradient : {&da, &db, &dc, &dd}) gma::set_zero(*gradient);
    Matrix<double> h(tokens, config.width), out = h, dh = h, dx = h;
    gma::forward_into(h, a, x, cache_a);
    gma::forward_into(out, b, h, cache_b);
    loss = (out - y).squaredNorm();
    EXPECT_LT(loss, last_loss);
    last_loss = loss;
    gma::backward_into(dh, db, b, Matrix<double>(out - y), cache_b, scratch);
    gma::backward_into(dx, da, a, dh, cache_a, scratch);
    descend(a, da);
    descend(b, db);

    const Matrix<double> hs = gma::mpi::forward(ranks(), c, s.of(x), first);
    const Matrix<double> outs = gma::mpi::forward(ranks(), d, hs, second);
    const Matrix<double> dhs = gma::mpi::backward(ranks(), d, Matrix<double>(outs - s.of(y)), dd, second);
    gma::mpi::backward(ranks(), c, dhs, dc, first);
    descend(c, dc);
    descend(d, dd);
  }
  Comparisons all;
  all.add("first layer", numbers_of(c), numbers_of(a), autodiff_tolerance);
  all.add("second layer", numbers_of(d), numbers_of(b), autodiff_tolerance);
  all.add_same(numbers_of(d));
  all.settle();
}

TEST(MpiLayer, BytesDoNotDependOnTheNumberOfTokens) {
  const LayerOf<float> layer = cast<float>(layer_of(config_of(4, 6)));
  gma::mpi::Traffic traffic[2];
  for (const int i : {0, 1}) {
    const Index tokens = i == 0 ? 140 : 1400;
    const Matrix<float> x = Random(1).matrix<float>(tokens, layer.config.width);
    const Segment s = segment_of(Cut::even, tokens);
    ranks().reset_traffic();
    gma::mpi::LayerSegment<float> segment;
    LayerOf<float> gradient(layer.config);
    gma::mpi::forward(ranks(), layer, s.of(x), segment);
    gma::mpi::backward(ranks(), layer, s.of(x), gradient, segment);
    traffic[i] = ranks().traffic();
  }
  EXPECT_EQ(traffic[0].bytes, traffic[1].bytes);
  EXPECT_EQ(traffic[0].messages, traffic[1].messages);
}

TEST(MpiLayer, WhatDoesNotFitIsFoundOnEveryRank) {
  if (ranks().size() == 1) GTEST_SKIP() << "one rank";
  const std::string last = std::to_string(ranks().size() - 1);
  const LayerOf<double> layer = layer_of(config_of(4, 0));
  LayerOf<double> other = layer;
  other.forget_bias(1) += 1e-13;
  const Matrix<double> x = Matrix<double>::Ones(4, layer.config.width);
  gma::mpi::LayerSegment<double> segment;
  EXPECT_EQ(message_of([&] { gma::mpi::forward(ranks(), ranks().is_last() ? other : layer, x, segment); }),
            "gma::mpi::forward: the parameters of the layer differ between rank 0 and rank " + last +
                ", expected the same on every rank");
  LayerConfig config = config_of(4, 0);
  config.normalization = Normalization::none;
  EXPECT_EQ(message_of([&] { gma::mpi::forward(ranks(), ranks().is_last() ? layer_of(config) : layer, x, segment); }),
            "gma::mpi::forward: the members of layer.config differ between rank 0 and rank " + last +
                ", expected the same on every rank");
  config.is_causal = config.has_forgetting = false;
  EXPECT_EQ(message_of([&] { gma::mpi::forward(ranks(), ranks().is_last() ? layer_of(config) : layer, x, segment); }),
            "gma::mpi::forward: layer is bidirectional, expected a causal one, on rank " + last);
  const Matrix<double> narrow = Matrix<double>::Ones(4, 2);
  EXPECT_EQ(message_of([&] { gma::mpi::forward(ranks(), layer, ranks().is_last() ? narrow : x, segment); }),
            "gma::mpi::forward: x has 2 columns, expected 6 (the layer's width), on rank " + last);
  LayerOf<double> gradient(layer.config);
  gma::mpi::forward(ranks(), layer, x, segment);
  EXPECT_EQ(message_of([&] {
              gma::mpi::backward(ranks(), layer, ranks().is_last() ? Matrix<double>(x.topRows(3)) : x, gradient,
                                 segment);
            }),
            "gma::mpi::backward: d_output is 3 x 6, expected 4 x 6 (rows of the forward pass x the layer's width), on "
            "rank " +
                last);
}

}  // namespace
