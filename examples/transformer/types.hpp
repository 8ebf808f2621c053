// SPDX-License-Identifier: MIT
//
// Names that all other files of the model share.
//
// Shape letters, used in all comments:
//   T  tokens of one sequence                  D  width of the model
//   B  sequences of a minibatch                H  heads,  d = D / H the width of one head
//   V  vocabulary                              F  width of the MLP's hidden layer
//   L  blocks                                  K  slots of a Gaussian mixture memory
//
// Tokens are rows and storage is row-major: one token is contiguous, and every dense layer is one matrix product over
// all the tokens of a sequence.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstdint>

namespace transformer {

using Index = Eigen::Index;

template <class S>
using Matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class S>
using Vector = Eigen::Matrix<S, Eigen::Dynamic, 1>;

// Arguments of functions: a matrix, or a block of columns of one (a head), without a copy.
template <class S>
using In = Eigen::Ref<const Matrix<S>>;
template <class S>
using Out = Eigen::Ref<Matrix<S>>;

// A byte, a piece of text, a pixel: a row of an embedding.
using Token = std::uint16_t;

// Losses are computed in nats; language models are compared in bits per byte.
constexpr double bits_per_nat = 1.4426950408889634;

}  // namespace transformer
