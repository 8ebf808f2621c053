// SPDX-License-Identifier: MIT
//
// Tests of what a converted model takes over, and of the transfer.

#include <gtest/gtest.h>

#include <algorithm>

#include "from_softmax/conversion.hpp"
#include "from_softmax/transfer.hpp"
#include "language_model/model.hpp"
#include "transformer/mixer_layer.hpp"

namespace fs = from_softmax;
namespace lm = language_model;
using lm::Index;

namespace {

lm::Checkpoint softmax_model(Index taps) {
  lm::Checkpoint c;
  c.model.mixer = lm::MixerKind::sdpa;
  c.model.layers = 2, c.model.width = 12, c.model.heads = 2, c.model.mlp_width = 10, c.model.vocabulary = 40;
  c.model.convolution = taps;
  c.state.parameters = lm::Model<float>(c.model).initial_parameters(1);
  gma::Random random(2);
  for (Index i = 0; i < c.state.parameters.size(); ++i) c.state.parameters[i] += float(0.3 * random.normal());
  return c;
}

lm::ModelConfig options() {
  lm::ModelConfig config;
  config.components = {4};
  return config;
}

TEST(Conversion, TakesWhatItSays) {
  const lm::Checkpoint softmax = softmax_model(1);
  const lm::ModelConfig config = fs::converted(softmax.model, options());
  EXPECT_EQ(config.mlp_width, 10);
  EXPECT_EQ(lm::taps_of(config), 4);
  const auto nothing = fs::convert(softmax, config, fs::Taken::nothing, 3);
  const auto surroundings = fs::convert(softmax, config, fs::Taken::surroundings, 3);
  const auto projections = fs::convert(softmax, config, fs::Taken::projections, 3);
  EXPECT_TRUE(nothing.taken.empty());
  EXPECT_EQ(surroundings.taken.size(), 2u + 2 * 4);  // embedding and last norm; two norms and two matrices per block
  EXPECT_EQ(projections.taken.size(), surroundings.taken.size() + 2 * 4);
  EXPECT_EQ(nothing.parameters, lm::Model<float>(config).initial_parameters(3));
  const auto has = [](const fs::Conversion& c, const char* name) {
    return std::find(c.taken.begin(), c.taken.end(), name) != c.taken.end();
  };
  EXPECT_TRUE(has(surroundings, "embedding.weight"));
  EXPECT_TRUE(has(projections, "blocks.1.mixer.output.weight"));
  EXPECT_FALSE(has(surroundings, "blocks.1.mixer.output.weight"));
  EXPECT_FALSE(has(projections, "blocks.1.mixer.query.filter"));
}

TEST(Conversion, TakesTheConvolution) {
  const lm::Checkpoint softmax = softmax_model(3);
  const lm::ModelConfig config = fs::converted(softmax.model, options());
  EXPECT_EQ(lm::taps_of(config), 3);
  EXPECT_EQ(fs::convert(softmax, config, fs::Taken::projections, 3).taken.size(), 10u + 2 * 7);
}

// Queries, keys, values and the output matrix of the layer are those of softmax attention: the layer's projections of a
// token, and its output matrix, say so.
TEST(Conversion, ProjectsAsSoftmaxDoes) {
  const lm::Checkpoint softmax = softmax_model(1);
  lm::ModelConfig config = fs::converted(softmax.model, options());
  config.convolution = 1;
  config.has_output_norm = config.has_output_gate = false;
  const auto converted = fs::convert(softmax, config, fs::Taken::projections, 3);
  lm::Model<float> model(config);
  model.prepare(converted.parameters);
  const auto& layer = dynamic_cast<const transformer::LayerMixer<float>&>(model.blocks().mixer(1)).layer();
  const lm::Layout layout = lm::layout_of(softmax.model);
  const auto tensor = [&](const std::string& name) {
    for (const auto& entry : layout.entries())
      if (entry.name == name) return entry.tensor;
    throw std::runtime_error(name);
  };
  const lm::Matrix<float> x = lm::Matrix<float>::Random(5, 12);
  const lm::Matrix<float> qkv = x * view(softmax.state.parameters, tensor("blocks.1.mixer.qkv.weight"));
  const lm::Matrix<float> out = x * view(softmax.state.parameters, tensor("blocks.1.mixer.out.weight"));
  EXPECT_TRUE((x * layer.query_weight.transpose()).isApprox(qkv.leftCols(12)));
  EXPECT_TRUE((x * layer.key_weight.transpose()).isApprox(qkv.middleCols(12, 12)));
  EXPECT_TRUE((x * layer.value_weight.transpose()).isApprox(qkv.rightCols(12)));
  EXPECT_TRUE((x * layer.output_weight.transpose()).isApprox(out));
}

TEST(Conversion, RefusesOtherMixers) {
  lm::ModelConfig config;
  config.mixer = lm::MixerKind::mamba;
  EXPECT_THROW(fs::converted(config, options()), std::invalid_argument);
}

TEST(Transfer, OnlyMixersLearnAndTheirErrorFalls) {
  const lm::Checkpoint softmax = softmax_model(1);
  const lm::ModelConfig config = fs::converted(softmax.model, options());
  lm::Model<float> old_model(softmax.model), new_model(config);
  old_model.prepare(softmax.state.parameters);
  lm::Text text;
  for (Index i = 0; i < 600; ++i) text.tokens.push_back(lm::Token((i * i + i / 7) % 40));
  text.split = 500;
  lm::ThreadPool pool(2);
  lm::TrainConfig train;
  train.context = 32, train.steps = 150, train.warmup_steps = 10;
  const auto start = fs::convert(softmax, config, fs::Taken::projections, 3);
  fs::Transfer transfer(old_model, softmax.state.parameters, new_model, start.parameters, text, train, pool);
  const double first = transfer.step();
  double last = 0;
  for (int i = 1; i < train.steps; ++i) last = transfer.step();
  EXPECT_LT(last, 0.5 * first);
  for (const auto& entry : new_model.layout().entries()) {
    const auto before = view(start.parameters, entry.tensor), after = view(transfer.parameters(), entry.tensor);
    EXPECT_EQ(before == after, entry.name.find(".mixer.") == std::string::npos) << entry.name;
  }
}

}  // namespace
