// SPDX-License-Identifier: MIT
// The gradient of the forgetting of a causal stream: one number per token, from the last token to the first.
#pragma once

#include <limits>

#include "gma/attention/gradients.hpp"

namespace gma::detail {

/// Of one token: what its query reads, P_t . dP_t, and whether nothing from before it is left.
template <class S>
struct ForgettingToken {
  S read, pull;
  bool is_restart;
};

/// The gradient of the forgetting, from the last token to the first. With E_t = <M_t, dM_t> + <m_t, dm_t>,
///   dg_t = E_t - P_t . dP_t          E_{t-1} = dg_t + what query t - 1 reads.
/// E may be carried from token to token, or begin anew at a tile from the memory and its gradient. Fast forgetting
/// makes the first inaccurate (E becomes small, the terms do not), a memory much heavier than the tokens makes the
/// second so (E is a small difference): the sum begins anew where its terms would be the smaller ones.
template <class S>
class ForgettingEnergy {
 public:
  using W = Wide<S>;

  /// E from a memory and its gradient, and the squares of its terms.
  struct Measured {
    W energy, squares;
  };
  static Measured measured(const MemoryTiles<S>& memory, const LongMemory<S>& gradient) {
    Measured m{W(0), W(0)};
    add_products(memory.slots, gradient.memory.slots, gradient.remainder.slots, gradient.has_remainder, m.energy,
                 m.squares);
    add_products(memory.mass, gradient.memory.mass, gradient.remainder.mass, gradient.has_remainder, m.energy,
                 m.squares);
    return m;
  }

  /// Before the last token, and between two tiles.
  void restart(const Measured& m) {
    if (!(m.squares <= squares_)) return;
    energy_ = m.energy;
    squares_ = m.squares;
  }
  /// Token j, with its gradient.
  void token(const TokenStream<S>& stream, Index j, const ForgettingToken<S>& token, const TokenGradients<S>& out) {
    const W balance = step(W(token.read), W(token.pull), token.is_restart);
    const bool learns = stream.present(j) && is_finite(stream.tokens.log_forgetting(j));
    out.log_forgetting[j] = learns ? S(balance + W(out.memory.log_forgetting)) : S(0);
  }

 private:
  /// The result is E_t - P_t . dP_t, and E moves on to it.
  W step(const W& read, const W& pull, bool is_restart) {
    energy_ += read - pull;
    squares_ += square_of(read) + square_of(pull);
    if (is_restart) energy_ = squares_ = W(0);
    return energy_;
  }
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

  W energy_{0}, squares_ = square_of(W((std::numeric_limits<double>::max)()));
};

/// What the energy of some tokens is made of, for a sum that comes later.
template <class S>
struct ForgettingTape {
  ForgettingToken<S>* tokens;                     // one per token
  typename ForgettingEnergy<S>::Measured* tiles;  // after every tile
};

}  // namespace gma::detail
