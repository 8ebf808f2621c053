// SPDX-License-Identifier: MIT
// My sequence is too long for one machine. How do I train on it with several?
//
//   mpirun -n 3 many_machines
//
// Every rank holds a segment of one text and a copy of the model, a small language model of bytes: an embedding, two
// attention layers with residuals, and the embedding again for the logits. gma::mpi::forward() and backward() run a
// layer over all ranks. Everything else works token by token and is the same code as in one process. Every rank ends
// with the same parameters, bit by bit, and they are those that one process finds, within rounding.
#include <cmath>
#include <cstdio>
#include <gma/gma.hpp>
#include <gma/mpi/layer.hpp>
#include <string>
#include <vector>

using gma::Index;
using Layer = gma::AttentionLayer<double>;
using Matrix = gma::Matrix<double>;

constexpr Index features = 16, depth = 2, steps = 15;
constexpr double rate = 0.3;

struct Model {
  Matrix embedding;  // 128 x features
  std::vector<Layer> layers;
};

/// Parameters and gradients in one list, f(numbers of all models).
template <class F, class... Models>
void visit(const F& f, Models&... models) {
  f(Eigen::Map<Matrix>(models.embedding.data(), 128, features)...);
  for (std::size_t i = 0; i < depth; ++i) {
    gma::visit_parameters([&](const gma::Parameter&, const auto&... values) { f(values...); }, models.layers[i]...);
  }
}

/// The layers of one process.
struct Alone {
  gma::LayerCache<double> caches[depth];
  gma::LayerGradientCache<double> scratch;

  Matrix forward(const Model& model, std::size_t i, const Matrix& x) {
    Matrix y(x.rows(), x.cols());
    gma::forward_into(y, model.layers[i], x, caches[i]);
    return y;
  }
  Matrix backward(const Model& model, std::size_t i, const Matrix& dy, Model& gradient) {
    Matrix dx(dy.rows(), dy.cols());
    gma::backward_into(dx, gradient.layers[i], model.layers[i], dy, caches[i], scratch);
    return dx;
  }
  void sum(std::vector<double>&) {}
};

/// The layers of all ranks.
struct Together {
  gma::mpi::Communicator& ranks;
  gma::mpi::LayerSegment<double> segments[depth] = {};

  Matrix forward(const Model& model, std::size_t i, const Matrix& x) {
    return gma::mpi::forward(ranks, model.layers[i], x, segments[i]);
  }
  Matrix backward(const Model& model, std::size_t i, const Matrix& dy, Model& gradient) {
    return gma::mpi::backward(ranks, model.layers[i], dy, gradient.layers[i], segments[i]);
  }
  void sum(std::vector<double>& numbers) { gma::mpi::sum_over_ranks(ranks, numbers); }
};

/// One step of gradient descent on the mean loss over `count` tokens, of which this process has bytes[begin, end) and
/// predicts the byte after each. Returns the loss.
template <class Layers>
double train(Model& model, Layers& layers, const std::string& bytes, Index begin, Index end, Index count) {
  const Index rows = end - begin;
  const auto byte = [&](Index t) { return static_cast<Index>(bytes[static_cast<std::size_t>(t)]); };
  Model gradient = model;
  visit([](auto values) { values.setZero(); }, gradient);

  std::vector<Matrix> x(depth + 1, Matrix(rows, features));
  for (Index t = 0; t < rows; ++t) x[0].row(t) = model.embedding.row(byte(begin + t));
  for (std::size_t i = 0; i < depth; ++i) x[i + 1] = x[i] + layers.forward(model, i, x[i]);
  Matrix logits = x[depth] * model.embedding.transpose();
  std::vector<double> sums{0};
  for (Index t = 0; t < rows; ++t) {  // the loss, and its gradient in place of the logits
    const double largest = logits.row(t).maxCoeff();
    const double log_sum = largest + std::log((logits.row(t).array() - largest).exp().sum());
    sums[0] += (log_sum - logits(t, byte(begin + t + 1))) / static_cast<double>(count);
    logits.row(t) = (logits.row(t).array() - log_sum).exp() / static_cast<double>(count);
    logits(t, byte(begin + t + 1)) -= 1 / static_cast<double>(count);
  }
  gradient.embedding = logits.transpose() * x[depth];
  Matrix dx = logits * model.embedding;
  for (std::size_t i = depth; i-- > 0;) dx += layers.backward(model, i, dx, gradient);
  for (Index t = 0; t < rows; ++t) gradient.embedding.row(byte(begin + t)) += dx.row(t);

  // What is not in a layer is summed over ranks here.
  sums.insert(sums.end(), gradient.embedding.data(), gradient.embedding.data() + gradient.embedding.size());
  layers.sum(sums);
  gradient.embedding = Eigen::Map<Matrix>(sums.data() + 1, 128, features);
  visit([](auto values, const auto& slopes) { values -= rate * slopes; }, model, gradient);
  return sums[0];
}

int main(int argc, char** argv) {
  return gma::mpi::run(argc, argv, [](gma::mpi::Communicator& ranks) {
    std::string text;
    while (text.size() < 1200) text += "a slot holds a mean, a mass says of how much; " + std::to_string(text.size());
    const Index count = static_cast<Index>(text.size()) - 1;
    // Segments may have any lengths. Here the first is the shortest.
    const auto begin = [&](Index rank) { return count * rank * (rank + 1) / (ranks.size() * (ranks.size() + 1)); };

    gma::LayerConfig config;
    config.width = features;
    config.heads = 2;
    config.components = {4, 4};
    config.window = 8;
    Model start{Matrix::Random(128, features) * 0.3, {}};
    for (std::uint64_t i = 0; i < depth; ++i) start.layers.push_back(gma::random_layer<double>(config, i + 1));

    Model one = start, all = start;
    Alone alone;
    Together together{ranks};
    double loss_alone = 0, loss_together = 0, first = 0;
    for (Index step = 0; step < steps; ++step) {
      loss_alone = train(one, alone, text, 0, count, count);
      loss_together = train(all, together, text, begin(ranks.rank()), begin(ranks.rank() + 1), count);
      if (step == 0) first = loss_together;
    }
    double difference = 0, norm = 0;
    visit(
        [&](const auto& a, const auto& b) {
          difference += (a - b).squaredNorm();
          norm += a.squaredNorm();
        },
        one, all);
    difference = std::sqrt(difference / norm);
    if (ranks.rank() == 0) {
      std::printf("%d ranks, %d tokens, %d steps: the loss falls from %.4f to %.4f (one process: %.4f)\n",
                  static_cast<int>(ranks.size()), static_cast<int>(count), static_cast<int>(steps), first,
                  loss_together, loss_alone);
      std::printf("parameters differ from those of one process by %.1e; rank 0 sent %lld messages, %lld KiB\n",
                  difference, static_cast<long long>(ranks.traffic().messages),
                  static_cast<long long>(ranks.traffic().bytes / 1024));
    }
    const bool is_right = difference < 1e-10 && loss_together < 0.9 * first;
    return is_right ? 0 : 1;
  });
}
