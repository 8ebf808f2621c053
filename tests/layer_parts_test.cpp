// SPDX-License-Identifier: MIT
// Every part of the attention layer alone: its backward against differences of its forward. And the layer cut into
// pieces, whose gradients come through the states.
#include "layer_support.hpp"

namespace gma_test {
namespace {

using gma::detail::ColumnRange;
using gma::detail::LayerShape;
using gma::detail::PassRows;
using gma::detail::Projected;
using gma::detail::StatePointers;
using State = LayerState<double>;

/// Everything that a layer may have: grouped queries, a convolution, forgetting, a window, an output norm and gate.
LayerConfig full_config() {
  LayerConfig config = config_of_width(10);
  config.window = 5;
  config.slot_forgetting_rank = 2;
  config.has_output_norm = config.has_output_gate = true;
  return config;
}

/// What a part needs: two sequences of 3 and 6 rows, each from a state, a layer, and numbers of every size.
struct PartTest : testing::Test {
  LayerConfig config = full_config();
  LayerShape shape{config};
  Layer layer = layer_of(config), gradient{config};
  std::vector<std::int64_t> offsets{0, 3, 9};
  gma::Workspace<double> workspace;
  PassRows<double> rows{config, shape, offsets, nullptr, workspace};
  Random random{3};
  Matrix<double> x = random.matrix<double>(9, 10), projected = random.matrix<double>(9, shape.projected()),
                 queries = random.matrix<double>(9, shape.queries), keys = random.matrix<double>(9, shape.keys),
                 values = random.matrix<double>(9, shape.values), mixed = random.matrix<double>(9, shape.mixed()),
                 d_projected = Matrix<double>::Zero(9, shape.projected());
  std::vector<State> before = some_states(), d_before = zero_states();
  gma::CompiledLayer<double> compiled = gma::compile(layer);

  std::vector<State> zero_states() const { return std::vector<State>(2, gma::begin_stream(layer)); }
  std::vector<State> some_states() {
    std::vector<State> states = zero_states();
    for (State& state : states) {
      random.fill(state.history);
      random.fill(state.window_keys);
      random.fill(state.window_values);
      for (Memory<double>& memory : state.memories) {
        random.fill(memory.slots);
        memory.mass = random.vector<double>(memory.mass.size()).cwiseAbs();
        memory.tokens = memory.mass.sum();
      }
      state.position = 2 + 5 * (&state - states.data());  // in one of them the window has room
    }
    return states;
  }
  template <class T>
  static StatePointers<T> pointers(std::vector<T*>& addresses, std::vector<State>& states) {
    for (State& state : states) addresses.push_back(&state);
    return {addresses.data()};
  }
  std::vector<const State*> before_addresses;
  std::vector<State*> d_before_addresses;
  StatePointers<const State> from = pointers(before_addresses, before);
  StatePointers<State> d_from = pointers(d_before_addresses, d_before);

  /// The slopes of a loss in all `numbers`.
  template <class Numbers, class Loss>
  static void expect_slopes(Numbers& numbers, const Eigen::Ref<const Matrix<double>>& actual, const Loss& loss,
                            const char* name) {
    Matrix<double> expected(numbers.rows(), numbers.cols());
    for (Index i = 0; i < numbers.size(); ++i) {
      expected.data()[i] = difference_quotient(numbers.data()[i], 3e-4, loss);
    }
    EXPECT_TRUE(close(actual, expected, difference_tolerance)) << name;
  }
};

TEST_F(PartTest, Projection) {
  const gma::detail::Projection<double> part{rows};
  const Matrix<double> dz = random.matrix<double>(9, shape.projected());
  const auto loss = [&] {
    part.forward(x, gma::compile(layer).in_weights, projected);
    return projected.cwiseProduct(dz).sum();
  };
  Matrix<double> dx;
  const gma::detail::ProjectionSide<double> side{x, dz, dx};
  part.backward(layer, side, side, gradient);
  expect_slopes(x, dx, loss, "x");
  expect_slopes(layer.window_weight, gradient.window_weight, loss, "window.weight");
  expect_slopes(layer.gate_weight, gradient.gate_weight, loss, "gate.weight");
}

TEST_F(PartTest, Convolution) {
  const gma::detail::Convolution<double> part{rows};
  const ColumnRange range = shape.columns(Projected::keys);
  const Matrix<double> dy = random.matrix<double>(9, shape.keys);
  std::vector<State> d_after = some_states(), after;
  std::vector<const State*> addresses;
  Matrix<double> d_taps = Matrix<double>::Zero(compiled.taps.rows(), compiled.taps.cols()), y;
  const auto loss = [&] {
    part.forward(range, projected, compiled.taps, from, y);
    after = before;
    std::vector<State*> of_after;
    part.advance(projected, pointers(of_after, after));
    return y.cwiseProduct(dy).sum() + after[0].history.cwiseProduct(d_after[0].history).sum() +
           after[1].history.cwiseProduct(d_after[1].history).sum();
  };
  part.backward(range, projected, compiled.taps, from, dy, d_projected, d_taps, d_from);
  part.advance_backward(pointers(addresses, d_after), d_projected, d_from);
  expect_slopes(projected, d_projected, loss, "projected");
  expect_slopes(compiled.taps, d_taps, loss, "taps");
  expect_slopes(before[0].history, d_before[0].history, loss, "history of a sequence as long");
  expect_slopes(before[1].history, d_before[1].history, loss, "history of a longer sequence");
}

TEST_F(PartTest, UnitRms) {
  const gma::detail::UnitRms<double> part{rows, shape.query_heads};
  Matrix<double> d = random.matrix<double>(9, shape.queries), n, inverse;
  const Matrix<double> upstream = d;
  const auto loss = [&] {
    n = queries;
    part.forward_in_place(n, inverse);
    return n.cwiseProduct(upstream).sum();
  };
  loss();
  part.backward_in_place(n, inverse, d);
  expect_slopes(queries, d, loss, "queries");
}

TEST_F(PartTest, Forgetting) {
  const gma::detail::Forgetting<double> part{rows};
  const Matrix<double> dg = random.matrix<double>(9, shape.key_heads);
  Matrix<double> g;
  const auto loss = [&] {
    part.forward(projected, layer.forget_bias, layer.forget_rate, g);
    return g.cwiseProduct(dg).sum();
  };
  loss();
  part.backward(projected, layer.forget_bias, layer.forget_rate, g, dg, d_projected, gradient.forget_bias,
                gradient.forget_rate);
  expect_slopes(projected, d_projected, loss, "projected");
  expect_slopes(layer.forget_bias, gradient.forget_bias, loss, "forget.bias");
  expect_slopes(layer.forget_rate, gradient.forget_rate, loss, "forget.rate");
}

TEST_F(PartTest, SlotForgetting) {
  const gma::detail::SlotForgetting<double> part{rows};
  const Index columns = layer.slot_forget_rate.cols() * shape.key_heads;
  const Matrix<double> ds = random.matrix<double>(9, columns);
  Matrix<double> s;
  const auto loss = [&] {
    part.forward(projected, layer.slot_forget_rate, s);
    return s.cwiseProduct(ds).sum();
  };
  loss();
  EXPECT_EQ(s.cols(), columns);
  EXPECT_TRUE((s.array() < 0).all());
  part.backward(projected, layer.slot_forget_rate, ds, d_projected, gradient.slot_forget_rate);
  expect_slopes(projected, d_projected, loss, "projected");
  expect_slopes(layer.slot_forget_rate, gradient.slot_forget_rate, loss, "slot_forget.rate");
}

TEST_F(PartTest, MixtureAttention) {
  gma::HeadInputs<double> inputs;
  inputs.sequences = gma::Sequences::packed(offsets);
  inputs.log_forgetting = -random.matrix<double>(9, shape.key_heads).cwiseAbs();
  const gma::detail::MixtureAttention<double> part{rows, inputs, queries, keys, values};
  const Matrix<double> dy = random.matrix<double>(9, shape.mixed());
  const auto loss = [&] {
    std::vector<State> states = before;
    std::vector<State*> addresses;
    std::vector<Memory<double>> memories;
    part.forward(layer.mixtures, pointers(addresses, states), false, nullptr, memories, mixed);
    return mixed.cwiseProduct(dy).sum() + memories[3].slots.sum() + memories[2].mass.sum();
  };
  std::vector<Memory<double>> memories, d_after;
  std::vector<State> d_states = zero_states();
  d_states[1].memories[1].slots.setOnes();
  d_states[1].memories[0].mass.setOnes();
  std::vector<const State*> addresses;
  gma::detail::gather_memories(from, 2, memories);
  gma::detail::gather_memories(pointers(addresses, d_states), 2, d_after);
  gma::HeadGradients<gma::ProductMixture<double>> d;
  part.backward(layer.mixtures, dy, memories, d_after, nullptr, d, gradient.mixtures);
  expect_slopes(queries, d.queries, loss, "queries");
  expect_slopes(keys, d.keys, loss, "keys");
  expect_slopes(values, d.values, loss, "values");
  expect_slopes(inputs.log_forgetting, d.log_forgetting, loss, "log_forgetting");
  expect_slopes(before[1].memories[1].slots, d.memories[3].slots, loss, "slots");
  expect_slopes(before[0].memories[1].mass, d.memories[1].mass, loss, "mass");
  expect_slopes(layer.mixtures[1].factors[0].means, gradient.mixtures[1].factors[0].means, loss, "means");
}

TEST_F(PartTest, WindowAttention) {
  gma::WindowCache<double> cache;
  const gma::detail::Window<double> part{rows, compiled.rotations, queries, keys, values, cache};
  const Matrix<double> dw = random.matrix<double>(9, shape.mixed());
  std::vector<State> d_after = some_states(), after;
  std::vector<const State*> addresses;
  const auto loss = [&] {
    part.attend(from);
    after = before;
    std::vector<State*> of_after;
    part.advance(pointers(of_after, after));
    double sum = cache.output.cwiseProduct(dw).sum();
    for (std::size_t i = 0; i < 2; ++i) {
      sum += after[i].window_keys.cwiseProduct(d_after[i].window_keys).sum() +
             after[i].window_values.cwiseProduct(d_after[i].window_values).sum();
    }
    return sum;
  };
  loss();
  Matrix<double> dq = Matrix<double>::Zero(9, shape.queries), dk = Matrix<double>::Zero(9, shape.keys),
                 dv = Matrix<double>::Zero(9, shape.values);
  const std::vector<Index> positions{before[0].position, before[1].position};
  part.advance_backward(pointers(addresses, d_after), positions, dk, dv, d_from);
  part.attend_backward(from, dw, dq, dk, dv, d_from);
  expect_slopes(queries, dq, loss, "queries");
  expect_slopes(keys, dk, loss, "keys");
  expect_slopes(values, dv, loss, "values");
  for (std::size_t i = 0; i < 2; ++i) {
    expect_slopes(before[i].window_keys, d_before[i].window_keys, loss, "keys of the past");
    expect_slopes(before[i].window_values, d_before[i].window_values, loss, "values of the past");
  }
}

TEST_F(PartTest, WindowGate) {
  gma::WindowCache<double> cache;
  const gma::detail::Window<double> part{rows, compiled.rotations, queries, keys, values, cache};
  part.attend(from);
  Matrix<double> d = random.matrix<double>(9, shape.mixed()), dw, y;
  const Matrix<double> upstream = d;
  const auto loss = [&] {
    y = mixed;
    part.mix_in_place(projected, layer.window_bias, y);
    return y.cwiseProduct(upstream).sum();
  };
  loss();
  part.mix_backward_in_place(y, d, dw, d_projected, gradient.window_bias);
  expect_slopes(mixed, d, loss, "outputs of the mixture");
  expect_slopes(cache.output, dw, loss, "outputs of the window");
  expect_slopes(projected, d_projected, loss, "projected");
  expect_slopes(layer.window_bias, gradient.window_bias, loss, "window.bias");
}

TEST_F(PartTest, Output) {
  const auto check = [&](bool has_norm, bool has_gate, GateActivation activation) {
    SCOPED_TRACE(testing::Message() << has_norm << has_gate << (activation == GateActivation::silu));
    config.has_output_norm = has_norm;
    config.has_output_gate = has_gate;
    config.gate_activation = activation;
    shape = LayerShape(config);
    gma::OutputCache<double> cache;
    const gma::detail::Output<double> part{rows, cache};
    const Matrix<double> d_out = random.matrix<double>(9, shape.width);
    Matrix<double> out, dy;
    const auto loss = [&] {
      part.reserve(out);
      part.forward(mixed, projected, layer.norm_gain, layer.output_weight.transpose(), out);
      return out.cwiseProduct(d_out).sum();
    };
    loss();
    gma::set_zero(gradient);
    d_projected.setZero();
    part.backward(mixed, projected, layer.norm_gain, layer.output_weight, d_out, dy, d_projected, gradient.norm_gain,
                  gradient.output_weight);
    expect_slopes(mixed, dy, loss, "outputs of the heads");
    expect_slopes(projected, d_projected, loss, "projected");
    expect_slopes(layer.norm_gain, gradient.norm_gain, loss, "norm.gain");
    expect_slopes(layer.output_weight, gradient.output_weight, loss, "output.weight");
  };
  for (const bool has_norm : {false, true}) {
    check(has_norm, false, GateActivation::silu);
    check(has_norm, true, GateActivation::silu);
    check(has_norm, true, GateActivation::sigmoid);
  }
}

/// What the table says is what a layer has: rows, names and shapes, with everything and with nothing.
TEST_F(PartTest, TheTableIsTheLayers) {
  LayerConfig least = full_config();
  least.window = 0, least.convolution = 1;
  least.has_forgetting = least.has_output_norm = least.has_output_gate = false;
  for (const LayerConfig& each : {full_config(), least}) {
    Layer one(each);
    const LayerShape widths(each);
    Index projected_columns = 0, numbers = 0;
    gma::detail::for_each_projection(each, [&](const auto& row) {
      EXPECT_EQ(widths.columns(row.columns).begin, projected_columns) << row.name;
      projected_columns += row.member(one).rows();
    });
    EXPECT_EQ(projected_columns, widths.projected());
    EXPECT_EQ(gma::compile(one).in_weights.cols(), projected_columns);
    gma::detail::for_each_parameter(each, [&](const auto& row) {
      EXPECT_EQ(row.member(one).size(), row.rows * row.cols) << row.name;
      numbers += row.member(one).size();
    });
    for (const auto& mixture : one.mixtures) {
      for (const auto& factor : mixture.factors) {
        numbers += factor.weight_logits.size() + factor.means.size() + factor.log_scales.size() + 1;
      }
    }
    EXPECT_EQ(gma::parameter_count(one), numbers);
  }
}

/// What a backward pass gives, of the layer's parameters, its input and the states before it.
struct PieceGradients {
  Layer layer;
  Matrix<double> x;
  std::vector<State> states;
};

/// Forward over pieces of a sequence, the states handed on, and backward, their gradients handed back.
PieceGradients over_pieces(const Layer& layer, const Matrix<double>& x, const Matrix<double>& dy,
                           const std::vector<Index>& cuts, const gma::Executor* executor) {
  const std::size_t pieces = cuts.size() - 1;
  const auto rows_of = [&](auto& m, std::size_t i) { return m.middleRows(cuts[i], cuts[i + 1] - cuts[i]); };
  gma::LayerOptions options;
  options.executor = executor;
  PieceGradients d{Layer(layer.config), Matrix<double>(x.rows(), x.cols()), {gma::begin_stream(layer)}};
  std::vector<gma::LayerCache<double>> caches(pieces);
  std::vector<std::vector<State>> initial;
  std::vector<State> states = d.states;
  Matrix<double> y(x.rows(), x.cols());
  for (std::size_t i = 0; i < pieces; ++i) {
    initial.push_back(states);
    gma::forward_into(rows_of(y, i), layer, rows_of(x, i), states, caches[i], {}, options);
  }
  gma::LayerGradientCache<double> scratch;
  for (std::size_t i = pieces; i-- > 0;) {
    gma::backward_into(rows_of(d.x, i), d.layer, layer, rows_of(dy, i), caches[i], scratch, options, &initial[i],
                       &d.states, &d.states);
  }
  return d;
}

TEST(LayerPieces, GiveTheGradientsOfTheWholeSequence) {
  const Backwards backwards;
  for (const bool has_all : {false, true}) {
    LayerConfig config = full_config();
    if (!has_all) config.window = 0, config.convolution = 1, config.has_forgetting = false;
    const Layer layer = layer_of(config);
    Random random(4);
    const Matrix<double> x = random.matrix<double>(23, 10), dy = random.matrix<double>(23, 10);
    const auto whole = gma::backward(layer, x, dy);
    const PieceGradients one = over_pieces(layer, x, dy, {0, 23}, nullptr);
    for (const std::vector<Index>& cuts :
         {std::vector<Index>{0, 23}, std::vector<Index>{0, 9, 23}, std::vector<Index>{0, 1, 2, 2, 4, 11, 21, 23}}) {
      const PieceGradients d = over_pieces(layer, x, dy, cuts, nullptr);
      EXPECT_TRUE(close(d.x, whole.x, autodiff_tolerance));
      gma::visit_parameters(
          [](const gma::Parameter& parameter, const auto& actual, const auto& expected) {
            EXPECT_TRUE(close(actual, expected, autodiff_tolerance)) << parameter.name;
          },
          d.layer, whole.layer);
      EXPECT_TRUE(close(d.states[0].memories[1], one.states[0].memories[1], autodiff_tolerance));
      EXPECT_TRUE(close(d.states[0].history, one.states[0].history, autodiff_tolerance));
      EXPECT_EQ(d.states[0].window_keys.cwiseAbs().sum(), 0);  // nobody saw a key before the first
      const PieceGradients again = over_pieces(layer, x, dy, cuts, &backwards);
      EXPECT_TRUE(same_bits(again.x, d.x));
      EXPECT_TRUE(same_bits(again.states[0].memories[0], d.states[0].memories[0]));
      EXPECT_TRUE(same_bits(again.states[0].history, d.states[0].history));
    }
  }
}

TEST(LayerPieces, WhatIsNoGradientOfTheStatesIsRefused) {
  const Layer layer = layer_of(full_config());
  const Matrix<double> x = Random(4).matrix<double>(6, 10);
  Matrix<double> y(6, 10);
  gma::LayerCache<double> cache;
  gma::LayerGradientCache<double> scratch;
  Layer gradient(layer.config);
  std::vector<State> states{gma::begin_stream(layer)}, d_states = states;
  gma::forward_into(y, layer, x, states, cache);
  const auto expect_refused = [&](const std::vector<State>& d_final, const std::vector<std::string>& words) {
    std::vector<State> d_initial = states;
    expect_error([&] { gma::backward_into(y, gradient, layer, x, cache, scratch, {}, nullptr, &d_final, &d_initial); },
                 words);
    EXPECT_TRUE(same_bits(d_initial[0].memories[1], states[0].memories[1]));
    EXPECT_TRUE(same_bits(d_initial[0].window_keys, states[0].window_keys));
  };
  expect_refused({}, {"gma::backward: d_final has 0 entries, expected 1"});
  d_states[0].window_values.resize(1, 6);
  expect_refused(d_states, {"d_final", "state.window_values is 1 x 6"});
  d_states[0] = states[0];
  d_states[0].is_torn = true;
  expect_refused(d_states, {"d_final", "unfinished"});
  EXPECT_TRUE((gradient.key_weight.array() == 0).all());

  LayerConfig both = full_config();
  both.is_causal = both.has_forgetting = false;
  both.slot_forgetting_rank = 0;
  both.window = 0;
  const Layer other = layer_of(both);
  Layer other_gradient(both);
  gma::forward_into(y, other, x, cache);
  expect_error(
      [&] { gma::backward_into(y, other_gradient, other, x, cache, scratch, {}, nullptr, nullptr, &d_states); },
      {"bidirectional", "gradients of states"});
}

}  // namespace
}  // namespace gma_test
