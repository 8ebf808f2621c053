// SPDX-License-Identifier: MIT
// A causal attention layer over one sequence whose tokens lie in several processes, forward and backward: a training
// step over ranks is that of one process, within rounding. Rank p has segment p, any number of tokens.
//
// Convolution and window look back over h = taps - 1 + window - 1 tokens. Rank p receives the x of the h tokens before
// its segment (its halo), from the rank or ranks that have them, and runs the layer over them for their keys, values
// and projections. In the middle of the pass, memories are exchanged as in mpi/attention.hpp
// (layer/memory_exchange.hpp). Backward, the gradient of the state before the segment goes back through the halo, and
// the dx of the halo to the ranks that have its tokens. Where fewer than h tokens come before a segment, its rank also
// gets the first rank's state.
//
// Messages of a pass: those of the memories; h D numbers of x, and of dx on the way back; once per step the parameters.
// Their size does not depend on the number of tokens. Work: that of one process, one write per key in the forward pass
// and one backward write in the backward pass (not on the last rank), and the halo.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "gma/layer/layer_backward.hpp"
#include "gma/mpi/halo.hpp"
#include "gma/mpi/heads_of_rank.hpp"

namespace gma::mpi {

namespace detail {
template <class S>
class RankExchange;
}

/// What one rank keeps of its segment, for the backward pass and for the next call, which reuses its memory.
template <class S, class Covariance = Diagonal>
struct LayerSegment {
  /// Before the segment's first token. In: read on rank 0 only, where it is the state before the sequence (default: the
  /// beginning), and stays. Out: set on every rank.
  LayerState<S> before;
  LayerState<S> after;  ///< out: after the segment's last token; on the last rank that of the sequence
  LayerState<S>
      d_before;  ///< out of backward(): the gradient of `before`; on rank 0 that of the state before the sequence

  LayerCache<S> cache, halo_cache;            ///< of the segment, and of the tokens before it
  LayerGradientCache<S, Covariance> scratch;  ///< of backward passes
  Matrix<S> halo;                             ///< x of the tokens before the segment that the layer looks back over
  LayerState<S> before_halo;                  ///< from which it runs over them
  std::vector<std::int64_t> lengths;          ///< tokens of every rank
  std::shared_ptr<detail::RankExchange<S>> exchange;  ///< of memories between ranks
};

/// gma::forward() of the whole sequence: x is N_p x D on this rank; returns N_p x D. Collective; the layer must be the
/// same on every rank, and the communicator outlives the backward pass. Errors: communicator.hpp.
template <class S, class Covariance>
Matrix<S> forward(Communicator& communicator, const AttentionLayer<S, Covariance>& layer,
                  const Rows<gma::detail::Same<S>>& x, LayerSegment<S, Covariance>& segment,
                  const LayerOptions& options = {});

/// After forward() with the same segment: returns dx, N_p x D, and adds the gradient of every parameter, over all ranks
/// and with the same bits on each, to `gradient`. d_final: the gradient of the last rank's segment.after, read there
/// only; null: zeros. options.usage_penalty must be 0, since it is a function of all tokens.
template <class S, class Covariance>
Matrix<S> backward(Communicator& communicator, const AttentionLayer<S, Covariance>& layer,
                   const Rows<gma::detail::Same<S>>& d_output, AttentionLayer<S, Covariance>& gradient,
                   LayerSegment<S, Covariance>& segment, const LayerOptions& options = {},
                   const LayerState<S>* d_final = nullptr);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

using gma::detail::check_layer, gma::detail::check_pass, gma::detail::check_shape, gma::detail::check_state;

/// The memories of all heads, from and to the other ranks.
template <class S>
class RankExchange : public MemoryExchange<S> {
 public:
  RankExchange(Communicator& communicator, MemoryShape shape, std::vector<Memory<S>> initial)
      : communicator_(communicator), shape_(std::move(shape)), initial_(std::move(initial)) {}

  bool wants_totals() const override { return !communicator_.is_last(); }
  void before(std::vector<Memory<S>>& memories) override {
    before_ = memories_before(communicator_, shape_, std::move(memories), initial_);
    memories = before_;
    for (Memory<S>& memory : memories) memory.log_forgetting = S(0);  // afterwards that of the segment alone
  }
  std::vector<Memory<S>> d_after(const std::vector<Memory<S>>& d_before) override {
    return gradients_after(communicator_, shape_, d_before, log_forgetting_);
  }

  const std::vector<Memory<S>>& memories() const { return before_; }
  void finish(std::vector<Memory<S>>& after) {
    log_forgetting_.clear();
    for (std::size_t h = 0; h < after.size(); ++h) {
      log_forgetting_.push_back(after[h].log_forgetting);
      after[h].log_forgetting += before_[h].log_forgetting;
    }
  }

 private:
  Communicator& communicator_;
  MemoryShape shape_;
  std::vector<Memory<S>> initial_, before_;
  std::vector<S> log_forgetting_;
};

template <class S, class Covariance>
void describe_layer(Agreement& agreement, const AttentionLayer<S, Covariance>& layer) {
  Digest config, parameters;
  gma::detail::for_each_member([&](const char*, auto member, const auto&...) {
    using T = std::decay_t<decltype(layer.config.*member)>;
    if constexpr (std::is_same_v<T, std::vector<Index>>) {
      for (const Index number : layer.config.*member) config.add(&number, 1);
    } else {
      const double number = static_cast<double>(layer.config.*member);
      config.add(&number, 1);
    }
  });
  if (agreement.is_sound_here()) {
    visit_parameters([&](const Parameter&,
                         const Eigen::Map<const Matrix<S>>& values) { parameters.add(values.data(), values.size()); },
                     layer);
  }
  agreement.add("the scalar's size", static_cast<std::int64_t>(sizeof(S)));
  agreement.add("layer.config.width", layer.config.width);
  agreement.add("the members of layer.config", config);
  agreement.add("the parameters of the layer", parameters);
}

template <class S, class Covariance>
void add_over_ranks(Communicator& communicator, const AttentionLayer<S, Covariance>& part,
                    AttentionLayer<S, Covariance>& gradient) {
  std::vector<S> numbers;
  visit_parameters(
      [&](const Parameter&, const Eigen::Map<const Matrix<S>>& values) {
        numbers.insert(numbers.end(), values.data(), values.data() + values.size());
      },
      part);
  add_numbers(communicator, numbers);
  const S* from = numbers.data();
  visit_parameters(
      [&](const Parameter&, Eigen::Map<Matrix<S>> values) {
        for (Index i = 0; i < values.size(); ++i) values.data()[i] += *from++;
      },
      gradient);
}

template <class S, class Covariance>
void check_layer_call(const char* function, const AttentionLayer<S, Covariance>& layer) {
  check_layer(function, layer);
  if (!layer.config.is_causal) invalid_argument(function, "layer is bidirectional, expected a causal one");
  if (layer.config.slot_forgetting_rank != 0) {
    invalid_argument(function, "layer.config.slot_forgetting_rank is ", layer.config.slot_forgetting_rank,
                     ", expected 0 where a sequence lies over ranks");
  }
}

}  // namespace detail

template <class S, class Covariance>
Matrix<S> forward(Communicator& communicator, const AttentionLayer<S, Covariance>& layer,
                  const Rows<gma::detail::Same<S>>& x, LayerSegment<S, Covariance>& segment,
                  const LayerOptions& options) {
  constexpr const char* function = "mpi::forward";
  const Index rank = communicator.rank();
  detail::Agreement agreement(communicator, function);
  agreement.check_here([&] {
    detail::check_layer_call(function, layer);
    detail::check_size(function, "x", "columns", x.cols(), layer.config.width, "the layer's width");
    if (rank == 0 && !segment.before.memories.empty()) detail::check_state(function, layer, segment.before);
  });
  detail::describe_layer(agreement, layer);
  agreement.finish();
  return detail::guarded(communicator, function, [&] {
    LayerState<S> state = begin_stream(layer);
    if (rank == 0 && !segment.before.memories.empty()) state = segment.before;
    const Index first = detail::gather_lengths<S>(communicator, x.rows(), state.position, segment.lengths);
    const detail::HaloPlan plan(segment.lengths, layer.config);
    detail::MemoryShape shape{{}, state.memories.front().slots.cols()};
    for (const Memory<S>& memory : state.memories) shape.components.push_back(memory.slots.rows());
    segment.exchange = std::make_shared<detail::RankExchange<S>>(communicator, shape,
                                                                 rank == 0 ? state.memories : std::vector<Memory<S>>());
    detail::receive_halo<S>(communicator, plan, x, segment.halo, state);
    state.position = first + plan.begin(rank) - plan.halo(rank);
    segment.before_halo = state;
    if (segment.halo.rows() > 0) {
      Matrix<S> unused(segment.halo.rows(), segment.halo.cols());
      std::vector<LayerState<S>> states{state};
      forward_into(unused, layer, segment.halo, states, segment.halo_cache, Sequences(), options);
      state = states.front();
      state.memories = begin_stream(layer).memories;
    }
    Matrix<S> out(x.rows(), x.cols());
    std::vector<LayerState<S>> states{state};
    segment.cache.exchange = segment.exchange.get();
    forward_into(out, layer, x, states, segment.cache, Sequences(), options);
    segment.before = std::move(state);
    segment.before.memories = segment.exchange->memories();
    segment.after = std::move(states.front());
    segment.exchange->finish(segment.after.memories);
    return out;
  });
}

template <class S, class Covariance>
Matrix<S> backward(Communicator& communicator, const AttentionLayer<S, Covariance>& layer,
                   const Rows<gma::detail::Same<S>>& d_output, AttentionLayer<S, Covariance>& gradient,
                   LayerSegment<S, Covariance>& segment, const LayerOptions& options, const LayerState<S>* d_final) {
  constexpr const char* function = "mpi::backward";
  const Index width = layer.config.width;
  detail::Agreement agreement(communicator, function);
  agreement.check_here([&] {
    detail::check_layer_call(function, layer);
    detail::check_layer("mpi::backward (gradient)", gradient);
    detail::check_size(function, "segment.lengths", "entries", static_cast<Index>(segment.lengths.size()),
                       communicator.size(), "as forward() left it");
    detail::check_shape(function, "d_output", d_output.rows(), d_output.cols(), segment.cache.rows, width,
                        "rows of the forward pass x the layer's width");
    if (!gma::detail::are_alike(gradient.config, layer.config)) {
      detail::invalid_argument(function, "gradient has another config than layer, expected one made from layer.config");
    }
    detail::check_pass(function, layer, segment.cache.pass);
    if (options.usage_penalty != 0) {
      detail::invalid_argument(function, "options.usage_penalty is set, expected 0: it is a function of all tokens");
    }
    if (communicator.is_last() && d_final != nullptr) detail::check_state(function, layer, *d_final);
  });
  detail::describe_layer(agreement, layer);
  agreement.finish();
  return detail::guarded(communicator, function, [&] {
    using States = std::vector<LayerState<S>>;
    const detail::HaloPlan plan(segment.lengths, layer.config);
    AttentionLayer<S, Covariance> part(layer.config);
    set_zero(part);
    const States initial{segment.before};
    States d_after, d_before(1);
    if (communicator.is_last() && d_final != nullptr) d_after.push_back(*d_final);
    Matrix<S> d_x(d_output.rows(), width), d_halo(segment.halo.rows(), width);
    backward_into(d_x, part, layer, d_output, segment.cache, segment.scratch, options, &initial,
                  d_after.empty() ? nullptr : &d_after, &d_before);
    segment.d_before = d_before.front();
    if (segment.halo.rows() > 0) {
      d_before.front().memories = begin_stream(layer).memories;  // the halo's own memories are read by none
      const States before_halo{segment.before_halo};
      const Matrix<S> nothing = Matrix<S>::Zero(segment.halo.rows(), width);
      backward_into(d_halo, part, layer, nothing, segment.halo_cache, segment.scratch, options, &before_halo, &d_before,
                    &d_before);
    }
    detail::HaloGradients<S> back(communicator, plan);
    back.start(d_halo, d_before.front());
    detail::add_over_ranks(communicator, part, gradient);
    back.finish(d_x, segment.d_before);
    return d_x;
  });
}

}  // namespace gma::mpi
