// SPDX-License-Identifier: MIT
//
// Causal softmax attention of one head, the classic that Gaussian mixture attention is compared with:
//
//   Y = softmax(Q K^T / sqrt(d) + mask) V          Q, Y [T, d], K, V [P + T, d]
//
// The P rows that keys and values have more than queries are the past; query t sees keys 0 .. P + t. Queries are taken
// in blocks and keys behind the last query of a block are never touched, so scratch is one [block, P + T] matrix and
// half of the work of a full score matrix is saved. The backward pass recomputes the probabilities from the row
// constants.
#pragma once

#include <algorithm>
#include <limits>

#include "types.hpp"

namespace language_model {

template <class S>
class SoftmaxAttention {
 public:
  // log_sums [T]: the logarithm of each row's softmax denominator, kept for the backward pass.
  void forward(const In<S>& queries, const In<S>& keys, const In<S>& values, Vector<S>& log_sums, Out<S> y) {
    const Index past = keys.rows() - queries.rows();
    log_sums.resize(queries.rows());
    reserve(p_, keys.rows());
    for (Index first = 0; first < queries.rows(); first += block) {
      const Index count = (std::min)(block, queries.rows() - first), seen = past + first + count;
      scores(queries, keys, first, count, seen);
      for (Index i = 0; i < count; ++i) {
        auto row = p_.row(i).head(past + first + i + 1).array();
        const S largest = row.maxCoeff();
        row = (row - largest).exp();
        const S sum = row.sum();
        row /= sum;
        p_.row(i).segment(past + first + i + 1, count - i - 1).setZero();
        log_sums[first + i] = largest + std::log(sum);
      }
      y.middleRows(first, count).noalias() = p_.topLeftCorner(count, seen) * values.topRows(seen);
    }
  }

  // dV = P^T dY;  dS = P o (dY V^T - rowsum(dY o Y));  dQ = dS K / sqrt(d);  dK = dS^T Q / sqrt(d).
  // dq [T, d] is overwritten; dk, dv [P + T, d] are added to.
  void backward(const In<S>& queries, const In<S>& keys, const In<S>& values, const Vector<S>& log_sums, const In<S>& y,
                const In<S>& dy, Out<S> dq, Out<S> dk, Out<S> dv) {
    const S scale = S(1) / std::sqrt(S(queries.cols()));
    const Index past = keys.rows() - queries.rows();
    reserve(p_, keys.rows());
    reserve(ds_, keys.rows());
    for (Index first = 0; first < queries.rows(); first += block) {
      const Index count = (std::min)(block, queries.rows() - first), seen = past + first + count;
      const auto dy_block = dy.middleRows(first, count);
      scores(queries, keys, first, count, seen);
      ds_.topLeftCorner(count, seen).noalias() = dy_block * values.topRows(seen).transpose();
      for (Index i = 0; i < count; ++i) {
        const Index visible = past + first + i + 1;
        auto p = p_.row(i).head(visible).array();
        auto ds = ds_.row(i).head(visible).array();
        p = (p - log_sums[first + i]).exp();
        ds = scale * p * (ds - dy_block.row(i).dot(y.row(first + i)));
        p_.row(i).segment(visible, count - i - 1).setZero();
        ds_.row(i).segment(visible, count - i - 1).setZero();
      }
      dv.topRows(seen).noalias() += p_.topLeftCorner(count, seen).transpose() * dy_block;
      dq.middleRows(first, count).noalias() = ds_.topLeftCorner(count, seen) * keys.topRows(seen);
      dk.topRows(seen).noalias() += ds_.topLeftCorner(count, seen).transpose() * queries.middleRows(first, count);
    }
  }

 private:
  static constexpr Index block = 64;

  void scores(const In<S>& queries, const In<S>& keys, Index first, Index count, Index seen) {
    p_.topLeftCorner(count, seen).noalias() =
        (S(1) / std::sqrt(S(queries.cols()))) * queries.middleRows(first, count) * keys.topRows(seen).transpose();
  }

  // Scratch whose rows all start on a cache line, so that sums do not depend on what it was used for before.
  static void reserve(Matrix<S>& scratch, Index keys) {
    const Index columns = (keys + 15) / 16 * 16;
    if (scratch.cols() < columns) scratch.resize(block, columns);
  }

  Matrix<S> p_, ds_;  // [block, P + T] and more
};

}  // namespace language_model
