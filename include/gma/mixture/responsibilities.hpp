// SPDX-License-Identifier: MIT
// Tokens to responsibilities, a tile at a time, and back. This is the feature map in front of the memory: evaluate()
// and backward() on a tile are all that the attention operators ask of a mixture.
#pragma once

#include <algorithm>
#include <vector>

#include "gma/core/checks.hpp"
#include "gma/core/numeric.hpp"
#include "gma/core/products.hpp"
#include "gma/core/tokens.hpp"
#include "gma/core/workspace.hpp"
#include "gma/mixture/natural.hpp"

namespace gma {

/// (2): r_k(x) = softmax_k(log p(x, k) / tau) for every row of X, N x d. Returns N x K; rows are positive or zero and
/// sum to 1. Cost O(N K d), O(N K d^2) for Full, O(N (sum K_m d_m + K)) for a product mixture. Accuracy: some eps times
/// the largest |logit|; |x|^2 must be representable. Throws std::invalid_argument on shapes that do not fit.
template <class M, class X>
Matrix<typename M::Scalar> responsibilities(const M& mixture, const Eigen::MatrixBase<X>& tokens);

/// log p(x) = log sum_k p(x, k), natural logarithm, every constant included, not tempered; the sum over the factors for
/// a product mixture. X is N x d; returns N. Cost and errors as responsibilities().
template <class M, class X>
Vector<typename M::Scalar> log_density(const M& mixture, const Eigen::MatrixBase<X>& tokens);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Compiled form of any mixture after its shapes were checked on behalf of `function`.
template <class M>
CompiledMixture<typename M::Scalar> compiled(const char* function, const M& mixture) {
  check_parameters(function, mixture);
  return compile(mixture);
}
template <class S>
const CompiledMixture<S>& compiled(const char* function, const CompiledMixture<S>& mixture) {
  if (mixture.components() < 1 || mixture.dim() < 1) {
    invalid_argument(function, "mixture is empty, expected the result of gma::compile");
  }
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

/// phi(x), T x D, for the families whose logits are phi W + b. Linear features are the tokens themselves.
template <class S>
ConstTile<S> features(const NaturalParameters<S>& natural, const ConstTile<S>& x, Workspace<S>& workspace) {
  if (natural.features == Features::linear) return x;
  const Index d = natural.dim;
  Tile<S> phi = workspace.take(x.rows(), natural.weights.rows());
  phi.leftCols(d) = x;
  if (natural.features == Features::squares) {
    phi.rightCols(d) = x.cwiseAbs2();
  } else {
    phi.col(d) = x.rowwise().squaredNorm();
  }
  return ConstTile<S>(phi.data(), phi.rows(), phi.cols(), Eigen::OuterStride<>(phi.outerStride()));
}

/// Tempered logits of one factor: x is T x d, `logits` T x K.
template <class S>
void logits(const NaturalParameters<S>& natural, const ConstTile<S>& x, Tile<S> logits, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  if (natural.features != Features::whitened) {
    product(features(natural, x, workspace), natural.weights, logits);
    logits.rowwise() += natural.bias;
    return;
  }
  const Index d = natural.dim;
  const S half_beta = S(-0.5) / natural.temperature;
  Tile<S> centered = workspace.take(x.rows(), d), whitened = workspace.take(x.rows(), d);
  for (Index k = 0; k < natural.components(); ++k) {
    centered = x.rowwise() - natural.means.row(k);
    product(centered, natural.weights.middleRows(k * d, d), whitened);
    logits.col(k) = (whitened.rowwise().squaredNorm() * half_beta).array() + natural.bias(k);
  }
}

/// From d_logits, T x K: d_x (T x d) is assigned, the gradient of W, b, mu is added to `gradient`.
template <class S>
void logits_backward(const NaturalParameters<S>& natural, const ConstTile<S>& x, const Tile<S>& d_logits, Tile<S> d_x,
                     NaturalParameters<S>& gradient, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  const Index d = natural.dim;
  gradient.bias += d_logits.colwise().sum();
  if (natural.features != Features::whitened) {
    const ConstTile<S> phi = features(natural, x, workspace);
    add_transposed_product(phi, d_logits, as_tile(gradient.weights));
    if (natural.features == Features::linear) {
      product_transposed(d_logits, natural.weights, d_x);
      return;
    }
    Tile<S> d_phi = workspace.take(x.rows(), natural.weights.rows());
    product_transposed(d_logits, natural.weights, d_phi);
    if (natural.features == Features::squares) {
      d_x = d_phi.leftCols(d) + x.cwiseProduct(d_phi.rightCols(d)) * S(2);
    } else {
      d_x = d_phi.leftCols(d) + (d_phi.col(d) * S(2)).asDiagonal() * x;
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
    add_transposed_product(centered, d_whitened, rows(gradient.weights, k * d, d));
    product_transposed(d_whitened, lower, d_centered);
    d_x += d_centered;
    gradient.means.row(k) -= d_centered.colwise().sum();
  }
}

/// d_logits = r (d_r - sum r d_r), row by row; d_r becomes d_logits.
template <class S>
void softmax_backward(const Tile<S>& r, Tile<S> d_r) {
  for (Index i = 0; i < r.rows(); ++i) {
    const S mean = r.row(i).dot(d_r.row(i));
    d_r.row(i) = r.row(i).array() * (d_r.row(i).array() - mean);
  }
}

/// Row of r_1 (x) r_2 (x) ... : the first factor's responsibilities stand in row[0, K_1); extends them by one factor.
template <class S>
void extend_product(S* row, Index size, const S* factor, Index factor_size) {
  const Eigen::Map<const RowVector<S>> r(factor, factor_size);
  for (Index i = size - 1; i >= 0; --i) {
    const S prefix = row[i];
    Eigen::Map<RowVector<S>>(row + i * factor_size, factor_size) = r * prefix;
  }
}

/// The responsibilities of every factor, T x K_m each, in factor order.
template <class S>
std::vector<Tile<S>> factor_responsibilities(const CompiledMixture<S>& mixture, const ConstTile<S>& x,
                                             Workspace<S>& workspace) {
  std::vector<Tile<S>> parts;
  parts.reserve(mixture.factors.size());
  Index column = 0;
  for (const NaturalParameters<S>& factor : mixture.factors) {
    parts.push_back(workspace.take(x.rows(), factor.components()));
    logits(factor, columns(x, column, factor.dim), parts.back(), workspace);
    softmax_rows(parts.back());
    column += factor.dim;
  }
  return parts;
}

/// Responsibilities of a tile: x is T x d, r is T x K.
template <class S>
void evaluate(const CompiledMixture<S>& mixture, const ConstTile<S>& x, Tile<S> r, Workspace<S>& workspace) {
  if (mixture.factors.size() == 1) {
    logits(mixture.factors.front(), x, r, workspace);
    softmax_rows(r);
    return;
  }
  typename Workspace<S>::Frame frame(workspace);
  const std::vector<Tile<S>> parts = factor_responsibilities(mixture, x, workspace);
  for (Index t = 0; t < x.rows(); ++t) {
    S* row = r.row(t).data();
    Index size = parts.front().cols();
    Eigen::Map<RowVector<S>>(row, size) = parts.front().row(t);
    for (std::size_t m = 1; m < parts.size(); ++m) {
      extend_product(row, size, parts[m].row(t).data(), parts[m].cols());
      size *= parts[m].cols();
    }
  }
}

/// Where the partial products r_1 (x) ... (x) r_m of one row lie in scratch, for m < M (the whole is not needed).
struct PrefixLayout {
  std::vector<Index> size, start;

  template <class S>
  explicit PrefixLayout(const std::vector<Tile<S>>& parts) : size(1, parts.front().cols()), start(1, 0) {
    for (std::size_t m = 1; m + 1 < parts.size(); ++m) {
      start.push_back(start.back() + size.back());
      size.push_back(size.back() * parts[m].cols());
    }
  }
  Index total() const { return start.back() + size.back(); }
};

/// Contracts the gradient of a product's row t with the other factors: row t of d_r (T x K) is overwritten, row t of
/// every d_parts[m] is assigned. Cost O(K).
template <class S>
void product_row_backward(const std::vector<Tile<S>>& parts, Index t, const PrefixLayout& layout, Tile<S> d_r,
                          Tile<S> prefixes, std::vector<Tile<S>>& d_parts) {
  S* scratch = prefixes.data();
  Eigen::Map<RowVector<S>>(scratch, layout.size[0]) = parts[0].row(t);
  for (std::size_t m = 1; m < layout.size.size(); ++m) {
    std::copy_n(scratch + layout.start[m - 1], layout.size[m - 1], scratch + layout.start[m]);
    extend_product(scratch + layout.start[m], layout.size[m - 1], parts[m].row(t).data(), parts[m].cols());
  }
  S* d_product = d_r.row(t).data();
  for (std::size_t m = parts.size() - 1; m > 0; --m) {
    const Index before = layout.size[m - 1];
    const Eigen::Map<Matrix<S>> d(d_product, before, parts[m].cols());
    const Eigen::Map<const RowVector<S>> prefix(scratch + layout.start[m - 1], before);
    d_parts[m].row(t).noalias() = prefix * d;
    for (Index i = 0; i < before; ++i)
      d_product[i] = d.row(i).dot(parts[m].row(t));  // in place: row i starts at or after i
  }
  d_parts[0].row(t) = Eigen::Map<RowVector<S>>(d_product, layout.size[0]);
}

/// Backward of evaluate(): r is what it returned, d_r (T x K) is overwritten; d_x (T x d) is assigned and the gradient
/// of the natural parameters is added to `gradient`.
template <class S>
void backward(const CompiledMixture<S>& mixture, const ConstTile<S>& x, const Tile<S>& r, Tile<S> d_r, Tile<S> d_x,
              CompiledMixture<S>& gradient, Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  if (mixture.factors.size() == 1) {
    softmax_backward(r, d_r);
    logits_backward(mixture.factors.front(), x, d_r, d_x, gradient.factors.front(), workspace);
    return;
  }
  const std::vector<Tile<S>> parts = factor_responsibilities(mixture, x, workspace);
  std::vector<Tile<S>> d_parts;
  d_parts.reserve(parts.size());
  for (const Tile<S>& part : parts) d_parts.push_back(workspace.take(part.rows(), part.cols()));
  const PrefixLayout layout(parts);
  Tile<S> prefixes = workspace.take(1, layout.total());
  for (Index t = 0; t < x.rows(); ++t) product_row_backward(parts, t, layout, d_r, prefixes, d_parts);
  Index column = 0;
  for (std::size_t m = 0; m < parts.size(); ++m) {
    const NaturalParameters<S>& factor = mixture.factors[m];
    softmax_backward(parts[m], d_parts[m]);
    logits_backward(factor, columns(x, column, factor.dim), d_parts[m], columns(d_x, column, factor.dim),
                    gradient.factors[m], workspace);
    column += factor.dim;
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
    out.array() += factor.log_normalizer;
    if (factor.features == Features::linear) {
      out.noalias() -= x_part.cwiseAbs2() * (factor.token_precisions.transpose() * S(0.5));
    }
    column += factor.dim;
  }
}

/// Tokens in a tile where nothing depends on their order.
inline constexpr Index default_tile = 128;

inline void check_token_width(const char* function, const char* argument, Index cols, Index dim) {
  check_size(function, argument, "columns", cols, dim, "the mixture's dim");
}

/// evaluate_tile(begin, x, workspace) for every tile of X after the checks that responsibilities() and log_density()
/// share.
template <class S, class X, class F>
void for_each_tile(const char* function, const CompiledMixture<S>& natural, const Eigen::MatrixBase<X>& tokens,
                   F&& evaluate_tile) {
  check_token_width(function, "X", tokens.cols(), natural.dim());
  Evaluated<X> x = tokens.derived();
  const TokenView<S> view(x);
  Workspace<S> workspace;
  for (Index begin = 0; begin < view.rows(); begin += default_tile) {
    typename Workspace<S>::Frame frame(workspace);
    const Index count = (std::min)(default_tile, view.rows() - begin);
    evaluate_tile(begin, view.tile(begin, count, workspace.take(count, view.cols())), workspace);
  }
}

}  // namespace detail

template <class M, class X>
Matrix<typename M::Scalar> responsibilities(const M& mixture, const Eigen::MatrixBase<X>& tokens) {
  using S = typename M::Scalar;
  const CompiledMixture<S>& natural = detail::compiled("responsibilities", mixture);
  Matrix<S> result(tokens.rows(), natural.components());
  detail::for_each_tile("responsibilities", natural, tokens,
                        [&](Index begin, const ConstTile<S>& x, Workspace<S>& workspace) {
                          detail::evaluate(natural, x, detail::rows(result, begin, x.rows()), workspace);
                        });
  return result;
}

template <class M, class X>
Vector<typename M::Scalar> log_density(const M& mixture, const Eigen::MatrixBase<X>& tokens) {
  using S = typename M::Scalar;
  const CompiledMixture<S>& natural = detail::compiled("log_density", mixture);
  Vector<S> result(tokens.rows());
  detail::for_each_tile("log_density", natural, tokens,
                        [&](Index begin, const ConstTile<S>& x, Workspace<S>& workspace) {
                          detail::tile_log_density(natural, x, result.segment(begin, x.rows()), workspace);
                        });
  return result;
}

}  // namespace gma
