// SPDX-License-Identifier: MIT
// Natural parameters: the form of a mixture in which its logits are computed. A covariance family chooses one of four
// forms and says how its parameters become the numbers of that form; the inner loops know the forms and no family. The
// first three need one matrix product per tile of tokens. The last one serves every covariance.
//
//   features phi(x)        D      tempered logits l(x), up to a constant of the token      log p(x, k) adds to tau l
//   linear        x        d      phi W + b                                                -1/2 sum_i x_i^2 p_i
//   squared_norm [x,|x|^2] d+1    phi W + b
//   squares      [x, x*x]  2d     phi W + b
//   whitened      x        d      -1/(2 tau) |(x - mu_k) L_k|^2 + b_k
//
// with the precisions p and everything in W and b divided by tau. Where the means lie far from the origin, x and mu are
// counted from a common centre, which changes no logit but by rounding (natural_range.hpp).
#pragma once

#include <vector>

#include "gma/core/counts.hpp"
#include "gma/core/types.hpp"

namespace gma {

/// What a token is turned into before the matrix product.
enum class Features { linear, squared_norm, squares, whitened };

/// One factor of a compiled mixture. The same type holds the gradient with respect to it (weights, means and bias).
template <class S>
struct NaturalParameters {
  Features features = Features::linear;  ///< phi
  Matrix<S> weights;                     ///< W, D x K; whitened: the K factors L_k stacked, K*d x d
  Matrix<S> means;                       ///< whitened only: K x d
  RowVector<S> bias;                     ///< b, K
  S temperature = S(1);                  ///< tau
  S log_normalizer = S(0);               ///< the part of log p(x, k) that depends on neither token nor component
  Matrix<S> precisions;      ///< p: a row per component or one for all, a column per coordinate or one; not whitened
  RowVector<S> center;       ///< c: tokens and means are counted from it, if is_centered; not whitened
  bool is_centered = false;  ///< whether there is a center
  Matrix<S> transposed_weights;  ///< W^T, K x D, for the backward pass; not whitened

  Index dim = 0;  ///< d
  Index components() const { return bias.size(); }
};

/// A mixture ready for use: goes wherever a mixture goes in a forward verb, at no cost per call. It holds copies, so
/// compile again after a parameter changed.
template <class S>
struct CompiledMixture {
  using Scalar = S;

  std::vector<NaturalParameters<S>> factors;  ///< one, or those of a product mixture

  Index components() const {
    Index product = factors.empty() ? 0 : 1;
    for (const NaturalParameters<S>& factor : factors)
      product = detail::product_of_counts(product, factor.components());
    return product;
  }
  Index dim() const {
    Index sum = 0;
    for (const NaturalParameters<S>& factor : factors) sum = detail::sum_of_counts(sum, factor.dim);
    return sum;
  }
};

}  // namespace gma
