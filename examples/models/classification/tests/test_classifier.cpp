// SPDX-License-Identifier: MIT
//
// The classifier, for every mixer in its bidirectional form and for answers at places: gradients against central
// differences, and who sees whom. The causal mixers themselves are tested with the language model.

#include <gtest/gtest.h>

#include <algorithm>

#include "../classifier_implementation.hpp"
#include "transformer/mixer_both.hpp"
#include "transformer/mixer_sdpa.hpp"
#include "transformer/tests/check_gradients.hpp"

namespace transformer {
extern template class Blocks<double>;
}

namespace classification {
namespace {

struct Form {
  std::string name;
  MixerKind mixer;
  bool is_plain;  // no forgetting, no convolution
};

const std::vector<Form>& forms() {
  static const std::vector<Form> all = {
      {"gma_both", MixerKind::gma, false},       {"gma", MixerKind::gma, true},
      {"gma_plain", MixerKind::gma_plain, true}, {"linear", MixerKind::linear, true},
      {"linear_both", MixerKind::linear, false}, {"performer", MixerKind::performer, true},
      {"mamba_both", MixerKind::mamba, false},   {"sdpa", MixerKind::sdpa, true},
      {"window_both", MixerKind::window, true}};
  return all;
}

ModelConfig small_model(const Form& form) {
  ModelConfig config;
  config.mixer = form.mixer;
  config.layers = 2;
  config.width = 16;
  config.heads = 2;
  config.mlp_width = 12;
  config.components = {3, 4};
  config.plain_components = 5;
  config.window = 3;
  config.state = 5;
  if (form.is_plain) config.convolution = 1, config.has_forgetting = false;
  return config;
}

TaskShape small_shape() {
  TaskShape shape;
  shape.vocabulary = 20;
  shape.classes = 4;
  shape.longest = 80;
  return shape;
}

Example some_example(Index count) {
  Example example;
  Random random(7);
  for (Index i = 0; i < count; ++i) example.tokens.push_back(Token(random.below(20)));
  example.targets = {2};
  return example;
}

void check_gradients(const ModelConfig& config, const TaskShape& shape, const Example& example) {
  Classifier<double> model(config, shape);
  Vector<double> parameters = noisy_parameters(model);
  auto cache = model.make_cache();
  const double scale = 0.5;
  const auto loss = [&](const Vector<double>& at) {
    model.prepare(at);
    return scale * model.forward(at, example, cache);
  };
  Vector<double> gradients = Vector<double>::Zero(model.layout().size());
  loss(parameters);
  model.backward(parameters, example, scale, cache, gradients);

  transformer::check_gradients(model.layout(), parameters, gradients, loss);
}

std::string test_name(const testing::TestParamInfo<Form>& form) { return form.param.name; }

class EveryForm : public testing::TestWithParam<Form> {};
INSTANTIATE_TEST_SUITE_P(Classifier, EveryForm, testing::ValuesIn(forms()), test_name);

// More than one block of queries, more than one tile of tokens.
TEST_P(EveryForm, GradientsOfAllTensors) { check_gradients(small_model(GetParam()), small_shape(), some_example(70)); }

TEST(Classifier, GradientsOfAnswersAtPlaces) {
  TaskShape shape;
  shape.vocabulary = 20;
  shape.is_causal = true;
  Example example = some_example(12);
  example.places = {9, 3, 9};
  example.targets = {1, 19, 4};
  check_gradients(small_model(forms().front()), shape, example);
}

// Which of the outputs of a block change with the token in the middle.
TEST_P(EveryForm, EveryTokenSeesLaterOnes) {
  for (const bool is_causal : {false, true}) {
    ModelConfig config = small_model(GetParam());
    config.layers = 1;
    config.is_causal = is_causal;
    Layout layout;
    Blocks<double> blocks(config, layout);
    Vector<double> parameters = Vector<double>::Zero(layout.size());
    Random random(3);
    blocks.initialize(parameters, random);
    for (Index i = 0; i < parameters.size(); ++i) parameters[i] += 0.2 * random.normal();
    blocks.prepare(parameters);
    auto cache = blocks.make_cache();
    const Matrix<double> x = Matrix<double>::NullaryExpr(70, 16, [&] { return random.normal(); });
    blocks.input(cache) = x;
    const Matrix<double> before = blocks.forward(parameters, nullptr, cache);
    blocks.input(cache) = x;
    blocks.input(cache).row(35) *= -1;
    const Matrix<double> change = blocks.forward(parameters, nullptr, cache) - before;
    // The window sees three tokens. Mamba forgets: after some 30 tokens the change is below rounding.
    const MixerKind mixer = GetParam().mixer;
    const Index near = mixer == MixerKind::window ? 2 : mixer == MixerKind::mamba ? 15 : 35;
    for (Index t = 35 - near; t < (std::min)(Index(70), 36 + near); ++t) {
      EXPECT_EQ(change.row(t).norm() > 0, !is_causal || t >= 35) << "token " << t << (is_causal ? ", causal" : "");
    }
    if (!is_causal) {
      EXPECT_THROW(blocks.make_state(), std::exception);
    }
  }
}

// A mixer whose output tells what it was given: the sum of all tokens so far, times its parameter.
class Sum : public Mixer<double> {
  struct Cache : MixerCache<double> {};

 public:
  Sum(Layout& layout, const std::string& name) : factor_(layout.add(name, 1, 1, Group::matrix)) {}
  std::unique_ptr<MixerState<double>> make_state() const override { return nullptr; }
  std::unique_ptr<MixerCache<double>> make_cache() const override { return std::make_unique<Cache>(); }
  bool is_constant_memory() const override { return true; }
  void initialize(Vector<double>&, Random&) const override {}
  void prepare(const Vector<double>&) override {}
  void forward(const Vector<double>& parameters, const Matrix<double>& x, MixerState<double>*, MixerCache<double>&,
               Matrix<double>& y) const override {
    y = x;
    for (Index t = 1; t < x.rows(); ++t) y.row(t) += y.row(t - 1);
    y *= parameters[factor_.offset];
  }
  void backward(const Vector<double>& parameters, const Matrix<double>& x, const Matrix<double>& dy,
                MixerCache<double>&, Vector<double>& gradients, Matrix<double>& dx) const override {
    dx = dy;
    for (Index t = x.rows() - 1; t-- > 0;) dx.row(t) += dx.row(t + 1);
    gradients[factor_.offset] += dx.cwiseProduct(x).sum();
    dx *= parameters[factor_.offset];
  }

 private:
  Tensor factor_;
};

TEST(BothMixer, AddsBothDirections) {
  Layout layout;
  auto forwards = std::make_unique<Sum>(layout, "forwards"), backwards = std::make_unique<Sum>(layout, "backwards");
  const Index second = layout.entries().back().tensor.offset;
  const BothMixer<double> both(std::move(forwards), std::move(backwards));
  Vector<double> parameters = Vector<double>::Zero(layout.size()), gradients = parameters;
  parameters[0] = 1;
  parameters[second] = 100;
  Matrix<double> x(3, 1), y, dy(3, 1), dx;
  x << 1, 2, 3;
  dy << 1, 10, 100;
  const auto cache = both.make_cache();
  both.forward(parameters, x, nullptr, *cache, y);
  EXPECT_EQ(y, (Matrix<double>(3, 1) << 601, 503, 306).finished());
  both.backward(parameters, x, dy, *cache, gradients, dx);
  EXPECT_EQ(dx, (Matrix<double>(3, 1) << 211, 1210, 11200).finished());
  EXPECT_EQ(gradients[0], 1 * 1 + 10 * 3 + 100 * 6);
  EXPECT_EQ(gradients[second], 1 * 6 + 10 * 5 + 100 * 3);
  EXPECT_THROW(both.make_state(), std::logic_error);
}

}  // namespace
}  // namespace classification
