// SPDX-License-Identifier: MIT
// Functions of single numbers over many: the same bits for a number wherever it lies. Eigen computes the ends of a row
// by other means than its middle, so rows are passed through a chunk of fixed size that has no ends.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "gma/core/types.hpp"

namespace gma {

/// values[i] = log(1 + exp(values[i])), which never overflows, for `count` numbers in a row.
template <class S>
void softplus(S* values, Index count);

/// values[i] = 1 / (1 + exp(-values[i])).
template <class S>
void sigmoid(S* values, Index count);

/// values[i] = z sigmoid(z) with z = values[i]. Its slope is s (1 + z (1 - s)) with s = sigmoid(z).
template <class S>
void silu(S* values, Index count);

}  // namespace gma

// Implementation -----------------------------------------------------------------------------------------------------

namespace gma::detail {

template <class S>
using Chunk = Eigen::Array<S, 64, 1>;

/// f(chunk) in place for `count` numbers, 64 at a time; f works on each number alone.
template <class S, class F>
void in_chunks(S* values, Index count, const F& f) {
  Chunk<S> chunk = Chunk<S>::Constant(S(0));
  for (Index begin = 0; begin < count; begin += chunk.size()) {
    const Index now = (std::min)(Index(chunk.size()), count - begin);
    std::copy_n(values + begin, now, chunk.data());
    f(chunk);
    std::copy_n(chunk.data(), now, values + begin);
  }
}

/// values[i] = exp(values[i]), and 0 where that is no normal number: Eigen gives the smallest of those for minus
/// infinity.
template <class S>
void exponentials(S* values, Index count) {
  using std::exp;
  if constexpr (std::is_floating_point_v<S>) {
    const S lowest = std::log((std::numeric_limits<S>::min)());
    in_chunks(values, count, [&](Chunk<S>& z) {
      const Chunk<S> e = z.exp();  // within select() Eigen would compute them one by one
      z = (z < lowest).select(S(0), e);
    });
  } else {
    for (Index i = 0; i < count; ++i) values[i] = exp(values[i]);
  }
}

/// values[i] *= sigmoid(logits[i]).
template <class S>
void multiply_by_sigmoid(const S* logits, Index count, S* values) {
  Chunk<S> chunk = Chunk<S>::Constant(S(0));
  for (Index begin = 0; begin < count; begin += chunk.size()) {
    const Index now = (std::min)(Index(chunk.size()), count - begin);
    std::copy_n(logits + begin, now, chunk.data());
    chunk = S(1) + (-chunk).exp();
    for (Index i = 0; i < now; ++i) values[begin + i] /= chunk(i);
  }
}

}  // namespace gma::detail

namespace gma {

// max(z, 0) + log(1 + exp(-|z|)).
template <class S>
void softplus(S* values, Index count) {
  detail::in_chunks(values, count, [](detail::Chunk<S>& z) { z = (z.max)(S(0)) + (S(1) + (-z.abs()).exp()).log(); });
}

template <class S>
void sigmoid(S* values, Index count) {
  detail::in_chunks(values, count, [](detail::Chunk<S>& z) { z = (S(1) + (-z).exp()).inverse(); });
}

template <class S>
void silu(S* values, Index count) {
  detail::in_chunks(values, count, [](detail::Chunk<S>& z) { z /= S(1) + (-z).exp(); });
}

}  // namespace gma
