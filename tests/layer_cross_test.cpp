// SPDX-License-Identifier: MIT
// Cross attention of the bidirectional layer: keys and values of another sequence. Against its definition, its
// gradients against differences, batches whose sequences have contexts of any lengths.
#include "layer_reference.hpp"
#include "layer_support.hpp"

namespace gma_test {
namespace {

LayerConfig cross_config() {
  LayerConfig config = config_of_width(10);
  config.is_causal = config.has_forgetting = false;
  config.has_output_norm = config.has_output_gate = true;
  return config;
}

/// One sequence and its context, from the definition.
Matrix<double> reference_cross(const Layer& layer, const Matrix<double>& x, const Matrix<double>& context) {
  const gma::detail::LayerShape shape(layer.config);
  const Index d = shape.head_width, e = shape.value_width;
  const Matrix<double> q = projected(x, layer.query_weight, layer.query_filter);
  const Matrix<double> k = projected(context, layer.key_weight, layer.key_filter);
  const Matrix<double> v = projected(context, layer.value_weight, layer.value_filter);
  Matrix<double> y(x.rows(), shape.mixed());
  for (Index h = 0; h < shape.query_heads; ++h) {
    const Index kh = h / (shape.query_heads / shape.key_heads);
    Options options;
    options.normalization = layer.config.normalization;
    const Matrix<double> queries = unit_rms(q.middleCols(h * d, d)), keys = unit_rms(k.middleCols(kh * d, d)),
                         values = v.middleCols(kh * e, e);
    Matrix<double> out = gma::reference::attention(layer.mixtures[static_cast<std::size_t>(kh)], queries, keys, values,
                                                   options, false, TokenInputs<double>());
    if (layer.config.has_output_norm) {
      out = unit_rms(out);
      out.array().rowwise() *= layer.norm_gain.segment(h * e, e).transpose().array();
    }
    y.middleCols(h * e, e) = out;
  }
  if (layer.config.has_output_gate) y = gated(y, x * layer.gate_weight.transpose(), layer.config.gate_activation);
  return y * layer.output_weight.transpose();
}

TEST(LayerCross, IsWhatItsDefinitionSays) {
  for (const bool has_all : {false, true}) {
    LayerConfig config = cross_config();
    if (!has_all) config.has_output_norm = config.has_output_gate = false, config.convolution = 1;
    const Layer layer = layer_of(config);
    Random random(3);
    for (const Index rows : {1, 7, 130}) {
      for (const Index context_rows : {1, 5, 200}) {
        const Matrix<double> x = random.matrix<double>(rows, 10), context = random.matrix<double>(context_rows, 10);
        const Matrix<double> y = gma::forward(layer, x, context);
        EXPECT_TRUE(close(y, reference_cross(layer, x, context), forward_tolerance<double>()));
        EXPECT_TRUE(same_bits(gma::forward(gma::compile(layer), x, context), y));
      }
    }
    const Matrix<double> x = random.matrix<double>(40, 10);
    EXPECT_TRUE(close(gma::forward(layer, x, x), gma::forward(layer, x), forward_tolerance<double>()));
  }
}

TEST(LayerCross, SequencesAttendToTheirOwnContexts) {
  const Layer layer = layer_of(cross_config());
  Random random(3);
  const Matrix<double> x = random.matrix<double>(12, 10);
  Matrix<double> context = random.matrix<double>(20, 10);
  context.row(13).setConstant(not_a_number);  // padding
  const Sequences sequences = Sequences::packed({0, 3, 12}), contexts = Sequences::padded({10, 3});
  const Matrix<double> y = gma::forward(layer, x, context, sequences, contexts);
  EXPECT_TRUE(same_bits(y.topRows(3), gma::forward(layer, x.topRows(3), context.topRows(10))));
  EXPECT_TRUE(same_bits(y.bottomRows(9), gma::forward(layer, x.bottomRows(9), context.middleRows(10, 3))));
  const Backwards backwards;
  gma::LayerOptions options;
  options.executor = &backwards;
  EXPECT_TRUE(same_bits(gma::forward(layer, x, context, sequences, contexts, options), y));
}

void expect_gradients(const LayerConfig& config) {
  Layer layer = layer_of(config);
  Random random(3);
  Matrix<double> x = random.matrix<double>(8, 10), context = random.matrix<double>(11, 10), y(8, 10);
  const Matrix<double> dy = random.matrix<double>(8, 10);
  const Sequences sequences = Sequences::packed({0, 3, 8}), contexts = Sequences::packed({0, 5, 11});
  gma::LayerCache<double> cache;
  const auto loss = [&]() -> double {
    gma::forward_into(y, layer, x, context, cache, sequences, contexts);
    return y.cwiseProduct(dy).sum();
  };
  loss();
  gma::LayerGradientCache<double> scratch;
  Layer gradient(layer.config);
  Matrix<double> d_x(8, 10), d_context(11, 10);
  gma::backward_into(d_x, d_context, gradient, layer, dy, cache, scratch);
  const auto expect_slopes = [&](auto values, const Matrix<double>& actual, const std::string& name) {
    Matrix<double> expected(values.rows(), values.cols());
    for (Index i = 0; i < values.size(); ++i) {
      expected.data()[i] = difference_quotient(values.data()[i], 3e-4, loss);
    }
    EXPECT_TRUE(close(actual, expected, difference_tolerance)) << name;
  };
  using Map = Eigen::Map<Matrix<double>>;
  expect_slopes(Map(x.data(), 8, 10), d_x, "x");
  expect_slopes(Map(context.data(), 11, 10), d_context, "context");
  gma::visit_parameters(
      [&](const gma::Parameter& parameter, Map values, Map actual) { expect_slopes(values, actual, parameter.name); },
      layer, gradient);
}

TEST(LayerCross, GradientsAgainstDifferences) {
  LayerConfig config = cross_config();
  expect_gradients(config);
  config.gate_activation = GateActivation::sigmoid;
  expect_gradients(config);
}

TEST(LayerCross, MisuseIsRefused) {
  const Layer layer = layer_of(cross_config());
  Random random(3);
  const Matrix<double> x = random.matrix<double>(8, 10), context = random.matrix<double>(11, 10);
  Matrix<double> y(8, 10), d_context(11, 10);
  gma::LayerCache<double> cache;
  gma::LayerGradientCache<double> scratch;
  Layer gradient(layer.config);
  expect_error([&] { gma::forward(layer, x, context.leftCols(9)); }, {"gma::forward: context has 9 columns", "10"});
  expect_error(
      [&] {
        gma::forward(layer, x, context, Sequences::packed({0, 3, 8}));
      },
      {"context_sequences has 1 sequences, expected 2"});
  LayerConfig causal = cross_config();
  causal.is_causal = true;
  expect_error([&] { gma::forward(layer_of(causal), x, context); }, {"layer is causal", "cross attention"});
  gma::forward_into(y, layer, x, context, cache);
  expect_error([&] { gma::backward_into(y, gradient, layer, x, cache, scratch); }, {"expected d_context"});
  expect_error([&] { gma::backward_into(y, d_context.topRows(8), gradient, layer, x, cache, scratch); },
               {"d_context is 8 x 10, expected 11 x 10"});
  gma::forward_into(y, layer, x, cache);  // the same cache without a context
  EXPECT_TRUE(same_bits(y, gma::forward(layer, x)));
  expect_error([&] { gma::backward_into(y, d_context, gradient, layer, x, cache, scratch); },
               {"expected no d_context"});
}

}  // namespace
}  // namespace gma_test
