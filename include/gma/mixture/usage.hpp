// SPDX-License-Identifier: MIT
// How a mixture is used by its tokens: the share of every component, entropies, dead components, and a penalty on
// uneven usage with its gradient. Everything runs a tile of tokens at a time: extra memory is that of some tiles of K
// numbers, whatever N is. Sums of float are taken in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "gma/core/checks.hpp"
#include "gma/core/numeric.hpp"
#include "gma/core/operands.hpp"
#include "gma/core/tokens.hpp"
#include "gma/core/workspace.hpp"
#include "gma/mixture/mixture.hpp"
#include "gma/mixture/natural.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma {

/// Usage of a mixture by N tokens of weights w: u_k = sum_t w_t r_k(x_t) / sum_t w_t. All zero without tokens.
template <class S>
struct Usage {
  Vector<S> mean;              ///< u, K; sums to 1
  S entropy = 0;               ///< -sum_k u_k log u_k, nats; from 0 to log K
  S effective_components = 0;  ///< exp(entropy), from 1 to K
  S token_entropy = 0;         ///< mean over tokens of -sum_k r_k log r_k: 0 where every token picks one component
  Index dead = 0;              ///< components with u_k < 0.1 / K
  Index tokens = 0;            ///< those of positive weight
};

/// X is N x d. `weights`, N or empty for ones: finite and not negative; a token of weight 0 is absent: what it
/// contains has no effect. Any mixture will do: for a product, components are its K = prod K_m slots. Cost as
/// responsibilities(). Throws std::invalid_argument on shapes that do not fit and on bad weights.
template <class M>
Usage<Scalar<M>> usage(const M& mixture, const In<Scalar<M>>& tokens, const Vector<Scalar<M>>& weights = {});

/// log K - H(u) = sum_k u_k log(K u_k), with 0 log 0 = 0: the divergence of mean usage from uniform usage, from 0 (all
/// components used the same) to log K (one component used); 0 without tokens. Add a small multiple of it to a loss to
/// keep components alive. Arguments, cost and errors as usage().
template <class M>
Scalar<M> usage_penalty(const M& mixture, const In<Scalar<M>>& tokens, const Vector<Scalar<M>>& weights = {});

/// Value of usage_penalty(), and the gradients of `scale` times it.
template <class M>
struct UsagePenaltyGradients {
  Scalar<M> value;           ///< not scaled
  Matrix<Scalar<M>> tokens;  ///< N x d; zero where the weight is 0
  M mixture;                 ///< same type as the parameters
};

/// Two passes over the tokens: usage, then dr_tk = scale w_t (log u_k + 1) / sum w and its way back. A component is
/// taken to have u_k of at least tiny_mass in that logarithm. Cost about 4 times usage(); M holds parameters. Errors as
/// usage().
template <class M>
UsagePenaltyGradients<M> usage_penalty_backward(const M& mixture, const In<Scalar<M>>& tokens, Scalar<M> scale = 1,
                                                const Vector<Scalar<M>>& weights = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// What usage is summed in.
template <class S>
using UsageSum = std::conditional_t<std::is_same_v<S, float>, double, S>;

/// Tokens and their weights, read a tile at a time; rows of absent tokens become zero.
template <class S>
struct WeightedTokens {
  TokenView<S> view;
  const Vector<S>& weights;

  bool present(Index t) const { return weights.size() == 0 || weights(t) > S(0); }
  S weight(Index t) const { return weights.size() == 0 ? S(1) : weights(t); }

  ConstTile<S> tile(Index begin, Index count, Workspace<S>& workspace) const {
    const ConstTile<S> x = view.tile(begin, count, workspace.take(count, view.cols()));
    bool all_present = true;
    for (Index t = begin; t < begin + count; ++t) all_present = all_present && present(t);
    if (all_present) return x;
    Tile<S> copy = workspace.take(count, view.cols());
    for (Index t = 0; t < count; ++t) {
      if (present(begin + t)) {
        copy.row(t) = x.row(t);
      } else {
        copy.row(t).setConstant(S(0));
      }
    }
    return ConstTile<S>(copy.data(), count, copy.cols(), Eigen::OuterStride<>(copy.outerStride()));
  }
};

template <class S>
void check_usage(const char* function, Index cols, Index dim, const Vector<S>& weights, Index count) {
  check_token_width(function, "X", cols, dim);
  if (weights.size() != 0) {
    check_size(function, "weights", "coefficients", weights.size(), count, "one per token, or none");
  }
  for (Index t = 0; t < weights.size(); ++t) {
    if (!(is_finite(weights(t)) && weights(t) >= S(0))) {
      invalid_argument(function, "weights is ", weights(t), " at token ", t, ", expected a finite number >= 0");
    }
  }
}

/// u, and with it what one pass over the tokens yields.
template <class S>
struct UsageSums {
  using W = UsageSum<S>;
  Vector<W> mean;  // u
  W weight = W(0), token_entropy = W(0);
  Index tokens = 0;

  void add(const RowVector<S>& r, const S& w) {
    const S smallest = (std::numeric_limits<S>::min)();  // no log of 0
    const S entropy = -(r.array() * (r.array() + smallest).log()).sum();
    mean += (r.template cast<W>() * static_cast<W>(w)).transpose();
    token_entropy += static_cast<W>(entropy) * static_cast<W>(w);
    weight += static_cast<W>(w);
    ++tokens;
  }
  void divide() {
    if (tokens == 0) return;
    mean /= weight;
    token_entropy /= weight;
  }
};

template <class S>
UsageSums<S> usage_sums(const CompiledMixture<S>& natural, const WeightedTokens<S>& tokens, Workspace<S>& workspace) {
  UsageSums<S> sums;
  sums.mean = Vector<UsageSum<S>>::Constant(natural.components(), UsageSum<S>(0));
  RowVector<S> row(natural.components());
  for (Index begin = 0; begin < tokens.view.rows(); begin += default_tile) {
    typename Workspace<S>::Frame frame(workspace);
    const Index count = (std::min)(default_tile, tokens.view.rows() - begin);
    Tile<S> r = workspace.take(count, natural.components());
    evaluate(natural, tokens.tile(begin, count, workspace), r, workspace);
    for (Index t = 0; t < count; ++t) {
      if (!tokens.present(begin + t)) continue;
      row = r.row(t);
      sums.add(row, tokens.weight(begin + t));
    }
  }
  sums.divide();
  return sums;
}

/// sum_k u_k log(K u_k), not below 0 by rounding.
template <class W>
W usage_divergence(const Vector<W>& mean) {
  using std::log;
  const W components(static_cast<double>(mean.size()));
  W sum(0);
  for (Index k = 0; k < mean.size(); ++k) {
    if (mean(k) > W(0)) sum += mean(k) * log(mean(k) * components);
  }
  return sum > W(0) ? sum : W(0);
}

/// scale (log u_k + 1) / sum w, but for a constant that cancels in the softmax: log(K u_k) is small where usage is
/// even.
template <class S>
RowVector<S> usage_pull(const UsageSums<S>& sums, const S& scale) {
  using W = UsageSum<S>;
  using std::log;
  const W factor = sums.tokens == 0 ? W(0) : W(static_cast<W>(scale) / sums.weight);
  const W components(static_cast<double>(sums.mean.size()));
  RowVector<S> pull(sums.mean.size());
  for (Index k = 0; k < pull.size(); ++k) pull(k) = static_cast<S>(factor * log(components * divisor(sums.mean(k))));
  return pull;
}

}  // namespace detail

template <class M>
Usage<Scalar<M>> usage(const M& mixture, const In<Scalar<M>>& tokens, const Vector<Scalar<M>>& weights) {
  using S = Scalar<M>;
  using W = detail::UsageSum<S>;
  using std::exp;
  using std::log;
  Workspace<S> workspace;
  const CompiledMixture<S>& natural = detail::compiled("usage", mixture, workspace);
  detail::check_usage("usage", tokens.cols(), natural.dim(), weights, tokens.rows());
  const auto sums = detail::usage_sums(natural, detail::WeightedTokens<S>{tokens, weights}, workspace);
  Usage<S> result;
  result.mean = sums.mean.template cast<S>();
  result.tokens = sums.tokens;
  if (sums.tokens == 0) return result;
  const W components(static_cast<double>(sums.mean.size()));
  const W entropy = log(components) - detail::usage_divergence(sums.mean);
  result.entropy = static_cast<S>(entropy > W(0) ? entropy : W(0));
  result.effective_components = static_cast<S>(exp(entropy));
  result.token_entropy = static_cast<S>(sums.token_entropy);
  for (Index k = 0; k < sums.mean.size(); ++k) result.dead += sums.mean(k) * components < W(0.1) ? 1 : 0;
  return result;
}

template <class M>
Scalar<M> usage_penalty(const M& mixture, const In<Scalar<M>>& tokens, const Vector<Scalar<M>>& weights) {
  using S = Scalar<M>;
  Workspace<S> workspace;
  const CompiledMixture<S>& natural = detail::compiled("usage_penalty", mixture, workspace);
  detail::check_usage("usage_penalty", tokens.cols(), natural.dim(), weights, tokens.rows());
  const auto sums = detail::usage_sums(natural, detail::WeightedTokens<S>{tokens, weights}, workspace);
  return static_cast<S>(detail::usage_divergence(sums.mean));
}

template <class M>
UsagePenaltyGradients<M> usage_penalty_backward(const M& mixture, const In<Scalar<M>>& tokens, Scalar<M> scale,
                                                const Vector<Scalar<M>>& weights) {
  using S = Scalar<M>;
  static_assert(!std::is_same_v<M, CompiledMixture<S>>,
                "gma: a backward verb needs the mixture's parameters, not a compiled mixture");
  constexpr const char* function = "usage_penalty_backward";
  Workspace<S> workspace;
  const CompiledMixture<S>& natural = detail::compiled(function, mixture, workspace);
  detail::check_usage(function, tokens.cols(), natural.dim(), weights, tokens.rows());
  const detail::WeightedTokens<S> weighted{tokens, weights};
  const detail::UsageSums<S> sums = detail::usage_sums(natural, weighted, workspace);
  const RowVector<S> pull = detail::usage_pull(sums, scale);
  const auto load = [&](Index begin, Index count) { return weighted.tile(begin, count, workspace); };
  const auto fill = [&](Index begin, const Tile<S>& r, Tile<S> d_r) {
    for (Index t = 0; t < r.rows(); ++t) {
      if (weighted.present(begin + t)) {
        d_r.row(t) = pull * weighted.weight(begin + t);
      } else {
        d_r.row(t).setConstant(S(0));
      }
    }
  };
  UsagePenaltyGradients<M> out;
  out.value = static_cast<S>(detail::usage_divergence(sums.mean));
  CompiledMixture<S>& gradient = detail::zero_gradient(natural, workspace);
  detail::backward_tiles(natural, tokens.rows(), load, fill, out.tokens, gradient, workspace);
  detail::pull_back(mixture, natural, gradient, out.mixture);
  return out;
}

}  // namespace gma
