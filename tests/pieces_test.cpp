// SPDX-License-Identifier: MIT
// Training over pieces of one long text: the state goes forward from piece to piece, and its gradient goes back through
// a window of pieces, no further. Truncated so, the gradient is that of the whole window as one piece, from the state
// before it as a constant.
#include <algorithm>
#include <utility>
#include <vector>

#include "gma/layer/layer_backward.hpp"
#include "gma/layer/layer_initialization.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

// The operator -------------------------------------------------------------------------------------------------------

template <class S>
using Mixture = gma::Mixture<S, gma::Diagonal>;

template <class S>
struct Text {
  Matrix<S> queries, keys, values, d_output;
  TokenInputs<S> tokens;

  Text part(Index begin, Index count) const {
    return {queries.middleRows(begin, count), keys.middleRows(begin, count), values.middleRows(begin, count),
            d_output.middleRows(begin, count), part_of(tokens, begin, count)};
  }
};

template <class S>
Text<S> random_text(Index count, bool has_tokens, std::uint64_t seed) {
  Random random(seed);
  Text<S> text{random.matrix<S>(count, 3), random.matrix<S>(count, 3), random.matrix<S>(count, 5),
               random.matrix<S>(count, 5), TokenInputs<S>()};
  if (has_tokens) {
    text.tokens = random_tokens<S>(count, false, random);
    text.tokens.log_forgetting *= S(0.05);
  }
  return text;
}

template <class S>
Memory<S> after(const Mixture<S>& mixture, const Text<S>& text, Memory<S> memory) {
  gma::causal(mixture, text.queries, text.keys, text.values, memory, {}, text.tokens);
  return memory;
}

template <class S>
gma::Gradients<Mixture<S>> backward(const Mixture<S>& mixture, const Text<S>& text, const Memory<S>& before,
                                    const Memory<S>& d_after) {
  return gma::causal_backward(mixture, text.queries, text.keys, text.values, text.d_output, before, d_after, {},
                              text.tokens);
}

/// The gradients of the inputs and of the mixture, and that of the memory before the window.
template <class S>
struct WindowGradients {
  Matrix<S> queries, keys, values, means;
  Vector<S> key_weights, log_forgetting;
  Memory<S> memory;
};

/// Pieces [first, last) of `length` tokens, forward and back. memories[i] is the one before piece i.
template <class S>
WindowGradients<S> over_window(const Mixture<S>& mixture, const Text<S>& text, Index length, Index first, Index last,
                               const std::vector<Memory<S>>& memories) {
  const Index count = (last - first) * length;
  WindowGradients<S> d{Matrix<S>(count, 3), Matrix<S>(count, 3), Matrix<S>(count, 5), Matrix<S>::Zero(6, 3),
                       Vector<S>(count),    Vector<S>(count),    Memory<S>()};  // nothing comes from beyond the window
  for (Index piece = last; piece-- > first;) {
    const auto g =
        backward(mixture, text.part(piece * length, length), memories[static_cast<std::size_t>(piece)], d.memory);
    const Index row = (piece - first) * length;
    d.queries.middleRows(row, length) = g.queries;
    d.keys.middleRows(row, length) = g.keys;
    d.values.middleRows(row, length) = g.values;
    d.key_weights.segment(row, length) = g.key_weights;
    d.log_forgetting.segment(row, length) = g.log_forgetting;
    d.means += g.mixture.means;
    d.memory = g.memory;
  }
  return d;
}

template <class S>
void expect_equal(const WindowGradients<S>& d, const gma::Gradients<Mixture<S>>& whole, double tolerance) {
  EXPECT_TRUE(close(d.queries, whole.queries, tolerance));
  EXPECT_TRUE(close(d.keys, whole.keys, tolerance));
  EXPECT_TRUE(close(d.values, whole.values, tolerance));
  EXPECT_TRUE(close(d.means, whole.mixture.means, tolerance));
  EXPECT_TRUE(close(d.memory, whole.memory, tolerance));
  EXPECT_TRUE(close(d.key_weights, whole.key_weights, tolerance));
  EXPECT_TRUE(close(d.log_forgetting, whole.log_forgetting, tolerance));
}

TEST(Pieces, OfAWindowGiveItsGradient) {
  Random random(1);
  Mixture<double> mixture;
  randomize(mixture, 6, 3, Regime::generic, random);
  for (const Index length : {1, 7, 130}) {
    SCOPED_TRACE(length);
    constexpr Index pieces = 9;
    const Text<double> text = random_text<double>(pieces * length, true, 2);
    std::vector<Memory<double>> memories(1);
    for (Index i = 0; i < pieces; ++i)
      memories.push_back(after(mixture, text.part(i * length, length), memories.back()));
    for (const Index window : {1, 2, 3, 9}) {
      SCOPED_TRACE(window);
      for (Index first = 0; first < pieces; first += window) {
        const Index last = (std::min)(first + window, pieces);
        const auto whole = backward(mixture, text.part(first * length, (last - first) * length),
                                    memories[static_cast<std::size_t>(first)], Memory<double>());
        expect_equal(over_window(mixture, text, length, first, last, memories), whole, autodiff_tolerance);
      }
    }
  }
}

// Each loss reaches the same number of pieces back: every piece ends a window, and only its own loss counts.
TEST(Pieces, OfOverlappingWindowsGiveTheGradientOfTheLastLoss) {
  Random random(3);
  Mixture<double> mixture;
  randomize(mixture, 6, 3, Regime::generic, random);
  constexpr Index length = 20, pieces = 6, window = 3;
  const Text<double> text = random_text<double>(pieces * length, true, 4);
  std::vector<Memory<double>> memories(1);
  for (Index i = 0; i < pieces; ++i) memories.push_back(after(mixture, text.part(i * length, length), memories.back()));
  double distance = 0;
  for (Index last = window; last <= pieces; ++last) {
    const Index first = last - window;
    Text<double> one = text;
    one.d_output.topRows((last - 1) * length).setZero();
    const auto whole = backward(mixture, one.part(first * length, window * length),
                                memories[static_cast<std::size_t>(first)], Memory<double>());
    const WindowGradients<double> d = over_window(mixture, one, length, first, last, memories);
    expect_equal(d, whole, autodiff_tolerance);
    // What is cut off exists: the same loss has a gradient before the window.
    EXPECT_GT(d.memory.slots.norm(), 0);
    const auto all = backward(mixture, one.part(0, last * length), Memory<double>(), Memory<double>());
    distance += all.keys.topRows(first * length).norm();
    EXPECT_TRUE(close(d.keys, Matrix<double>(all.keys.bottomRows(window * length)), autodiff_tolerance));
  }
  EXPECT_GT(distance, 1e-3);
}

// Far into a text, where a float memory keeps a remainder.
TEST(Pieces, GiveTheGradientFarIntoALongText) {
  Random random(5);
  Mixture<float> mixture;
  randomize(mixture, 6, 3, Regime::generic, random);
  for (const bool forgets : {false, true}) {
    SCOPED_TRACE(forgets);
    const Text<float> past = random_text<float>(200000, false, 6);
    TokenInputs<float> slow;
    if (forgets) slow.log_forgetting = Vector<float>::Constant(200000, -1e-5f);
    std::vector<Memory<float>> memories(1);
    gma::write(mixture, past.keys, past.values, memories[0], slow);
    ASSERT_GT(memories[0].slots_remainder.size(), 0);
    constexpr Index length = 50, pieces = 3;
    Text<float> text = random_text<float>(pieces * length, false, 7);
    text.tokens.key_weights = Vector<float>::Constant(pieces * length, 1);
    text.tokens.log_forgetting = Vector<float>::Constant(pieces * length, forgets ? -1e-5f : 0.0f);
    for (Index i = 0; i < pieces; ++i)
      memories.push_back(after(mixture, text.part(i * length, length), memories.back()));
    const auto whole = backward(mixture, text, memories[0], Memory<float>());
    const WindowGradients<float> d = over_window(mixture, text, length, 0, pieces, memories);
    EXPECT_TRUE(close(d.queries, whole.queries, float_gradient_tolerance));
    EXPECT_TRUE(close(d.values, whole.values, float_gradient_tolerance));
    EXPECT_TRUE(close(d.means, whole.mixture.means, float_gradient_tolerance));
    EXPECT_TRUE(close(d.memory.slots, whole.memory.slots, float_gradient_tolerance));
  }
}

// The layer ----------------------------------------------------------------------------------------------------------

using Layer = gma::AttentionLayer<double>;
using State = gma::LayerState<double>;

TEST(Pieces, OfAWindowGiveTheGradientOfALayer) {
  // Windows of 33 tokens, and of 3,300, whose convolution goes backward in parts.
  for (const auto& [attention_window, length] : {std::pair<Index, Index>{0, 11}, {4, 11}, {4, 1100}}) {
    SCOPED_TRACE(testing::Message() << "attention window " << attention_window << ", pieces of " << length);
    gma::LayerConfig config;
    config.width = 12;
    config.heads = 2;
    config.components = {3, 2};
    config.window = attention_window;
    const Layer layer = gma::random_layer<double>(config, 3);
    constexpr Index window = 3, pieces = 5;
    const Index count = window * length;
    Random random(8);
    const Matrix<double> x = random.matrix<double>(pieces * length, 12),
                         dy = random.matrix<double>(pieces * length, 12);
    std::vector<std::vector<State>> states{{gma::begin_stream(layer)}};
    std::vector<gma::LayerCache<double>> caches(pieces);
    Matrix<double> y(length, 12);
    for (Index i = 0; i < pieces; ++i) {
      states.push_back(states.back());
      gma::forward_into(y, layer, x.middleRows(i * length, length), states.back(), caches[static_cast<std::size_t>(i)]);
    }
    for (Index first = 0; first + window <= pieces; ++first) {
      SCOPED_TRACE(first);
      gma::LayerGradientCache<double> scratch;
      // The window as one piece.
      const std::vector<State>& before = states[static_cast<std::size_t>(first)];
      std::vector<State> one_state = before, d_one{gma::begin_stream(layer)};
      gma::LayerCache<double> cache;
      Matrix<double> one_y(count, 12), one_dx(count, 12);
      Layer one(config);
      gma::forward_into(one_y, layer, x.middleRows(first * length, count), one_state, cache);
      gma::backward_into(one_dx, one, layer, dy.middleRows(first * length, count), cache, scratch, {}, &before, nullptr,
                         &d_one);
      // And piece by piece, the last first.
      std::vector<State> d_states{gma::begin_stream(layer)};
      Layer gradient(config);
      Matrix<double> dx(count, 12);
      for (Index i = first + window; i-- > first;) {
        gma::backward_into(dx.middleRows((i - first) * length, length), gradient, layer,
                           dy.middleRows(i * length, length), caches[static_cast<std::size_t>(i)], scratch, {},
                           &states[static_cast<std::size_t>(i)], &d_states, &d_states);
      }
      EXPECT_TRUE(close(dx, one_dx, autodiff_tolerance));
      gma::visit_parameters(
          [](const gma::Parameter& parameter, const auto& actual, const auto& expected) {
            EXPECT_TRUE(close(actual, expected, autodiff_tolerance)) << parameter.name;
          },
          gradient, one);
      EXPECT_TRUE(close(d_states[0].memories[1], d_one[0].memories[1], autodiff_tolerance));
      EXPECT_TRUE(close(d_states[0].history, d_one[0].history, autodiff_tolerance));
      EXPECT_GT(d_states[0].history.norm(), 0);
      EXPECT_GT(d_states[0].memories[1].slots.norm(), 0);
    }
  }
}

}  // namespace
}  // namespace gma_test
