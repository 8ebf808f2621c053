// SPDX-License-Identifier: MIT
//
// The library's short convolution as a tensor of the model, for the mixers that are not the library's layer.
#pragma once

#include <gma/layer/part_convolution.hpp>

#include "mixer.hpp"

namespace transformer {

// y_t = sum_i filter_i o x_{t-i}.   X, Y [T, C], filter [taps, C], row i for the token i back.
struct Convolution {
  Tensor filter;

  static Convolution make(Layout& layout, const std::string& name, Index taps, Index channels) {
    return {layout.add(name + ".filter", taps, channels, Group::gain)};
  }

  // Starts close to the identity.
  template <class S>
  void initialize(Vector<S>& parameters, Random& random) const {
    fill_normal(parameters, filter, 0.2, random);
    view(parameters, filter).row(0).array() += S(1);
  }

  // history [taps - 1, C]: the inputs before x, oldest first, or null for zeros. It is advanced past x.
  template <class S>
  void forward(const Vector<S>& parameters, const ConstTile<S>& x, Matrix<S>* history, Tile<S> y) const {
    const Matrix<S> none(0, x.cols());
    gma::short_convolution(x, view(parameters, filter), columns(history ? *history : none, 0, x.cols()), y);
    if (history) gma::advance_history(x, columns(*history, 0, x.cols()));
  }

  // After a forward pass without a history: dx is assigned, and the filter's gradient is added.
  template <class S>
  void backward(const Vector<S>& parameters, const ConstTile<S>& x, const ConstTile<S>& dy, Vector<S>& gradients,
                Tile<S> dx) const {
    const Matrix<S> none(0, x.cols());
    gma::short_convolution_backward(x, view(parameters, filter), columns(none, 0, x.cols()), dy, dx,
                                    view(gradients, filter));
  }
};

}  // namespace transformer
