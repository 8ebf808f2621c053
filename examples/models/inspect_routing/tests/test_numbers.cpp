// SPDX-License-Identifier: MIT
//
// Statistics on tables whose answer is known, the affinity against the library's dense reference, and both on a model.

#include <gtest/gtest.h>

#include <gma/attention/reference.hpp>
#include <gma/mixture/initialization.hpp>
#include <gma/mixture/usage.hpp>

#include "../affinity.hpp"
#include "../component_statistics.hpp"
#include "../routing.hpp"
#include "transformer/mixer_layer.hpp"

namespace inspect_routing {
namespace {

constexpr double log2 = 0.6931471805599453;

template <class M>
M random_matrix(Index rows, Index cols, std::uint64_t seed) {
  transformer::Random random(seed);
  M matrix(rows, cols);
  for (Index i = 0; i < matrix.size(); ++i) matrix.data()[i] = typename M::Scalar(random.normal());
  return matrix;
}

TEST(Entropy, OfKnownWeights) {
  EXPECT_DOUBLE_EQ(entropy(Vector<double>::Constant(8, 0.125)), 3 * log2);
  EXPECT_DOUBLE_EQ(entropy(Vector<double>::Constant(4, 7)), 2 * log2);  // counts need not sum to 1
  Vector<double> weights(4);
  weights << 0.5, 0.25, 0.25, 0;
  EXPECT_NEAR(entropy(weights), 1.5 * log2, 1e-15);
  EXPECT_EQ(entropy(Vector<double>::Unit(5, 2)), 0);
  EXPECT_EQ(entropy(Vector<double>::Zero(5)), 0);
}

TEST(DeadComponents, AreBelowATenthOfAnEvenShare) {
  Vector<double> usage(4);
  usage << 0.02, 0.026, 0.0, 0.954;  // an even share is 0.25
  EXPECT_EQ(dead_components(usage), 2);
  EXPECT_EQ(dead_components(Vector<double>::Constant(64, 1.0 / 64)), 0);
}

TEST(MutualInformation, IsZeroForIndependentLabels) {
  Vector<double> rows(3), columns(2);
  rows << 1, 2, 5;
  columns << 3, 4;
  const MutualInformation result = mutual_information(rows * columns.transpose());
  EXPECT_NEAR(result.information, 0, 1e-14);
  EXPECT_NEAR(result.row_entropy, entropy(rows), 1e-14);
  EXPECT_NEAR(result.column_entropy, entropy(columns), 1e-14);
  EXPECT_NEAR(result.normalised(), 0, 1e-14);
}

TEST(MutualInformation, IsTheEntropyForEqualLabels) {
  Vector<double> counts(3);
  counts << 1, 2, 5;
  const MutualInformation result = mutual_information(counts.asDiagonal().toDenseMatrix());
  EXPECT_NEAR(result.information, entropy(counts), 1e-14);
  EXPECT_NEAR(result.normalised(), 1, 1e-14);
}

TEST(MutualInformation, OfATableByHand) {
  Matrix<double> counts(2, 2);
  counts << 3, 1, 1, 3;
  const MutualInformation result = mutual_information(counts);
  EXPECT_NEAR(result.information, 0.75 * std::log(1.5) + 0.25 * std::log(0.5), 1e-14);
  EXPECT_NEAR(result.normalised(), result.information / log2, 1e-14);
}

TEST(MutualInformation, OfNothingIsZero) {
  EXPECT_EQ(mutual_information(Matrix<double>::Zero(4, 6)).normalised(), 0);
  EXPECT_EQ(mutual_information(Matrix<double>::Constant(1, 1, 9)).normalised(), 0);
}

TEST(SurfaceForm, OfBytes) {
  const std::string text = "\n 1 And it\tsaid, \"LORD's\xC3\xA9t\xC3\xA9\"";
  using F = SurfaceForm;
  const std::vector<F> expected = {F::whitespace,   F::whitespace,   F::digit,        F::whitespace,   F::capitalised,
                                   F::continuation, F::continuation, F::whitespace,   F::word_start,   F::continuation,
                                   F::whitespace,   F::word_start,   F::continuation, F::continuation, F::continuation,
                                   F::punctuation,  F::whitespace,   F::punctuation,  F::capitalised,  F::continuation,
                                   F::continuation, F::continuation, F::punctuation,  F::word_start,   F::continuation,
                                   F::continuation, F::continuation, F::continuation, F::continuation, F::punctuation};
  ASSERT_EQ(text.size(), expected.size());
  for (std::size_t i = 0; i < text.size(); ++i)
    EXPECT_EQ(surface_form(text.substr(i, 1), i == 0 ? '\0' : text[i - 1]), expected[i]) << "at " << i;
}

TEST(SurfaceForm, OfPieces) {
  EXPECT_EQ(surface_form(" the", 'd'), SurfaceForm::word_start);
  EXPECT_EQ(surface_form(" The", 'd'), SurfaceForm::capitalised);
  EXPECT_EQ(surface_form("the", 'd'), SurfaceForm::continuation);
  EXPECT_EQ(surface_form("the", '\n'), SurfaceForm::word_start);
  EXPECT_EQ(surface_form("The", '\0'), SurfaceForm::capitalised);
  EXPECT_EQ(surface_form("ING", 'h'), SurfaceForm::continuation);
  EXPECT_EQ(surface_form("  ", 'h'), SurfaceForm::whitespace);
  EXPECT_EQ(surface_form(" 7", 'h'), SurfaceForm::digit);
  EXPECT_EQ(surface_form(", and", 'h'), SurfaceForm::punctuation);
  EXPECT_EQ(surface_form("", 'h'), SurfaceForm::punctuation);
}

std::vector<SeenToken> some_tokens(Index count) {
  std::vector<SeenToken> tokens;
  for (Index t = 0; t < count; ++t)
    tokens.push_back({100 + t, Token(t % 3), static_cast<SurfaceForm>(t % surface_forms), std::uint64_t(t)});
  return tokens;
}

TEST(ComponentStatistics, AgreeWithTheLibrary) {
  const auto mixture = gma::random_mixture<float>(7, 4, 3);
  const auto tokens = random_matrix<gma::Matrix<float>>(200, 4, 5);
  const gma::Usage<float> expected = gma::usage(mixture, tokens);
  const Matrix<float> responsibilities = gma::responsibilities(mixture, tokens);
  ComponentStatistics statistics(7, 3);
  const std::vector<SeenToken> seen = some_tokens(200);
  statistics.add(responsibilities.topRows(60), seen.data());
  statistics.add(responsibilities.bottomRows(140), seen.data() + 60);
  EXPECT_EQ(statistics.tokens(), 200);
  EXPECT_LT((statistics.usage() - expected.mean.cast<double>()).cwiseAbs().maxCoeff(), 1e-6);
  EXPECT_NEAR(entropy(statistics.usage()), expected.entropy, 1e-5);
  EXPECT_NEAR(statistics.token_entropy(), expected.token_entropy, 1e-5);
  EXPECT_EQ(dead_components(statistics.usage()), expected.dead);
  EXPECT_EQ(statistics.forms().sum(), 200);
}

TEST(ComponentStatistics, ListTheStrongestAndTheMostFrequent) {
  Matrix<float> r(5, 2);
  r << 0.9f, 0.1f, 0.6f, 0.4f, 0.2f, 0.8f, 0.95f, 0.05f, 0.7f, 0.3f;
  std::vector<SeenToken> tokens = some_tokens(5);
  tokens[3].phrase = tokens[0].phrase;  // the same words again, stronger
  ComponentStatistics statistics(2, 2);
  statistics.add(r, tokens.data());
  ASSERT_EQ(statistics.strongest(0).size(), 2u);
  EXPECT_EQ(statistics.strongest(0)[0].position, 103);
  EXPECT_EQ(statistics.strongest(0)[1].position, 104);
  EXPECT_EQ(statistics.strongest(1)[0].position, 102);
  using Common = std::vector<std::pair<Token, Index>>;
  EXPECT_EQ(statistics.common(0, 8), (Common{{0, 2}, {1, 2}}));
  EXPECT_EQ(statistics.common(0, 1), (Common{{0, 2}}));
  EXPECT_EQ(statistics.common(1, 8), (Common{{2, 1}}));
  EXPECT_EQ(statistics.forms()(0, 0), 1);
  EXPECT_EQ(statistics.forms().row(1).sum(), 1);
  EXPECT_NEAR(statistics.usage()(0), 0.67, 1e-6);
}

// A product of mixtures, with and without forgetting, against (7) as it stands.
TEST(Affinity, IsTheReferences) {
  gma::ProductMixture<double> mixture;
  for (const Index components : {3, 4}) mixture.factors.push_back(gma::random_mixture<double>(components, 2, 3));
  const auto queries = random_matrix<gma::Matrix<double>>(40, 4, 1),
             keys = random_matrix<gma::Matrix<double>>(40, 4, 2);
  const Vector<double> gates = -random_matrix<Vector<double>>(40, 1, 4).cwiseAbs();
  for (const bool forgets : {false, true}) {
    gma::TokenInputs<double> inputs;
    if (forgets) inputs.log_forgetting = gates;
    const Matrix<double> expected = gma::reference::affinity(mixture, queries, keys, {}, true, inputs);
    const Matrix<double> result =
        affinity(gma::responsibilities(mixture, queries), gma::responsibilities(mixture, keys), inputs.log_forgetting);
    EXPECT_LT((result - expected).cwiseAbs().maxCoeff(), 1e-12);
    EXPECT_LT((result.rowwise().sum().array() - 1).abs().maxCoeff(), 1e-12);
    EXPECT_LE(result.rightCols(20).rowwise().sum().maxCoeff(), 1 + 1e-12);
    EXPECT_GE(result.minCoeff(), 0);
    EXPECT_EQ(result.triangularView<Eigen::StrictlyUpper>().toDenseMatrix().cwiseAbs().maxCoeff(), 0);
  }
}

// What is shown is what the model did: affinity times values is what every head of every layer gave.
void expect_routing_explains(transformer::MixerKind mixer) {
  language_model::Checkpoint checkpoint;
  transformer::ModelConfig& config = checkpoint.model;
  config.mixer = mixer;
  config.layers = 2;
  config.width = 16;
  config.heads = 2;
  config.mlp_width = 8;
  config.components = {3, 2};
  config.plain_components = 5;
  language_model::Model<float> model(config);
  checkpoint.state.parameters = model.initial_parameters(1);
  checkpoint.state.parameters += 0.2f * random_matrix<Vector<float>>(checkpoint.state.parameters.size(), 1, 9);
  std::vector<Token> tokens;
  for (Index t = 0; t < 50; ++t) tokens.push_back(Token('a' + t * t % 23));

  model.prepare(checkpoint.state.parameters);
  auto cache = model.make_cache();
  model.forward(checkpoint.state.parameters, tokens.data(), 50, nullptr, cache);
  RoutingReader reader(checkpoint);
  EXPECT_EQ(reader.components(), mixer == transformer::MixerKind::gma ? 6 : 5);
  EXPECT_EQ(reader.temperatures(1, 1).size(), mixer == transformer::MixerKind::gma ? 2u : 1u);
  Index heads = 0;
  reader.read(tokens.data(), 50, [&](Index layer, Index head, const HeadRouting& routing) {
    const auto& forward = transformer::LayerMixer<float>::forward_cache(*cache.blocks.blocks[std::size_t(layer)].mixer);
    const Matrix<double> values = forward.values.middleCols(head * 8, 8).cast<double>();
    const Matrix<double> expected = forward.mixed.middleCols(head * 8, 8).cast<double>();
    const Matrix<double> result =
        affinity(routing.queries.cast<double>(), routing.keys.cast<double>(), routing.log_forgetting) * values;
    EXPECT_LT((result - expected).norm(), 1e-4 * expected.norm()) << "layer " << layer << " head " << head;
    ++heads;
  });
  EXPECT_EQ(heads, 4);
}

TEST(Routing, ExplainsWhatTheModelDid) { expect_routing_explains(transformer::MixerKind::gma); }
TEST(Routing, ExplainsAPlainModel) { expect_routing_explains(transformer::MixerKind::gma_plain); }

TEST(Routing, NeedsGaussianComponents) {
  language_model::Checkpoint checkpoint;
  checkpoint.model.mixer = transformer::MixerKind::sdpa;
  EXPECT_THROW(RoutingReader{checkpoint}, std::runtime_error);
}

}  // namespace
}  // namespace inspect_routing
