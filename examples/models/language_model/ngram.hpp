// SPDX-License-Identifier: MIT
//
// Byte n-grams with interpolated Witten-Bell smoothing, to compare with. h is the n - 1 bytes before c, N(h) is how
// often any byte followed h, and D(h) is how many different bytes followed it:
//
//   p_n(c | h) = ( N(h c) + D(h) p_{n-1}(c | h without its first byte) ) / ( N(h) + D(h) ),     p_0 = 1 / 256
//
// Counts come only from the training bytes. The models do not adapt to the text on which they are evaluated.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "options.hpp"

namespace language_model {

class Ngrams {
 public:
  static constexpr Index largest_order = 7;  // a string and its length share a 64-bit key

  Ngrams(const Token* bytes, Index count, Index order) : order_(order), slots_(1 << 16) {
    for (Index i = 0; i < count; ++i) {
      std::uint64_t string = 0;  // the bytes i - length .. i - 1, the newest in the lowest 8 bits
      for (Index length = 0; length < order && length <= i; ++length) {
        if (length > 0) string |= std::uint64_t(bytes[i - length]) << (8 * (length - 1));
        const bool is_new = ++insert(key(string << 8 | bytes[i], length + 1)).count == 1;
        Slot& context = insert(key(string, length));
        ++context.followers;
        context.distinct += is_new;
      }
    }
  }

  // Mean -log2 p over bytes [begin, end) of `bytes`, for the orders 1, 2, ... (element 0 is order 1). The bytes before
  // `begin` serve as context.
  std::vector<double> bits_per_byte(const Token* bytes, Index begin, Index end) const {
    std::vector<double> bits(static_cast<std::size_t>(order_), 0.0);
    for (Index i = begin; i < end; ++i) {
      double p = 1.0 / 256.0;
      std::uint64_t string = 0;
      bool is_known = true;  // a context that was never followed has no longer one that was
      for (Index length = 0; length < order_; ++length) {
        if (length > 0 && length <= i) string |= std::uint64_t(bytes[i - length]) << (8 * (length - 1));
        const Slot* context = is_known && length <= i ? find(key(string, length)) : nullptr;
        is_known = context != nullptr && context->followers > 0;
        if (is_known) {
          const Slot* gram = find(key(string << 8 | bytes[i], length + 1));
          const double distinct = double(context->distinct), seen = gram ? double(gram->count) : 0;
          p = (seen + distinct * p) / (double(context->followers) + distinct);
        }
        bits[static_cast<std::size_t>(length)] -= std::log2(p);
      }
    }
    for (double& b : bits) b /= double(end - begin);
    return bits;
  }

 private:
  struct Slot {
    std::uint64_t key = 0;  // 0: free
    std::uint32_t count = 0, followers = 0, distinct = 0;
  };

  static std::uint64_t key(std::uint64_t string, Index length) { return string | std::uint64_t(length + 1) << 60; }
  std::size_t home(std::uint64_t k) const { return std::size_t((k * 0x9E3779B97F4A7C15u) >> 20) & (slots_.size() - 1); }

  const Slot* find(std::uint64_t k) const {
    for (std::size_t i = home(k);; i = (i + 1) & (slots_.size() - 1)) {
      if (slots_[i].key == k) return &slots_[i];
      if (slots_[i].key == 0) return nullptr;
    }
  }

  // Open addressing with linear probing, at most half full. A reference lives until the next insert.
  Slot& insert(std::uint64_t k) {
    if (2 * used_ >= slots_.size()) grow();
    std::size_t i = home(k);
    while (slots_[i].key != k && slots_[i].key != 0) i = (i + 1) & (slots_.size() - 1);
    if (slots_[i].key == 0) slots_[i].key = k, ++used_;
    return slots_[i];
  }

  void grow() {
    std::vector<Slot> old(2 * slots_.size());
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.key == 0) continue;
      std::size_t i = home(slot.key);
      while (slots_[i].key != 0) i = (i + 1) & (slots_.size() - 1);
      slots_[i] = slot;
    }
  }

  Index order_;
  std::vector<Slot> slots_;
  std::size_t used_ = 0;
};

}  // namespace language_model
