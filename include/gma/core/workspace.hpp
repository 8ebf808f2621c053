// SPDX-License-Identifier: MIT
// Scratch memory that the caller owns and that grows only: from the second call on, a verb with the same shapes
// allocates nothing.
#pragma once

#include <memory>
#include <vector>

#include "gma/core/resize.hpp"
#include "gma/core/types.hpp"

namespace gma {

/// Scratch buffers of one call at a time, for all its threads. Give the same workspace to successive calls to reuse its
/// memory; never to two calls at once. Contents are unspecified between calls, and after an exception too: the next
/// call may use it as it is. It can be moved, but not copied.
template <class S>
class Workspace {
 public:
  Workspace() = default;
  Workspace(Workspace&&) noexcept = default;
  Workspace& operator=(Workspace&&) noexcept = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() = default;

  /// Bytes held at present in buffers, those of all threads.
  std::size_t bytes() const {
    std::size_t total = 0;
    for (const std::unique_ptr<Vector<S>>& buffer : buffers_) {
      total += static_cast<std::size_t>(buffer->size()) * sizeof(S);
    }
    for (const std::unique_ptr<Workspace>& other : others_) total += other->bytes();
    return total;
  }

  /// Uninitialised T x cols view without gaps, valid until the enclosing Frame ends.
  Tile<S> take(Index rows, Index cols) { return take(rows, cols, cols); }

  /// Like take(), but pads the row stride where it is a multiple of 32 numbers, to avoid conflicts of cache sets.
  Tile<S> take_spread(Index rows, Index cols) {
    return take(rows, cols, cols % 32 == 0 ? cols + static_cast<Index>(64 / sizeof(S)) : cols);
  }

  /// The workspace of worker i, which is below the count last given to prepare_workers(); worker 0's is this one.
  Workspace& worker(Index i) { return i == 0 ? *this : *others_[static_cast<std::size_t>(i - 1)]; }
  /// Makes the workspaces of `count` workers, before they run.
  void prepare_workers(Index count) {
    while (static_cast<Index>(others_.size()) + 1 < count) others_.push_back(std::make_unique<Workspace>());
  }

  /// The object of type T that stays with the workspace and keeps its memory. T names its purpose: one struct per use.
  template <class T>
  T& keep() {
    for (const std::unique_ptr<Kept>& kept : kept_) {
      if (kept->type == type_of<T>()) return static_cast<KeptObject<T>&>(*kept).object;
    }
    kept_.push_back(std::make_unique<KeptObject<T>>());
    return static_cast<KeptObject<T>&>(*kept_.back()).object;
  }

  /// Hands back at its end what was taken since its start; frames nest.
  class Frame {
   public:
    /// `workspace` must outlive the frame.
    explicit Frame(Workspace& workspace) : workspace_(workspace), used_(workspace.used_) {}
    ~Frame() { workspace_.used_ = used_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Workspace& workspace_;
    std::size_t used_;
  };

 private:
  struct Kept {
    explicit Kept(const void* t) : type(t) {}
    virtual ~Kept() = default;
    const void* type;
  };
  template <class T>
  struct KeptObject : Kept {
    KeptObject() : Kept(type_of<T>()) {}
    T object;
  };
  /// One address per type: works without RTTI.
  template <class T>
  static const void* type_of() {
    static const char address = 0;
    return &address;
  }

  Tile<S> take(Index rows, Index cols, Index stride) {
    if (used_ == buffers_.size()) buffers_.push_back(std::make_unique<Vector<S>>());
    Vector<S>& buffer = *buffers_[used_];
    detail::grow(buffer, rows * stride);
    ++used_;
    return Tile<S>(buffer.data(), rows, cols, Eigen::OuterStride<>(stride));
  }

  std::vector<std::unique_ptr<Vector<S>>> buffers_;  // views stay valid while buffers are added, for any S
  std::size_t used_ = 0;
  std::vector<std::unique_ptr<Workspace>> others_;
  std::vector<std::unique_ptr<Kept>> kept_;
};

}  // namespace gma
