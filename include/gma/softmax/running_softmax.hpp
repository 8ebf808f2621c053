// SPDX-License-Identifier: MIT
// A running softmax down the columns of a tile. Columns are queries and rows are keys: the largest score and the sum of
// a query are lanes, so nothing is reduced within a register. Softmax attention needs it; GMA does not.
#pragma once

#include <cmath>

#include "gma/core/types.hpp"
#include "gma/kernels/rows.hpp"

namespace gma::kernels {

namespace plain {

template <class S>
void running_softmax(Tile<S> scores, S* largest, S* sum, S* correction) {
  using std::exp;
  for (Index i = 0; i < scores.cols(); ++i) {
    S top = largest[i];
    for (Index j = 0; j < scores.rows(); ++j) top = scores(j, i) > top ? S(scores(j, i)) : top;
    correction[i] = exp(largest[i] - top);
    S total(0);
    for (Index j = 0; j < scores.rows(); ++j) {
      scores(j, i) = exp(scores(j, i) - top);
      total += scores(j, i);
    }
    sum[i] = correction[i] * sum[i] + total;
    largest[i] = top;
  }
}

}  // namespace plain

namespace packets {

/// Packets packets of columns from `begin` on, then the remaining columns.
template <int N, int Packets, class S>
void running_softmax(Tile<S> scores, S* largest, S* sum, S* correction, Index begin) {
  using P = Packet<S, N>;
  const Index stride = scores.outerStride();
  for (; begin + Index(Packets) * N <= scores.cols(); begin += Index(Packets) * N) {
    Registers<P, Packets> top, total;
    GMA_UNROLL
    for (int c = 0; c < Packets; ++c) top[c] = P::load(largest + begin + c * N);
    const S* row = scores.data() + begin;
    for (Index j = 0; j < scores.rows(); ++j, row += stride) {
      GMA_UNROLL
      for (int c = 0; c < Packets; ++c) top[c] = larger(P::load(row + c * N), top[c]);
    }
    GMA_UNROLL
    for (int c = 0; c < Packets; ++c) {
      exp_of_negative(P::load(largest + begin + c * N) - top[c]).store(correction + begin + c * N);
      top[c].store(largest + begin + c * N);
      total[c] = P::all(S(0));
    }
    S* at = scores.data() + begin;
    for (Index j = 0; j < scores.rows(); ++j, at += stride) {
      GMA_UNROLL
      for (int c = 0; c < Packets; ++c) {
        const P x = exp_of_negative(P::load(at + c * N) - top[c]);
        x.store(at + c * N);
        total[c] = total[c] + x;
      }
    }
    GMA_UNROLL
    for (int c = 0; c < Packets; ++c) {
      S* s = sum + begin + c * N;
      multiply_add(P::load(correction + begin + c * N), P::load(s), total[c]).store(s);
    }
  }
  if (begin == scores.cols()) return;
  if constexpr (Packets > 1) {
    running_softmax<N, 1>(scores, largest, sum, correction, begin);
  } else if constexpr (N * sizeof(S) > 16) {
    running_softmax<N / 2, 1>(scores, largest, sum, correction, begin);
  } else {
    const Index rest = scores.cols() - begin;
    plain::running_softmax(Tile<S>(scores.data() + begin, scores.rows(), rest, Eigen::OuterStride<>(stride)),
                           largest + begin, sum + begin, correction + begin);
  }
}

}  // namespace packets

/// The scores of more keys (rows) for the queries (columns) become exp(score - largest), where `largest` is over all
/// keys so far. `sum` is multiplied by `correction`; sums of earlier keys must be multiplied by it too. If a query has
/// seen no key, `largest` is minus infinity.
template <class S>
void running_softmax(Tile<S> scores, S* largest, S* sum, S* correction) {
  if constexpr (has_packets<S>) {
    packets::running_softmax<widest<S>, 4>(scores, largest, sum, correction, 0);
  } else {
    plain::running_softmax(scores, largest, sum, correction);
  }
}

}  // namespace gma::kernels
