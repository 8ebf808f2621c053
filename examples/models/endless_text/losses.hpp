// SPDX-License-Identifier: MIT
//
// The losses of a stream by position, in a few numbers: sums over bands that begin at powers of two, and over
// megabytes. The position of a byte is the number of bytes that were read before it.
#pragma once

#include <cstdint>
#include <vector>

#include "language_model/options.hpp"

namespace endless_text {

using language_model::Index;

// Bytes at positions [begin, end), of which `bytes` have been predicted, and the sum of their losses.
struct Span {
  std::int64_t begin = 0, end = 0, bytes = 0;
  double nats = 0;

  double bits_per_byte() const { return nats * language_model::bits_per_nat / double(bytes); }
};

// What is measured beside the losses of a megabyte.
struct Cost {
  double seconds = 0;                    // of reading, since the stream began
  std::int64_t peak_resident_bytes = 0;  // of the program, so far
};

inline constexpr std::int64_t megabyte = 1000000;

class Losses {
 public:
  // The loss of the byte at the next position. The first byte of a text is not predicted: positions begin with 1.
  void add(double nats) {
    ++predicted_;
    if (bands_.empty() || predicted_ >= bands_.back().end) open_band();
    if (megabytes_.empty() || predicted_ >= megabytes_.back().end) open_megabyte();
    for (Span* span : {&total_, &bands_.back(), &megabytes_.back()}) {
      ++span->bytes;
      span->nats += nats;
    }
    total_.end = predicted_ + 1;
  }

  // The cost so far of the megabyte that was added to last.
  void set_cost(const Cost& cost) {
    if (!costs_.empty()) costs_.back() = cost;
  }

  const Span& total() const { return total_; }
  const std::vector<Span>& bands() const { return bands_; }          // [0, 64), [64, 128), [128, 256) ...
  const std::vector<Span>& megabytes() const { return megabytes_; }  // [0, 10^6), [10^6, 2 10^6) ...
  const std::vector<Cost>& costs() const { return costs_; }          // one per megabyte

  // Of a saved state.
  Losses() = default;
  Losses(const Span& total, std::vector<Span> bands, std::vector<Span> megabytes, std::vector<Cost> costs)
      : predicted_(total.bytes),
        total_(total),
        bands_(std::move(bands)),
        megabytes_(std::move(megabytes)),
        costs_(std::move(costs)) {}

 private:
  void open_band() {
    const std::int64_t begin = bands_.empty() ? 0 : bands_.back().end;
    bands_.push_back({begin, begin == 0 ? 64 : 2 * begin, 0, 0});
  }
  void open_megabyte() {
    const std::int64_t begin = megabytes_.empty() ? 0 : megabytes_.back().end;
    megabytes_.push_back({begin, begin + megabyte, 0, 0});
    costs_.emplace_back();
  }

  std::int64_t predicted_ = 0;
  Span total_;
  std::vector<Span> bands_, megabytes_;
  std::vector<Cost> costs_;
};

}  // namespace endless_text
