// SPDX-License-Identifier: MIT
// Reading: queries turn a memory into outputs, a tile of tokens at a time. The backward pass follows the forward.
#pragma once

#include <algorithm>

#include "gma/attention/gradients.hpp"
#include "gma/attention/memory.hpp"
#include "gma/attention/normalization.hpp"
#include "gma/attention/options.hpp"
#include "gma/attention/token_stream.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma {

/// (4)-(6): queries Nq x d read the memory; returns Nq x e. A slot or row without mass reads as zero. Cost
/// O(Nq K (D + e)). Throws std::invalid_argument on shapes that do not fit and on an empty memory.
template <class M, class Q, class MS>
Matrix<typename M::Scalar> read(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Memory<MS>& memory,
                                const Options& options = {});
/// The same into a caller's Nq x e matrix, block or map, with a caller's scratch memory.
template <class Out, class M, class Q, class MS>
void read_into(const Eigen::MatrixBase<Out>& out, const M& mixture, const Eigen::MatrixBase<Q>& queries,
               const Memory<MS>& memory, const Options& options, Workspace<typename M::Scalar>& workspace);

/// Gradients of read(): queries, memory and mixture. d_output is Nq x e. Cost about 2.5 reads.
template <class M, class Q, class MS, class D>
Gradients<M> read_backward(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Memory<MS>& memory,
                           const Eigen::MatrixBase<D>& d_output, const Options& options = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

template <class FeatureMap, class S>
void read_tokens(const FeatureMap& map, const TokenView<S>& queries, const Memory<S>& memory,
                 Normalization normalization, Index tile, const TokenSink<S>& out, Workspace<S>& workspace) {
  for (Index begin = 0; begin < queries.rows(); begin += tile) {
    typename Workspace<S>::Frame frame(workspace);
    const Index count = (std::min)(tile, queries.rows() - begin);
    Tile<S> q = workspace.take(count, map.components());
    evaluate(map, load_tile(queries, begin, count, workspace), q, workspace);
    coefficients(normalization, memory.mass.transpose().replicate(count, 1), q);
    Tile<S> y = out.tile(begin, count, workspace.take(count, out.cols()));
    product(q, memory.slots, y);
    out.store(begin, y);
  }
}

/// d_memory is added to; d_queries is assigned; the gradient of the natural parameters is added to `gradient`.
template <class FeatureMap, class S>
void read_tokens_backward(const FeatureMap& map, const TokenView<S>& queries, const Memory<S>& memory,
                          const TokenView<S>& d_output, Normalization normalization, Index tile, Matrix<S>& d_queries,
                          Memory<S>& d_memory, FeatureMap& gradient, Workspace<S>& workspace) {
  const Index K = map.components();
  for (Index begin = 0; begin < queries.rows(); begin += tile) {
    typename Workspace<S>::Frame frame(workspace);
    const Index count = (std::min)(tile, queries.rows() - begin);
    Tile<S> q = workspace.take(count, K), c = workspace.take(count, K);
    Tile<S> a = workspace.take(count, K), d_mass = workspace.take(count, K);
    const ConstTile<S> x = load_tile(queries, begin, count, workspace);
    const ConstTile<S> dy = load_tile(d_output, begin, count, workspace);
    const auto mass = memory.mass.transpose().replicate(count, 1);
    evaluate(map, x, q, workspace);
    c = q;
    coefficients(normalization, mass, c);
    product_transposed(dy, memory.slots, a);
    add_transposed_product(c, dy, as_tile(d_memory.slots));
    coefficients_backward(normalization, mass, q, a, d_mass);
    d_memory.mass += d_mass.colwise().sum().transpose();
    backward(map, x, q, a, rows(d_queries, begin, count), gradient, workspace);
  }
}

template <class S>
void check_readable(const char* function, const Memory<S>& memory, const CompiledMixture<S>& natural) {
  if (memory.empty()) {
    invalid_argument(function, "memory is empty, expected ", natural.components(),
                     " slots: write to it first, or start from gma::empty_memory");
  }
  check_memory(function, "memory", memory, natural.components(), memory.slots.cols());
}

}  // namespace detail

template <class Out, class M, class Q, class MS>
void read_into(const Eigen::MatrixBase<Out>& out, const M& mixture, const Eigen::MatrixBase<Q>& queries,
               const Memory<MS>& memory, const Options& options, Workspace<typename M::Scalar>& workspace) {
  using S = typename M::Scalar;
  detail::check_scalar<S, MS>();
  const CompiledMixture<S>& natural = detail::compiled("read", mixture);
  detail::check_options("read", options);
  detail::check_token_width("read", "queries", queries.cols(), natural.dim());
  detail::check_readable("read", memory, natural);
  detail::check_shape("read", "out", out.rows(), out.cols(), queries.rows(), memory.slots.cols(),
                      "queries x value width");
  detail::Evaluated<Q> q = queries.derived();
  const detail::TokenView<S> view(q);
  detail::read_tokens(natural, view, memory, options.normalization,
                      detail::tile_size(options, detail::default_tile, view.rows()),
                      detail::TokenSink<S>(detail::writable(out)), workspace);
}

template <class M, class Q, class MS>
Matrix<typename M::Scalar> read(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Memory<MS>& memory,
                                const Options& options) {
  Workspace<typename M::Scalar> workspace;
  Matrix<typename M::Scalar> out(queries.rows(), memory.slots.cols());
  read_into(out, mixture, queries, memory, options, workspace);
  return out;
}

template <class M, class Q, class MS, class D>
Gradients<M> read_backward(const M& mixture, const Eigen::MatrixBase<Q>& queries, const Memory<MS>& memory,
                           const Eigen::MatrixBase<D>& d_output, const Options& options) {
  using S = typename M::Scalar;
  detail::check_scalar<S, MS>();
  detail::check_has_parameters<M>();
  const CompiledMixture<S>& natural = detail::compiled("read_backward", mixture);
  detail::check_options("read_backward", options);
  detail::check_token_width("read_backward", "queries", queries.cols(), natural.dim());
  detail::check_readable("read_backward", memory, natural);
  detail::check_shape("read_backward", "d_output", d_output.rows(), d_output.cols(), queries.rows(),
                      memory.slots.cols(), "queries x value width");
  detail::Evaluated<Q> q = queries.derived();
  detail::Evaluated<D> dy = d_output.derived();
  Gradients<M> out;
  Workspace<S> workspace;
  CompiledMixture<S> gradient = detail::zeros_like(natural);
  out.queries.resize(queries.rows(), queries.cols());
  detail::set_zero(out.memory, natural.components(), memory.slots.cols());
  detail::read_tokens_backward(natural, detail::TokenView<S>(q), memory, detail::TokenView<S>(dy),
                               options.normalization, detail::tile_size(options, detail::default_tile, queries.rows()),
                               out.queries, out.memory, gradient, workspace);
  out.mixture = detail::pull_back(mixture, natural, gradient);
  return out;
}

}  // namespace gma
