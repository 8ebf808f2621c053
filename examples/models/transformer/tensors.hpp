// SPDX-License-Identifier: MIT
//
// Parameters as named tensors in one flat buffer.
//
// A layer asks the Layout for its tensors once and keeps the handles. Values, gradients and the optimiser's moments are
// then plain vectors of the same layout. Summing gradients over sequences, clipping, an AdamW step, saving a checkpoint
// or checking every gradient against differences is a loop over one array or over the names; it need not know which
// layers exist.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "types.hpp"

namespace transformer {

// How the optimiser treats a tensor: see AdamW in optimizer.hpp.
enum class Group {
  matrix,   // weights of dense layers and the embedding: weight decay
  gain,     // gains of norms, biases, filters: no decay
  mixture,  // mixtures' weights, means, scales, temperatures: a larger learning rate, no decay
};

// A handle: the position of a rows x cols tensor in any buffer of its layout.
struct Tensor {
  Index offset = 0, rows = 0, cols = 0;
  Index size() const { return rows * cols; }
};

template <class S>
Tile<S> view(Vector<S>& buffer, const Tensor& tensor) {
  return {buffer.data() + tensor.offset, tensor.rows, tensor.cols, Eigen::OuterStride<>(tensor.cols)};
}
template <class S>
ConstTile<S> view(const Vector<S>& buffer, const Tensor& tensor) {
  return {buffer.data() + tensor.offset, tensor.rows, tensor.cols, Eigen::OuterStride<>(tensor.cols)};
}

// Columns [begin, begin + count) of a matrix.
template <class S>
ConstTile<S> columns(const Matrix<S>& x, Index begin, Index count) {
  return {x.data() + begin, x.rows(), count, Eigen::OuterStride<>(x.cols())};
}
template <class S>
Tile<S> columns(Matrix<S>& x, Index begin, Index count) {
  return {x.data() + begin, x.rows(), count, Eigen::OuterStride<>(x.cols())};
}

class Layout {
 public:
  struct Entry {
    std::string name;
    Tensor tensor;
    Group group;
    // In files. Weights of dense layers are [out, in] there, as in other programs: the transpose of the tensor.
    std::vector<Index> shape;
    bool is_transposed;
  };

  Tensor add(std::string name, Index rows, Index cols, Group group) {
    return add(std::move(name), rows, cols, group, {rows, cols});
  }
  Tensor add(std::string name, Index rows, Index cols, Group group, std::vector<Index> shape,
             bool is_transposed = false) {
    const Tensor tensor{size_, rows, cols};
    size_ += (tensor.size() + alignment - 1) / alignment * alignment;
    parameters_ += tensor.size();
    entries_.push_back({std::move(name), tensor, group, std::move(shape), is_transposed});
    return tensor;
  }

  Index size() const { return size_; }              // of a buffer, with the padding between tensors
  Index parameters() const { return parameters_; }  // without it
  const std::vector<Entry>& entries() const { return entries_; }

  // visit(name, value, gradient, group) for every tensor, value and gradient as matrices.
  template <class Values, class Gradients, class Visitor>
  void for_each(Values& values, Gradients& gradients, Visitor&& visit) const {
    for (const Entry& entry : entries_)
      visit(entry.name, view(values, entry.tensor), view(gradients, entry.tensor), entry.group);
  }

 private:
  static constexpr Index alignment = 16;  // scalars: every tensor starts on a new cache line
  Index size_ = 0, parameters_ = 0;
  std::vector<Entry> entries_;
};

}  // namespace transformer
