// SPDX-License-Identifier: MIT
// Executors that throw at any task: the exception comes out, memories and states are as they were or refuse further
// use, and the same caches and workspaces serve on.
#include <sstream>

#include "gma/heads/heads_backward.hpp"
#include "gma/layer/layer_backward.hpp"
#include "gma/layer/layer_initialization.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

/// Runs `tasks` tasks in all and then throws: the pool is closed.
class Closing : public gma::Executor {
 public:
  explicit Closing(long tasks) : left_(tasks) {}
  Index workers() const override { return 2; }
  void run(Index count, const gma::Task& task) const override {
    for (Index i = 0; i < count; ++i) {
      if (left_-- <= 0) throw std::runtime_error("the pool is closed");
      task(i, i % 2);
    }
  }

 private:
  mutable long left_;
};

/// Calls with executors that close after 0, 1, ... tasks, until one does not; check(task) after each that threw.
template <class Call, class Check>
long sweep(const Call& call, const Check& check) {
  for (long n = 0;; ++n) {
    const Closing executor(n);
    try {
      call(&executor);
      return n;
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "the pool is closed");
    }
    check(n);
    if (testing::Test::HasFailure()) return n;
  }
}

template <class S>
bool same_state(const gma::LayerState<S>& a, const gma::LayerState<S>& b) {
  std::ostringstream x, y;
  gma::save(a, x);
  gma::save(b, y);
  return x.str() == y.str();
}

gma::LayerConfig layer_config() {
  gma::LayerConfig config;
  config.width = 12;
  config.heads = 4;
  config.key_value_heads = 2;
  config.components = {6};
  config.window = 6;
  config.head_width = 4;
  config.has_output_gate = config.has_output_norm = true;
  return config;
}

TEST(ThrowingExecutor, LeavesLayerStatesAsTheyWere) {
  const auto layer = gma::compile(gma::random_layer<float>(layer_config(), 1));
  Random random(1);
  const Matrix<float> x = random.matrix<float>(400, 12);
  const gma::Sequences sequences = gma::Sequences::packed({0, 150, 400});
  gma::LayerCache<float> cache, other;
  Matrix<float> y(400, 12), z(400, 12);
  std::vector<gma::LayerState<float>> states(2, gma::begin_stream(layer));
  gma::forward_into(y, layer, x, states, other, sequences);
  const std::vector<gma::LayerState<float>> before = states;
  std::vector<gma::LayerState<float>> after = states;
  gma::forward_into(y, layer, x, after, other, sequences);
  const long tasks = sweep(
      [&](const gma::Executor* executor) {
        gma::LayerOptions options;
        options.executor = executor;
        gma::forward_into(z, layer, x, states, cache, sequences, options);
      },
      [&](long n) {
        for (std::size_t i = 0; i < 2; ++i) EXPECT_TRUE(same_state(states[i], before[i])) << "task " << n;
      });
  EXPECT_GT(tasks, 20);
  EXPECT_TRUE(same_bits(z, y));
  for (std::size_t i = 0; i < 2; ++i) EXPECT_TRUE(same_state(states[i], after[i]));
}

TEST(ThrowingExecutor, StepsLeaveStatesAsTheyWereOrRefusing) {
  const auto layer = gma::compile(gma::random_layer<float>(layer_config(), 1));
  Random random(1);
  const Matrix<float> x = random.matrix<float>(120, 12);
  std::vector<std::int64_t> offsets;
  for (std::int64_t i = 0; i <= 120; ++i) offsets.push_back(i);
  const gma::Sequences sequences = gma::Sequences::packed(offsets);
  gma::LayerCache<float> cache;
  Matrix<float> y(120, 12), z(120, 12);
  const std::vector<gma::LayerState<float>> before(120, gma::begin_stream(layer));
  for (int call = 0; call < 2; ++call) {  // on copies at first, then in place
    std::vector<gma::LayerState<float>> states = before;
    long torn = 0;
    sweep(
        [&](const gma::Executor* executor) {
          gma::LayerOptions options;
          options.executor = executor;
          gma::forward_into(z, layer, x, states, cache, sequences, options);
        },
        [&](long) {
          if (states[0].is_torn) ++torn;
          for (std::size_t i = 0; i < states.size(); ++i) {
            EXPECT_EQ(states[i].is_torn, states[0].is_torn);
            EXPECT_TRUE(states[i].is_torn || same_state(states[i], before[i]));
          }
          if (states[0].is_torn) {
            expect_error([&] { gma::forward_into(z, layer, x, states, cache, sequences); }, {"unfinished", "reset()"});
            for (auto& state : states) gma::reset(state);
          }
        });
    EXPECT_EQ(torn > 0, call == 1);
    if (call == 0) y = z;
    EXPECT_TRUE(same_bits(z, y));
  }
}

TEST(ThrowingExecutor, LeavesMemoriesOfHeadsAsTheyWere) {
  std::vector<gma::Mixture<float>> mixtures(2);
  Random random(1);
  for (auto& mixture : mixtures) randomize(mixture, 4, 3, Regime::generic, random);
  for (const Index count : {3, 300}) {
    const Matrix<float> x = random.matrix<float>(count, 6);
    gma::HeadInputs<float> inputs;
    inputs.sequences = gma::Sequences::packed({0, 1, count});
    gma::Workspace<float> workspace;
    Matrix<float> y(count, 6);
    const auto heads = gma::split_heads(x, 2);
    std::vector<Memory<float>> memories, empty;
    for (int call = 0; call < 3; ++call) {
      const std::vector<Memory<float>> before = memories;
      const long tasks = sweep(
          [&](const gma::Executor* executor) {
            Options options;
            options.executor = executor;
            gma::causal_into(gma::split_heads(y, 2), mixtures, heads, heads, heads, memories, options, inputs,
                             workspace);
          },
          [&](long n) {
            ASSERT_EQ(memories.size(), before.size());
            for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(same_bits(memories[i], before[i])) << n;
          });
      EXPECT_GT(tasks, 3);
      std::vector<Memory<float>> again = before;
      const Matrix<float> expected = gma::causal(mixtures, x, x, x, again, Options{}, inputs);
      EXPECT_TRUE(same_bits(y, expected));
      for (std::size_t i = 0; i < again.size(); ++i) EXPECT_TRUE(same_bits(memories[i], again[i]));
    }
  }
}

TEST(ThrowingExecutor, WorkspacesServeOn) {
  gma::Mixture<float> mixture;
  Random random(1);
  randomize(mixture, 4, 6, Regime::generic, random);
  const Matrix<float> x = random.matrix<float>(2000, 6), expected = gma::bidirectional(mixture, x, x, x);
  const auto gradients = gma::bidirectional_backward(mixture, x, x, x, x);
  gma::Workspace<float> workspace;
  gma::Gradients<gma::Mixture<float>> again;
  Matrix<float> y(2000, 6);
  const long tasks = sweep(
      [&](const gma::Executor* executor) {
        Options options;
        options.executor = executor;
        gma::bidirectional_into(y, mixture, x, x, x, options, TokenInputs<float>{}, workspace);
        gma::bidirectional_backward_into(again, mixture, x, x, x, x, options, TokenInputs<float>{}, workspace);
      },
      [&](long n) {
        gma::bidirectional_into(y, mixture, x, x, x, Options{}, TokenInputs<float>{}, workspace);
        EXPECT_TRUE(same_bits(y, expected)) << n;
        gma::bidirectional_backward_into(again, mixture, x, x, x, x, Options{}, TokenInputs<float>{}, workspace);
        EXPECT_TRUE(same_bits(again.keys, gradients.keys)) << n;
      });
  EXPECT_GT(tasks, 3);
}

TEST(ThrowingExecutor, BackwardOfALayerServesOn) {
  const auto layer = gma::random_layer<float>(layer_config(), 1);
  Random random(1);
  const Matrix<float> x = random.matrix<float>(200, 12), dy = random.matrix<float>(200, 12);
  const gma::Sequences sequences = gma::Sequences::packed({0, 50, 200});
  const auto expected = gma::backward(layer, x, dy, sequences);
  gma::LayerCache<float> cache;
  gma::LayerGradientCache<float> scratch;
  Matrix<float> y(200, 12), d_x(200, 12);
  gma::AttentionLayer<float> gradient(layer.config);
  gma::forward_into(y, layer, x, cache, sequences);
  sweep(
      [&](const gma::Executor* executor) {
        gma::LayerOptions options;
        options.executor = executor;
        gma::set_zero(gradient);
        gma::backward_into(d_x, gradient, layer, dy, cache, scratch, options);
      },
      [](long) {});
  EXPECT_TRUE(same_bits(d_x, expected.x));
  EXPECT_TRUE(same_bits(gradient.query_weight, expected.layer.query_weight));
}

}  // namespace
}  // namespace gma_test
