// SPDX-License-Identifier: MIT
//
// The matrix products of dense layers, through gma's own kernel. It is 1.1 to 1.4 times as fast as Eigen at these
// shapes (hundreds of tokens, widths of hundreds), because nothing is packed.
#pragma once

#include <gma/gma.hpp>

#include "types.hpp"

namespace transformer {

// y = x w, into a matrix of the right shape.
template <class S, class X, class W>
void multiply(const X& x, const W& w, Matrix<S>& y) {
  y.resize(x.rows(), w.cols());
  gma::kernels::multiply(gma::kernels::Product<S>{x.data(), x.outerStride(), 1, w.data(), w.outerStride(), y.data(),
                                                  y.outerStride(), x.rows(), x.cols(), w.cols()});
}

// c += x^T y.
template <class S, class X, class Y, class C>
void add_transposed_product(const X& x, const Y& y, C&& c) {
  gma::kernels::multiply(gma::kernels::Product<S>{x.data(), 1, x.outerStride(), y.data(), y.outerStride(), c.data(),
                                                  c.outerStride(), x.cols(), x.rows(), y.cols(), nullptr, true});
}

}  // namespace transformer
