// SPDX-License-Identifier: MIT
// Scratch memory that the caller owns and that grows only: the second call of a verb with the same shapes allocates
// nothing here.
#pragma once

#include <deque>

#include "gma/core/types.hpp"

namespace gma {

/// Scratch buffers of one thread. Give the same workspace to successive calls to reuse its memory; never to two calls
/// at once. Contents are unspecified between calls.
template <class S>
class Workspace {
 public:
  /// Bytes held at present.
  std::size_t bytes() const {
    std::size_t total = 0;
    for (const Vector<S>& buffer : buffers_) total += static_cast<std::size_t>(buffer.size()) * sizeof(S);
    return total;
  }

  /// Uninitialised T x cols view, valid until the enclosing Frame ends.
  Tile<S> take(Index rows, Index cols) {
    if (used_ == buffers_.size()) buffers_.emplace_back();
    Vector<S>& buffer = buffers_[used_++];
    if (buffer.size() < rows * cols) buffer.resize(rows * cols);
    return Tile<S>(buffer.data(), rows, cols, Eigen::OuterStride<>(cols));
  }

  /// Hands back at its end what was taken since its start; frames nest.
  class Frame {
   public:
    explicit Frame(Workspace& workspace) : workspace_(workspace), used_(workspace.used_) {}
    ~Frame() { workspace_.used_ = used_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Workspace& workspace_;
    std::size_t used_;
  };

 private:
  std::deque<Vector<S>> buffers_;  // a deque: views stay valid while buffers are added
  std::size_t used_ = 0;
};

}  // namespace gma
