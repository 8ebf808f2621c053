// SPDX-License-Identifier: MIT
// How do I train a layer on a text that is too long for one pass?
//
// The text goes through the layer in pieces, and its state goes on from piece to piece, without end. The gradient goes
// back through the states as well, but only through the last few pieces: truncated backpropagation through time. What
// is kept does not depend on the length of the text: an input, a cache and a copy of the states per piece of the
// window.
//
// The task needs the gradient of the state: one of 8 symbols is marked in a piece, and the next piece asks for it. With
// a window of two pieces the layer learns to write the marked symbol so that it can be read later. With a window of one
// piece nothing tells the writing what the reading needs.
#include <algorithm>
#include <cmath>
#include <gma/gma.hpp>
#include <iostream>
#include <random>
#include <vector>

using gma::Index;
using Layer = gma::AttentionLayer<float>;
using Matrix = gma::Matrix<float>;
using States = std::vector<gma::LayerState<float>>;
using Values = Eigen::Map<Matrix>;

constexpr Index symbols = 8, features = 12, texts = 16, length = 8;  // tokens per piece; all texts at the same time
constexpr Index marked = symbols, asks = symbols + 1;                // columns of a token beside those of its symbol

struct Piece {
  Matrix x{Matrix::Zero(texts * length, features)}, d_y{Matrix::Zero(texts * length, features)};
  gma::LayerCache<float> cache;
  States initial;  // the states before the piece
};

/// The texts go on by two pieces each: one marks a symbol, one asks for it. The answer is at row questions[i].
void draw(std::mt19937& random, Piece& first, Piece& second, std::vector<Index>& questions,
          std::vector<Index>& answers) {
  for (Piece* piece : {&first, &second}) {
    piece->x.setZero();
    for (Index row = 0; row < piece->x.rows(); ++row) piece->x(row, static_cast<Index>(random() % symbols)) = 1;
  }
  questions.clear();
  answers.clear();
  for (Index text = 0; text < texts; ++text) {
    const Index mark = text * length + static_cast<Index>(random() % length);
    const Index question = text * length + static_cast<Index>(random() % length);
    Index answer = 0;
    first.x.row(mark).head(symbols).maxCoeff(&answer);
    first.x(mark, marked) = 1;
    second.x.row(question).setZero();
    second.x(question, asks) = 1;
    questions.push_back(question);
    answers.push_back(answer);
  }
}

void adam_step(Layer& layer, Layer& gradient, Layer& mean, Layer& square, int step, float rate) {
  const float unbias1 = 1 - std::pow(0.9f, static_cast<float>(step));
  const float unbias2 = 1 - std::pow(0.99f, static_cast<float>(step));
  gma::visit_parameters(
      [&](const gma::Parameter& parameter, Values p, const Values& g, Values m, Values v) {
        m = 0.9f * m + 0.1f * g;
        v = 0.99f * v + 0.01f * g.cwiseAbs2();
        const float own_rate = parameter.group == gma::ParameterGroup::mixture ? 5 * rate : rate;
        p.array() -= own_rate * (m.array() / unbias1) / ((v.array() / unbias2).sqrt() + 1e-8f);
      },
      layer, gradient, mean, square);
}

/// The loss at the end of a training whose gradients go back through a window of so many pieces, 1 or 2.
double train(std::size_t window) {
  gma::LayerConfig config;
  config.width = features;
  config.heads = 2;
  Layer layer = gma::random_layer<float>(config, 1), gradient(config), mean(config), square(config);
  gma::LayerGradientCache<float> scratch;
  const gma::Sequences batch = gma::Sequences::padded(std::vector<std::int64_t>(texts, length));
  const States beginning(texts, gma::begin_stream(layer));
  States states = beginning, d_states;
  std::vector<Piece> pieces(2);
  std::vector<Index> questions, answers;
  Matrix y(texts * length, features), d_x(texts * length, features);
  std::mt19937 random(1);
  double last_losses = 0;
  const int steps = 400, average = 40;
  for (int step = 1; step <= steps; ++step) {
    draw(random, pieces[0], pieces[1], questions, answers);
    for (Piece& piece : pieces) {
      piece.initial = states;
      gma::forward_into(y, layer, piece.x, states, piece.cache, batch);
    }
    // y is now that of the second piece: half the squared error of the answers.
    Matrix& d_y = pieces[1].d_y;
    d_y.setZero();
    for (std::size_t i = 0; i < questions.size(); ++i) {
      d_y.row(questions[i]).head(symbols) = y.row(questions[i]).head(symbols);
      d_y(questions[i], answers[i]) -= 1;
    }
    d_y /= static_cast<float>(texts);
    const double loss = 0.5 * static_cast<double>(d_y.squaredNorm()) * static_cast<double>(texts);

    // From the last piece of the window to its first; nothing comes from beyond, so the states' gradient begins as
    // zeros.
    gma::set_zero(gradient);
    d_states = beginning;
    for (std::size_t i = pieces.size(); i-- > pieces.size() - window;) {
      Piece& piece = pieces[i];
      gma::backward_into(d_x, gradient, layer, piece.d_y, piece.cache, scratch, {}, &piece.initial, &d_states,
                         &d_states);
    }
    adam_step(layer, gradient, mean, square, step, 0.01f);
    if (step > steps - average) last_losses += loss / average;
  }
  std::cout << "gradients through " << window << (window == 1 ? " piece:  " : " pieces: ") << "loss " << last_losses
            << " after " << states.front().position << " tokens per text\n";
  return last_losses;
}

int main() {
  // A layer that always answers with the mean of all symbols has a loss of 0.5 (1 - 1/8) = 0.4375.
  const double one = train(1), two = train(2);
  return two < 0.5 * one ? 0 : 1;
}
