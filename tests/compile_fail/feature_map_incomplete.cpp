// SPDX-License-Identifier: MIT
// A feature map that lacks a part is told which.
// Expected: gma: a feature map has a function backward(x, r, d_r, d_x) const
#include <gma/gma.hpp>

struct Map : gma::FeatureMap<Map> {
  using Scalar = float;
  gma::Index components() const { return 3; }
  gma::Index dim() const { return 3; }
  void check(const char*) const {}
  void evaluate(const gma::ConstTile<float>& x, gma::Tile<float> r) const { r = x; }
#ifndef GMA_MUST_NOT_COMPILE
  void backward(const gma::ConstTile<float>&, const gma::Tile<float>&, gma::Tile<float> d_r,
                gma::Tile<float> d_x) const {
    d_x = d_r;
  }
#endif
};

gma::Matrix<float> attend(const Map& map, const gma::Matrix<float>& tokens) {
  return gma::causal(map, tokens, tokens, tokens);
}
