// SPDX-License-Identifier: MIT
// The halo of a layer's segment: the tokens before it that its convolution and window look back over. Which ranks have
// them, and how they come to a rank and their gradients go back. mpi/layer.hpp says what the layer does with them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "gma/layer/layer_config.hpp"
#include "gma/layer/layer_state.hpp"
#include "gma/mpi/communicator.hpp"
#include "gma/mpi/exchange.hpp"
#include "gma/mpi/heads_of_rank.hpp"

namespace gma::mpi::detail {

/// Which tokens the layer looks back over, and who has them.
struct HaloPlan {
  std::vector<Index> begins;  // of every rank's segment, and the end
  Index length;               // h

  HaloPlan(const std::vector<std::int64_t>& lengths, const LayerConfig& config)
      : begins{0}, length(config.convolution - 1 + (config.window > 0 ? config.window - 1 : 0)) {
    for (const std::int64_t count : lengths) begins.push_back(begins.back() + static_cast<Index>(count));
  }
  Index begin(Index rank) const { return begins[static_cast<std::size_t>(rank)]; }
  Index halo(Index rank) const { return (std::min)(length, begin(rank)); }
  bool needs_first_state(Index rank) const { return rank > 0 && begin(rank) < length; }
  /// How many of the last tokens of rank `from` are in the halo of a later rank.
  Index shared(Index from, Index to) const {
    const Index first = (std::max)(begin(from), begin(to) - halo(to));
    return (std::max)(Index(0), begin(from + 1) - first);
  }
  /// Where they begin in the halo.
  Index place(Index from, Index to) const {
    return (std::max)(begin(from), begin(to) - halo(to)) - begin(to) + halo(to);
  }
};

/// history and windows of a state, as one message.
template <class S>
void pack_past(const LayerState<S>& state, std::vector<S>& message) {
  message.clear();
  for (const Matrix<S>* past : {&state.history, &state.window_keys, &state.window_values}) {
    message.insert(message.end(), past->data(), past->data() + past->size());
  }
}
/// f(number of the state, number of the message) for all of them.
template <class S, class F>
void for_each_past(const std::vector<S>& message, LayerState<S>& state, const F& f) {
  const S* from = message.data();
  for (Matrix<S>* past : {&state.history, &state.window_keys, &state.window_values}) {
    for (Index i = 0; i < past->size(); ++i) f(past->data()[i], *from++);
  }
}
template <class S>
std::size_t past_size(const LayerState<S>& state) {
  return static_cast<std::size_t>(state.history.size() + state.window_keys.size() + state.window_values.size());
}

/// Every rank's tokens, and the position of the first.
template <class S>
Index gather_lengths(Communicator& communicator, Index rows, Index position, std::vector<std::int64_t>& lengths) {
  const std::array<std::int64_t, 2> mine{rows, position};
  std::vector<std::int64_t> all(2 * static_cast<std::size_t>(communicator.size()));
  communicator.count_agreement();
  MPI_Allgather(mine.data(), 2, MPI_INT64_T, all.data(), 2, MPI_INT64_T, communicator.handle());
  lengths.clear();
  for (std::size_t r = 0; r < all.size(); r += 2) lengths.push_back(all[r]);
  return static_cast<Index>(all[1]);
}

/// Sends the last tokens of x to the ranks that look back over them, and receives this rank's halo and, where few
/// tokens come before it, the first rank's past. `state` is the first state, on rank 0 the caller's.
template <class S>
void receive_halo(Communicator& communicator, const HaloPlan& plan, const Rows<S>& x, Matrix<S>& halo,
                  LayerState<S>& state) {
  const Index rank = communicator.rank(), ranks = communicator.size(), width = x.cols();
  const Index most = (std::min)(plan.length, x.rows());
  const Matrix<S> last = x.bottomRows(most);
  std::vector<S> past(past_size(state));
  halo.resize(plan.halo(rank), width);
  Messages messages(communicator);
  for (Index from = 0; from < rank; ++from) {
    const Index count = plan.shared(from, rank);
    if (count > 0) {
      messages.receive(from, Tag::halo, halo.data() + plan.place(from, rank) * width,
                       static_cast<std::size_t>(count * width));
    }
  }
  if (plan.needs_first_state(rank)) messages.receive(0, Tag::state, past.data(), past.size());
  if (rank == 0) pack_past(state, past);
  for (Index to = rank + 1; to < ranks; ++to) {
    const Index count = plan.shared(rank, to);
    if (count > 0) {
      messages.send(to, Tag::halo, last.data() + (most - count) * width, static_cast<std::size_t>(count * width));
    }
    if (rank == 0 && plan.needs_first_state(to)) messages.send(to, Tag::state, past.data(), past.size());
  }
  messages.wait();
  if (plan.needs_first_state(rank)) {
    for_each_past(past, state, [](S& number, const S& received) { number = received; });
  }
}

/// The way back: gradients of the halo's x are added to d_x, those of the first state's past to d_state on rank 0.
/// start() begins; finish() adds, in the order of ranks.
template <class S>
class HaloGradients {
 public:
  HaloGradients(Communicator& communicator, const HaloPlan& plan) : communicator_(communicator), plan_(plan) {}

  void start(const Matrix<S>& d_halo, const LayerState<S>& d_state) {
    const Index rank = communicator_.rank(), width = d_halo.cols();
    for (Index to = 0; to < rank; ++to) {
      const Index count = plan_.shared(to, rank);
      if (count > 0) {
        messages_.send(to, Tag::halo_gradient, d_halo.data() + plan_.place(to, rank) * width,
                       static_cast<std::size_t>(count * width));
      }
    }
    if (plan_.needs_first_state(rank)) {
      pack_past(d_state, sent_);
      messages_.send(0, Tag::state_gradient, sent_.data(), sent_.size());
    }
    for (Index from = rank + 1; from < communicator_.size(); ++from) {
      const Index count = plan_.shared(rank, from);
      rows_.emplace_back(count, width);
      if (count > 0) {
        messages_.receive(from, Tag::halo_gradient, rows_.back().data(), static_cast<std::size_t>(count * width));
      }
      if (rank > 0 || !plan_.needs_first_state(from)) continue;
      pasts_.emplace_back(past_size(d_state));
      messages_.receive(from, Tag::state_gradient, pasts_.back().data(), pasts_.back().size());
    }
  }
  void finish(Matrix<S>& d_x, LayerState<S>& d_state) {
    messages_.wait();
    for (const Matrix<S>& rows : rows_) d_x.bottomRows(rows.rows()) += rows;
    for (const std::vector<S>& past : pasts_) {
      for_each_past(past, d_state, [](S& number, const S& received) { number += received; });
    }
  }

 private:
  Communicator& communicator_;
  const HaloPlan& plan_;
  std::vector<S> sent_;
  std::vector<Matrix<S>> rows_;
  std::vector<std::vector<S>> pasts_;
  Messages messages_{communicator_};
};

}  // namespace gma::mpi::detail
