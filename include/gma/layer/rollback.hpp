// SPDX-License-Identifier: MIT
// The last few states of a stream, so that tokens can be taken back. Speculative decoding needs this when a draft is
// rejected. Arithmetic cannot undo a token exactly. But a state is small, and copies are cheap.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "gma/core/checks.hpp"

namespace gma {

/// A ring of the last `capacity` states. State is anything that can be copied: a Memory, the state of a layer, or a
/// std::vector of them. Record before every token:
///
///     gma::Rollback<gma::Memory<float>> rollback(8);  // drafts of at most 8 tokens
///     for (Index t = 0; t < draft; ++t) {
///       rollback.record(memory);
///       gma::causal_into(y.row(t), mixture, q.row(t), k.row(t), v.row(t), memory, options, tokens, workspace);
///     }
///     rollback.rewind(memory, draft - accepted);  // as if the rejected tokens had never been
///
/// It holds as many states as were recorded, at most `capacity`, which may be any number. record() copies one state,
/// and rewind() exchanges two. Copies reuse storage: if all states have one size, nothing is allocated after the first
/// `capacity` records.
template <class State>
class Rollback {
 public:
  /// Throws std::invalid_argument if `capacity`, the most tokens that can be taken back, is below 1.
  explicit Rollback(Index capacity);

  /// Remembers the state before the next token. Forgets the oldest one if there are `capacity`.
  void record(const State& state);

  /// The number of tokens that can be taken back: records since the last clear() that are neither rewound nor
  /// forgotten.
  Index available() const { return available_; }

  /// The most tokens that can be taken back.
  Index capacity() const { return capacity_; }

  /// Makes `state` bit-identical to what it was `tokens` records ago, and drops those records. 0 changes nothing.
  /// Throws std::invalid_argument if `tokens` is negative or more than available(), and then leaves `state` unchanged.
  /// Allocates nothing if the swap of two states does not.
  void rewind(State& state, Index tokens);

  /// Forgets all records, for another stream. Their storage is reused.
  void clear() { next_ = available_ = 0; }

 private:
  std::vector<State> ring_;  // grows to capacity_; next_ is where the next record goes
  Index capacity_, next_ = 0, available_ = 0;
};

// Implementation -----------------------------------------------------------------------------------------------------

template <class State>
Rollback<State>::Rollback(Index capacity) : capacity_(capacity) {
  if (capacity < 1) detail::invalid_argument("Rollback", "capacity is ", capacity, ", expected at least 1");
}

template <class State>
void Rollback<State>::record(const State& state) {
  const std::size_t place = static_cast<std::size_t>(next_);
  if (available_ == capacity_) --available_;  // the oldest one goes, even if the copy fails
  if (place == ring_.size()) {
    ring_.push_back(state);
  } else {
    ring_[place] = state;
  }
  next_ = (next_ + 1) % capacity_;
  ++available_;
}

template <class State>
void Rollback<State>::rewind(State& state, Index tokens) {
  if (tokens < 0 || tokens > available_) {
    detail::invalid_argument("Rollback::rewind", "tokens is ", tokens, ", expected 0 to ", available_,
                             " (the records available)");
  }
  if (tokens == 0) return;
  const Index place = next_ >= tokens ? next_ - tokens : next_ + (capacity_ - tokens);
  using std::swap;
  swap(state, ring_[static_cast<std::size_t>(place)]);
  next_ = place;
  available_ -= tokens;
}

}  // namespace gma
