// SPDX-License-Identifier: MIT
//
// The whole model, for every mixer: gradients against central differences, streaming against the parallel form, and the
// optimiser's groups.

#include <gtest/gtest.h>

#include <algorithm>

#include "../model_implementation.hpp"
#include "transformer/tests/check_gradients.hpp"

namespace language_model {

namespace {

ModelConfig small_model(MixerKind mixer, MlpKind mlp = MlpKind::gated) {
  ModelConfig config;
  config.mixer = mixer;
  config.mlp = mlp;
  config.vocabulary = 128;
  config.layers = 2;
  config.width = 16;
  config.heads = 2;
  config.mlp_width = 12;
  config.components = {3, 4};
  config.plain_components = 5;
  config.window = 3;
  config.state = 5;
  return config;
}

std::vector<Token> some_bytes(Index count) {
  std::vector<Token> bytes;
  Random random(7);
  for (Index i = 0; i < count; ++i) bytes.push_back(Token('a' + random.below(20)));
  return bytes;
}

class EveryMixer : public testing::TestWithParam<MixerKind> {};

std::string test_name(const testing::TestParamInfo<MixerKind>& info) {
  std::string name = name_of(info.param);
  name.erase(std::remove(name.begin(), name.end(), '-'), name.end());
  return name;
}

INSTANTIATE_TEST_SUITE_P(Language, EveryMixer, testing::ValuesIn(all_mixers), test_name);

void check_gradients(const ModelConfig& config) {
  Model<double> model(config);
  Vector<double> parameters = noisy_parameters(model);
  auto cache = model.make_cache();
  const Index count = 70;  // more than one block of queries, more than one tile of tokens
  const std::vector<Token> bytes = some_bytes(count + 1);
  const double scale = 1 / double(count);
  const auto loss = [&](const Vector<double>& at) {
    model.prepare(at);
    model.forward(at, bytes.data(), count, nullptr, cache);
    return scale * model.losses(bytes.data() + 1, cache);
  };

  Vector<double> gradients = Vector<double>::Zero(model.layout().size());
  loss(parameters);
  model.backward(parameters, bytes.data(), bytes.data() + 1, scale, cache, gradients);

  transformer::check_gradients(model.layout(), parameters, gradients, loss);
}

TEST_P(EveryMixer, GradientsOfAllTensors) { check_gradients(small_model(GetParam())); }

TEST(Language, GradientsWithPlainMlp) { check_gradients(small_model(MixerKind::sdpa, MlpKind::plain)); }

TEST(Language, GradientsWithWindowBranch) {
  ModelConfig config = small_model(MixerKind::gma);
  config.gma_window = 5;
  check_gradients(config);
}

TEST(Language, GradientsWithForgettingOfSlots) {
  ModelConfig config = small_model(MixerKind::gma);
  config.slot_forgetting = 2;
  check_gradients(config);
}

TEST(Language, GradientsWithOutputNormAndGate) {
  ModelConfig config = small_model(MixerKind::gma);
  config.has_output_norm = config.has_output_gate = true;
  check_gradients(config);
}

TEST(Language, GradientsWithUnitQueries) {
  ModelConfig config = small_model(MixerKind::sdpa);
  config.has_unit_queries = true;
  config.convolution = 3;
  check_gradients(config);
}

TEST(Language, GradientsWithoutMlp) {
  ModelConfig config = small_model(MixerKind::mamba);
  config.mlp_width = 0;
  config.mamba_head = 8;
  check_gradients(config);
}

TEST(Language, ACacheOfTheLastTokensIsSoftmaxOverThem) {
  ModelConfig config = small_model(MixerKind::sdpa);
  config.layers = 1;
  config.cache = 20;
  config.has_unit_queries = true;
  Model<float> model(config);
  const Vector<float> parameters = noisy_parameters(model);
  model.prepare(parameters);
  const std::vector<Token> bytes = some_bytes(90);
  auto cache = model.make_cache();
  auto state = model.make_state();
  for (Index i = 0; i + 1 < 90; ++i) model.forward(parameters, bytes.data() + i, 1, &state, cache);
  EXPECT_TRUE(model.is_constant_memory());
  model.forward(parameters, bytes.data() + 89, 1, &state, cache);
  const Matrix<float> last = cache.logits;
  model.forward(parameters, bytes.data() + 69, 21, nullptr, cache);  // the token and the 20 before it
  EXPECT_LT((last - cache.logits.bottomRows(1)).norm(), 1e-4f * last.norm());
}

TEST_P(EveryMixer, StreamingEqualsParallel) {
  Model<float> model(small_model(GetParam()));
  const Vector<float> parameters = noisy_parameters(model);
  model.prepare(parameters);
  const Index count = 150;
  const std::vector<Token> bytes = some_bytes(count);
  auto cache = model.make_cache();
  model.forward(parameters, bytes.data(), count, nullptr, cache);
  const Matrix<float> expected = cache.logits;

  // A prefill, single steps, and another piece at the end.
  auto state = model.make_state();
  Matrix<float> actual(count, model.config().vocabulary);
  Index done = 0;
  Index state_bytes = 0;
  for (const Index piece : std::vector<Index>{67, 1, 1, 2, 1, 78}) {
    model.forward(parameters, bytes.data() + done, piece, &state, cache);
    actual.middleRows(done, piece) = cache.logits;
    if (model.is_constant_memory() && done > 0) {
      EXPECT_EQ(state.bytes(), state_bytes);
    }
    state_bytes = state.bytes();
    done += piece;
  }
  ASSERT_EQ(done, count);
  EXPECT_LT((actual - expected).norm(), 1e-5f * expected.norm());
}

TEST_P(EveryMixer, LaterBytesChangeNothingBefore) {
  Model<float> model(small_model(GetParam()));
  const Vector<float> parameters = noisy_parameters(model);
  model.prepare(parameters);
  std::vector<Token> bytes = some_bytes(100);
  auto cache = model.make_cache();
  model.forward(parameters, bytes.data(), 100, nullptr, cache);
  const Matrix<float> before = cache.logits;
  for (std::size_t i = 60; i < 100; ++i) bytes[i] = 'z';
  model.forward(parameters, bytes.data(), 100, nullptr, cache);
  EXPECT_TRUE(cache.logits.topRows(60) == before.topRows(60));
  EXPECT_FALSE(cache.logits.bottomRows(40) == before.bottomRows(40));
}

TEST(Language, GroupsOfTensors) {
  const Model<float> model(small_model(MixerKind::gma));
  for (const auto& entry : model.layout().entries()) {
    const bool is_mixture = entry.name.find(".mixtures.") != std::string::npos;
    const bool is_dense = entry.name.substr(entry.name.rfind('.')) == ".weight";
    EXPECT_EQ(entry.group == Group::mixture, is_mixture) << entry.name;
    EXPECT_EQ(entry.group == Group::matrix, is_dense) << entry.name;
  }
}

TEST(Language, BadModelsAreRefused) {
  ModelConfig config = small_model(MixerKind::gma);
  config.heads = 3;
  EXPECT_THROW(Model<float>{config}, std::invalid_argument);
  config = small_model(MixerKind::gma);
  config.components = {2, 2, 2};
  EXPECT_THROW(Model<float>{config}, std::invalid_argument);
  config = small_model(MixerKind::sdpa);
  config.heads = 16;
  EXPECT_THROW(Model<float>{config}, std::invalid_argument);
}

}  // namespace
}  // namespace language_model
