// SPDX-License-Identifier: MIT
// My sequences have different lengths. How do I run them as one batch, and what happens to the padding?
//
// Three layouts of the same batch: packed back to back, padded on the right to one length, and padded on the left with
// a mask. All give bit-identical numbers. Padding is never read, so it may contain anything, NaN included. Outputs and
// gradients there are exactly zero.
#include <cstdint>
#include <gma/gma.hpp>
#include <iostream>
#include <limits>
#include <vector>

using gma::Index;
using Matrix = gma::Matrix<float>;

int main() {
  gma::LayerConfig config;
  config.width = 32;
  config.heads = 4;
  const gma::AttentionLayer<float> layer = gma::random_layer<float>(config, 1);

  const std::vector<std::int64_t> lengths = {5, 0, 17, 9};  // a sequence may be empty
  const Index entries = 4, longest = 17, total = 31;

  // Packed: only tokens. Offsets say where each sequence begins, and where the last one ends.
  const gma::Sequences packed = gma::Sequences::packed({0, 5, 5, 22, 31});
  const Matrix x = Matrix::Random(total, config.width), d_y = Matrix::Random(total, config.width);

  // Padded on the right: sequence b has the rows from b * longest on. The first lengths[b] of them are tokens.
  const gma::Sequences right = gma::Sequences::padded(lengths);

  // Padded on the left: all rows are passed, and a mask excludes the rows that are padding.
  gma::Sequences left = gma::Sequences::padded(std::vector<std::int64_t>(entries, longest));
  left.keep.assign(entries * longest, 0);

  // The row of each packed token in the padded batches. All other rows stay NaN.
  std::vector<Index> right_rows, left_rows;
  for (Index b = 0; b < entries; ++b) {
    const Index length = lengths[static_cast<std::size_t>(b)];
    for (Index t = 0; t < length; ++t) {
      right_rows.push_back(b * longest + t);
      left_rows.push_back((b + 1) * longest - length + t);
      left.keep[static_cast<std::size_t>(left_rows.back())] = 1;
    }
  }
  const auto spread = [&](const Matrix& rows, const std::vector<Index>& places, float padding) -> Matrix {
    Matrix batch = Matrix::Constant(entries * longest, config.width, padding);
    for (Index i = 0; i < total; ++i) batch.row(places[static_cast<std::size_t>(i)]) = rows.row(i);
    return batch;
  };

  // Forward. The padded batches must give the packed outputs, spread out with zeros for padding.
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Matrix y = gma::forward(layer, x, packed);
  const bool same_right = gma::forward(layer, spread(x, right_rows, nan), right) == spread(y, right_rows, 0);
  const bool same_left = gma::forward(layer, spread(x, left_rows, nan), left) == spread(y, left_rows, 0);

  // A sequence of the batch has the same outputs alone.
  const bool same_alone = gma::forward(layer, x.middleRows(5, 17)) == y.middleRows(5, 17);

  // Backward. Upstream gradients of padding are not read either, and the gradients there are zero.
  const gma::LayerGradients<float, gma::Diagonal> gradient = gma::backward(layer, x, d_y, packed);
  const gma::LayerGradients<float, gma::Diagonal> padded_gradient =
      gma::backward(layer, spread(x, left_rows, nan), spread(d_y, left_rows, nan), left);
  bool same_gradient = padded_gradient.x == spread(gradient.x, left_rows, 0);
  using Values = Eigen::Map<const Matrix>;
  gma::visit_parameters(
      [&](const gma::Parameter&, const Values& a, const Values& b) { same_gradient = same_gradient && a == b; },
      gradient.layer, padded_gradient.layer);

  std::cout << std::boolalpha << total << " tokens of " << entries << " sequences, packed, and in " << entries * longest
            << " rows with NaN in the padding. Are they bit-identical, with zeros for padding?\n"
            << "  outputs, padded on the right:             " << same_right << '\n'
            << "  outputs, padded on the left and masked:   " << same_left << '\n'
            << "  outputs of one sequence alone:            " << same_alone << '\n'
            << "  gradients of inputs and parameters:       " << same_gradient << '\n';
  return same_right && same_left && same_alone && same_gradient ? 0 : 1;
}
