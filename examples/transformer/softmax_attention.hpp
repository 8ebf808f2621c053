// SPDX-License-Identifier: MIT
//
// Softmax attention of one head, the classic that Gaussian mixture attention is compared with:
//
//   Y = softmax(Q K^T / sqrt(d) + mask) V          Q, Y [T, d], K, V [P + T, d]
//
// The P rows that keys and values have more than queries are the past; query t sees keys 0 .. P + t, or what Sight says
// instead. Queries are taken in blocks, and keys that no query of a block sees are never touched, so scratch is one
// [block, P + T] matrix, and where attention is causal half of the work of a full score matrix is saved, or nearly all
// of it with a short window. The backward pass recomputes the probabilities from the row constants.
#pragma once

#include <algorithm>
#include <limits>

#include "types.hpp"

namespace transformer {

// Which keys a query sees.
struct Sight {
  Index window = 0;       // causal: the last so many up to its own; 0: all of those
  bool is_causal = true;  // else all keys, later ones included
};

template <class S>
class SoftmaxAttention {
 public:
  // log_sums [T]: the logarithm of each row's softmax denominator, kept for the backward pass.
  void forward(const In<S>& queries, const In<S>& keys, const In<S>& values, const Sight& sight, Vector<S>& log_sums,
               Out<S> y) {
    log_sums.resize(queries.rows());
    reserve(p_, keys.rows());
    for (Index first = 0; first < queries.rows(); first += block) {
      const Block b(queries.rows(), keys.rows(), sight, first);
      scores(queries, keys, b);
      for (Index i = 0; i < b.count; ++i) {
        auto row = p_.row(i).segment(b.begin(i), b.end(i) - b.begin(i)).array();
        const S largest = row.maxCoeff();
        row = (row - largest).exp();
        const S sum = row.sum();
        row /= sum;
        hide(p_, b, i);
        log_sums[first + i] = largest + std::log(sum);
      }
      y.middleRows(first, b.count).noalias() = p_.topLeftCorner(b.count, b.keys) * values.middleRows(b.key, b.keys);
    }
  }

  // dV = P^T dY;  dS = P o (dY V^T - rowsum(dY o Y));  dQ = dS K / sqrt(d);  dK = dS^T Q / sqrt(d).
  // dq [T, d] is overwritten; dk, dv [P + T, d] are added to.
  void backward(const In<S>& queries, const In<S>& keys, const In<S>& values, const Sight& sight,
                const Vector<S>& log_sums, const In<S>& y, const In<S>& dy, Out<S> dq, Out<S> dk, Out<S> dv) {
    const S scale = S(1) / std::sqrt(S(queries.cols()));
    reserve(p_, keys.rows());
    reserve(ds_, keys.rows());
    for (Index first = 0; first < queries.rows(); first += block) {
      const Block b(queries.rows(), keys.rows(), sight, first);
      const auto dy_block = dy.middleRows(first, b.count);
      scores(queries, keys, b);
      ds_.topLeftCorner(b.count, b.keys).noalias() = dy_block * values.middleRows(b.key, b.keys).transpose();
      for (Index i = 0; i < b.count; ++i) {
        auto p = p_.row(i).segment(b.begin(i), b.end(i) - b.begin(i)).array();
        auto ds = ds_.row(i).segment(b.begin(i), b.end(i) - b.begin(i)).array();
        p = (p - log_sums[first + i]).exp();
        ds = scale * p * (ds - dy_block.row(i).dot(y.row(first + i)));
        hide(p_, b, i);
        hide(ds_, b, i);
      }
      const auto p = p_.topLeftCorner(b.count, b.keys), ds = ds_.topLeftCorner(b.count, b.keys);
      dv.middleRows(b.key, b.keys).noalias() += p.transpose() * dy_block;
      dq.middleRows(first, b.count).noalias() = ds * keys.middleRows(b.key, b.keys);
      dk.middleRows(b.key, b.keys).noalias() += ds.transpose() * queries.middleRows(first, b.count);
    }
  }

 private:
  static constexpr Index block = 64;

  // Queries [first, first + count), and keys [key, key + keys), which are all that they see.
  struct Block {
    Index past, all_keys;
    Sight sight;
    Index first, count, key, keys;

    Block(Index queries, Index k, const Sight& s, Index f)
        : past(k - queries),
          all_keys(k),
          sight(s),
          first(f),
          count((std::min)(block, queries - f)),
          key(first_seen(0)),
          keys(last_seen(count - 1) - key) {}

    // Query first + i sees keys [first_seen, last_seen).
    Index first_seen(Index i) const {
      return sight.is_causal && sight.window > 0 ? (std::max)(Index(0), past + first + i + 1 - sight.window) : 0;
    }
    Index last_seen(Index i) const { return sight.is_causal ? past + first + i + 1 : all_keys; }

    // The same, counted from `key` on.
    Index begin(Index i) const { return first_seen(i) - key; }
    Index end(Index i) const { return last_seen(i) - key; }
  };

  static void hide(Matrix<S>& m, const Block& b, Index i) {
    m.row(i).head(b.begin(i)).setZero();
    m.row(i).segment(b.end(i), b.keys - b.end(i)).setZero();
  }

  void scores(const In<S>& queries, const In<S>& keys, const Block& b) {
    p_.topLeftCorner(b.count, b.keys).noalias() = (S(1) / std::sqrt(S(queries.cols()))) *
                                                  queries.middleRows(b.first, b.count) *
                                                  keys.middleRows(b.key, b.keys).transpose();
  }

  // Scratch whose rows all start on a cache line, so that sums do not depend on what it was used for before.
  static void reserve(Matrix<S>& scratch, Index keys) {
    const Index columns = (keys + 15) / 16 * 16;
    if (scratch.cols() < columns) scratch.resize(block, columns);
  }

  Matrix<S> p_, ds_;  // [block, P + T] and more
};

}  // namespace transformer
