// SPDX-License-Identifier: MIT
// Values of width 0 are allowed: outputs have no columns, masses are as ever, and every gradient that comes from the
// outputs is exactly zero, whatever scratch memory held before.
#include "gma/heads/heads_backward.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

constexpr Index components = 5, dim = 3;

template <class S>
gma::Mixture<S> random_mixture() {
  Random random(1);
  gma::Mixture<S> mixture;
  randomize(mixture, components, dim, Regime::generic, random);
  return mixture;
}

template <class S>
struct WidthZero : testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(WidthZero, Scalars, );

/// f(options, tokens) over normalisations, tiles, with and without token inputs, for `count` tokens.
template <class S, class F>
void for_each_call(Index count, const F& f) {
  Random random(2);
  for (const Normalization normalization : all_normalizations) {
    for (const Index tile : {0, 4}) {
      for (const bool with_tokens : {false, true}) {
        SCOPED_TRACE(testing::Message() << count << " tokens, " << name_of(normalization) << ", tile " << tile
                                        << (with_tokens ? ", weights and forgetting" : ""));
        Options options;
        options.normalization = normalization;
        options.tile = tile;
        options.checkpoint_interval = 7;
        f(options, with_tokens ? random_tokens<S>(count, false, random) : TokenInputs<S>());
      }
    }
  }
}

/// A backward pass of another shape: what it leaves in the workspace must not be seen.
template <class S>
void use(gma::Workspace<S>& workspace, const gma::Mixture<S>& mixture) {
  Random random(3);
  const Matrix<S> x = random.matrix<S>(300, dim, 9), v = random.matrix<S>(300, 4, 9);
  const Memory<S> none;
  gma::Gradients<gma::Mixture<S>> gradients;
  gma::causal_backward_into(gradients, mixture, x, x, v, v, none, none, Options{}, random_tokens<S>(300, false, random),
                            workspace);
}

template <class M>
void expect_zero(gma::Gradients<M> gradients, bool with_memory) {
  for_each_part(gradients, with_memory, [](const std::string& name, const auto& part) {
    for (Index i = 0; i < part.size(); ++i) {
      ASSERT_EQ(part.data()[i], typename M::Scalar(0)) << name << " at " << i;
    }
  });
}

TYPED_TEST(WidthZero, ForwardVerbsReturnNoColumnsAndTheSameMasses) {
  using S = TypeParam;
  const gma::Mixture<S> mixture = random_mixture<S>();
  for (const Index count : {0, 1, 7, 200}) {
    Random random(4);
    const Matrix<S> x = random.matrix<S>(count, dim), nothing(count, 0), values = random.matrix<S>(count, 2);
    for_each_call<S>(count, [&](const Options& options, const TokenInputs<S>& tokens) {
      Memory<S> memory, written, expected;
      const Matrix<S> y = gma::causal(mixture, x, x, nothing, memory, options, tokens);
      EXPECT_EQ(y.rows(), count);
      EXPECT_EQ(y.cols(), 0);
      gma::causal(mixture, x, x, values, expected, options, tokens);
      EXPECT_TRUE(close(memory.mass, expected.mass, forward_tolerance<S>()));
      EXPECT_EQ(memory.slots.rows(), components);
      EXPECT_EQ(memory.slots.cols(), 0);
      gma::write(mixture, x, nothing, written, tokens);
      EXPECT_TRUE(close(written.mass, expected.mass, forward_tolerance<S>()));
      EXPECT_EQ(gma::read(mixture, x, written, options).cols(), 0);
      EXPECT_EQ(gma::read(mixture, x, written, options).rows(), count);
      const Matrix<S> both = gma::bidirectional(mixture, x, x, nothing, options, tokens);
      EXPECT_EQ(both.rows(), count);
      EXPECT_EQ(both.cols(), 0);
      EXPECT_TRUE(close(gma::merge(written, memory).mass, Vector<S>(gma::merge(expected, expected).mass),
                        forward_tolerance<S>()));
    });
  }
}

TYPED_TEST(WidthZero, GradientsThroughTheOutputsAreExactlyZero) {
  using S = TypeParam;
  const gma::Mixture<S> mixture = random_mixture<S>();
  const Memory<S> none;
  for (const Index count : {0, 1, 7, 200}) {
    Random random(5);
    const Matrix<S> x = random.matrix<S>(count, dim), nothing(count, 0);
    for_each_call<S>(count, [&](const Options& options, const TokenInputs<S>& tokens) {
      gma::Workspace<S> workspace;
      gma::Gradients<gma::Mixture<S>> gradients;
      use(workspace, mixture);
      gma::causal_backward_into(gradients, mixture, x, x, nothing, nothing, none, none, options, tokens, workspace);
      expect_zero(gradients, true);
      use(workspace, mixture);
      gma::bidirectional_backward_into(gradients, mixture, x, x, nothing, nothing, options, tokens, workspace);
      expect_zero(gradients, true);
      Memory<S> memory;
      gma::write(mixture, x, nothing, memory, tokens);
      expect_zero(gma::read_backward(mixture, x, memory, nothing, options), true);
      expect_zero(gma::write_backward(mixture, x, nothing, gma::empty_memory<S>(components, 0), tokens), true);
    });
  }
}

/// The masses have a gradient of their own: that of a write, which is the same whatever the values.
TYPED_TEST(WidthZero, GradientsThroughTheMassesAreThoseOfWrite) {
  using S = TypeParam;
  const gma::Mixture<S> mixture = random_mixture<S>();
  for (const Index count : {1, 7, 200}) {
    Random random(6);
    const Matrix<S> x = random.matrix<S>(count, dim), nothing(count, 0);
    Memory<S> initial = gma::empty_memory<S>(components, 0), d_memory = initial;
    initial.mass = random.vector<S>(components).cwiseAbs();
    random.fill(d_memory.mass);
    for_each_call<S>(count, [&](const Options& options, const TokenInputs<S>& tokens) {
      gma::Workspace<S> workspace;
      gma::Gradients<gma::Mixture<S>> actual;
      use(workspace, mixture);
      gma::causal_backward_into(actual, mixture, x, x, nothing, nothing, initial, d_memory, options, tokens, workspace);
      const auto expected = gma::write_backward(mixture, x, nothing, d_memory, tokens, initial);
      const double tolerance = sizeof(S) == 4 ? float_gradient_tolerance : autodiff_tolerance;
      EXPECT_TRUE((actual.queries.array() == S(0)).all());
      EXPECT_TRUE(close(actual.keys, expected.keys, tolerance));
      EXPECT_TRUE(close(actual.key_weights, expected.key_weights, tolerance));
      EXPECT_TRUE(close(actual.log_forgetting, expected.log_forgetting, tolerance));
      EXPECT_TRUE(close(actual.memory.mass, expected.memory.mass, tolerance));
      EXPECT_TRUE(close(actual.mixture.means, expected.mixture.means, tolerance));
    });
  }
}

TYPED_TEST(WidthZero, HeadsHaveGradientsOfExactlyZero) {
  using S = TypeParam;
  const std::vector<gma::Mixture<S>> mixtures(2, random_mixture<S>());
  const std::vector<Memory<S>> none;
  Random random(7);
  const Matrix<S> q = random.matrix<S>(60, 4 * dim), k = random.matrix<S>(60, 2 * dim), nothing(60, 0);
  gma::HeadInputs<S> inputs;
  inputs.sequences = gma::Sequences::packed({0, 1, 20, 20, 60});
  inputs.log_forgetting = -random.matrix<S>(60, 2).cwiseAbs();
  gma::Workspace<S> workspace;
  const auto heads = [&](Index count) { return gma::HeadTensor<const S>{nullptr, 1, 60, count, 0, 0, 0, 0, 1}; };
  gma::HeadGradients<gma::Mixture<S>> gradients;
  for (const bool is_causal : {false, true}) {
    use(workspace, mixtures[0]);
    if (is_causal) {
      gma::causal_backward_into(gradients, mixtures, gma::split_heads(q, 4), gma::split_heads(k, 2), heads(2), heads(4),
                                none, none, Options{}, inputs, workspace);
    } else {
      gma::bidirectional_backward_into(gradients, mixtures, gma::split_heads(q, 4), gma::split_heads(k, 2), heads(2),
                                       heads(4), Options{}, inputs, workspace);
    }
    EXPECT_TRUE((gradients.queries.array() == S(0)).all());
    EXPECT_TRUE((gradients.keys.array() == S(0)).all());
    EXPECT_TRUE((gradients.log_forgetting.array() == S(0)).all());
    EXPECT_EQ(gradients.values.size(), 0);
    for (const auto& mixture : gradients.mixtures) EXPECT_TRUE((mixture.means.array() == S(0)).all());
  }
}

}  // namespace
}  // namespace gma_test
