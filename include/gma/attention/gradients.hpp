// SPDX-License-Identifier: MIT
// What a backward verb computes: one gradient per argument, of the argument's own type, or written where the caller
// says.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "gma/attention/memory_tiles.hpp"
#include "gma/attention/token_stream.hpp"
#include "gma/core/operands.hpp"
#include "gma/core/parallel.hpp"
#include "gma/kernels/scan.hpp"
#include "gma/mixture/responsibilities.hpp"

namespace gma {

/// Gradients of a scalar loss. What a verb was not given stays empty. `memory` is the gradient of the memory before the
/// first token (of a memory of zeros if none was given), for read_backward of the memory that was read.
template <class M>
struct Gradients {
  using Scalar = typename M::Scalar;

  Matrix<Scalar> queries;                   ///< Nq x d
  Matrix<Scalar> keys;                      ///< Nk x d
  Matrix<Scalar> values;                    ///< Nk x e
  Vector<Scalar> key_weights;               ///< Nk, if weights were given
  Vector<Scalar> log_forgetting;            ///< Nk, if forgetting was given
  Memory<Scalar> memory;                    ///< K x e; K
  M mixture;                                ///< same type as the parameters
  Matrix<Scalar> slot_log_forgetting = {};  ///< Nk x K, if that of slots was given
};

/// Where a backward verb writes its gradients: matrices, blocks or maps of any layout and storage, of the shapes that
/// Gradients names (N x 1 for those of the token inputs). What is left out is not wanted.
template <class M>
struct GradientTargets {
  Out<Scalar<M>> queries, keys, values, key_weights, log_forgetting;  ///< as Gradients
  Memory<Scalar<M>>* memory = nullptr;                                ///< is sized
  M* mixture = nullptr;                                               ///< is sized
  Out<Scalar<M>> slot_log_forgetting = {};                            ///< Nk x K
};

namespace detail {

/// The gradients of what came with the tokens, without the mixture's: what the inner loops fill.
template <class S>
struct TokenGradients {
  TokenSink<S> queries, keys, values;
  S *key_weights, *log_forgetting;  // N each; null: not wanted
  Memory<S>& memory;
  bool wants_memory;
  TokenSink<S> slot_log_forgetting = {};  // N x K
};

/// What the shapes of a call make of its gradients.
struct GradientShapes {
  const char* function;
  Index queries, keys, dim, width;
  bool weighted, forgets;
  Index slots = 0;  // columns of slot_log_forgetting, 0: not given
};

/// Where the gradients of one call go: a caller's Gradients, which are sized, or GradientTargets, which are checked.
template <class M>
class GradientDestination {
 public:
  using S = Scalar<M>;

  // Made implicitly. NOLINTBEGIN(google-explicit-constructor)
  GradientDestination(Gradients<M>& all) : all_(&all) {}
  GradientDestination(const GradientTargets<M>& targets) : targets_(&targets) {}
  // NOLINTEND(google-explicit-constructor)

  void check(const GradientShapes& shapes) const {
    if (all_ != nullptr) return;
    const auto check_target = [&](const char* name, const Out<S>& out, Index rows, Index cols, const char* meaning) {
      if (out.is_wanted()) check_shape(shapes.function, name, out.rows(), out.cols(), rows, cols, meaning);
    };
    check_target("targets.queries", targets_->queries, shapes.queries, shapes.dim, "as queries");
    check_target("targets.keys", targets_->keys, shapes.keys, shapes.dim, "as keys");
    check_target("targets.values", targets_->values, shapes.keys, shapes.width, "as values");
    check_target("targets.key_weights", targets_->key_weights, shapes.weighted ? shapes.keys : 0, 1,
                 "one per key, if weights were given");
    check_target("targets.log_forgetting", targets_->log_forgetting, shapes.forgets ? shapes.keys : 0, 1,
                 "one per key, if forgetting was given");
    check_target("targets.slot_log_forgetting", targets_->slot_log_forgetting, shapes.slots > 0 ? shapes.keys : 0,
                 shapes.slots, "as tokens.slot_log_forgetting");
  }

  /// `input`, or a copy of it where it shares memory with a gradient.
  TokenView<S> apart(const TokenView<S>& input, Workspace<S>& workspace) const {
    const auto shares = [&](const TokenRows& output) { return input.overlap(output) != Overlap::none; };
    bool is_shared = false;
    if (all_ != nullptr) {
      for (const Matrix<S>* output :
           {&all_->queries, &all_->keys, &all_->values, &all_->memory.slots, &all_->slot_log_forgetting}) {
        is_shared = is_shared || shares(TokenView<S>(*output));
      }
    } else {
      for (const Out<S>* output : {&targets_->queries, &targets_->keys, &targets_->values, &targets_->key_weights,
                                   &targets_->log_forgetting, &targets_->slot_log_forgetting}) {
        is_shared = is_shared || shares(*output);
      }
      is_shared = is_shared || (targets_->memory != nullptr && shares(TokenView<S>(targets_->memory->slots)));
    }
    return is_shared ? copied(input, workspace) : input;
  }

  /// Sizes the gradients. What lies in the workspace is valid until the caller's frame ends.
  TokenGradients<S> open(const GradientShapes& shapes, Workspace<S>& workspace) {
    if (all_ == nullptr) return open_targets(workspace);
    resize(all_->queries, shapes.queries, shapes.dim);
    resize(all_->keys, shapes.keys, shapes.dim);
    resize(all_->values, shapes.keys, shapes.width);
    resize(all_->key_weights, shapes.weighted ? shapes.keys : 0);
    resize(all_->log_forgetting, shapes.forgets ? shapes.keys : 0);
    resize(all_->slot_log_forgetting, shapes.slots > 0 ? shapes.keys : 0, shapes.slots);
    return {TokenSink<S>(all_->queries),
            TokenSink<S>(all_->keys),
            TokenSink<S>(all_->values),
            shapes.weighted ? all_->key_weights.data() : nullptr,
            shapes.forgets ? all_->log_forgetting.data() : nullptr,
            all_->memory,
            true,
            shapes.slots > 0 ? TokenSink<S>(all_->slot_log_forgetting) : TokenSink<S>()};
  }

  /// Where the mixture's gradient goes; null: it is not wanted.
  M* mixture() const { return all_ != nullptr ? &all_->mixture : targets_->mixture; }

  void close() const {
    if (all_ != nullptr) return;
    store(targets_->key_weights, key_weights_);
    store(targets_->log_forgetting, log_forgetting_);
  }

 private:
  TokenGradients<S> open_targets(Workspace<S>& workspace) {
    const auto take = [&](const Out<S>& out) {
      return out.is_wanted() && out.rows() > 0 ? workspace.take(out.rows(), 1).data() : nullptr;
    };
    key_weights_ = take(targets_->key_weights);
    log_forgetting_ = take(targets_->log_forgetting);
    Memory<S>& unwanted = workspace.template keep<GradientMemory>().memory;
    return {targets_->queries,
            targets_->keys,
            targets_->values,
            key_weights_,
            log_forgetting_,
            targets_->memory != nullptr ? *targets_->memory : unwanted,
            targets_->memory != nullptr,
            targets_->slot_log_forgetting};
  }
  static void store(const Out<S>& out, S* numbers) {
    if (numbers != nullptr) out.store(0, Tile<S>(numbers, out.rows(), 1, Eigen::OuterStride<>(1)));
  }

  struct GradientMemory {
    Memory<S> memory;
  };

  Gradients<M>* all_ = nullptr;
  const GradientTargets<M>* targets_ = nullptr;
  S *key_weights_ = nullptr, *log_forgetting_ = nullptr;
};

/// Rows for the gradient of tokens [begin, begin + count); without columns where it is not wanted.
template <class S>
Tile<S> gradient_rows(const TokenSink<S>& gradient, Index begin, Index count, Index width, Workspace<S>& workspace) {
  return gradient.tile(begin, count, workspace.take(count, gradient.is_wanted() ? width : Index(0)));
}

/// compute(rows of the gradient) for tokens [begin, begin + count), unless they are not wanted.
template <class S, class Compute>
void fill_rows(const TokenSink<S>& gradient, Index begin, Index count, Workspace<S>& workspace,
               const Compute& compute) {
  if (!gradient.is_wanted()) return;
  Tile<S> rows = gradient.tile(begin, count, workspace.take(count, gradient.cols()));
  compute(rows);
  gradient.store(begin, rows);
}

/// One gradient of the natural parameters per chunk of tokens that runs at the same time as others.
template <class FeatureMap, class S>
class PartialGradients {
 public:
  /// Without `is_wanted` all of them stay without factors, which backward() takes for "not wanted".
  PartialGradients(const FeatureMap& map, bool is_wanted, Index chunks, const Executor* executor,
                   Workspace<S>& workspace)
      : map_(map),
        is_wanted_(is_wanted),
        buffers_((std::max)(Index(1), (std::min)(workers(executor), chunks))),
        parts_(workspace.template keep<std::vector<FeatureMap>>()) {
    workspace.prepare_workers(workers(executor));
    if (static_cast<Index>(parts_.size()) < buffers_) parts_.resize(static_cast<std::size_t>(buffers_));
  }

  Index buffers() const { return buffers_; }
  FeatureMap& operator[](Index buffer) { return parts_[static_cast<std::size_t>(buffer)]; }
  FeatureMap& start(Index buffer) {
    if (is_wanted_) {
      set_zero_like((*this)[buffer], map_);
    } else {
      (*this)[buffer] = FeatureMap();
    }
    return (*this)[buffer];
  }

 private:
  const FeatureMap& map_;
  bool is_wanted_;
  Index buffers_;
  std::vector<FeatureMap>& parts_;
};

/// numbers + low += part, and the gradients of a mixture so; maps without parameters have nothing to add.
template <class FeatureMap, class S>
void settle_gradient(const FeatureMap& part, FeatureMap& high, FeatureMap& low) {
  if constexpr (is_compiled<FeatureMap>) {
    for (std::size_t m = 0; m < part.factors.size(); ++m) {
      const auto settle = [](const auto& change, auto& sum, auto& rest) {
        kernels::settle<S>({}, change.data(), change.size(), sum.data(), rest.data());
      };
      settle(part.factors[m].weights, high.factors[m].weights, low.factors[m].weights);
      settle(part.factors[m].means, high.factors[m].means, low.factors[m].means);
      settle(part.factors[m].bias, high.factors[m].bias, low.factors[m].bias);
    }
  }
}

/// The gradient of the natural parameters, over all tokens. What queries and keys give is large and nearly cancels, so
/// each part is summed from zero and added to a sum of two numbers.
template <class FeatureMap, class S>
class GradientSum {
 public:
  /// Without `is_wanted` parts are without factors, and the total stays zero.
  GradientSum(const FeatureMap& map, bool is_wanted, Workspace<S>& workspace)
      : is_wanted_(is_wanted || !is_compiled<FeatureMap>),
        high_(zero_gradient(map, workspace)),
        low_(workspace.template keep<Scratch>().low),
        part_(workspace.template keep<Scratch>().part),
        unwanted_(workspace.template keep<Scratch>().unwanted) {
    set_zero_like(low_, map);
  }
  /// The same in the two numbers given. `workspace` has room for a part.
  GradientSum(const FeatureMap& map, bool is_wanted, FeatureMap& high, FeatureMap& low, Workspace<S>& workspace)
      : is_wanted_(is_wanted || !is_compiled<FeatureMap>),
        high_(high),
        low_(low),
        part_(workspace.template keep<PartScratch>().part),
        unwanted_(workspace.template keep<PartScratch>().unwanted) {
    set_zero_like(high_, map);
    set_zero_like(low_, map);
  }

  bool is_wanted() const { return is_wanted_; }

  /// Room for a part, set to zero.
  FeatureMap& part(const FeatureMap& map) {
    if (!is_wanted_) return unwanted_;
    set_zero_like(part_, map);
    return part_;
  }
  /// Adds a part; the one that part() gave is zero again.
  void add(const FeatureMap& map, const FeatureMap& part) {
    if (!is_wanted_) return;
    settle_gradient<FeatureMap, S>(part, high_, low_);
    if (&part == &part_) set_zero_like(part_, map);
  }
  FeatureMap& total() { return high_; }

 private:
  struct Scratch {
    FeatureMap low, part, unwanted;
  };
  struct PartScratch {
    FeatureMap part, unwanted;
  };

  bool is_wanted_;
  FeatureMap &high_, &low_, &part_, &unwanted_;
};

template <class M>
constexpr void check_has_parameters() {
  static_assert(!is_compiled<M>, "gma: a backward verb needs the mixture's parameters, not a compiled mixture");
}

}  // namespace detail
}  // namespace gma
