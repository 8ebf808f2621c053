// SPDX-License-Identifier: MIT
// What a backward verb of many heads computes, and where it goes: HeadGradients, which are sized, or the caller's
// targets, which are checked.
#pragma once

#include <utility>
#include <vector>

#include "gma/attention/gradients.hpp"
#include "gma/heads/heads_common.hpp"

namespace gma {

/// Gradients of a scalar loss, each of the shape of what it is the gradient of, matrices as batch * tokens rows with
/// the heads side by side. Zero for rows that belong to no sequence. What a verb was not given stays empty.
template <class M>
struct HeadGradients {
  using Scalar = typename M::Scalar;

  Matrix<Scalar> queries;                   ///< Nq x (Hq d)
  Matrix<Scalar> keys;                      ///< Nk x (H d)
  Matrix<Scalar> values;                    ///< Nk x (H e)
  Vector<Scalar> key_weights;               ///< Nk, if weights were given
  Matrix<Scalar> log_forgetting;            ///< Nk x H, if forgetting was given
  std::vector<Memory<Scalar>> memories;     ///< before the first token, one per sequence and key head
  std::vector<M> mixtures;                  ///< H
  Matrix<Scalar> slot_log_forgetting = {};  ///< Nk x (H K), if that of slots was given
};

/// Where a backward verb of many heads writes its gradients: tensors, matrices, blocks or maps of any layout and
/// storage, of the shapes that HeadGradients names. What is left out is not wanted, and is not computed.
template <class M>
struct HeadGradientTargets {
  HeadsOut<Scalar<M>> queries, keys, values;           ///< as HeadGradients
  Out<Scalar<M>> key_weights;                          ///< Nk x 1
  HeadsOut<Scalar<M>> log_forgetting;                  ///< Nk x H, a matrix or a tensor of width 1
  std::vector<Memory<Scalar<M>>>* memories = nullptr;  ///< is sized
  std::vector<M>* mixtures = nullptr;                  ///< is sized
  HeadsOut<Scalar<M>> slot_log_forgetting = {};        ///< Nk x (H K), a matrix or a tensor of width K
};

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Rows that a thread copies at a time.
inline constexpr Index rows_of_copy = 512;

/// Rows of a sequence and head to where they belong, which may be nowhere.
template <class S, class Derived>
void put_rows(const HeadsSink<S>& target, const Placement& placement, const Placement::Span& span, Index head,
              const Executor* executor, const Eigen::PlainObjectBase<Derived>& numbers) {
  if (!target.is_wanted() || span.count == 0) return;
  const Index width = target.layout.width;
  S* const data = const_cast<S*>(numbers.data());  // is only read
  if (!placement.is_masked) {
    return parallel_for(executor, (span.count + rows_of_copy - 1) / rows_of_copy, [&](Index i, Index) {
      const Index begin = i * rows_of_copy, count = (std::min)(rows_of_copy, span.count - begin);
      target.head(head, span.begin + begin, count)
          .put(Tile<S>(data + begin * width, count, width, Eigen::OuterStride<>(width)));
    });
  }
  for (Index i = 0; i < span.count; ++i) {
    target.head(head, placement.row(span.begin + i), 1)
        .put(Tile<S>(data + i * width, 1, width, Eigen::OuterStride<>(width)));
  }
}

/// Targets whose matrices are split into heads and checked.
template <class M>
struct HeadDestination {
  using S = Scalar<M>;

  HeadsSink<S> queries, keys, values, log_forgetting;
  Out<S> key_weights;
  std::vector<Memory<S>>* memories;
  std::vector<M>* mixtures;
  HeadsSink<S> slot_log_forgetting;

  HeadDestination(const HeadGradientTargets<M>& targets, const HeadCall& call,
                  const HeadOperands<S, HeadsView<S>>& operands, const HeadInputs<S>& inputs)
      : queries(targets.queries),
        keys(targets.keys),
        values(targets.values),
        log_forgetting(targets.log_forgetting),
        key_weights(targets.key_weights),
        memories(targets.memories),
        mixtures(targets.mixtures),
        slot_log_forgetting(targets.slot_log_forgetting) {
    check(call, "targets.queries", queries, operands.queries.layout);
    check(call, "targets.keys", keys, operands.keys.layout);
    check(call, "targets.values", values, operands.values.layout);
    HeadLayout forgetting = operands.keys.layout;
    forgetting.width = inputs.log_forgetting.size() != 0 ? 1 : 0;
    check(call, "targets.log_forgetting", log_forgetting, forgetting);
    forgetting.width = inputs.slot_log_forgetting.cols() / call.key_heads;
    check(call, "targets.slot_log_forgetting", slot_log_forgetting, forgetting);
    if (key_weights.is_wanted()) {
      check_shape(call.function, "targets.key_weights", key_weights.rows(), key_weights.cols(),
                  inputs.key_weights.size(), 1, "one per key row, if weights were given");
    }
    const auto check_apart = [&](const char* name, const HeadRows& target) {
      if (target.data == nullptr) return;
      const bool touches = target.may_overlap(operands.queries) || target.may_overlap(operands.keys) ||
                           target.may_overlap(operands.values) || target.may_overlap(operands.like_queries);
      if (touches) invalid_argument(call.function, name, " overlaps an input, expected memory apart from all inputs");
    };
    check_apart("targets.queries", queries);
    check_apart("targets.keys", keys);
    check_apart("targets.values", values);
  }

  static void check_mixtures(const HeadCall& call, const std::vector<M>* target, const std::vector<M>& given) {
    if (target == &given) {
      invalid_argument(call.function, "targets.mixtures points to the mixtures themselves, expected another vector");
    }
  }

  static void check(const HeadCall& call, const char* name, HeadsSink<S>& target, const HeadLayout& like) {
    if (!target.is_wanted()) return;
    target.split(call.function, name, like.heads);
    check_head_tensor(call.function, name, target);
    const HeadLayout& l = target.layout;
    check_size(call.function, name, "heads", l.heads, like.heads, "as its input");
    check_size(call.function, name, "columns a head", l.width, like.width, "as its input");
    check_size(call.function, name, "rows", l.rows(), like.rows(), "as its input");
  }
};

/// Sizes the gradients of a call and returns them as targets.
template <class M>
HeadGradientTargets<M> size_gradients(HeadGradients<M>& gradients, const std::vector<M>& mixtures,
                                      const HeadRows& queries, const HeadRows& keys, const HeadRows& values,
                                      const HeadInputs<Scalar<M>>& inputs) {
  const auto columns = [](const HeadRows& t) {
    return t.layout.heads != 0 ? t.layout.heads * t.layout.width : t.layout.width;
  };
  const Index key_rows = keys.rows(), key_heads = static_cast<Index>(mixtures.size());
  const bool forgets = inputs.log_forgetting.size() != 0;
  resize(gradients.queries, queries.rows(), columns(queries));
  resize(gradients.keys, key_rows, columns(keys));
  resize(gradients.values, key_rows, columns(values));
  resize(gradients.key_weights, inputs.key_weights.size() == 0 ? 0 : key_rows);
  resize(gradients.log_forgetting, forgets ? key_rows : 0, key_heads);
  HeadGradientTargets<M> targets;
  targets.queries = as_output(gradients.queries, queries);
  targets.keys = as_output(gradients.keys, keys);
  targets.values = as_output(gradients.values, values);
  if (inputs.key_weights.size() != 0) targets.key_weights = gradients.key_weights;
  if (forgets) targets.log_forgetting = as_output(gradients.log_forgetting, keys);
  const Index slots = inputs.slot_log_forgetting.cols();
  resize(gradients.slot_log_forgetting, slots == 0 ? 0 : key_rows, slots);
  if (slots > 0) targets.slot_log_forgetting = as_output(gradients.slot_log_forgetting, keys);
  targets.memories = &gradients.memories;
  targets.mixtures = &gradients.mixtures;
  return targets;
}

/// compute(gradients to fill): the caller's, or, where an input lies in them, others that then take their place.
template <class M, class Compute, class... T>
void compute_apart(HeadGradients<M>& gradients, bool is_touched, const Compute& compute, const T&... inputs) {
  const auto touches = [&](const HeadRows& input) {
    return HeadRows(gradients.queries).may_overlap(input) || HeadRows(gradients.keys).may_overlap(input) ||
           HeadRows(gradients.values).may_overlap(input) || HeadRows(gradients.log_forgetting).may_overlap(input) ||
           HeadRows(gradients.slot_log_forgetting).may_overlap(input);
  };
  if (!is_touched && !(touches(inputs) || ...)) return compute(gradients);
  HeadGradients<M> others;
  compute(others);
  gradients = std::move(others);
}

}  // namespace detail
}  // namespace gma
