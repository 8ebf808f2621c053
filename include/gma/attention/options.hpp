// SPDX-License-Identifier: MIT
// Options: what a caller may choose. TokenInputs: what may be given per token.
#pragma once

#include <algorithm>

#include "gma/core/checks.hpp"
#include "gma/core/parallel.hpp"
#include "gma/core/types.hpp"

namespace gma {

/// How a verb reads and how it works. The defaults suit most calls.
struct Options {
  Normalization normalization = Normalization::slot;  ///< how a read divides by the mass

  /// Tokens processed at a time; 0 leaves the choice to the operator. It changes speed and the last bits only.
  Index tile = 0;

  /// Causal backward: tokens between the memories that are kept on the way forward (rounded up to whole tiles, which
  /// are of 96 to 256 tokens, fewer the larger K is); N or more: none but the first. Extra memory is N /
  /// checkpoint_interval + checkpoint_interval / tile memories of K e + K numbers.
  Index checkpoint_interval = 256;

  /// Runs independent chunks of tokens at the same time; null: one after another. Results have the same bits with any
  /// executor. It must outlive the call.
  const Executor* executor = nullptr;

  /// Causal verbs: tokens of a segment; 0: one pass. A longer sequence is cut before every multiple of `segment`, and
  /// the executor runs the segments at the same time. What they write is found first: up to half a forward pass more
  /// work, and 0.3 to 0.5 of a backward pass. A few thousand tokens are a good length, and several segments per thread.
  /// Extra memory is one or two memories of K e + K numbers per segment, backward four and two gradients of the
  /// mixture. It changes the last bits only. They depend on `segment`, and not on the number of threads. Where slots
  /// forget at their own rates a sequence is one pass.
  Index segment = 0;
};

/// Per-token inputs of the keys, N each; an empty vector stands for ones, or for zeros.
template <class S>
struct TokenInputs {
  Vector<S> key_weights;  ///< finite, >= 0; 0 means the token is absent: what its key and value contain has no effect
  Vector<S>
      log_forgetting;  ///< g_t <= 0: the memory is multiplied by exp(g_t) before token t is written; -inf restarts it
  /// s_tk <= 0, N x K or empty: slot k and its mass are multiplied by exp(g_t + s_tk), (10); -inf restarts the slot.
  /// Taken by causal() and write(), their gradients and steps. They then go from token to token, so that any split of a
  /// stream gives the same bits.
  Matrix<S> slot_log_forgetting = {};
};

/// The same as a verb takes it: a view of TokenInputs, or of numbers that lie elsewhere, as Eigen::Map of N numbers
/// without gaps. They must outlive the call.
template <class S>
struct TokenInputsView {
  using Numbers = Eigen::Map<const Vector<S>>;                               ///< N numbers without gaps
  using SlotNumbers = Eigen::Map<const Matrix<S>, 0, Eigen::OuterStride<>>;  ///< rows of K numbers, gaps between them

  Numbers key_weights{nullptr, 0};                                          ///< N, or empty: ones
  Numbers log_forgetting{nullptr, 0};                                       ///< N, or empty: zeros
  SlotNumbers slot_log_forgetting{nullptr, 0, 0, Eigen::OuterStride<>(0)};  ///< N x K, or empty: zeros

  TokenInputsView() = default;
  /// Views of all three, or of those that are given.
  TokenInputsView(const TokenInputs<S>& inputs)  // NOLINT(google-explicit-constructor): made implicitly
      : key_weights(inputs.key_weights.data(), inputs.key_weights.size()),
        log_forgetting(inputs.log_forgetting.data(), inputs.log_forgetting.size()),
        slot_log_forgetting(inputs.slot_log_forgetting.data(), inputs.slot_log_forgetting.rows(),
                            inputs.slot_log_forgetting.cols(),
                            Eigen::OuterStride<>(inputs.slot_log_forgetting.cols())) {}
  TokenInputsView(const Numbers& weights, const Numbers& forgetting)
      : key_weights(weights), log_forgetting(forgetting) {}
  TokenInputsView(const Numbers& weights, const Numbers& forgetting, const SlotNumbers& slot_forgetting)
      : key_weights(weights), log_forgetting(forgetting), slot_log_forgetting(slot_forgetting) {}
  TokenInputsView(const Vector<S>& weights, const Vector<S>& forgetting)
      : TokenInputsView(Numbers(weights.data(), weights.size()), Numbers(forgetting.data(), forgetting.size())) {}

  /// Those of tokens [begin, begin + count).
  TokenInputsView part(Index begin, Index count) const {
    const auto of = [&](const Numbers& all) {
      return all.size() == 0 ? Numbers(nullptr, 0) : Numbers(all.data() + begin, count);
    };
    return TokenInputsView(of(key_weights), of(log_forgetting));
  }
};

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// options.checkpoint_interval, but no more than there are tokens: any number may be given for "all of them".
inline Index checkpoint_interval(const Options& options, Index tokens) {
  return (std::clamp)(options.checkpoint_interval, Index(1), (std::max)(tokens, Index(1)));
}

inline void check_options(const char* function, const Options& options) {
  if (options.tile < 0) invalid_argument(function, "options.tile is ", options.tile, ", expected 0 or more");
  if (options.checkpoint_interval < 1) {
    invalid_argument(function, "options.checkpoint_interval is ", options.checkpoint_interval, ", expected 1 or more");
  }
  if (options.segment < 0) invalid_argument(function, "options.segment is ", options.segment, ", expected 0 or more");
}

/// A causal sequence in segments, which depend on its length and options.segment alone.
struct Segments {
  Index tokens, length;

  Segments(const Options& options, Index n)
      : tokens(n), length(options.segment > 0 && options.segment < n ? options.segment : (std::max)(n, Index(1))) {}
  Index count() const { return (std::max)(Index(1), (tokens + length - 1) / length); }
  Index begin(Index i) const { return i * length; }
  Index size(Index i) const { return (std::min)(length, tokens - i * length); }
};

/// `components`: slots that may have a forgetting each; 0: the function takes none.
template <class S>
void check_slot_forgetting(const char* function, const TokenInputsView<S>& tokens, Index count, Index components) {
  const auto& w = tokens.key_weights;
  const auto& s = tokens.slot_log_forgetting;
  if (s.size() == 0) return;
  if (components == 0) {
    invalid_argument(function, "tokens.slot_log_forgetting is ", s.rows(), " x ", s.cols(),
                     ", expected none: only causal() and write() forget by slot");
  }
  check_shape(function, "tokens.slot_log_forgetting", s.rows(), s.cols(), count, components, "keys x components");
  for (Index j = 0; j < count; ++j) {
    for (Index k = 0; k < components; ++k) {
      if (s(j, k) <= S(0) || (w.size() != 0 && !(w(j) > S(0)))) continue;
      invalid_argument(function, "tokens.slot_log_forgetting is ", s(j, k), " at token ", j, ", slot ", k,
                       ", expected a number <= 0 or -inf");
    }
  }
}

template <class S>
void check_tokens(const char* function, const TokenInputsView<S>& tokens, Index count, Index components = 0) {
  const auto &w = tokens.key_weights, &g = tokens.log_forgetting;
  if (w.size() != 0) check_size(function, "tokens.key_weights", "coefficients", w.size(), count, "one per key");
  if (g.size() != 0) check_size(function, "tokens.log_forgetting", "coefficients", g.size(), count, "one per key");
  for (Index j = 0; j < w.size(); ++j) {
    if (!(is_finite(w(j)) && w(j) >= S(0))) {
      invalid_argument(function, "tokens.key_weights is ", w(j), " at token ", j, ", expected a finite number >= 0");
    }
  }
  for (Index j = 0; j < g.size(); ++j) {
    if (!(g(j) <= S(0)) && (w.size() == 0 || w(j) > S(0))) {
      invalid_argument(function, "tokens.log_forgetting is ", g(j), " at token ", j,
                       ", expected a number <= 0 or -inf");
    }
  }
  check_slot_forgetting(function, tokens, count, components);
}
template <class S>
void check_tokens(const char* function, const TokenInputs<S>& tokens, Index count, Index components = 0) {
  check_tokens(function, TokenInputsView<S>(tokens), count, components);
}

}  // namespace detail
}  // namespace gma
