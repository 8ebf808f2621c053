// SPDX-License-Identifier: MIT
// The gradient of the forgetting of a causal stream: one number per token, from the last token to the first.
#pragma once

#include <limits>

#include "gma/attention/memory_tiles.hpp"

namespace gma::detail {

/// The gradient of the forgetting, from the last token to the first. With E_t = <M_t, dM_t> + <m_t, dm_t>,
///   dg_t = E_t - P_t . dP_t          E_{t-1} = dg_t + what query t - 1 reads.
/// E may be carried from token to token, or begin anew at a tile from the memory and its gradient. Fast forgetting
/// makes the first inaccurate (E becomes small, the terms do not), a memory much heavier than the tokens makes the
/// second so (E is a small difference): the sum begins anew where its terms would be the smaller ones.
template <class S>
class ForgettingEnergy {
 public:
  using W = Wide<S>;

  /// Before the last token.
  void start(const MemoryTiles<S>& memory, const LongMemory<S>& gradient) {
    energy_ = W(0);
    squares_ = square_of(W((std::numeric_limits<double>::max)()));
    restart(memory, gradient);
  }
  /// Between two tiles.
  void restart(const MemoryTiles<S>& memory, const LongMemory<S>& gradient) {
    W sum(0), squares(0);
    add_products(memory.slots, gradient.memory.slots, gradient.remainder.slots, gradient.has_remainder, sum, squares);
    add_products(memory.mass, gradient.memory.mass, gradient.remainder.mass, gradient.has_remainder, sum, squares);
    if (!(squares <= squares_)) return;
    energy_ = sum;
    squares_ = squares;
  }
  /// Token t: the result is E_t - P_t . dP_t, and E moves on to it; `is_restart`: nothing from before t is left.
  W step(const W& read, const W& pull, bool is_restart) {
    energy_ += read - pull;
    squares_ += square_of(read) + square_of(pull);
    if (is_restart) energy_ = squares_ = W(0);
    return energy_;
  }

 private:
  static W square_of(const W& x) { return x > W(1e150) ? x : W(x * x); }
  /// Row by row: the squares are those of the rows' sums.
  template <class Numbers>
  static void add_products(const Numbers& a, const Numbers& b, const Numbers& b_low, bool b_is_long, W& sum,
                           W& squares) {
    for (Index i = 0; i < a.rows(); ++i) {
      const S* row = a.data() + i * a.cols();
      W product = static_cast<W>(kernels::dot(row, b.data() + i * a.cols(), a.cols()));
      if (b_is_long) product += static_cast<W>(kernels::dot(row, b_low.data() + i * a.cols(), a.cols()));
      sum += product;
      squares += product * product;
    }
  }

  W energy_{0}, squares_{0};
};

}  // namespace gma::detail
