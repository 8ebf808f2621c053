// SPDX-License-Identifier: MIT
// What a layer remembers of one stream of tokens: of one size however long the stream is.
#pragma once

#include <vector>

#include "gma/attention/memory.hpp"
#include "gma/nn/layer.hpp"

namespace gma {

/// The memories of every key head, the last inputs of the convolution, and how many tokens were taken in. Copy it to
/// fork a stream. Made by begin_stream().
template <class S>
struct LayerState {
  using Scalar = S;

  std::vector<Memory<S>> memories;  ///< H, each K x e
  Matrix<S> history;                ///< taps - 1 x channels: projected tokens, oldest first; zeros before the first
  Index position = 0;               ///< tokens taken in
};

/// The state before the first token. Throws std::invalid_argument for a layer that is not causal.
template <class L>
LayerState<typename L::Scalar> begin_stream(const L& layer);

/// Bytes of its numbers: constant while the stream runs.
template <class S>
std::size_t bytes(const LayerState<S>& state);

/// The state before the first token, of the same size.
template <class S>
void reset(LayerState<S>& state);

/// Writes `state` in a binary form that is the same on every machine: magic "GMASTATE", version 1, header and checksum
/// as described in core/binary.hpp; then int64 position, rows and columns of the history, number of memories, the
/// history row by row, and every memory as save() of one. Throws std::runtime_error if the stream fails.
template <class S>
void save(const LayerState<S>& state, std::ostream& stream);

/// The exact number of bytes that save() writes.
template <class S>
std::size_t serialized_size(const LayerState<S>& state);

/// Reads what save() wrote into a state of the same shape, as begin_stream() makes it for the same layer; a stream that
/// goes on from there gives the same bits as one that was never saved. Throws std::runtime_error on anything else (a
/// foreign or corrupt stream, another scalar, another layer's shapes), and leaves `state` as it was.
template <class S>
void load(LayerState<S>& state, std::istream& stream);

// Implementation -----------------------------------------------------------------------------------------------------

template <class L>
LayerState<typename L::Scalar> begin_stream(const L& layer) {
  using S = typename L::Scalar;
  if (!layer.config.is_causal)
    detail::invalid_argument("begin_stream", "layer is bidirectional, expected a causal one");
  const detail::LayerShape shape(layer.config);
  LayerState<S> state;
  for (Index h = 0; h < shape.key_heads; ++h) {
    const Index components = layer.mixtures[static_cast<std::size_t>(h)].components();
    state.memories.push_back(empty_memory<S>(components, shape.value_width));
  }
  state.history = Matrix<S>::Constant(layer.config.convolution - 1, shape.channels(), S(0));
  return state;
}

template <class S>
std::size_t bytes(const LayerState<S>& state) {
  std::size_t total = static_cast<std::size_t>(state.history.size()) * sizeof(S) + sizeof state.position;
  for (const Memory<S>& memory : state.memories) total += bytes(memory);
  return total;
}

template <class S>
void reset(LayerState<S>& state) {
  for (Memory<S>& memory : state.memories) reset(memory);
  state.history.setConstant(S(0));
  state.position = 0;
}

namespace detail {

inline constexpr BinaryFormat layer_state_format{"GMASTATE", "layer state", 1};

/// Why a state that was read is none of the shape of `expected`; empty if it is.
template <class S>
std::string layer_state_fault(const LayerState<S>& read, const LayerState<S>& expected) {
  const auto sizes = [](const Matrix<S>& m) { return concatenate(m.rows(), " x ", m.cols()); };
  if (sizes(read.history) != sizes(expected.history)) {
    return concatenate("its history is ", sizes(read.history), ", expected ", sizes(expected.history));
  }
  for (std::size_t h = 0; h < expected.memories.size(); ++h) {
    const Matrix<S>&a = read.memories[h].slots, &b = expected.memories[h].slots;
    if (sizes(a) != sizes(b)) return concatenate("memory ", h, " is ", sizes(a), ", expected ", sizes(b));
    const std::string fault = memory_fault(read.memories[h]);
    if (!fault.empty()) return concatenate("memory ", h, ": ", fault);
  }
  return {};
}

template <class L, class S>
void check_state(const char* function, const L& layer, const LayerState<S>& state) {
  const LayerShape shape(layer.config);
  check_size(function, "state.memories", "entries", static_cast<Index>(state.memories.size()), shape.key_heads,
             "one per key head: make it with gma::begin_stream");
  for (std::size_t h = 0; h < state.memories.size(); ++h) {
    check_memory(function, "state.memories", state.memories[h], layer.mixtures[h].components(), shape.value_width);
  }
  check_shape(function, "state.history", state.history.rows(), state.history.cols(), layer.config.convolution - 1,
              shape.channels(), "taps - 1 x channels");
}

}  // namespace detail

template <class S>
void save(const LayerState<S>& state, std::ostream& stream) {
  detail::BinaryWriter writer = detail::BinaryWriter::start<S>("save", detail::layer_state_format, stream);
  writer.size(state.position);
  writer.size(state.history.rows());
  writer.size(state.history.cols());
  writer.size(static_cast<Index>(state.memories.size()));
  writer.numbers(state.history);
  for (const Memory<S>& memory : state.memories) detail::put_memory(writer, memory);
  writer.finish();
}

template <class S>
std::size_t serialized_size(const LayerState<S>& state) {
  std::size_t total =
      detail::binary_overhead + 4 * sizeof(std::uint64_t) + static_cast<std::size_t>(state.history.size()) * sizeof(S);
  for (const Memory<S>& memory : state.memories) total += detail::saved_size(memory);
  return total;
}

template <class S>
void load(LayerState<S>& state, std::istream& stream) {
  detail::BinaryReader reader = detail::BinaryReader::start<S>("load", detail::layer_state_format, stream);
  LayerState<S> loaded;
  loaded.position = reader.size("position");
  const Index rows = reader.size("history's rows"), cols = reader.size("history's columns");
  const Index memories = reader.size("number of memories");
  if (memories != static_cast<Index>(state.memories.size())) {
    reader.refuse("it has ", memories, " memories, expected ", state.memories.size());
  }
  loaded.history = reader.numbers<S>("history", rows, cols);
  for (Index h = 0; h < memories; ++h) loaded.memories.push_back(detail::get_memory<S>(reader));
  reader.finish();
  const std::string fault = detail::layer_state_fault(loaded, state);
  if (!fault.empty()) reader.refuse(fault);
  state = std::move(loaded);
}

}  // namespace gma
