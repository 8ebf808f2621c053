// SPDX-License-Identifier: MIT
//
// The library's short convolution as a tensor of the model, for the mixers that are not the library's layer.
#pragma once

#include <gma/layer/part_convolution.hpp>

#include "mixer.hpp"

namespace transformer {

// Columns [begin, begin + count) of a matrix, as the library's views.
template <class S>
gma::ConstTile<S> columns(const Matrix<S>& x, Index begin, Index count) {
  return {x.data() + begin, x.rows(), count, Eigen::OuterStride<>(x.cols())};
}
template <class S>
gma::Tile<S> columns(Matrix<S>& x, Index begin, Index count) {
  return {x.data() + begin, x.rows(), count, Eigen::OuterStride<>(x.cols())};
}

// y_t = sum_i filter_i o x_{t-i}.   X, Y [T, C], filter [taps, C], row i for the token i back.
struct Convolution {
  Tensor filter;

  static Convolution make(Layout& layout, const std::string& name, Index taps, Index channels) {
    return {layout.add(name, taps, channels, Group::gain)};
  }

  // Starts close to the identity.
  template <class S>
  void initialize(Vector<S>& parameters, Random& random) const {
    fill_normal(parameters, filter, 0.2, random);
    view(parameters, filter).row(0).array() += S(1);
  }

  // history [taps - 1, C]: the inputs before x, oldest first, or null for zeros. It is advanced past x.
  template <class S>
  void forward(const Vector<S>& parameters, const gma::ConstTile<S>& x, Matrix<S>* history, gma::Tile<S> y) const {
    const Matrix<S> none(0, x.cols());
    gma::short_convolution(x, taps(parameters), columns(history ? *history : none, 0, x.cols()), y);
    if (history) gma::advance_history(x, columns(*history, 0, x.cols()));
  }

  // After a forward pass without a history: dx is assigned, and the filter's gradient is added.
  template <class S>
  void backward(const Vector<S>& parameters, const gma::ConstTile<S>& x, const gma::ConstTile<S>& dy,
                Vector<S>& gradients, gma::Tile<S> dx) const {
    const Matrix<S> none(0, x.cols());
    auto d_filter = view(gradients, filter);
    gma::short_convolution_backward(
        x, taps(parameters), columns(none, 0, x.cols()), dy, dx,
        gma::Tile<S>(d_filter.data(), filter.rows, filter.cols, Eigen::OuterStride<>(filter.cols)));
  }

 private:
  template <class S>
  gma::ConstTile<S> taps(const Vector<S>& parameters) const {
    return {view(parameters, filter).data(), filter.rows, filter.cols, Eigen::OuterStride<>(filter.cols)};
  }
};

}  // namespace transformer
