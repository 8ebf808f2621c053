// SPDX-License-Identifier: MIT
// How do I train a layer with my own optimiser?
//
// The gradient of a layer is another layer, and so is everything of which an optimiser keeps one number per parameter.
// visit_parameters() visits any number of layers together: here the parameters, the gradient and both moments of Adam.
//
// The task needs memory: each of 8 tokens names a key and a value, and each of 8 more names a key and asks for its
// value.
#include <algorithm>
#include <cmath>
#include <gma/gma.hpp>
#include <iostream>
#include <numeric>
#include <random>
#include <vector>

using gma::Index;
using Layer = gma::AttentionLayer<float>;
using Matrix = gma::Matrix<float>;
using Values = Eigen::Map<Matrix>;

constexpr Index symbols = 8, batch_size = 16, sequence_length = 2 * symbols;

/// The columns of a token are a key's one-hot code and a value's one-hot code; questions leave the value zero. Targets
/// have a row per token: the requested value, in the columns of values.
void draw_batch(std::mt19937& random, Matrix& x, Matrix& target) {
  x.setZero(batch_size * sequence_length, 2 * symbols);
  target.setZero(batch_size * sequence_length, 2 * symbols);
  std::vector<Index> keys(symbols), values(symbols);
  std::iota(keys.begin(), keys.end(), 0);
  for (Index row = 0; row < x.rows(); row += sequence_length) {
    for (Index& value : values) value = static_cast<Index>(random() % symbols);
    for (const bool is_question : {false, true}) {
      std::shuffle(keys.begin(), keys.end(), random);
      for (Index t = 0; t < symbols; ++t) {
        const Index at = row + t + (is_question ? symbols : 0), key = keys[static_cast<std::size_t>(t)];
        x(at, key) = 1;
        (is_question ? target : x)(at, symbols + values[static_cast<std::size_t>(key)]) = 1;
      }
    }
  }
}

/// Adam, for step 1, 2, ...: mean and square are its moments, layers of the same config that began as zeros.
void adam_step(Layer& layer, Layer& gradient, Layer& mean, Layer& square, int step, float rate) {
  constexpr float beta1 = 0.9f, beta2 = 0.99f, epsilon = 1e-8f;
  const float unbias1 = 1 - std::pow(beta1, static_cast<float>(step));
  const float unbias2 = 1 - std::pow(beta2, static_cast<float>(step));
  gma::visit_parameters(
      [&](const gma::Parameter& parameter, Values p, const Values& g, Values m, Values v) {
        // Means, scales and temperatures of the mixtures need a larger learning rate: five times that of the others
        // works well. A weight decay would be for ParameterGroup::matrix only.
        const float own_rate = parameter.group == gma::ParameterGroup::mixture ? 5 * rate : rate;
        m = beta1 * m + (1 - beta1) * g;
        v = beta2 * v + (1 - beta2) * g.cwiseAbs2();
        p.array() -= own_rate * (m.array() / unbias1) / ((v.array() / unbias2).sqrt() + epsilon);
      },
      layer, gradient, mean, square);
}

int main() {
  gma::LayerConfig config;
  config.width = 2 * symbols;
  config.heads = 2;
  Layer layer = gma::random_layer<float>(config, 1);
  Layer gradient(config), mean(config), square(config);  // zeros

  // Results that one pass leaves for the next, and scratch memory. They are made once, so that steps allocate almost
  // nothing.
  gma::LayerCache<float> cache;
  gma::LayerGradientCache<float> scratch;
  const Index rows = batch_size * sequence_length;
  const gma::Sequences batch = gma::Sequences::padded(std::vector<std::int64_t>(batch_size, sequence_length));
  Matrix x, target, y(rows, config.width), d_x(rows, config.width);

  std::mt19937 random(1);
  double first_loss = 0, last_loss = 0;
  const int steps = 200, average = 20;
  for (int step = 1; step <= steps; ++step) {
    draw_batch(random, x, target);
    gma::forward_into(y, layer, x, cache, batch);

    // Half the squared error of the answers, per question, and its gradient. Other rows do not count.
    Matrix d_y = (y - target) / static_cast<float>(batch_size * symbols);
    d_y.leftCols(symbols).setZero();
    for (Index row = 0; row < rows; row += sequence_length) d_y.middleRows(row, symbols).setZero();
    const double loss = 0.5 * static_cast<double>(d_y.squaredNorm()) * static_cast<double>(batch_size * symbols);

    gma::set_zero(gradient);  // a backward pass adds: leave this out to sum over several batches
    gma::backward_into(d_x, gradient, layer, d_y, cache, scratch);
    adam_step(layer, gradient, mean, square, step, 0.01f);

    if (step <= average) first_loss += loss / average;
    if (step > steps - average) last_loss += loss / average;
    if (step == 1 || step % 50 == 0) std::cout << "step " << step << ", loss " << loss << '\n';
  }
  // A model that always answers with the mean of all values has a loss of 0.5 (1 - 1/8) = 0.4375.
  std::cout << gma::parameter_count(layer) << " parameters; the loss of " << average << " batches fell from "
            << first_loss << " to " << last_loss << ", by a factor of " << first_loss / last_loss << ".\n";
  return last_loss < first_loss / 10 ? 0 : 1;
}
