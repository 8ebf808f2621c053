// SPDX-License-Identifier: MIT
// Memories of all heads in one message, and the two patterns in which ranks combine them. Both have a fixed order, so
// results have the same bits in every run with as many ranks:
//
//   scan        rank p gets a_0 + ... + a_{p-1}, or, backward, a_{p+1} + ... + a_{P-1}: in round i it sends its sum of
//               2^i ranks to rank p + 2^i. ceil(log2 P) rounds, at most one message sent by every rank in each.
//   all_reduce  every rank gets a_0 + ... + a_{P-1}, with the same bits: up a binomial tree, and down again. A rank
//   sends
//               at most ceil(log2 P) + 1 messages, the average is below 2.
//
// A rank waits for what it has sent before it goes on: MPI moves large messages only while both sides are in a call, so
// a rank that began its pass at once would keep the others waiting. "+" is merge() for memories. A message of memories
// has, per head, K e + K numbers, in float twice as many (the remainders), and 5 more. Its size does not depend on the
// number of tokens.
#pragma once

#include <utility>
#include <vector>

#include "gma/attention/memory.hpp"
#include "gma/mpi/agreement.hpp"

namespace gma::mpi {

/// Adds the numbers of all ranks, in a fixed order and with the same bits on every rank: for losses, and for gradients
/// of a model's other parameters. Collective. Throws std::invalid_argument on every rank if their counts differ.
template <class S>
void sum_over_ranks(Communicator& communicator, std::vector<S>& numbers);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

using gma::detail::clear_remainder, gma::detail::ensure_remainder, gma::detail::has_remainder,
    gma::detail::keeps_remainder;

/// Memories that travel together. A gradient of memories travels the other way, with the log of its segment's decay as
/// log_forgetting; the gradient of the memories' log_forgetting, a constant of the whole stream, is apart.
template <class S>
struct Carried {
  std::vector<Memory<S>> memories;  // one per head, or none: zeros
  std::vector<S> d_log_forgetting;  // as many
};

/// What is known of a message beforehand: the shape of every head's memory.
struct MemoryShape {
  std::vector<Index> components;
  Index width = 0;

  template <class S>
  std::size_t numbers() const {
    std::size_t total = 0;
    for (const Index k : components) {
      total += static_cast<std::size_t>(k * width + k) * (keeps_remainder<S> ? 2 : 1) + 5;
    }
    return total;
  }
};

template <class S>
std::vector<Memory<S>> zeros_of(const MemoryShape& shape) {
  std::vector<Memory<S>> memories;
  for (const Index k : shape.components) memories.push_back(empty_memory<S>(k, shape.width));
  return memories;
}

template <class S>
void pack(const Carried<S>& carried, const MemoryShape& shape, std::vector<S>& message) {
  message.clear();
  message.reserve(shape.numbers<S>());
  const auto put = [&](const auto& numbers) {
    message.insert(message.end(), numbers.data(), numbers.data() + numbers.size());
  };
  for (std::size_t h = 0; h < carried.memories.size(); ++h) {
    const Memory<S>& memory = carried.memories[h];
    const bool is_long = has_remainder(memory);
    put(memory.slots);
    put(memory.mass);
    if (is_long) {
      put(memory.slots_remainder);
      put(memory.mass_remainder);
    } else if (keeps_remainder<S>) {
      message.resize(message.size() + static_cast<std::size_t>(memory.slots.size() + memory.mass.size()), S(0));
    }
    for (const S number : {memory.log_forgetting, memory.tokens, S(is_long ? 1 : 0), S(memory.has_signed_mass ? 1 : 0),
                           carried.d_log_forgetting[h]}) {
      message.push_back(number);
    }
  }
}

template <class S>
Carried<S> unpack(const std::vector<S>& message, const MemoryShape& shape) {
  Carried<S> carried{zeros_of<S>(shape), {}};
  const S* from = message.data();
  const auto get = [&](auto& numbers) {
    std::copy(from, from + numbers.size(), numbers.data());
    from += numbers.size();
  };
  for (Memory<S>& memory : carried.memories) {
    get(memory.slots);
    get(memory.mass);
    if constexpr (keeps_remainder<S>) {
      ensure_remainder(memory);
      get(memory.slots_remainder);
      get(memory.mass_remainder);
    }
    memory.log_forgetting = from[0];
    memory.tokens = from[1];
    if (!(from[2] > S(0))) clear_remainder(memory);
    memory.has_signed_mass = from[3] > S(0);
    carried.d_log_forgetting.push_back(from[4]);
    from += 5;
  }
  return carried;
}

/// own = exp(own.log_forgetting) front + own, head by head: own lies between front and where the sum is going.
template <class S>
void prepend(const Carried<S>& front, Carried<S>& own) {
  if (own.memories.empty()) {
    own = front;
    return;
  }
  for (std::size_t h = 0; h < own.memories.size(); ++h) {
    own.memories[h] = merge(front.memories[h], own.memories[h]);
    own.d_log_forgetting[h] += front.d_log_forgetting[h];
  }
}

/// `sum`: of this rank, which may be empty where no rank needs it. `before`: what comes before all ranks, on the first
/// rank, else empty; becomes the sum of all ranks before this one and of that. With is_forward false the first rank is
/// the last one.
template <class S>
void scan(Communicator& communicator, bool is_forward, const MemoryShape& shape, Carried<S> sum, Carried<S>& before) {
  const Index ranks = communicator.size(), sign = is_forward ? 1 : -1;
  const Index place = is_forward ? communicator.rank() : ranks - 1 - communicator.rank();
  if (!before.memories.empty() && !sum.memories.empty()) prepend(before, sum);
  std::vector<S> sent, received(shape.numbers<S>());
  for (Index step = 1; step < ranks; step *= 2) {
    Messages messages(communicator);
    const bool receives = place >= step;
    if (receives) {
      messages.receive(communicator.rank() - sign * step, Tag::scan, received.data(), received.size());
    }
    if (place + step < ranks) {
      pack(sum, shape, sent);
      messages.send(communicator.rank() + sign * step, Tag::scan, sent.data(), sent.size());
    }
    messages.wait();
    if (!receives) continue;
    const Carried<S> far = unpack(received, shape);
    prepend(far, before);
    if (!sum.memories.empty()) prepend(far, sum);
  }
}

/// add(own, received): own becomes the sum of own and of what later ranks have, numbers of the same size.
template <class S, class Add>
void all_reduce(Communicator& communicator, std::vector<S>& own, const Add& add) {
  const Index ranks = communicator.size(), rank = communicator.rank();
  std::vector<S> received(own.size());
  Index step = 1;
  for (; step < ranks && rank % (2 * step) == 0; step *= 2) {
    if (rank + step >= ranks) continue;
    Messages messages(communicator);
    messages.receive(rank + step, Tag::reduce, received.data(), received.size());
    messages.wait();
    add(own, received);
  }
  Messages messages(communicator);
  if (rank > 0) {
    messages.send(rank - step, Tag::reduce, own.data(), own.size());
    messages.wait();
    messages.receive(rank - step, Tag::broadcast, own.data(), own.size());
    messages.wait();
  }
  for (step /= 2; step > 0; step /= 2) {
    if (rank + step < ranks) messages.send(rank + step, Tag::broadcast, own.data(), own.size());
  }
}

template <class S>
void add_numbers(Communicator& communicator, std::vector<S>& numbers) {
  all_reduce(communicator, numbers, [](std::vector<S>& own, const std::vector<S>& received) {
    for (std::size_t i = 0; i < own.size(); ++i) own[i] += received[i];
  });
}

/// Every rank gets the merged memories of all.
template <class S>
void merge_over_ranks(Communicator& communicator, const MemoryShape& shape, std::vector<Memory<S>>& memories) {
  std::vector<S> message;
  const std::size_t heads = memories.size();
  pack(Carried<S>{std::move(memories), std::vector<S>(heads, S(0))}, shape, message);
  all_reduce(communicator, message, [&](std::vector<S>& own, const std::vector<S>& received) {
    Carried<S> later = unpack(received, shape);
    prepend(unpack(own, shape), later);
    pack(later, shape, own);
  });
  memories = unpack(message, shape).memories;
}

}  // namespace detail

template <class S>
void sum_over_ranks(Communicator& communicator, std::vector<S>& numbers) {
  detail::Agreement agreement(communicator, "mpi::sum_over_ranks");
  agreement.add("numbers.size()", static_cast<std::int64_t>(numbers.size()));
  agreement.add("the scalar's size", static_cast<std::int64_t>(sizeof(S)));
  agreement.finish();
  detail::guarded(communicator, "mpi::sum_over_ranks", [&] { detail::add_numbers(communicator, numbers); });
}

}  // namespace gma::mpi
