// SPDX-License-Identifier: MIT
// The memories of a multi-head call, which are advanced all together or not at all.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>
#include <vector>

#include "gma/attention/slot_forgetting.hpp"
#include "gma/heads/heads_common.hpp"

namespace gma::detail {

/// The sizes on which the scratch of a call depends.
using CallSizes = std::array<Index, 14>;

/// The last few kinds of calls that came to their end: their scratch, which grows only, is there.
class KnownCalls {
 public:
  bool has(const CallSizes& sizes) const { return std::find(calls_.begin(), calls_.end(), sizes) != calls_.end(); }
  /// So that add() cannot fail.
  void reserve() { calls_.reserve(most); }
  void add(const CallSizes& sizes) noexcept {
    if (has(sizes)) return;
    if (calls_.size() < most) {
      calls_.push_back(sizes);
    } else {
      calls_[oldest_] = sizes;
      oldest_ = (oldest_ + 1) % most;
    }
  }

 private:
  static constexpr std::size_t most = 16;
  std::vector<CallSizes> calls_;
  std::size_t oldest_ = 0;
};

/// Tokens a sequence from which on a copy of the memories costs little beside the call.
inline constexpr Index many_tokens = 16;

/// Calls of few tokens: those in which a copy would cost much. A scalar that is more than a number may allocate.
template <class S>
bool is_short_call(Index tokens, Index sequences) {
  return std::is_arithmetic_v<S> && tokens < many_tokens * sequences;
}

template <class Map, class S>
void check_memories(const char* function, const char* argument, const std::vector<Memory<S>>& memories,
                    const HeadCall& call, const std::vector<Map>& mixtures, Index width) {
  if (memories.empty()) return;
  check_size(function, argument, "entries", static_cast<Index>(memories.size()), call.jobs(),
             "one per sequence and key head");
  for (std::size_t i = 0; i < memories.size(); ++i) {
    if (memories[i].empty()) continue;
    check_memory(function, argument, memories[i], mixtures[i % mixtures.size()].components(), width);
  }
}

/// Whether a short call may make one of these memories larger: it is empty, or so long that it begins a remainder.
template <class S>
bool may_grow(const std::vector<Memory<S>>& memories, bool forgets, bool forgets_by_slot) {
  return std::any_of(memories.begin(), memories.end(), [&](const Memory<S>& memory) {
    const S soon = tokens_in(memory) + S(static_cast<double>(many_tokens));
    const bool becomes_long = forgets_by_slot ? is_long_by_slot(soon) : is_long(soon, forgets);
    return memory.empty() || (!has_remainder(memory) && becomes_long);
  });
}

template <class S>
Index count_of_remainders(const std::vector<Memory<S>>& memories) {
  return static_cast<Index>(std::count_if(memories.begin(), memories.end(), has_remainder<S>));
}

/// The memories that a call with mixtures of type M runs on: copies, which take the place of the caller's at the end,
/// or the caller's where nothing can fail.
template <class S, class M>
class MemoryAdvance {
 public:
  /// Changes nothing of the caller's.
  template <class Map>
  std::vector<Memory<S>>* begin(std::vector<Memory<S>>& memories, const HeadCall& call,
                                const std::vector<Map>& mixtures, const Options& options, const HeadInputs<S>& inputs,
                                const HeadLayout& queries, Index value_width, bool is_apart) {
    sizes_ = {call.jobs(),
              call.query_heads,
              call.key_heads,
              queries.rows(),
              queries.width,
              value_width,
              mixtures.front().components(),
              static_cast<Index>(options.normalization),
              options.tile,
              call.keys.is_masked ? 1 : 0,
              count_of_remainders(memories),
              inputs.log_forgetting.size() == 0 ? 0 : 1,
              inputs.slot_log_forgetting.size() == 0 ? 0 : 1,
              is_apart ? 1 : 0};
    // Whether a weight is zero decides how much scratch a tile takes.
    const bool is_whole = options.segment == 0 || options.segment >= queries.rows();
    is_in_place_ = is_whole && options.executor == nullptr && inputs.key_weights.size() == 0 &&
                   is_short_call<S>(queries.rows(), call.queries.count()) && known_.has(sizes_) && !memories.empty() &&
                   are_alike(mixtures) &&
                   !may_grow(memories, inputs.log_forgetting.size() != 0, inputs.slot_log_forgetting.size() != 0);
    if (is_in_place_) return &memories;
    known_.reserve();
    copies_.resize(static_cast<std::size_t>(call.jobs()));
    for (std::size_t i = 0; i < copies_.size(); ++i) {
      if (i < memories.size()) {
        copy_memory(memories[i], copies_[i]);
      } else {
        set_zero(copies_[i], mixtures[i % mixtures.size()].components(), value_width);
      }
    }
    return &copies_;
  }

  void finish(std::vector<Memory<S>>& memories) noexcept {
    known_.add(sizes_);
    if (is_in_place_) return;
    if (memories.empty()) memories.swap(copies_);
    for (std::size_t i = 0; i < memories.size() && i < copies_.size(); ++i) std::swap(memories[i], copies_[i]);
  }

 private:
  template <class Map>
  static bool are_alike(const std::vector<Map>& mixtures) {
    for (const Map& mixture : mixtures) {
      if (mixture.components() != mixtures.front().components()) return false;
    }
    return true;
  }

  std::vector<Memory<S>> copies_;
  KnownCalls known_;
  CallSizes sizes_{};
  bool is_in_place_ = false;
};

}  // namespace gma::detail
