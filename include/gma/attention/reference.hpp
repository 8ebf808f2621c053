// SPDX-License-Identifier: MIT
// The dense reference: the equations as they stand, O(N^2), one loop a sum. For tests and for teaching. Computed in at
// least double, straight from the parameters; it shares no code with the fast forms.
#pragma once

#include <cmath>
#include <type_traits>

#include "gma/attention/options.hpp"
#include "gma/core/checks.hpp"
#include "gma/mixture/mixture.hpp"

namespace gma::reference {

/// Row i holds log p(x_i, k), (1), every constant included. N x K. Product mixtures: the sum over the factors.
template <class M>
Matrix<typename M::Scalar> joint_log_density(const M& mixture, const Matrix<typename M::Scalar>& tokens);

/// (2), N x K.
template <class M>
Matrix<typename M::Scalar> responsibilities(const M& mixture, const Matrix<typename M::Scalar>& tokens);

/// (7): the Nq x Nk affinity, with key weights, forgetting and normalisation. Causal: row i reads keys j <= i, decayed
/// by the forgetting of the tokens in between, and slot normalisation divides by the mass after token i. Otherwise
/// every row reads all keys, decayed by the forgetting up to the last one.
template <class M, class Q, class K>
Matrix<typename M::Scalar> affinity(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                    const Eigen::MatrixBase<K>& keys, const Options& options, bool is_causal,
                                    const TokenInputs<typename M::Scalar>& tokens = {});

/// affinity() times the values, Nq x e. Values of tokens with weight zero are not read.
template <class M, class Q, class K, class V>
Matrix<typename M::Scalar> attention(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                     const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                     const Options& options, bool is_causal,
                                     const TokenInputs<typename M::Scalar>& tokens = {});

// Implementation -----------------------------------------------------------------------------------------------------

/// float is checked in double.
template <class S>
using Wide = std::conditional_t<std::is_same_v<S, float>, double, S>;

template <class S>
S squared_distance(const Mixture<S, Isotropic>& mixture, const RowVector<S>& difference, Index k) {
  using std::exp;
  return difference.squaredNorm() * exp(S(-2) * mixture.log_scales(k, 0));
}
template <class S>
S log_determinant(const Mixture<S, Isotropic>& mixture, Index k) {  // of the covariance, halved
  return mixture.log_scales(k, 0) * S(static_cast<double>(mixture.dim()));
}

template <class S>
S squared_distance(const Mixture<S, Diagonal>& mixture, const RowVector<S>& difference, Index k) {
  return (difference.array().square() * (mixture.log_scales.row(k).array() * S(-2)).exp()).sum();
}
template <class S>
S log_determinant(const Mixture<S, Diagonal>& mixture, Index k) {
  return mixture.log_scales.row(k).sum();
}

template <class S>
S squared_distance(const Mixture<S, Tied>& mixture, const RowVector<S>& difference, Index /*k*/) {
  return (difference.array().square() * (mixture.log_scales.row(0).array() * S(-2)).exp()).sum();
}
template <class S>
S log_determinant(const Mixture<S, Tied>& mixture, Index /*k*/) {
  return mixture.log_scales.row(0).sum();
}

template <class S>
S squared_distance(const Mixture<S, Full>& mixture, const RowVector<S>& difference, Index k) {
  using std::exp;
  const Index d = mixture.dim();
  S sum(0);
  for (Index j = 0; j < d; ++j) {  // (L^T difference)_j = sum_{i >= j} L_ij difference_i
    S entry = exp(mixture.log_scales(k, j * d + j)) * difference(j);
    for (Index i = j + 1; i < d; ++i) entry += mixture.log_scales(k, i * d + j) * difference(i);
    sum += entry * entry;
  }
  return sum;
}
template <class S>
S log_determinant(const Mixture<S, Full>& mixture, Index k) {
  S sum(0);
  for (Index j = 0; j < mixture.dim(); ++j) sum -= mixture.log_scales(k, j * mixture.dim() + j);
  return sum;
}

template <class S, class Covariance>
Matrix<S> joint_log_density_of(const Mixture<S, Covariance>& mixture, const Matrix<S>& tokens) {
  using std::exp;
  using std::log;
  S total(0);
  for (Index k = 0; k < mixture.components(); ++k)
    total += exp(mixture.weight_logits(k) - mixture.weight_logits.maxCoeff());
  const S log_total = mixture.weight_logits.maxCoeff() + log(total);
  Matrix<S> result(tokens.rows(), mixture.components());
  for (Index i = 0; i < tokens.rows(); ++i) {
    for (Index k = 0; k < mixture.components(); ++k) {
      const RowVector<S> difference = tokens.row(i) - mixture.means.row(k);
      result(i, k) = mixture.weight_logits(k) - log_total - S(0.5) * squared_distance(mixture, difference, k) -
                     log_determinant(mixture, k) -
                     S(0.5 * static_cast<double>(mixture.dim()) * 1.8378770664093454835606594728112);
    }
  }
  return result;
}

template <class S, class Covariance>
Matrix<S> joint_log_density(const Mixture<S, Covariance>& mixture, const Matrix<S>& tokens, bool tempered) {
  using std::exp;
  const Matrix<S> joint = joint_log_density_of(mixture, tokens);
  return tempered ? Matrix<S>(joint * exp(-mixture.log_temperature)) : joint;
}

template <class S, class Covariance>
Matrix<S> joint_log_density(const ProductMixture<S, Covariance>& mixture, const Matrix<S>& tokens, bool tempered) {
  if (tokens.rows() == 0) return Matrix<S>(0, mixture.components());
  Matrix<S> result = Matrix<S>::Constant(tokens.rows(), 1, S(0));
  Index column = 0;
  for (const Mixture<S, Covariance>& factor : mixture.factors) {
    const Matrix<S> part = joint_log_density(factor, Matrix<S>(tokens.middleCols(column, factor.dim())), tempered);
    Matrix<S> product(tokens.rows(), result.cols() * part.cols());
    for (Index a = 0; a < result.cols(); ++a) {
      for (Index b = 0; b < part.cols(); ++b) product.col(a * part.cols() + b) = result.col(a) + part.col(b);
    }
    result = product;
    column += factor.dim();
  }
  return result;
}

template <class M>
Matrix<typename M::Scalar> joint_log_density(const M& mixture, const Matrix<typename M::Scalar>& tokens) {
  return joint_log_density(mixture, tokens, false);
}

template <class M>
Matrix<typename M::Scalar> responsibilities(const M& mixture, const Matrix<typename M::Scalar>& tokens) {
  Matrix<typename M::Scalar> r = joint_log_density(mixture, tokens, true);
  for (Index i = 0; i < r.rows(); ++i) {
    r.row(i) = (r.row(i).array() - r.row(i).maxCoeff()).exp();
    r.row(i) /= r.row(i).sum();
  }
  return r;
}

/// What is left at token `read` of what was written at token `written`: the forgetting of the tokens in between.
template <class S>
S retention(const TokenInputs<S>& tokens, Index written, Index read) {
  using std::exp;
  S factor(1);
  for (Index s = written + 1; s <= read && tokens.log_forgetting.size() != 0; ++s) {
    const bool present = tokens.key_weights.size() == 0 || tokens.key_weights(s) > S(0);
    if (present) factor *= exp(tokens.log_forgetting(s));
  }
  return factor;
}

/// The affinity in the scalar it is given; M is Mixture or ProductMixture.
template <class M, class S = typename M::Scalar>
Matrix<S> affinity_in(const M& mixture, const Matrix<S>& queries, const Matrix<S>& keys, const Options& options,
                      bool is_causal, const TokenInputs<S>& tokens) {
  const S tiny(tiny_mass);
  const Index n = keys.rows();
  const Matrix<S> q = responsibilities(mixture, queries);
  const Matrix<S> r = responsibilities(mixture, keys);
  Matrix<S> result = Matrix<S>::Constant(queries.rows(), n, S(0));
  for (Index i = 0; i < queries.rows(); ++i) {
    const Index last = is_causal ? i : n - 1;
    Matrix<S> written = Matrix<S>::Constant(n, r.cols(), S(0));  // what row i finds of every key, slot by slot
    for (Index j = 0; j <= last; ++j) {
      const S weight = tokens.key_weights.size() == 0 ? S(1) : tokens.key_weights(j);
      if (weight > S(0)) written.row(j) = r.row(j) * (weight * retention(tokens, j, last));
    }
    RowVector<S> mass = RowVector<S>::Constant(r.cols(), S(0));
    for (Index j = 0; j <= last; ++j) mass += written.row(j);
    RowVector<S> coefficient = q.row(i);
    if (options.normalization == Normalization::slot) {
      for (Index k = 0; k < mass.size(); ++k) coefficient(k) /= mass(k) > tiny ? mass(k) : tiny;
    } else if (options.normalization == Normalization::row) {
      const S total = mass.dot(coefficient);
      coefficient /= total > tiny ? total : tiny;
    }
    result.row(i) = coefficient * written.transpose();
  }
  return result;
}

template <class M, class Q, class K>
Matrix<typename M::Scalar> affinity(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                    const Eigen::MatrixBase<K>& keys, const Options& options, bool is_causal,
                                    const TokenInputs<typename M::Scalar>& tokens) {
  using S = typename M::Scalar;
  using W = Wide<S>;
  constexpr const char* function = "reference::affinity";
  detail::check_parameters(function, mixture);
  detail::check_size(function, "queries", "columns", queries.cols(), mixture.dim(), "the mixture's dim");
  detail::check_size(function, "keys", "columns", keys.cols(), mixture.dim(), "the mixture's dim");
  if (is_causal) detail::check_size(function, "queries", "rows", queries.rows(), keys.rows(), "one per key");
  detail::check_tokens(function, tokens, keys.rows());
  if constexpr (std::is_same_v<S, W>) {
    return affinity_in(mixture, Matrix<S>(queries.template cast<S>()), Matrix<S>(keys.template cast<S>()), options,
                       is_causal, tokens);
  } else {
    const TokenInputs<W> wide{tokens.key_weights.template cast<W>(), tokens.log_forgetting.template cast<W>()};
    const auto wide_mixture = mixture.template cast<W>();
    return affinity_in(wide_mixture, Matrix<W>(queries.template cast<W>()), Matrix<W>(keys.template cast<W>()), options,
                       is_causal, wide)
        .template cast<S>();
  }
}

template <class M, class Q, class K, class V>
Matrix<typename M::Scalar> attention(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                     const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                     const Options& options, bool is_causal,
                                     const TokenInputs<typename M::Scalar>& tokens) {
  using S = typename M::Scalar;
  using W = Wide<S>;
  detail::check_size("reference::attention", "values", "rows", values.rows(), keys.rows(), "one per key");
  const Matrix<W> weights = affinity(mixture, queries, keys, options, is_causal, tokens).template cast<W>();
  const Matrix<W> wide_values = values.template cast<W>();
  Matrix<W> result = Matrix<W>::Constant(queries.rows(), values.cols(), W(0));
  for (Index i = 0; i < queries.rows(); ++i) {
    for (Index j = 0; j < keys.rows(); ++j) {
      const bool present = tokens.key_weights.size() == 0 || tokens.key_weights(j) > S(0);
      if (present && !(is_causal && j > i)) result.row(i) += weights(i, j) * wide_values.row(j);
    }
  }
  return result.template cast<S>();
}

}  // namespace gma::reference
