// SPDX-License-Identifier: MIT
// The reference of the gated delta rule: (9), literally. As gma::reference, it is for tests and teaching and
// shares no code with the fast form.
#pragma once

#include "gma/attention/reference.hpp"

namespace gma::baselines::reference {

/// (9) token by token, from the features of queries and keys, each row f of which becomes f / sqrt(|f|^2 + 1e-6).
/// Features N x K, values N x e, slots K x e: the memory before the first token, and then that after the last. Returns
/// N x e. A token of weight zero writes nothing and forgets nothing. Cost O(N K e).
template <class S>
Matrix<S> delta(Matrix<S> query_features, Matrix<S> key_features, const Matrix<S>& values, Matrix<S>& slots,
                const TokenInputs<S>& tokens = {}) {
  using std::exp;
  using std::sqrt;
  for (Matrix<S>* features : {&query_features, &key_features}) {
    for (Index t = 0; t < features->rows(); ++t) {
      S squares(0);
      for (Index k = 0; k < features->cols(); ++k) squares += (*features)(t, k) * (*features)(t, k);
      features->row(t) /= S(sqrt(S(squares + S(1e-6))));
    }
  }
  Matrix<S> y = Matrix<S>::Constant(values.rows(), values.cols(), S(0));
  for (Index t = 0; t < values.rows(); ++t) {
    const S strength = tokens.key_weights.size() == 0 ? S(1) : tokens.key_weights(t);
    for (Index c = 0; c < values.cols() && strength > S(0); ++c) {
      const S lambda = tokens.log_forgetting.size() == 0 ? S(1) : S(exp(tokens.log_forgetting(t)));
      S answer(0);
      for (Index k = 0; k < slots.rows(); ++k) {
        slots(k, c) = lambda > S(0) ? S(lambda * slots(k, c)) : S(0);
        answer += slots(k, c) * key_features(t, k);
      }
      const S write = strength * (values(t, c) - answer);
      for (Index k = 0; k < slots.rows(); ++k) slots(k, c) += key_features(t, k) * write;
    }
    for (Index c = 0; c < values.cols(); ++c) {
      for (Index k = 0; k < slots.rows(); ++k) y(t, c) += slots(k, c) * query_features(t, k);
    }
  }
  return y;
}

/// causal_delta(): the features are a mixture's responsibilities, less 1/K if `is_centred`. An empty memory begins as
/// zeros. Throws std::invalid_argument on shapes that do not fit.
template <class M, class S = typename M::Scalar>
Matrix<S> causal_delta(const M& mixture, const Matrix<S>& queries, const Matrix<S>& keys, const Matrix<S>& values,
                       Memory<S>& memory, bool is_centred = false, const TokenInputs<S>& tokens = {}) {
  using W = gma::reference::Wide<S>;
  constexpr const char* function = "reference::causal_delta";
  gma::detail::check_size(function, "queries", "rows", queries.rows(), keys.rows(), "one per key");
  gma::detail::check_size(function, "values", "rows", values.rows(), keys.rows(), "one per key");
  gma::detail::check_tokens(function, tokens, keys.rows());
  if (memory.empty()) memory = empty_memory<S>(mixture.components(), values.cols());
  const W mean = is_centred ? W(1) / W(static_cast<double>(mixture.components())) : W(0);
  const auto features = [&](const Matrix<S>& x) {
    const Matrix<W> r = gma::reference::responsibilities(mixture, x).template cast<W>();
    return Matrix<W>(r.unaryExpr([&](const W& number) -> W { return number - mean; }));
  };
  Matrix<W> slots = memory.slots.template cast<W>();
  const TokenInputs<W> wide{tokens.key_weights.template cast<W>(), tokens.log_forgetting.template cast<W>()};
  const Matrix<W> y = delta(features(queries), features(keys), Matrix<W>(values.template cast<W>()), slots, wide);
  memory.slots = slots.template cast<S>();
  return y.template cast<S>();
}

}  // namespace gma::baselines::reference
