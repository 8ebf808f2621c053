// SPDX-License-Identifier: MIT
// Tokens that come from a source, block by block: a file larger than the memory of the machine, a pipe, a socket. The
// source and the sink of the outputs are functions of the caller. What is kept does not depend on the number of tokens.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "gma/attention/causal.hpp"
#include "gma/attention/write.hpp"

namespace gma {

/// The next n tokens of a source, n at least 1, in the order of the stream. The source resizes the matrices, which
/// keep their memory from call to call, or moves its own into them.
template <class S>
struct TokenBlock {
  Matrix<S> queries;      ///< n x d; write_stream() ignores them
  Matrix<S> keys;         ///< n x d
  Matrix<S> values;       ///< n x e
  TokenInputs<S> tokens;  ///< per token, n each; what is empty in the first block must be empty in all
};

/// causal() over all tokens of a source, from `memory` (K x e, or empty: it then takes its size from the first block),
/// which is left advanced. Returns the number of tokens.
///
///     bool source(gma::TokenBlock<S>& block);               // fills the block; false: there are no more tokens
///     void sink(const gma::ConstTile<S>& outputs);          // the next outputs, n x e, valid during the call
///
/// The source may give blocks of any numbers of tokens, as a pipe does: outputs and memory have the same bits as those
/// of one causal() over all tokens, however they were cut. Tokens come in order, so options.segment is ignored. Outputs
/// come in the order of the tokens, about a thousand at a time (a tile, if options.tile is larger). The sink has those
/// of a token before the source is asked for many tokens more, not before it is asked for the next one.
///
/// Cost: that of causal(). Extra memory: a block of the source, about a thousand tokens (2 d + 2 e numbers each), one
/// copy of the memory, and what causal() needs. With a compiled mixture, a workspace and blocks of the same sizes
/// nothing is allocated from the second call on, except where `memory` begins to keep a remainder.
///
/// Errors. Throws std::invalid_argument if a block has no token, if its shapes do not fit the mixture, the memory or
/// the first block, and if its token inputs are not valid or are given in some blocks only. Exceptions of the source
/// and of the sink pass through. After any exception `memory` holds exactly the tokens whose outputs the sink has
/// taken: those of the calls of it that returned (an empty one may have been sized, with zeros). A copy of the memory
/// from before the call takes all of it back.
template <class M, class Source, class Sink>
Index causal_stream(Sink&& sink, const M& mixture, Source&& source, Memory<Scalar<M>>& memory,
                    const Options& options = {}, const OptionalWorkspace<Scalar<M>>& workspace = {});

/// write() of all tokens of a source into `memory`: a context larger than the machine's memory. It can then be saved,
/// loaded, and read by any number of threads at once, each with a workspace of its own; copies of it go on as streams.
/// Returns the number of tokens.
///
/// The tokens are written in groups of 32 tiles, however the source cuts them, each by one write(): the bits depend on
/// the tokens and options.tile alone, not on the blocks or options.executor. Within rounding they are those of one
/// write() of everything.
///
/// Cost, errors and allocations as of write() and causal_stream(). Extra memory: a block of the source, 32 tiles (d + e
/// numbers per token), a copy of the memory, and what write() needs. After any exception `memory` is unchanged, except
/// that an empty one may have been sized, with zeros.
template <class M, class Source>
Index write_stream(const M& mixture, Source&& source, Memory<Scalar<M>>& memory, const Options& options = {},
                   const OptionalWorkspace<Scalar<M>>& workspace = {});

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// Tokens of a source, cut anew: they come in blocks of any size and leave in groups of a given one.
template <class S>
class TokenGroups {
 public:
  /// Before a stream. Keeps the buffers of the last one. `value_width`: expected of the first block, or -1: any.
  void begin(const char* function, bool has_queries, Index dim, Index value_width, Index capacity) {
    function_ = function;
    has_queries_ = has_queries;
    dim_ = dim;
    value_width_ = value_width;
    capacity_ = capacity;
    taken_ = size_ = 0;
    count_ = at_ = 0;
    is_first_ = true;
    is_at_end_ = false;
  }

  /// Asks the source until so many tokens as fit are here, or no more come.
  template <class Source>
  void fill(Source& source) {
    while (size_ < capacity_) {
      if (at_ == count_ && !next_block(source)) return;
      const Index now = (std::min)(capacity_ - size_, count_ - at_);
      copy(now);
      at_ += now;
      size_ += now;
    }
  }

  /// Tokens that are here, the width of their values, and how many were dropped before them.
  Index size() const { return size_; }
  Index value_width() const { return value_width_; }
  Index taken() const { return taken_; }

  /// The first `count` of the tokens that are here.
  ConstTile<S> queries(Index count) const { return as_tile(queries_.topRows(count)); }
  ConstTile<S> keys(Index count) const { return as_tile(keys_.topRows(count)); }
  ConstTile<S> values(Index count) const { return as_tile(values_.topRows(count)); }
  TokenInputsView<S> inputs(Index count) const {
    using Numbers = typename TokenInputsView<S>::Numbers;
    return {Numbers(weights_.data(), has_weights_ ? count : 0), Numbers(forgetting_.data(), forgets_ ? count : 0)};
  }

  /// Drops the first `count` tokens. Those that stay are fewer.
  void drop(Index count) {
    const Index stay = size_ - count;
    if (stay > 0) {
      if (has_queries_) queries_.topRows(stay) = queries_.middleRows(count, stay);
      keys_.topRows(stay) = keys_.middleRows(count, stay);
      values_.topRows(stay) = values_.middleRows(count, stay);
      if (has_weights_) weights_.head(stay) = weights_.segment(count, stay);
      if (forgets_) forgetting_.head(stay) = forgetting_.segment(count, stay);
    }
    size_ = stay;
    taken_ += count;
  }

 private:
  template <class Source>
  bool next_block(Source& source) {
    static_assert(std::is_convertible_v<decltype(source(block_)), bool>,
                  "gma: a source is called as source(gma::TokenBlock<S>&) and returns whether it gave tokens");
    is_at_end_ = is_at_end_ || !static_cast<bool>(source(block_));
    if (is_at_end_) return false;
    check_block();
    if (is_first_) make_room();
    count_ = block_.keys.rows();
    at_ = 0;
    return true;
  }

  void check_block() {
    const Index n = block_.keys.rows(), token = taken_ + size_;
    const auto fault = [&](const auto&... parts) {
      invalid_argument(function_, "source, block at token ", token, ": ", parts...);
    };
    const auto check_matrix = [&](const char* name, const Matrix<S>& matrix, Index cols, const char* why) {
      if (matrix.rows() == n && matrix.cols() == cols) return;
      fault(name, " is ", matrix.rows(), " x ", matrix.cols(), ", expected ", n, " x ", cols, " (", why, ")");
    };
    const auto check_given = [&](const char* name, const Vector<S>& numbers, bool is_given) {
      if ((numbers.size() != 0) == is_given) return;
      fault("tokens.", name, " has ", numbers.size(), " coefficients, expected ", is_given ? n : Index(0),
            " (empty in all blocks, or in none)");
    };
    if (n < 1) fault("keys has no row, expected 1 or more: a source without more tokens returns false");
    if (is_first_) {
      if (value_width_ < 0) value_width_ = block_.values.cols();
      has_weights_ = block_.tokens.key_weights.size() != 0;
      forgets_ = block_.tokens.log_forgetting.size() != 0;
    }
    if (has_queries_) check_matrix("queries", block_.queries, dim_, "keys x routing width");
    check_matrix("keys", block_.keys, dim_, "keys x routing width");
    check_matrix("values", block_.values, value_width_, "keys x value width");
    check_given("key_weights", block_.tokens.key_weights, has_weights_);
    check_given("log_forgetting", block_.tokens.log_forgetting, forgets_);
    check_tokens(function_, block_.tokens, n);
  }

  /// Once the first block has told the widths. What is larger already stays.
  void make_room() {
    const auto grow_rows = [&](auto& numbers, Index cols) {
      if (numbers.rows() < capacity_ || numbers.cols() != cols) numbers.resize(capacity_, cols);
    };
    is_first_ = false;
    if (has_queries_) grow_rows(queries_, dim_);
    grow_rows(keys_, dim_);
    grow_rows(values_, value_width_);
    if (has_weights_) grow_rows(weights_, 1);
    if (forgets_) grow_rows(forgetting_, 1);
  }

  void copy(Index now) {
    if (has_queries_) queries_.middleRows(size_, now) = block_.queries.middleRows(at_, now);
    keys_.middleRows(size_, now) = block_.keys.middleRows(at_, now);
    values_.middleRows(size_, now) = block_.values.middleRows(at_, now);
    if (has_weights_) weights_.segment(size_, now) = block_.tokens.key_weights.segment(at_, now);
    if (forgets_) forgetting_.segment(size_, now) = block_.tokens.log_forgetting.segment(at_, now);
  }

  const char* function_ = "";
  bool has_queries_ = false, has_weights_ = false, forgets_ = false, is_first_ = true, is_at_end_ = false;
  Index dim_ = 0, value_width_ = -1, capacity_ = 0;
  TokenBlock<S> block_;  // of the source, of which tokens [at_, count_) are still to be copied
  Index count_ = 0, at_ = 0;
  Matrix<S> queries_, keys_, values_;  // capacity_ rows or more, of which size_ are tokens
  Vector<S> weights_, forgetting_;
  Index size_ = 0, taken_ = 0;
};

/// What a stream keeps in its workspace from call to call.
template <class S>
struct StreamBuffers {
  TokenGroups<S> groups;
  Matrix<S> outputs;
  Memory<S> next;
};

/// Before memory and next are exchanged: both keep a remainder from here on if `next` has one, so that no later call
/// needs storage for it.
template <class S>
void prepare_exchange(Memory<S>& memory, const Memory<S>& next) {
  if (has_remainder(next)) ensure_remainder(memory);
}

/// Whole tiles, about `most` tokens of them, at least one.
inline Index stream_group(const Options& options, Index most) {
  const Index tile = options.tile > 0 ? options.tile : default_tile;
  return tile * (std::max)(Index(1), most / tile);
}

/// The groups of causal_stream(). A token that is left alone at the end of a long stream goes with the group before it:
/// alone it would be a decoding step, whose last bits are others. A group is therefore not taken before two tokens
/// more are here.
template <class M, class S, class Source, class Sink>
void causal_groups(Sink& sink, const M& mixture, Source& source, Memory<S>& memory, const Options& options,
                   StreamBuffers<S>& buffers, Workspace<S>& workspace) {
  TokenGroups<S>& groups = buffers.groups;
  const Index group = stream_group(options, 1024);
  const S before = memory.log_forgetting;
  Wide<S> forgotten(0);  // in the order of one call, which rounds it once
  for (;;) {
    groups.fill(source);
    if (groups.size() == 0) return;
    const Index count = groups.size() < group + 2 ? groups.size() : group;
    const TokenInputsView<S> inputs = groups.inputs(count);
    size_if_empty(memory, mixture.components(), groups.value_width());
    buffers.next = memory;
    buffers.outputs.resize((std::max)(buffers.outputs.rows(), count), groups.value_width());
    Tile<S> outputs = rows(buffers.outputs, 0, count);
    causal_into(outputs, mixture, groups.queries(count), groups.keys(count), groups.values(count), buffers.next,
                options, inputs, workspace);
    for (Index i = 0; i < inputs.log_forgetting.size(); ++i) {
      if (inputs.key_weights.size() == 0 || inputs.key_weights(i) > S(0))
        forgotten += Wide<S>(inputs.log_forgetting(i));
    }
    buffers.next.log_forgetting = before + S(forgotten);
    prepare_exchange(memory, buffers.next);
    sink(as_tile(std::as_const(outputs)));
    std::swap(memory, buffers.next);
    groups.drop(count);
  }
}

}  // namespace detail

template <class M, class Source, class Sink>
Index causal_stream(Sink&& sink, const M& mixture, Source&& source, Memory<Scalar<M>>& memory, const Options& options,
                    const OptionalWorkspace<Scalar<M>>& optional_workspace) {
  using S = Scalar<M>;
  constexpr const char* function = "causal_stream";
  Workspace<S>& workspace = optional_workspace.get();
  const detail::FeatureMapOf<M>& natural = detail::compiled(function, mixture, workspace);
  detail::check_options(function, options);
  if (!memory.empty()) {
    detail::check_memory(function, "memory", memory, natural.components(), memory.slots.cols());
  }
  detail::StreamBuffers<S>& buffers = workspace.template keep<detail::StreamBuffers<S>>();
  buffers.groups.begin(function, true, natural.dim(), memory.empty() ? Index(-1) : memory.slots.cols(),
                       detail::stream_group(options, 1024) + 2);
  Options in_order = options;
  in_order.segment = 0;
  detail::causal_groups(sink, natural, source, memory, in_order, buffers, workspace);
  return buffers.groups.taken();
}

template <class M, class Source>
Index write_stream(const M& mixture, Source&& source, Memory<Scalar<M>>& memory, const Options& options,
                   const OptionalWorkspace<Scalar<M>>& optional_workspace) {
  using S = Scalar<M>;
  constexpr const char* function = "write_stream";
  Workspace<S>& workspace = optional_workspace.get();
  const detail::FeatureMapOf<M>& natural = detail::compiled(function, mixture, workspace);
  detail::check_options(function, options);
  if (!memory.empty()) {
    detail::check_memory(function, "memory", memory, natural.components(), memory.slots.cols());
  }
  detail::StreamBuffers<S>& buffers = workspace.template keep<detail::StreamBuffers<S>>();
  detail::TokenGroups<S>& groups = buffers.groups;
  groups.begin(function, false, natural.dim(), memory.empty() ? Index(-1) : memory.slots.cols(),
               detail::stream_group(options, 32 * detail::default_tile));
  groups.fill(source);
  if (groups.size() == 0) return 0;
  detail::size_if_empty(memory, natural.components(), groups.value_width());
  buffers.next = memory;
  for (; groups.size() > 0; groups.fill(source)) {
    const Index count = groups.size();
    write(natural, groups.keys(count), groups.values(count), buffers.next, options, groups.inputs(count), workspace);
    groups.drop(count);
  }
  detail::prepare_exchange(memory, buffers.next);
  std::swap(memory, buffers.next);
  return groups.taken();
}

}  // namespace gma
