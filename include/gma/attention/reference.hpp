// SPDX-License-Identifier: MIT
// The reference: the equations as they stand, one loop per sum, dense in O(N^2) and as a recurrence. For tests and for
// teaching. Computed in at least double, straight from the parameters; it shares no code with the fast forms. A
// covariance family that is not one of gma's own brings its density itself: reference_log_density() (family.hpp).
#pragma once

#include <cmath>
#include <type_traits>
#include <utility>

#include "gma/attention/memory.hpp"
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

/// (7): the Nq x Nk affinity, with key weights, forgetting (that of slots too) and normalisation. Causal: row i reads
/// keys j <= i, decayed by the forgetting of the tokens in between, and slot normalisation divides by the mass after
/// token i. Otherwise every row reads all keys, decayed by the forgetting up to the last one.
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

/// (8), or (10) where slots forget at their own rates, with the reads (4) to (6), token by token: query t reads the
/// memory after token t was written. Returns N x e. An empty memory begins as zeros, any other is continued; afterwards
/// it is the memory after the last token, without remainders. A token of weight zero writes nothing and forgets
/// nothing, whatever its key and value hold. Cost O(N K (d + e)), for Full O(N K (d^2 + e)). Throws
/// std::invalid_argument on shapes that do not fit.
template <class M, class Q, class K, class V>
Matrix<typename M::Scalar> causal(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  Memory<typename M::Scalar>& memory, const Options& options,
                                  const TokenInputs<typename M::Scalar>& tokens = {});
template <class M, class Q, class K, class V>
Matrix<typename M::Scalar> causal(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  const Options& options, const TokenInputs<typename M::Scalar>& tokens = {});

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

/// Whether the formulas above are of this family.
template <class S, class Covariance, class = void>
inline constexpr bool has_formula = false;
template <class S, class Covariance>
inline constexpr bool
    has_formula<S, Covariance,
                std::void_t<decltype(squared_distance(std::declval<const Mixture<S, Covariance>&>(),
                                                      std::declval<const RowVector<S>&>(), Index(0)))>> = true;

/// log_weight + log Normal(x; mu_k, Sigma_k).
template <class S, class Covariance>
S component_log_density(const Mixture<S, Covariance>& mixture, const RowVector<S>& x, Index k, const S& log_weight) {
  if constexpr (detail::has_reference<S, Covariance>) {
    return log_weight + Covariance::reference_log_density(mixture, x, k);
  } else {
    static_assert(has_formula<S, Covariance>,
                  "gma: the reference asks a covariance family for a static function "
                  "reference_log_density(mixture, x, k) (gma/mixture/family.hpp)");
    const RowVector<S> difference = x - mixture.means.row(k);
    return log_weight - S(0.5) * squared_distance(mixture, difference, k) - log_determinant(mixture, k) -
           S(0.5 * static_cast<double>(mixture.dim()) * 1.8378770664093454835606594728112);
  }
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
      result(i, k) =
          component_log_density(mixture, RowVector<S>(tokens.row(i)), k, S(mixture.weight_logits(k) - log_total));
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

/// exp(g_t + s_tk) of a token that is present.
template <class S>
S lambda(const TokenInputs<S>& tokens, Index t, Index k) {
  using std::exp;
  S factor(1);
  if (tokens.log_forgetting.size() != 0) factor *= exp(tokens.log_forgetting(t));
  if (tokens.slot_log_forgetting.size() != 0) factor *= exp(tokens.slot_log_forgetting(t, k));
  return factor;
}

/// The same inputs in another scalar.
template <class W, class S>
TokenInputs<W> cast_tokens(const TokenInputs<S>& tokens) {
  return {tokens.key_weights.template cast<W>(), tokens.log_forgetting.template cast<W>(),
          tokens.slot_log_forgetting.template cast<W>()};
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
    RowVector<S> left = RowVector<S>::Constant(r.cols(), S(1));  // of what is written at j: the forgetting after it
    for (Index j = last; j >= 0; --j) {
      const S weight = tokens.key_weights.size() == 0 ? S(1) : tokens.key_weights(j);
      for (Index k = 0; k < r.cols() && weight > S(0); ++k) {
        written(j, k) = r(j, k) * weight * left(k);
        left(k) *= lambda(tokens, j, k);
      }
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
  detail::check_tokens(function, tokens, keys.rows(), mixture.components());
  if constexpr (std::is_same_v<S, W>) {
    return affinity_in(mixture, Matrix<S>(queries.template cast<S>()), Matrix<S>(keys.template cast<S>()), options,
                       is_causal, tokens);
  } else {
    const TokenInputs<W> wide = cast_tokens<W>(tokens);
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

/// (8) and the reads in the scalar that is given.
template <class M, class S = typename M::Scalar>
Matrix<S> causal_in(const M& mixture, const Matrix<S>& queries, const Matrix<S>& keys, const Matrix<S>& values,
                    Matrix<S>& slots, Vector<S>& mass, const Options& options, const TokenInputs<S>& tokens) {
  const S tiny(tiny_mass);
  const Matrix<S> q = responsibilities(mixture, queries), r = responsibilities(mixture, keys);
  Matrix<S> y = Matrix<S>::Constant(keys.rows(), values.cols(), S(0));
  for (Index t = 0; t < keys.rows(); ++t) {
    const S weight = tokens.key_weights.size() == 0 ? S(1) : tokens.key_weights(t);
    if (weight > S(0)) {  // (8)
      for (Index k = 0; k < mass.size(); ++k) {
        const S left = lambda(tokens, t, k);
        const auto decayed = [&](const S& sum) { return left > S(0) ? S(left * sum) : S(0); };
        mass(k) = decayed(mass(k)) + weight * r(t, k);
        for (Index c = 0; c < values.cols(); ++c) {
          slots(k, c) = decayed(slots(k, c)) + weight * r(t, k) * values(t, c);
        }
      }
    }
    S total(0);
    for (Index k = 0; k < mass.size(); ++k) total += q(t, k) * mass(k);
    for (Index k = 0; k < mass.size(); ++k) {
      S coefficient = q(t, k);                                                                           // (4)
      if (options.normalization == Normalization::slot) coefficient /= mass(k) > tiny ? mass(k) : tiny;  // (5)
      if (options.normalization == Normalization::row) coefficient /= total > tiny ? total : tiny;       // (6)
      for (Index c = 0; c < values.cols(); ++c) y(t, c) += coefficient * slots(k, c);
    }
  }
  return y;
}

template <class M, class Q, class K, class V>
Matrix<typename M::Scalar> causal(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  Memory<typename M::Scalar>& memory, const Options& options,
                                  const TokenInputs<typename M::Scalar>& tokens) {
  using S = typename M::Scalar;
  using W = Wide<S>;
  constexpr const char* function = "reference::causal";
  detail::check_parameters(function, mixture);
  detail::check_size(function, "queries", "columns", queries.cols(), mixture.dim(), "the mixture's dim");
  detail::check_size(function, "keys", "columns", keys.cols(), mixture.dim(), "the mixture's dim");
  detail::check_size(function, "queries", "rows", queries.rows(), keys.rows(), "one per key");
  detail::check_size(function, "values", "rows", values.rows(), keys.rows(), "one per key");
  detail::check_tokens(function, tokens, keys.rows(), mixture.components());
  if (memory.empty()) memory = empty_memory<S>(mixture.components(), values.cols());
  detail::check_shape(function, "memory.slots", memory.slots.rows(), memory.slots.cols(), mixture.components(),
                      values.cols(), "components x value width");
  detail::check_size(function, "memory.mass", "coefficients", memory.mass.size(), mixture.components(),
                     "one per component");
  Matrix<W> slots = memory.slots.template cast<W>();
  Vector<W> mass = memory.mass.template cast<W>();
  if (memory.slots_remainder.size() != 0) slots += memory.slots_remainder.template cast<W>();
  if (memory.mass_remainder.size() != 0) mass += memory.mass_remainder.template cast<W>();
  const TokenInputs<W> wide = cast_tokens<W>(tokens);
  const Matrix<W> y =
      causal_in(mixture.template cast<W>(), Matrix<W>(queries.template cast<W>()), Matrix<W>(keys.template cast<W>()),
                Matrix<W>(values.template cast<W>()), slots, mass, options, wide);
  for (Index t = 0; t < tokens.log_forgetting.size(); ++t) {
    if (tokens.key_weights.size() == 0 || tokens.key_weights(t) > S(0))
      memory.log_forgetting += tokens.log_forgetting(t);
  }
  memory.slots = slots.template cast<S>();
  memory.mass = mass.template cast<S>();
  memory.slots_remainder.resize(0, 0);
  memory.mass_remainder.resize(0);
  memory.tokens = S(0);
  return y.template cast<S>();
}

template <class M, class Q, class K, class V>
Matrix<typename M::Scalar> causal(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  const Options& options, const TokenInputs<typename M::Scalar>& tokens) {
  Memory<typename M::Scalar> memory;
  return reference::causal(mixture, queries, keys, values, memory, options, tokens);
}

}  // namespace gma::reference
