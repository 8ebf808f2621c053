// SPDX-License-Identifier: MIT
// Softmax attention, one token at a time: the keys and values of all tokens so far are kept and read again at every
// step. Decoding with a Memory of constant size is compared with it.
#pragma once

#include <algorithm>
#include <cmath>

#include "gma/softmax/sdpa_options.hpp"

namespace gma::baselines {

/// The keys (N x d) and values (N x e) of the tokens so far. Memory O(N (d + e)); it doubles when it is full.
template <class S>
class KeyValueCache {
 public:
  using Scalar = S;

  KeyValueCache() = default;

  /// Makes room for `tokens` tokens of key width d and value width e. Throws std::invalid_argument if one of them is
  /// negative.
  KeyValueCache(Index d, Index e, Index tokens);

  /// Adds n tokens: keys n x d, values n x e. They may be those of this cache. An empty cache without widths takes
  /// theirs. Amortised cost O(n (d + e)). Throws std::invalid_argument if shapes disagree. After that, and after a
  /// failed allocation, the cache is unchanged.
  template <class Keys, class Values>
  void append(const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values);

  /// Forgets all except the last `tokens` tokens, which are all that a window needs. Cost O(tokens (d + e)).
  void keep_last(Index tokens) {
    const Index dropped = size_ - (std::max)(Index(0), tokens);
    if (dropped <= 0) return;
    for (Index i = 0; i + dropped < size_; ++i) {
      keys_.row(i) = keys_.row(i + dropped);
      values_.row(i) = values_.row(i + dropped);
    }
    size_ -= dropped;
  }

  /// Forgets the tokens; keeps the widths and the room.
  void clear() { size_ = 0; }

  Index size() const { return size_; }                   ///< tokens
  ConstTile<S> keys() const { return view(keys_); }      ///< N x d
  ConstTile<S> values() const { return view(values_); }  ///< N x e

 private:
  ConstTile<S> view(const Matrix<S>& matrix) const {
    return ConstTile<S>(matrix.data(), size_, matrix.cols(), Eigen::OuterStride<>(matrix.cols()));
  }

  Matrix<S> keys_, values_;  // rows beyond size_ are unused
  Index size_ = 0;
};

/// The newest token's output: append() its key and value first, then y = sum_j softmax_j(scale query . key_j) value_j
/// over the whole cache, or over its last options.window tokens. query 1 x d; returns 1 x e, zeros while the cache is
/// empty. It equals the last row of causal sdpa() over the same tokens. Cost O(N (d + e)), extra memory O(N). is_causal
/// and the tile sizes are ignored. Throws std::invalid_argument if shapes disagree.
template <class Query, class S>
RowVector<S> sdpa_decode(const Eigen::MatrixBase<Query>& query, const KeyValueCache<S>& cache,
                         const SdpaOptions& options = {});

// Implementation -----------------------------------------------------------------------------------------------------

template <class S>
KeyValueCache<S>::KeyValueCache(Index d, Index e, Index tokens) {
  if (d < 0 || e < 0 || tokens < 0) {
    detail::invalid_argument("baselines::KeyValueCache", "d, e and tokens are ", d, ", ", e, " and ", tokens,
                             ", expected 0 or more");
  }
  keys_.resize(tokens, d);
  values_.resize(tokens, e);
}

template <class S>
template <class Keys, class Values>
void KeyValueCache<S>::append(const Eigen::MatrixBase<Keys>& keys, const Eigen::MatrixBase<Values>& values) {
  static_assert(std::is_same_v<S, typename Keys::Scalar> && std::is_same_v<S, typename Values::Scalar>,
                "gma::baselines: keys and values must have the cache's scalar");
  constexpr const char* function = "baselines::KeyValueCache::append";
  const Index count = size_ + keys.rows();
  const bool takes_widths = size_ == 0 && keys_.cols() == 0 && values_.cols() == 0;
  if (!takes_widths) {
    detail::check_size(function, "keys", "columns", keys.cols(), keys_.cols(), "as many as the cache");
    detail::check_size(function, "values", "columns", values.cols(), values_.cols(), "as many as the cache");
  }
  detail::check_size(function, "values", "rows", values.rows(), keys.rows(), "one per key");
  if (takes_widths || count > keys_.rows()) {
    const Index room = (std::max)(count, 2 * keys_.rows());
    Matrix<S> more_keys(room, keys.cols()), more_values(room, values.cols());
    if (size_ > 0) {
      more_keys.topRows(size_) = keys_.topRows(size_);
      more_values.topRows(size_) = values_.topRows(size_);
    }
    more_keys.middleRows(size_, keys.rows()) = keys;
    more_values.middleRows(size_, keys.rows()) = values;
    keys_.swap(more_keys);
    values_.swap(more_values);
  } else {
    keys_.middleRows(size_, keys.rows()) = keys;
    values_.middleRows(size_, keys.rows()) = values;
  }
  size_ = count;
}

template <class Query, class S>
RowVector<S> sdpa_decode(const Eigen::MatrixBase<Query>& query, const KeyValueCache<S>& cache,
                         const SdpaOptions& options) {
  static_assert(std::is_same_v<S, typename Query::Scalar>, "gma::baselines: the query must have the cache's scalar");
  constexpr const char* function = "baselines::sdpa_decode";
  detail::check_size(function, "query", "rows", query.rows(), 1, "one token");
  SdpaOptions of_one_query = options;
  of_one_query.is_causal = true;
  if (cache.size() == 0) return RowVector<S>::Zero(cache.values().cols());
  const Index seen = options.window > 0 ? (std::min)(options.window, cache.size()) : cache.size();
  const ConstTile<S> keys = gma::detail::rows(cache.keys(), cache.size() - seen, seen);
  const ConstTile<S> values = gma::detail::rows(cache.values(), cache.size() - seen, seen);
  detail::check_size(function, "query", "columns", query.cols(), keys.cols(), "as many as the cache's keys");
  detail::check_options(function, of_one_query);
  const Vector<S> scaled = static_cast<S>(detail::score_scale(options, query.cols())) * query.transpose();
  Vector<S> weights(seen);
  weights.noalias() = keys * scaled;
  const S largest = weights.maxCoeff();
  weights = (weights.array() - largest).exp();
  RowVector<S> out(values.cols());
  out.noalias() = weights.transpose() * values;
  return out / weights.sum();
}

}  // namespace gma::baselines
