// SPDX-License-Identifier: MIT
// Tokens to responsibilities, a tile at a time, and back. This is the feature map in front of the memory: evaluate()
// and backward() on a tile are all that the attention operators ask of a mixture.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/core/numeric.hpp"
#include "gma/core/operands.hpp"
#include "gma/core/tokens.hpp"
#include "gma/core/workspace.hpp"
#include "gma/kernels/products.hpp"
#include "gma/kernels/rows.hpp"
#include "gma/mixture/feature_map.hpp"
#include "gma/mixture/natural.hpp"

namespace gma {

/// (2): r_k(x) = softmax_k(log p(x, k) / tau) for every row of X, N x d. Returns N x K; rows are positive or zero and
/// sum to 1. Cost O(N K d), O(N K d^2) for Full, O(N (sum K_m d_m + K)) for a product mixture. Accuracy: some eps times
/// the largest |logit|; |x|^2 must be representable. Throws std::invalid_argument on shapes that do not fit.
template <class M>
Matrix<Scalar<M>> responsibilities(const M& mixture, const In<Scalar<M>>& tokens);

/// Gradients of a scalar loss on responsibilities.
template <class M>
struct ResponsibilityGradients {
  Matrix<Scalar<M>> tokens;  ///< N x d
  M mixture;                 ///< same type as the parameters
};

/// Gradients of responsibilities() for any loss: X is N x d, d_responsibilities the N x K gradient of its result.
/// With l the tempered logits and r the responsibilities, dl = r * (dr - sum_k r_k dr_k). Responsibilities are computed
/// again, a tile at a time. Cost about 3 times responsibilities(); extra memory does not grow with N. M holds
/// parameters: it is not a CompiledMixture. Throws std::invalid_argument on shapes that do not fit.
template <class M>
ResponsibilityGradients<M> responsibilities_backward(const M& mixture, const In<Scalar<M>>& tokens,
                                                     const In<Scalar<M>>& d_responsibilities);

/// log p(x) = log sum_k p(x, k), natural logarithm, every constant included, not tempered; the sum over the factors for
/// a product mixture. X is N x d; returns N. Cost and errors as responsibilities().
template <class M>
Vector<Scalar<M>> log_density(const M& mixture, const In<Scalar<M>>& tokens);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Compiled form of any mixture, kept in the workspace, after its shapes were checked on behalf of `function`.
template <class M>
const FeatureMapOf<M>& compiled(const char* function, const M& mixture, Workspace<typename M::Scalar>& workspace) {
  if constexpr (is_feature_map<M>) {
    static_assert(check_feature_map<M>());
    mixture.check(function);
    return mixture;
  } else {
    check_parameters(function, mixture);
    FeatureMapOf<M>& result = workspace.template keep<FeatureMapOf<M>>();
    compile_into(result, mixture);
    return result;
  }
}
template <class S>
const CompiledMixture<S>& compiled(const char* function, const CompiledMixture<S>& mixture, Workspace<S>&) {
  if (mixture.components() < 1 || mixture.dim() < 1) {
    invalid_argument(function, "mixture is empty, expected the result of gma::compile");
  }
  check_slots(function, "mixture", mixture.components());
  return mixture;
}

/// Columns [begin, begin + count) of a tile: the part of a token that one factor of a product mixture sees.
template <class S>
ConstTile<S> columns(const ConstTile<S>& tile, Index begin, Index count) {
  return ConstTile<S>(tile.data() + begin, tile.rows(), count, Eigen::OuterStride<>(tile.outerStride()));
}
template <class S>
Tile<S> columns(Tile<S> tile, Index begin, Index count) {
  return Tile<S>(tile.data() + begin, tile.rows(), count, Eigen::OuterStride<>(tile.outerStride()));
}

/// |x_t|^2, summed in an order that does not depend on where the row lies.
template <class T>
typename T::Scalar squared_norm(const T& tile, Index t) {
  const typename T::Scalar* row = tile.data() + t * tile.outerStride();
  return kernels::dot(row, row, tile.cols());
}

/// phi(x), T x D, for the families whose logits are phi W + b; its first d columns are x, less the centre if there is
/// one. Linear features are no more than that, and without a centre they are the tokens themselves.
template <class S>
ConstTile<S> features(const NaturalParameters<S>& natural, const ConstTile<S>& x, Workspace<S>& workspace) {
  if (natural.features == Features::linear && !natural.is_centered) return x;
  const Index d = natural.dim;
  Tile<S> phi = workspace.take(x.rows(), natural.weights.rows());
  if (natural.is_centered) {
    phi.leftCols(d) = x.rowwise() - natural.center;
  } else {
    phi.leftCols(d) = x;
  }
  if (natural.features == Features::squares) {
    phi.rightCols(d) = phi.leftCols(d).cwiseAbs2();
  } else if (natural.features == Features::squared_norm) {
    for (Index t = 0; t < x.rows(); ++t) phi(t, d) = squared_norm(columns(phi, 0, d), t);
  }
  return ConstTile<S>(phi.data(), phi.rows(), phi.cols(), Eigen::OuterStride<>(phi.outerStride()));
}

/// Tempered logits of one factor: x is T x d, `logits` T x K.
template <class S>
void logits(const NaturalParameters<S>& natural, const ConstTile<S>& x, Tile<S> logits, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  if (natural.features != Features::whitened) {
    product_plus(features(natural, x, workspace), natural.weights, natural.bias.data(), logits);
    return;
  }
  const Index d = natural.dim;
  const S half_beta = S(-0.5) / natural.temperature;
  Tile<S> centered = workspace.take(x.rows(), d), whitened = workspace.take(x.rows(), d);
  for (Index k = 0; k < natural.components(); ++k) {
    centered = x.rowwise() - natural.means.row(k);
    product(centered, natural.weights.middleRows(k * d, d), whitened);
    for (Index t = 0; t < x.rows(); ++t) logits(t, k) = squared_norm(whitened, t) * half_beta + natural.bias(k);
  }
}

/// From d_logits, T x K: d_x (T x d, or T x 0: not wanted) is assigned, the gradient of W, b, mu is added to `gradient`
/// (null: not wanted).
template <class S>
void logits_backward(const NaturalParameters<S>& natural, const ConstTile<S>& x, const Tile<S>& d_logits, Tile<S> d_x,
                     NaturalParameters<S>* gradient, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const Index d = natural.dim;
  if (gradient != nullptr) kernels::add_column_sums(d_logits, gradient->bias.data());
  if (natural.features != Features::whitened) {
    const ConstTile<S> phi = features(natural, x, workspace);
    if (gradient != nullptr) add_transposed_product(phi, d_logits, as_tile(gradient->weights));
    if (d_x.cols() == 0) return;
    if (natural.features == Features::linear) {
      product(d_logits, natural.transposed_weights, d_x);
      return;
    }
    Tile<S> d_phi = workspace.take(x.rows(), natural.weights.rows());
    product(d_logits, natural.transposed_weights, d_phi);
    if (natural.features == Features::squares) {
      d_x = d_phi.leftCols(d) + phi.leftCols(d).cwiseProduct(d_phi.rightCols(d)) * S(2);
    } else {
      d_x = d_phi.leftCols(d) + (d_phi.col(d) * S(2)).asDiagonal() * phi.leftCols(d);
    }
    return;
  }
  const S minus_beta = S(-1) / natural.temperature;
  Tile<S> centered = workspace.take(x.rows(), d), d_whitened = workspace.take(x.rows(), d);
  Tile<S> d_centered = workspace.take(x.rows(), d);
  d_x.setZero();
  for (Index k = 0; k < natural.components(); ++k) {
    const ConstTile<S> lower = as_tile(natural.weights.middleRows(k * d, d));
    centered = x.rowwise() - natural.means.row(k);
    product(centered, lower, d_whitened);
    d_whitened.array().colwise() *= d_logits.col(k).array() * minus_beta;
    if (gradient != nullptr) add_transposed_product(centered, d_whitened, rows(gradient->weights, k * d, d));
    product_transposed(d_whitened, lower, d_centered);
    if (d_x.cols() != 0) d_x += d_centered;
    if (gradient != nullptr) gradient->means.row(k) -= d_centered.colwise().sum();
  }
}

/// out += what log p(x, k) adds to the logits of one factor, untempered: the same for all components.
template <class S, class Out>
void add_token_term(const NaturalParameters<S>& natural, const ConstTile<S>& x, Out&& out, Workspace<S>& workspace) {
  out.array() += natural.log_normalizer;
  if (natural.features != Features::linear) return;
  const Matrix<S>& p = natural.precisions;
  const ConstTile<S> phi = features(natural, x, workspace);
  if (p.cols() == natural.dim) {
    out.noalias() -= phi.cwiseAbs2() * (p.row(0).transpose() * S(0.5));
  } else {
    out -= phi.rowwise().squaredNorm() * (p(0, 0) * S(0.5));
  }
}

/// The responsibilities of every factor side by side, T x sum K_m, in factor order.
template <class S>
Tile<S> factor_responsibilities(const CompiledMixture<S>& mixture, const ConstTile<S>& x, Workspace<S>& workspace) {
  Index width = 0, from = 0, to = 0;
  for (const NaturalParameters<S>& factor : mixture.factors) width += factor.components();
  Tile<S> parts = workspace.take(x.rows(), width);
  for (const NaturalParameters<S>& factor : mixture.factors) {
    Tile<S> part = columns(parts, to, factor.components());
    logits(factor, columns(x, from, factor.dim), part, workspace);
    kernels::softmax_rows(part);
    from += factor.dim;
    to += factor.components();
  }
  return parts;
}

/// r_1 (x) r_2 (x) ... of the first `count` factors, whose responsibilities stand side by side in `parts`, into `out`.
/// Returns its size.
template <class S>
Index outer_products(const CompiledMixture<S>& mixture, std::size_t count, const S* parts, S* out) {
  Index size = mixture.factors.front().components();
  std::copy_n(parts, size, out);
  for (std::size_t m = 1; m < count; ++m) {
    parts += mixture.factors[m - 1].components();
    kernels::outer_product(out, size, parts, mixture.factors[m].components(), out);
    size *= mixture.factors[m].components();
  }
  return size;
}

/// Responsibilities of a tile: x is T x d, r is T x K. Those of a product mixture are formed from its factors here.
template <class S>
void evaluate(const CompiledMixture<S>& mixture, const ConstTile<S>& x, Tile<S> r, Workspace<S>& workspace) {
  if (mixture.factors.size() == 1) {
    logits(mixture.factors.front(), x, r, workspace);
    kernels::softmax_rows(r);
    return;
  }
  typename Workspace<S>::Frame frame(workspace);
  const Tile<S> parts = factor_responsibilities(mixture, x, workspace);
  for (Index t = 0; t < x.rows(); ++t) {
    outer_products(mixture, mixture.factors.size(), parts.data() + t * parts.outerStride(),
                   r.data() + t * r.outerStride());
  }
}

/// Contracts the gradient of a product's row, d_r (K, used up), with the other factors' responsibilities: d_parts are
/// assigned, side by side as `parts` are. From the last factor to the first; `prefix` holds K / K_M numbers. O(K).
template <class S>
void product_row_backward(const CompiledMixture<S>& mixture, const S* parts, S* d_r, S* prefix, S* d_parts) {
  Index end = 0;
  for (const NaturalParameters<S>& factor : mixture.factors) end += factor.components();
  for (std::size_t m = mixture.factors.size() - 1; m > 0; --m) {
    const Index size = mixture.factors[m].components();
    end -= size;
    const Index before = outer_products(mixture, m, parts, prefix);
    kernels::contract(prefix, before, parts + end, size, d_r, d_parts + end);
  }
  std::copy_n(d_r, mixture.factors.front().components(), d_parts);
}

/// Backward of evaluate(): r is what it returned, d_r (T x K) is overwritten; d_x (T x d, or T x 0: not wanted) is
/// assigned and the gradient of the natural parameters is added to `gradient` (without factors: not wanted).
template <class S>
void backward(const CompiledMixture<S>& mixture, const ConstTile<S>& x, const Tile<S>& r, Tile<S> d_r, Tile<S> d_x,
              CompiledMixture<S>& gradient, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const bool wants_parameters = !gradient.factors.empty(), wants_tokens = d_x.cols() != 0;
  if (!wants_parameters && !wants_tokens) return;
  if (mixture.factors.size() == 1) {
    kernels::softmax_backward_rows(r, d_r);
    logits_backward(mixture.factors.front(), x, d_r, d_x, wants_parameters ? &gradient.factors.front() : nullptr,
                    workspace);
    return;
  }
  const Tile<S> parts = factor_responsibilities(mixture, x, workspace);
  Tile<S> d_parts = workspace.take(x.rows(), parts.cols()), prefix = workspace.take(1, r.cols());
  for (Index t = 0; t < x.rows(); ++t) {
    product_row_backward(mixture, parts.row(t).data(), d_r.row(t).data(), prefix.data(), d_parts.row(t).data());
  }
  Index from = 0, to = 0;
  for (std::size_t m = 0; m < mixture.factors.size(); ++m) {
    const NaturalParameters<S>& factor = mixture.factors[m];
    const Tile<S> d_part = columns(d_parts, to, factor.components());
    kernels::softmax_backward_rows(columns(parts, to, factor.components()), d_part);
    logits_backward(factor, columns(x, from, factor.dim), d_part, wants_tokens ? columns(d_x, from, factor.dim) : d_x,
                    wants_parameters ? &gradient.factors[m] : nullptr, workspace);
    from += factor.dim;
    to += factor.components();
  }
}

/// log p(x) of a tile, the sum over the factors.
template <class S, class Out>
void tile_log_density(const CompiledMixture<S>& mixture, const ConstTile<S>& x, Out&& out, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  Tile<S> part = workspace.take(x.rows(), 1);
  out.setZero();
  Index column = 0;
  for (const NaturalParameters<S>& factor : mixture.factors) {
    const ConstTile<S> x_part = columns(x, column, factor.dim);
    Tile<S> joint = workspace.take(x.rows(), factor.components());
    logits(factor, x_part, joint, workspace);
    joint *= factor.temperature;
    log_sum_exp_rows(joint, part.col(0));
    out += part.col(0);
    add_token_term(factor, x_part, out, workspace);
    column += factor.dim;
  }
}

/// Tokens in a tile where nothing depends on their order: whole register blocks, and what a tile needs stays in cache.
inline constexpr Index default_tile = 96;

inline void check_token_width(const char* function, const char* argument, Index cols, Index dim) {
  check_size(function, argument, "columns", cols, dim, "the mixture's dim");
}

/// evaluate_tile(begin, x, workspace) for every tile of X after the checks that responsibilities() and log_density()
/// share.
template <class S, class F>
void for_each_tile(const char* function, const CompiledMixture<S>& natural, const TokenView<S>& view,
                   Workspace<S>& workspace, F&& evaluate_tile) {
  check_token_width(function, "X", view.cols(), natural.dim());
  for (Index begin = 0; begin < view.rows(); begin += default_tile) {
    typename Workspace<S>::Frame frame(workspace);
    const Index count = (std::min)(default_tile, view.rows() - begin);
    evaluate_tile(begin, view.tile(begin, count, workspace.take(count, view.cols())));
  }
}

/// A part of the gradient of the natural parameters, which is summed from zero: kept in the workspace.
template <class FeatureMap>
struct PartOfGradient {
  FeatureMap part;
};

/// Backward of evaluate() over N tokens: load_tile(begin, count) gives their rows, fill(begin, r, d_r) the gradient of
/// their responsibilities r. d_tokens is assigned, the gradient of the natural parameters added to `gradient`, in two
/// levels of summation.
template <class S, class Load, class Fill>
void backward_tiles(const CompiledMixture<S>& natural, Index count, Load&& load_tile, Fill&& fill, Matrix<S>& d_tokens,
                    CompiledMixture<S>& gradient, Workspace<S>& workspace) {
  constexpr Index block = 16 * default_tile;
  CompiledMixture<S>& part = workspace.template keep<PartOfGradient<CompiledMixture<S>>>().part;
  resize(d_tokens, count, natural.dim());
  for (Index start = 0; start < count; start += block) {
    set_zero_like(part, natural);
    const Index end = (std::min)(count, start + block);
    for (Index begin = start; begin < end; begin += default_tile) {
      typename Workspace<S>::Frame frame(workspace);
      const ConstTile<S> x = load_tile(begin, (std::min)(default_tile, end - begin));
      Tile<S> r = workspace.take(x.rows(), natural.components()), d_r = workspace.take(x.rows(), natural.components());
      evaluate(natural, x, r, workspace);
      fill(begin, r, d_r);
      backward(natural, x, r, d_r, rows(d_tokens, begin, x.rows()), part, workspace);
    }
    add_gradient(gradient, part);
  }
}

/// The accumulator of the gradient of the natural parameters, kept in the workspace, set to zero.
template <class FeatureMap>
struct WholeGradient {
  FeatureMap sum;
};
template <class FeatureMap, class S>
FeatureMap& zero_gradient(const FeatureMap& map, Workspace<S>& workspace) {
  FeatureMap& gradient = workspace.template keep<WholeGradient<FeatureMap>>().sum;
  set_zero_like(gradient, map);
  return gradient;
}

}  // namespace detail

template <class M>
Matrix<Scalar<M>> responsibilities(const M& mixture, const In<Scalar<M>>& tokens) {
  using S = Scalar<M>;
  Workspace<S> workspace;
  const CompiledMixture<S>& natural = detail::compiled("responsibilities", mixture, workspace);
  Matrix<S> result(tokens.rows(), natural.components());
  detail::for_each_tile<S>("responsibilities", natural, tokens, workspace, [&](Index begin, const ConstTile<S>& x) {
    detail::evaluate(natural, x, detail::rows(result, begin, x.rows()), workspace);
  });
  return result;
}

template <class M>
ResponsibilityGradients<M> responsibilities_backward(const M& mixture, const In<Scalar<M>>& tokens,
                                                     const In<Scalar<M>>& d_responsibilities) {
  using S = Scalar<M>;
  static_assert(!std::is_same_v<M, CompiledMixture<S>>,
                "gma: a backward verb needs the mixture's parameters, not a compiled mixture");
  constexpr const char* function = "responsibilities_backward";
  Workspace<S> workspace;
  const CompiledMixture<S>& natural = detail::compiled(function, mixture, workspace);
  detail::check_token_width(function, "X", tokens.cols(), natural.dim());
  detail::check_shape(function, "d_responsibilities", d_responsibilities.rows(), d_responsibilities.cols(),
                      tokens.rows(), natural.components(), "tokens x components");
  const detail::TokenView<S>&rows = tokens, &d_rows = d_responsibilities;
  CompiledMixture<S>& gradient = detail::zero_gradient(natural, workspace);
  const auto load = [&](Index begin, Index count) {
    return rows.tile(begin, count, workspace.take(count, rows.cols()));
  };
  const auto fill = [&](Index begin, const Tile<S>& r, Tile<S> d_r) {
    const ConstTile<S> given = d_rows.tile(begin, r.rows(), d_r);
    if (given.data() != d_r.data()) d_r = given;
  };
  ResponsibilityGradients<M> out;
  detail::backward_tiles(natural, rows.rows(), load, fill, out.tokens, gradient, workspace);
  detail::pull_back(mixture, natural, gradient, out.mixture);
  return out;
}

template <class M>
Vector<Scalar<M>> log_density(const M& mixture, const In<Scalar<M>>& tokens) {
  using S = Scalar<M>;
  Workspace<S> workspace;
  const CompiledMixture<S>& natural = detail::compiled("log_density", mixture, workspace);
  Vector<S> result(tokens.rows());
  detail::for_each_tile<S>("log_density", natural, tokens, workspace, [&](Index begin, const ConstTile<S>& x) {
    detail::tile_log_density(natural, x, result.segment(begin, x.rows()), workspace);
  });
  return result;
}

}  // namespace gma
