// SPDX-License-Identifier: MIT
// No heap allocation after the first call with a workspace, decoding steps included, except where a memory becomes
// long.
#include "allocation_counter.hpp"
// after it
#include "gma/baselines/delta_backward.hpp"
#include "gma/softmax/sdpa.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

/// Calls once to size everything, then again and counts.
template <class Call>
long second_call_allocates(Call&& call) {
  call();
  return allocations_of(call);
}

template <class M>
void expect_no_allocations(const M& mixture, const char* name) {
  using S = typename M::Scalar;
  SCOPED_TRACE(name);
  constexpr Index count = 900;
  Random random(2);
  const Matrix<S> x = random.matrix<S>(count, 4), values = random.matrix<S>(count, 5);
  Matrix<S> out(count, 5);
  const TokenInputs<S> none, given = random_tokens<S>(count, true, random);
  gma::Workspace<S> workspace;
  for (const Normalization normalization : all_normalizations) {
    Options options;
    options.normalization = normalization;
    for (const TokenInputs<S>* tokens : {&none, &given}) {
      EXPECT_EQ(second_call_allocates(
                    [&] { gma::bidirectional_into(out, mixture, x, x, values, options, *tokens, workspace); }),
                0);
      EXPECT_EQ(
          second_call_allocates([&] { gma::causal_into(out, mixture, x, x, values, options, *tokens, workspace); }), 0);
      Options segments = options;
      segments.segment = 100;
      EXPECT_EQ(
          second_call_allocates([&] { gma::causal_into(out, mixture, x, x, values, segments, *tokens, workspace); }),
          0);
      EXPECT_EQ(second_call_allocates(
                    [&] { gma::baselines::causal_delta_into(out, mixture, x, x, values, {}, none, workspace); }),
                0);
      Memory<S> memory = gma::empty_memory<S>(mixture.components(), 5);
      EXPECT_EQ(second_call_allocates([&] { gma::write(mixture, x, values, memory, *tokens, workspace); }), 0);
      EXPECT_EQ(second_call_allocates([&] { gma::read_into(out, mixture, x, memory, options, workspace); }), 0);
      TokenInputs<S> by_slot = *tokens;
      by_slot.slot_log_forgetting = -random.matrix<S>(count, mixture.components()).cwiseAbs();
      EXPECT_EQ(
          second_call_allocates([&] { gma::causal_into(out, mixture, x, x, values, options, by_slot, workspace); }), 0);
      EXPECT_EQ(second_call_allocates(
                    [&] { gma::causal_into(out, mixture, x, x, values, memory, options, by_slot, workspace); }),
                0);
    }
  }
}

template <class M>
void expect_no_allocations_backward(const M& mixture, const char* name) {
  using S = typename M::Scalar;
  SCOPED_TRACE(name);
  constexpr Index count = 900;
  Random random(4);
  const Matrix<S> x = random.matrix<S>(count, 4), values = random.matrix<S>(count, 5);
  const TokenInputs<S> tokens = random_tokens<S>(count, true, random);
  gma::Workspace<S> workspace;
  gma::Gradients<M> gradients;
  const Memory<S> none;
  EXPECT_EQ(second_call_allocates([&] {
              gma::bidirectional_backward_into(gradients, mixture, x, x, values, values, Options{}, tokens, workspace);
            }),
            0);
  EXPECT_EQ(second_call_allocates([&] {
              gma::causal_backward_into(gradients, mixture, x, x, values, values, none, none, Options{}, tokens,
                                        workspace);
            }),
            0);
  Options segments;
  segments.segment = 100;
  EXPECT_EQ(second_call_allocates([&] {
              gma::causal_backward_into(gradients, mixture, x, x, values, values, none, none, segments, tokens,
                                        workspace);
            }),
            0);
  TokenInputs<S> by_slot = tokens;
  by_slot.slot_log_forgetting = -random.matrix<S>(count, mixture.components()).cwiseAbs();
  EXPECT_EQ(second_call_allocates([&] {
              gma::causal_backward_into(gradients, mixture, x, x, values, values, none, none, Options{}, by_slot,
                                        workspace);
            }),
            0);
  TokenInputs<S> strengths = tokens;
  strengths.key_weights = strengths.key_weights.cwiseMin(S(1));
  EXPECT_EQ(second_call_allocates([&] {
              gma::baselines::causal_delta_backward_into(gradients, mixture, x, x, values, values, none, none, {},
                                                         strengths, workspace);
            }),
            0);
  Memory<S> memory = gma::empty_memory<S>(mixture.components(), 5);
  gma::write(mixture, x, values, memory);
  EXPECT_EQ(second_call_allocates(
                [&] { gma::read_backward_into(gradients, mixture, x, memory, values, Options{}, workspace); }),
            0);
  EXPECT_EQ(second_call_allocates([&] {
              gma::write_backward_into(gradients, mixture, x, values, none, memory, Options{}, tokens, workspace);
            }),
            0);
}

TEST(Allocations, NoneAfterTheFirstCall) {
  Random random(1);
  for (const auto& [name, mixture] : every_family<float>(6, 4, Regime::generic, 3)) {
    expect_no_allocations(mixture, name.c_str());
  }
  gma::Mixture<double, gma::Diagonal> raw;
  randomize(raw, 6, 4, Regime::generic, random);
  expect_no_allocations(raw, "parameters, compiled at every call");
  expect_no_allocations_backward(raw, "diagonal");
  gma::ProductMixture<float, gma::Tied> product;
  randomize(product, 6, 4, Regime::generic, random);
  expect_no_allocations_backward(product, "product");
}

TEST(Allocations, NoneInADecodingStep) {
  for (const auto& named : every_family<float>(6, 4, Regime::generic, 3)) {
    SCOPED_TRACE(named.first);
    const gma::CompiledMixture<float>& mixture = named.second;
    Random random(5);
    const Matrix<float> x = random.matrix<float>(20, 4), values = random.matrix<float>(20, 5);
    Matrix<float> out(20, 5);
    Memory<float> memory = gma::empty_memory<float>(6, 5);
    gma::Workspace<float> workspace;
    TokenInputs<float> tokens{{}, Vector<float>::Constant(1, -0.1f)};
    Index t = 0;
    const auto step = [&] {
      gma::causal_into(out.row(t), mixture, x.row(t), x.row(t), values.row(t), memory, Options{}, tokens, workspace);
      ++t;
    };
    while (t < 19) EXPECT_EQ(second_call_allocates(step), 0);
  }
}

gma::LayerConfig layer_config() {
  gma::LayerConfig config;
  config.width = 12;
  config.heads = 4;
  config.key_value_heads = 2;
  config.head_width = 4;
  config.has_output_norm = config.has_output_gate = true;
  config.window = 6;
  return config;
}

TEST(Allocations, NoneInALayerAfterTheFirstCall) {
  const auto layer = gma::random_layer<float>(layer_config(), 1);
  const auto compiled = gma::compile(layer);
  Random random(7);
  const Matrix<float> x = random.matrix<float>(300, 12);
  Matrix<float> y(300, 12), d_x(300, 12);
  gma::Sequences sequences = gma::Sequences::packed({0, 100, 300});
  gma::LayerCache<float> cache;
  EXPECT_EQ(second_call_allocates([&] { gma::forward_into(y, compiled, x, cache, sequences); }), 0);
  EXPECT_EQ(second_call_allocates([&] { gma::forward_into(y, layer, x, cache, sequences); }), 0);
  gma::LayerGradientCache<float> scratch;
  gma::AttentionLayer<float> gradient(layer.config);
  gma::forward_into(y, layer, x, cache);  // where sequences differ in length, gradients of heads change their size
  EXPECT_EQ(second_call_allocates([&] { gma::backward_into(d_x, gradient, layer, y, cache, scratch); }), 0);
  const std::vector<gma::LayerState<float>> initial{gma::begin_stream(layer)};
  std::vector<gma::LayerState<float>> states = initial, d_states = initial;
  gma::forward_into(y, layer, x, states, cache);
  EXPECT_EQ(second_call_allocates([&] {
              gma::backward_into(d_x, gradient, layer, y, cache, scratch, {}, &initial, &d_states, &d_states);
            }),
            0);
}

TEST(Allocations, NoneInCrossAttentionOfALayerAfterTheFirstCall) {
  gma::LayerConfig config = layer_config();
  config.window = 0;
  config.is_causal = config.has_forgetting = false;
  const auto layer = gma::random_layer<float>(config, 1);
  Random random(7);
  const Matrix<float> x = random.matrix<float>(200, 12), context = random.matrix<float>(300, 12);
  Matrix<float> y(200, 12), d_x(200, 12), d_context(300, 12);
  gma::LayerCache<float> cache;
  gma::LayerGradientCache<float> scratch;
  gma::AttentionLayer<float> gradient(config);
  EXPECT_EQ(second_call_allocates([&] { gma::forward_into(y, layer, x, context, cache); }), 0);
  EXPECT_EQ(second_call_allocates([&] { gma::backward_into(d_x, d_context, gradient, layer, y, cache, scratch); }), 0);
}

TEST(Allocations, NoneInAStepOfALayer) {
  const auto layer = gma::compile(gma::random_layer<float>(layer_config(), 1));
  Random random(8);
  const Matrix<float> x = random.matrix<float>(20, 12);
  Matrix<float> y(20, 12);
  gma::LayerState<float> state = gma::begin_stream(layer);
  gma::LayerCache<float> cache;
  Index t = 0;
  const auto step = [&] {
    gma::step_into(y.row(t), layer, x.row(t), state, cache);
    ++t;
  };
  while (t < 19) EXPECT_EQ(second_call_allocates(step), 0);
}

TEST(Allocations, ScratchDoesNotGrowWithTheSequence) {
  Random random(6);
  gma::Mixture<float, gma::Diagonal> mixture;
  randomize(mixture, 8, 4, Regime::generic, random);
  const auto compiled = gma::compile(mixture);
  std::size_t bytes[2][2];
  for (const int longer : {0, 1}) {
    const Index count = longer == 0 ? 1000 : 20000;
    const Matrix<float> x = random.matrix<float>(count, 4), values = random.matrix<float>(count, 5);
    Matrix<float> out(count, 5);
    for (const int causal : {0, 1}) {
      gma::Workspace<float> workspace;
      if (causal == 1) {
        gma::causal_into(out, compiled, x, x, values, Options{}, TokenInputs<float>{}, workspace);
      } else {
        gma::bidirectional_into(out, compiled, x, x, values, Options{}, TokenInputs<float>{}, workspace);
      }
      bytes[causal][longer] = workspace.bytes();
    }
  }
  EXPECT_EQ(bytes[0][0], bytes[0][1]);
  EXPECT_EQ(bytes[1][0], bytes[1][1]);
}

// Once a stream of any length has sized its buffers, no stream allocates: its memory does not grow with its length. The
// first one is long enough for the memory to keep a remainder.
template <class S>
void expect_streams_of_constant_memory(bool has_tokens) {
  SCOPED_TRACE(has_tokens);
  Random random(9);
  gma::Mixture<S, gma::Diagonal> mixture;
  randomize(mixture, 8, 4, Regime::generic, random);
  const auto compiled = gma::compile(mixture);
  const Matrix<S> x = random.matrix<S>(100, 4), values = random.matrix<S>(100, 5);
  TokenInputs<S> tokens;
  if (has_tokens) {
    tokens.key_weights = Vector<S>::Constant(100, S(0.5));
    tokens.log_forgetting = Vector<S>::Constant(100, S(-1e-5));
  }
  Index left = 0, taken = 0;
  const auto source = [&](gma::TokenBlock<S>& block) {
    if (left == 0) return false;
    block.queries = x;
    block.keys = x;
    block.values = values;
    block.tokens = tokens;
    left -= 100;
    return true;
  };
  const auto sink = [&](const gma::ConstTile<S>& outputs) { taken += outputs.rows(); };
  gma::Workspace<S> workspace;
  Memory<S> memory, context;
  const auto stream = [&](Index count) {
    left = count;
    gma::causal_stream(sink, compiled, source, memory, Options(), workspace);
    left = count;
    gma::write_stream(compiled, source, context, Options(), workspace);
  };
  stream(50000);
  const std::size_t bytes = workspace.bytes();
  EXPECT_EQ(allocations_of([&] { stream(300000); }), 0);
  EXPECT_EQ(taken, 350000);
  EXPECT_EQ(workspace.bytes(), bytes);
}

TEST(Allocations, AStreamOfAnyLengthNeedsTheSameMemory) {
  for (const bool has_tokens : {false, true}) {
    expect_streams_of_constant_memory<float>(has_tokens);
    expect_streams_of_constant_memory<double>(has_tokens);
  }
}

}  // namespace
}  // namespace gma_test
