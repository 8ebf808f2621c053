// SPDX-License-Identifier: MIT
//
// A short causal depthwise convolution: every channel sees its own last few values.
//
//   y_t = sum_{i < W} w_i o x_{t-i}          X, Y [T, C], filter w [W, C], no activation
//
// It lets a token's query, key and value depend on the three tokens before it, which a mixer without positions cannot
// find out by itself. The last W - 1 inputs are all the state that streaming needs.
#pragma once

#include <algorithm>

#include "tensors.hpp"

namespace language_model {

struct ShortConvolution {
  Tensor filter;

  static ShortConvolution make(Layout& layout, const std::string& name, Index width, Index channels) {
    return {layout.add(name, width, channels, Group::gain)};
  }

  // history [W - 1, C]: the inputs before x, oldest first. Empty stands for zeros. It is moved on past x.
  template <class S>
  void forward(const Vector<S>& parameters, const Matrix<S>& x, Matrix<S>* history, Matrix<S>& y) const {
    const auto w = view(parameters, filter);
    const Index past = w.rows() - 1;
    const bool has_history = history != nullptr && history->size() > 0;
    y.resize(x.rows(), x.cols());
    for (Index t = 0; t < x.rows(); ++t) {
      y.row(t) = x.row(t).cwiseProduct(w.row(0));
      for (Index i = 1; i <= past; ++i) {
        if (t >= i)
          y.row(t) += x.row(t - i).cwiseProduct(w.row(i));
        else if (has_history)
          y.row(t) += history->row(past + t - i).cwiseProduct(w.row(i));
      }
    }
    if (history != nullptr) advance(x, past, *history);
  }

  // dx_t = sum_i w_i o dy_{t+i};   dw_i += sum_t dy_t o x_{t-i}.   No gradient goes into the history.
  template <class S>
  void backward(const Vector<S>& parameters, const Matrix<S>& x, const Matrix<S>& history, const Matrix<S>& dy,
                Vector<S>& gradients, Matrix<S>& dx) const {
    const auto w = view(parameters, filter);
    auto dw = view(gradients, filter);
    const Index past = w.rows() - 1;
    dx.resize(x.rows(), x.cols());
    for (Index t = 0; t < x.rows(); ++t) {
      dx.row(t) = dy.row(t).cwiseProduct(w.row(0));
      dw.row(0) += dy.row(t).cwiseProduct(x.row(t));
      for (Index i = 1; i <= past; ++i) {
        if (t + i < x.rows()) dx.row(t) += dy.row(t + i).cwiseProduct(w.row(i));
        if (t >= i)
          dw.row(i) += dy.row(t).cwiseProduct(x.row(t - i));
        else if (history.size() > 0)
          dw.row(i) += dy.row(t).cwiseProduct(history.row(past + t - i));
      }
    }
  }

 private:
  template <class S>
  static void advance(const Matrix<S>& x, Index past, Matrix<S>& history) {
    if (history.size() == 0) history.setZero(past, x.cols());
    const Index fresh = (std::min)(past, x.rows());
    for (Index i = 0; i < past - fresh; ++i) history.row(i) = history.row(i + fresh);
    history.bottomRows(fresh) = x.bottomRows(fresh);
  }
};

}  // namespace language_model
