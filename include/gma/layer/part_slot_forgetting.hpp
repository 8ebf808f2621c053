// SPDX-License-Identifier: MIT
// A part of the layer: the forgetting of every slot, of low rank R, one log-forgetting s <= 0 per token, key head and
// slot. Per head, with a of R numbers a token and the rates E = exp(rho), R x K:
//
//   a  = softplus(z)      s  = -a E                z: the logits of the projection, N x (H R); no bias, which rho gives
//   da = -ds E^T          dz = da sigmoid(z)       drho = -E o (a^T ds)
//
// The cache is s itself, HeadInputs::slot_log_forgetting, N x (H K). Without the part s is empty. Cost 2 N H R K
// operations forward, twice that backward.
#pragma once

#include "gma/core/checks.hpp"
#include "gma/core/elementwise.hpp"
#include "gma/layer/layer_rows.hpp"

namespace gma::detail {

template <class S>
struct SlotForgetting {
  const PassRows<S>& rows;

  bool is_there() const { return rows.shape.has(Projected::slot_forgetting); }

  void forward(const Matrix<S>& projected, const Matrix<S>& rates, Matrix<S>& s) const {
    if (!is_there()) return resize(s, 0, 0);
    const typename Workspace<S>::Frame frame(rows.workspace);
    const Index slots = rates.cols(), rank = rows.config.slot_forgetting_rank, heads = rows.shape.key_heads;
    Tile<S> amounts = take_logits(projected);
    const Tile<S> minus_e = minus_rates(rates);
    resize(s, projected.rows(), heads * slots);
    for_blocks(rows.executor, s.rows(), rows_of_task, [&](Index begin, Index count) {
      softplus(amounts.data() + begin * amounts.cols(), count * amounts.cols());
      for (Index h = 0; h < heads; ++h) {
        product(detail::rows(part(amounts, h * rank, rank), begin, count), detail::rows(minus_e, h * rank, rank),
                detail::rows(columns(s, h * slots, slots), begin, count));
      }
    });
    check(s);
  }

  /// Assigns the gradient of the logits, and adds that of rho.
  void backward(const Matrix<S>& projected, const Matrix<S>& rates, const Matrix<S>& ds, Matrix<S>& d_projected,
                Matrix<S>& d_rates) const {
    if (!is_there() || ds.rows() == 0) return;
    const typename Workspace<S>::Frame frame(rows.workspace);
    const Index slots = rates.cols(), rank = rows.config.slot_forgetting_rank, heads = rows.shape.key_heads;
    const Tile<S> minus_e = minus_rates(rates);
    Tile<S> amounts = take_logits(projected), slopes = take_logits(projected);
    Tile<S> transposed = rows.workspace.take(slots, rank), sums = rows.workspace.take(rates.rows(), slots);
    softplus(amounts.data(), amounts.size());
    sigmoid(slopes.data(), slopes.size());
    sums.setConstant(S(0));
    Tile<S> dz = logits(d_projected);
    for (Index h = 0; h < heads; ++h) {
      transposed = detail::rows(minus_e, h * rank, rank).transpose();
      const ConstTile<S> d = columns(ds, h * slots, slots);
      product(d, transposed, part(dz, h * rank, rank));
      const Tile<S> head_sums = detail::rows(sums, h * rank, rank);
      for (Index row = 0; row < ds.rows(); row += rows_of_block) {  // sums of two levels
        const Index now = (std::min)(rows_of_block, ds.rows() - row);
        add_transposed_product(detail::rows(part(amounts, h * rank, rank), row, now), detail::rows(d, row, now),
                               head_sums);
      }
    }
    dz = dz.cwiseProduct(slopes);
    d_rates += minus_e.cwiseProduct(sums);
  }

 private:
  static constexpr Index rows_of_block = 256;

  template <class M>
  auto logits(M& projected) const {
    const ColumnRange range = rows.shape.columns(Projected::slot_forgetting);
    return columns(projected, range.begin, range.count);
  }
  Tile<S> take_logits(const Matrix<S>& projected) const {
    const ConstTile<S> from = logits(projected);
    Tile<S> result = rows.workspace.take(from.rows(), from.cols());
    result = from;
    return result;
  }
  /// -E, H R x K.
  Tile<S> minus_rates(const Matrix<S>& rates) const {
    using std::exp;
    Tile<S> result = rows.workspace.take(rates.rows(), rates.cols());
    for (Index i = 0; i < rates.size(); ++i) result.data()[i] = -exp(rates.data()[i]);
    return result;
  }
  static Tile<S> part(const Tile<S>& tile, Index begin, Index count) {
    return Tile<S>(const_cast<S*>(tile.data()) + begin, tile.rows(), count, Eigen::OuterStride<>(tile.outerStride()));
  }
  /// Throws where a rate or a token has made NaN.
  static void check(const Matrix<S>& s) {
    for (Index i = 0; i < s.size(); ++i) {
      if (s.data()[i] <= S(0)) continue;
      invalid_argument("forward", "slot_log_forgetting is ", s.data()[i], " at token ", i / s.cols(),
                       " of the packed rows, expected a number <= 0: x or a parameter is not finite "
                       "(gma::validate(layer) finds such parameters)");
    }
  }
};

}  // namespace gma::detail
