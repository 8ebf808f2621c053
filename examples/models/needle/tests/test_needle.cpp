// SPDX-License-Identifier: MIT
//
// Streams have the grammar that models are trained on; answers are those of a forward pass over the whole stream, for
// any number of threads and any chunk; the state does not grow.

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>
#include <string>

#include "needle/needle.hpp"

namespace {

namespace lm = language_model;
using needle::Index;

lm::ModelConfig small_config(lm::MixerKind mixer = lm::MixerKind::gma) {
  lm::ModelConfig config;
  config.mixer = mixer;
  config.layers = 2;
  config.width = 16;
  config.heads = 2;
  config.mlp_width = 16;
  config.components = {4, 4};
  return config;
}

struct Small {
  lm::Model<float> model;
  lm::Vector<float> parameters;
  explicit Small(const lm::ModelConfig& config = small_config())
      : model(config), parameters(model.initial_parameters(1)) {
    transformer::Random random(1, 3);  // branches start at zero
    for (float& p : parameters) p += float(0.1 * random.normal());
    model.prepare(parameters);
  }
};

needle::Options small_options() {
  needle::Options options;
  options.needles = 5;
  options.longest = 1024;
  options.streams = 3;
  return options;
}

TEST(Needle, StreamsHaveDistinctKeysAndAskEveryOne) {
  for (Index number : {0, 1}) {
    needle::Stream stream(small_options(), number);
    const auto needles = stream.needles();
    ASSERT_EQ(needles.size(), 20u);
    std::map<int, int> value_of;
    for (std::size_t i = 0; i < needles.size(); i += 4) {
      EXPECT_EQ(needles[i], '!');
      EXPECT_TRUE(needles[i + 1] >= 128 && needles[i + 1] < 192 && needles[i + 2] >= 192 && needles[i + 2] < 256);
      EXPECT_TRUE(needles[i + 3] >= 'a' && needles[i + 3] <= 'z');
      value_of[needles[i + 1]] = needles[i + 2];
    }
    EXPECT_EQ(value_of.size(), 5u);
    const auto questions = stream.questions();
    ASSERT_EQ(questions.tokens.size(), 20u);
    ASSERT_EQ(questions.values.size(), 5u);
    std::set<int> asked;
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_EQ(questions.tokens[4 * i], '?');
      EXPECT_EQ(questions.values[i], value_of.at(questions.tokens[4 * i + 1]));
      asked.insert(questions.tokens[4 * i + 1]);
    }
    EXPECT_EQ(asked.size(), 5u);
  }
  EXPECT_NE(needle::Stream(small_options(), 0).needles(), needle::Stream(small_options(), 1).needles());
}

TEST(Needle, AnswersAreThoseOfOnePassOverTheStream) {
  const Small small;
  needle::Options options = small_options();
  options.streams = 1;
  options.longest = 256;
  transformer::ThreadPool pool(1);
  const auto answers = needle::find_needles(small.model, small.parameters, options, pool);
  ASSERT_EQ(answers.size(), 1u);
  needle::Stream stream(options, 0);
  std::vector<needle::Token> tokens = stream.needles();
  const auto letters = stream.letters(256 - 2 * 20);
  const auto questions = stream.questions();
  tokens.insert(tokens.end(), letters.begin(), letters.end());
  tokens.insert(tokens.end(), questions.tokens.begin(), questions.tokens.end());
  ASSERT_EQ(tokens.size(), 256u);
  auto cache = small.model.make_cache();
  small.model.forward(small.parameters, tokens.data(), 256, nullptr, cache);
  double nats = 0;
  Index right = 0;
  for (Index i = 0; i < 5; ++i) {
    const Eigen::VectorXd logits = cache.logits.row(256 - 20 + 4 * i + 1).cast<double>().transpose();
    Index best = 0;
    logits.maxCoeff(&best);
    right += best == Index(questions.values[std::size_t(i)]);
    nats += std::log(logits.array().exp().sum()) - logits(Index(questions.values[std::size_t(i)]));
  }
  EXPECT_EQ(answers[0].asked, 5);
  EXPECT_EQ(answers[0].right, right);
  EXPECT_NEAR(answers[0].nats, nats / 5, 1e-4);
}

TEST(Needle, ThreadsAndChunksDoNotMatterAndTheStateDoesNotGrow) {
  const Small small;
  needle::Options options = small_options();
  transformer::ThreadPool one(1), two(2);
  const auto a = needle::find_needles(small.model, small.parameters, options, one);
  const auto b = needle::find_needles(small.model, small.parameters, options, two);
  options.chunk = 100;
  const auto c = needle::find_needles(small.model, small.parameters, options, one);
  ASSERT_EQ(a.size(), 3u);
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].length, Index(256) << i);
    EXPECT_EQ(a[i].asked, 15);
    EXPECT_EQ(a[i].nats, b[i].nats);
    EXPECT_EQ(a[i].right, b[i].right);
    EXPECT_NEAR(a[i].nats, c[i].nats, 1e-4);
    EXPECT_EQ(a[i].state_bytes, a[0].state_bytes);
  }
  EXPECT_GT(a[0].state_bytes, 0);
}

TEST(Needle, RefusesWhatItCannotDo) {
  transformer::ThreadPool pool(1);
  const auto message = [&](const lm::ModelConfig& config, const needle::Options& options) -> std::string {
    const Small small(config);
    try {
      needle::find_needles(small.model, small.parameters, options, pool);
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message(small_config(lm::MixerKind::sdpa), small_options()).find("expected one of constant memory"),
            std::string::npos);
  lm::ModelConfig pieces = small_config();
  pieces.vocabulary = 300;
  EXPECT_NE(message(pieces, small_options()).find("expected one of bytes"), std::string::npos);
  needle::Options options = small_options();
  options.needles = 33;
  EXPECT_NE(message(small_config(), options).find("expected 1 to 32"), std::string::npos);
  options = small_options();
  options.longest = 100;
  EXPECT_NE(message(small_config(), options).find("expected at least 256"), std::string::npos);
}

}  // namespace
