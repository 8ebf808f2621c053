// SPDX-License-Identifier: MIT
// What a layer remembers of one stream of tokens. Its size does not depend on the number of tokens, except for the
// remainders of memories (attention/memory.hpp).
#pragma once

#include <limits>
#include <vector>

#include "gma/attention/memory.hpp"
#include "gma/layer/layer.hpp"

namespace gma {

/// The memories of every key head, the last inputs of the convolution, the last keys and values of the window, and the
/// number of tokens so far. begin_stream() makes one. Copy it to fork a stream.
template <class S>
struct LayerState {
  using Scalar = S;

  std::vector<Memory<S>> memories;  ///< H, each K x e
  Matrix<S> history;                ///< taps - 1 x channels: projected tokens, oldest first; zeros before the first
  Matrix<S> window_keys;            ///< W - 1 x H d, of unit root mean square; token p is in row p mod (W - 1)
  Matrix<S> window_values;          ///< W - 1 x H e: the same
  Index position = 0;               ///< tokens so far

  /// Set while a call changes the numbers in place. If the call throws it stays set, and only reset(), load(),
  /// assignment and destruction accept the state.
  bool is_torn = false;

  LayerState() = default;
  LayerState(const LayerState&) = default;
  LayerState(LayerState&&) = default;             // NOLINT(performance-noexcept-move-constructor): it is, where S's is
  LayerState& operator=(LayerState&&) = default;  // NOLINT(performance-noexcept-move-constructor)
  ~LayerState() = default;
  /// Allocates nothing if the sizes are the same, and changes nothing if memory runs out.
  LayerState& operator=(const LayerState& other);
};

/// The state before the first token. Throws std::invalid_argument if the layer is not causal.
template <class L>
LayerState<typename L::Scalar> begin_stream(const L& layer);

/// Bytes of its numbers. They are constant while the stream runs, except that the memories of a long stream begin to
/// keep remainders at some token.
template <class S>
std::size_t bytes(const LayerState<S>& state);

/// Makes it the state before the first token, of the same size.
template <class S>
void reset(LayerState<S>& state);

/// Writes `state` in a binary form that does not depend on the machine: magic "GMASTATE", version 4, header and
/// checksum as described in core/binary.hpp; then int64 position, rows and columns of the history, rows of the window,
/// columns of its keys and of its values, number of memories; history, keys and values row by row, and every memory as
/// save() of one. Flushes the stream. Throws std::runtime_error if the stream fails, for example on a full disk. Throws
/// std::invalid_argument for a torn state and for one that load() would refuse, such as a memory whose mass is NaN
/// after a NaN among the tokens.
template <class S>
void save(const LayerState<S>& state, std::ostream& stream);

/// The exact number of bytes that save() writes.
template <class S>
std::size_t serialized_size(const LayerState<S>& state);

/// Reads what save() wrote into a state of the same shape, which begin_stream() makes for the same layer. Reads version
/// 3 too, whose memories have neither tokens nor remainders. A stream that goes on from there gives the same bits as
/// one that was never saved. Throws std::runtime_error on anything else (a foreign or corrupt stream, another scalar,
/// the shapes of another layer), and then leaves `state` unchanged.
template <class S>
void load(LayerState<S>& state, std::istream& stream);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Pointers to one state per sequence, or null for all.
template <class State>
struct StatePointers {
  State* const* states = nullptr;
  State* operator[](Index i) const { return states == nullptr ? nullptr : states[i]; }
};

/// Zeros of the layer's sizes. Reuses memory of the right size.
template <class L, class S>
void set_beginning(const L& layer, LayerState<S>& state) {
  const LayerShape shape(layer.config);
  state.memories.resize(static_cast<std::size_t>(shape.key_heads));
  for (std::size_t h = 0; h < state.memories.size(); ++h) {
    set_zero(state.memories[h], layer.mixtures[h].components(), shape.value_width);
  }
  set_constant(state.history, layer.config.convolution - 1, shape.channels(), S(0));
  set_constant(state.window_keys, shape.past, shape.past > 0 ? shape.keys : 0, S(0));
  set_constant(state.window_values, shape.past, shape.past > 0 ? shape.values : 0, S(0));
  state.position = 0;
  state.is_torn = false;
}

}  // namespace detail

template <class L>
LayerState<typename L::Scalar> begin_stream(const L& layer) {
  if (!layer.config.is_causal)
    detail::invalid_argument("begin_stream", "layer is bidirectional, expected a causal one");
  LayerState<typename L::Scalar> state;
  detail::set_beginning(layer, state);
  return state;
}

namespace detail {

template <class S>
bool have_same_sizes(const LayerState<S>& a, const LayerState<S>& b) {
  const auto same = [](const auto& m, const auto& n) { return m.rows() == n.rows() && m.cols() == n.cols(); };
  bool result = a.memories.size() == b.memories.size() && same(a.history, b.history) &&
                same(a.window_keys, b.window_keys) && same(a.window_values, b.window_values);
  for (std::size_t h = 0; result && h < a.memories.size(); ++h) {
    const Memory<S>&m = a.memories[h], &n = b.memories[h];
    result = same(m.slots, n.slots) && same(m.mass, n.mass) && same(m.slots_remainder, n.slots_remainder) &&
             same(m.mass_remainder, n.mass_remainder);
  }
  return result;
}

}  // namespace detail

template <class S>
LayerState<S>& LayerState<S>::operator=(const LayerState& other) {
  if (!detail::have_same_sizes(*this, other)) return *this = LayerState(other);
  memories = other.memories;
  history = other.history;
  window_keys = other.window_keys;
  window_values = other.window_values;
  position = other.position;
  is_torn = other.is_torn;
  return *this;
}

namespace detail {

template <class S>
std::size_t window_and_history(const LayerState<S>& state) {
  return static_cast<std::size_t>(state.history.size() + state.window_keys.size() + state.window_values.size());
}

}  // namespace detail

template <class S>
std::size_t bytes(const LayerState<S>& state) {
  std::size_t total = detail::window_and_history(state) * sizeof(S) + sizeof state.position;
  for (const Memory<S>& memory : state.memories) total += bytes(memory);
  return total;
}

template <class S>
void reset(LayerState<S>& state) {
  for (Memory<S>& memory : state.memories) reset(memory);
  for (Matrix<S>* past : {&state.history, &state.window_keys, &state.window_values}) past->setConstant(S(0));
  state.position = 0;
  state.is_torn = false;
}

namespace detail {

/// Version 3 held memories of version 2, and version 4 holds those of version 3. Nothing else differs.
inline constexpr BinaryFormat layer_state_format{"GMASTATE", "layer state", 4, 3};
inline std::uint32_t memory_version_of_state(std::uint32_t version) { return version - 1; }

/// The most tokens of a stream. No sum of positions overflows.
inline constexpr Index largest_position = (std::numeric_limits<Index>::max)() / 2;

/// What is wrong with the numbers of a state of any shape; "" if nothing is.
template <class S>
std::string layer_state_fault(const LayerState<S>& state) {
  if (state.position < 0 || state.position > largest_position) {
    return concatenate("position is ", state.position, ", expected 0 to ", largest_position);
  }
  if (state.window_keys.rows() != state.window_values.rows()) {
    return concatenate("window_values has ", state.window_values.rows(), " rows, expected ", state.window_keys.rows(),
                       " (as window_keys)");
  }
  for (std::size_t h = 0; h < state.memories.size(); ++h) {
    const std::string fault = memory_fault(state.memories[h]);
    if (!fault.empty()) return concatenate("memory ", h, ": ", fault);
  }
  return {};
}

/// What is wrong with a state that was read and must have the shape of `expected`; "" if nothing is.
template <class S>
std::string layer_state_fault(const LayerState<S>& read, const LayerState<S>& expected) {
  const auto sizes = [](const Matrix<S>& m) { return concatenate(m.rows(), " x ", m.cols()); };
  const auto fault_of = [&](const char* name, const Matrix<S>& a, const Matrix<S>& b) -> std::string {
    return sizes(a) == sizes(b) ? std::string() : concatenate("its ", name, " is ", sizes(a), ", expected ", sizes(b));
  };
  std::string fault = fault_of("history", read.history, expected.history);
  if (fault.empty()) fault = fault_of("window of keys", read.window_keys, expected.window_keys);
  if (fault.empty()) fault = fault_of("window of values", read.window_values, expected.window_values);
  if (!fault.empty()) return fault;
  for (std::size_t h = 0; h < expected.memories.size(); ++h) {
    const Matrix<S>&a = read.memories[h].slots, &b = expected.memories[h].slots;
    if (sizes(a) != sizes(b)) return concatenate("memory ", h, " is ", sizes(a), ", expected ", sizes(b));
  }
  return layer_state_fault(read);
}

template <class S>
void check_not_torn(const char* function, const LayerState<S>& state) {
  if (state.is_torn) {
    invalid_argument(function,
                     "state was left unfinished by a call that threw, expected a whole one: reset() it, or go "
                     "on from a copy");
  }
}

template <class L, class S>
void check_state(const char* function, const L& layer, const LayerState<S>& state) {
  const LayerShape shape(layer.config);
  check_not_torn(function, state);
  check_size(function, "state.memories", "entries", static_cast<Index>(state.memories.size()), shape.key_heads,
             "one per key head: make it with gma::begin_stream");
  for (std::size_t h = 0; h < state.memories.size(); ++h) {
    check_memory(function, "state.memories", state.memories[h], layer.mixtures[h].components(), shape.value_width);
  }
  check_shape(function, "state.history", state.history.rows(), state.history.cols(), layer.config.convolution - 1,
              shape.channels(), "taps - 1 x channels");
  const Matrix<S>&keys = state.window_keys, &values = state.window_values;
  const Index past = shape.past;
  check_shape(function, "state.window_keys", keys.rows(), keys.cols(), past, past > 0 ? shape.keys : 0,
              "window - 1 x width of all keys");
  check_shape(function, "state.window_values", values.rows(), values.cols(), past, past > 0 ? shape.values : 0,
              "window - 1 x width of all values");
  if (state.position < 0) invalid_argument(function, "state.position is ", state.position, ", expected 0 or more");
  if (state.position > largest_position) {
    invalid_argument(function, "state.position is ", state.position, ", expected at most ", largest_position);
  }
}

}  // namespace detail

template <class S>
void save(const LayerState<S>& state, std::ostream& stream) {
  detail::check_not_torn("save", state);
  const std::string fault = detail::layer_state_fault(state);
  if (!fault.empty()) detail::invalid_argument("save", "state: ", fault);
  detail::BinaryWriter writer = detail::BinaryWriter::start<S>("save", detail::layer_state_format, stream);
  writer.size(state.position);
  writer.size(state.history.rows());
  writer.size(state.history.cols());
  writer.size(state.window_keys.rows());
  writer.size(state.window_keys.cols());
  writer.size(state.window_values.cols());
  writer.size(static_cast<Index>(state.memories.size()));
  for (const Matrix<S>* past : {&state.history, &state.window_keys, &state.window_values}) writer.numbers(*past);
  for (const Memory<S>& memory : state.memories) detail::put_memory(writer, memory);
  writer.finish();
}

template <class S>
std::size_t serialized_size(const LayerState<S>& state) {
  std::size_t total =
      detail::binary_overhead + 7 * sizeof(std::uint64_t) + detail::window_and_history(state) * sizeof(S);
  for (const Memory<S>& memory : state.memories) total += detail::saved_size(memory);
  return total;
}

template <class S>
void load(LayerState<S>& state, std::istream& stream) {
  detail::BinaryReader reader = detail::BinaryReader::start<S>("load", detail::layer_state_format, stream);
  LayerState<S> loaded;
  loaded.position = reader.count("position", detail::largest_position);
  const Index rows = reader.size("history's rows"), cols = reader.size("history's columns");
  const Index past = reader.size("window's rows");
  const Index key_cols = reader.size("window's columns of keys"),
              value_cols = reader.size("window's columns of values");
  const Index memories = reader.size("number of memories");
  if (memories != static_cast<Index>(state.memories.size())) {
    reader.refuse("it has ", memories, " memories, expected ", state.memories.size());
  }
  loaded.history = reader.numbers<S>("history", rows, cols);
  loaded.window_keys = reader.numbers<S>("window of keys", past, key_cols);
  loaded.window_values = reader.numbers<S>("window of values", past, value_cols);
  const std::uint32_t memory_version = detail::memory_version_of_state(reader.version());
  for (Index h = 0; h < memories; ++h) loaded.memories.push_back(detail::get_memory<S>(reader, memory_version));
  reader.finish();
  const std::string fault = detail::layer_state_fault(loaded, state);
  if (!fault.empty()) reader.refuse(fault);
  state = std::move(loaded);
}

}  // namespace gma
