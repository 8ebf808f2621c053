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

#include <cmath>
#include <cstdint>
#include <gma/core/random.hpp>
#include <gma/core/types.hpp>

namespace transformer {

using gma::Index;
using gma::Matrix;
using gma::Random;
using gma::Vector;

// Views of rows in memory: a matrix, or columns of one.
using gma::ConstTile;
using gma::Tile;

// A byte, a piece of text, a pixel: a row of an embedding.
using Token = std::uint16_t;

// Losses are computed in nats; language models are compared in bits per byte.
constexpr double bits_per_nat = 1.4426950408889634;

}  // namespace transformer
