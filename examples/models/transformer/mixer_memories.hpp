// SPDX-License-Identifier: MIT
//
// The state of a mixer that has a memory per head and a short convolution before them.
#pragma once

#include <cstdint>
#include <gma/gma.hpp>
#include <vector>

#include "mixer.hpp"

namespace transformer {

template <class S>
struct MemoriesState : MixerState<S> {
  std::vector<gma::Memory<S>> memories;  // one per head
  Matrix<S> history;                     // of the convolution: the last taps - 1 tokens, one per row

  Index bytes() const override { return numbers_bytes() + memories_bytes(); }

  void save(std::ostream& out) const override {
    const std::int64_t sizes[] = {std::int64_t(memories.size()), history.rows(), history.cols()};
    out.write(reinterpret_cast<const char*>(sizes), sizeof sizes);
    out.write(reinterpret_cast<const char*>(history.data()), numbers_bytes());
    for (const gma::Memory<S>& memory : memories) gma::save(memory, out);
  }

  void load(std::istream& in) override {
    std::int64_t sizes[3] = {};
    in.read(reinterpret_cast<char*>(sizes), sizeof sizes);
    MemoriesState read = *this;
    if (!in || sizes[0] != std::int64_t(memories.size()) || sizes[1] != history.rows() || sizes[2] != history.cols())
      throw std::runtime_error("the saved state is damaged, or of another mixer");
    in.read(reinterpret_cast<char*>(read.history.data()), numbers_bytes());
    for (gma::Memory<S>& memory : read.memories) {
      const Index components = memory.slots.rows(), width = memory.slots.cols();
      gma::load(memory, in);
      if (memory.slots.rows() != components || memory.slots.cols() != width)
        throw std::runtime_error("the saved state has a memory of another size");
    }
    if (!in) throw std::runtime_error("the saved state is cut off");
    *this = std::move(read);
  }

 private:
  Index numbers_bytes() const { return history.size() * Index(sizeof(S)); }
  Index memories_bytes() const {
    Index total = 0;
    for (const auto& memory : memories) total += Index(gma::bytes(memory));
    return total;
  }
};

}  // namespace transformer
