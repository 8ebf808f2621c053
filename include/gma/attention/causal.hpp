// SPDX-License-Identifier: MIT
// Causal attention: token i reads the memory after it was written, (8). The memory before the first token may be given
// and is left advanced, so that one pass, any split of it, a prefill and single decoding steps are the same
// computation.
#pragma once

#include <limits>

#include "gma/attention/causal_tile.hpp"
#include "gma/attention/write.hpp"

namespace gma {

/// y_t from (4), (5) or (6) with the memory after token t: queries and keys N x d, values N x e; returns N x e. lambda
/// = 1 everywhere unless tokens.log_forgetting is given. Output i depends on tokens 0..i alone, to the bit. Cost O(N K
/// (D + e)), 2 N K (2 D + 2 e) operations in products; extra memory O(tile (K + D) + K e) (kernels/COSTS.md). Throws
/// std::invalid_argument on shapes or token inputs that do not fit.
template <class M, class Q, class K, class V, class TS = typename M::Scalar>
Matrix<typename M::Scalar> causal(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  const Options& options = {}, const TokenInputs<TS>& tokens = {});

/// The same, continuing from `memory` (K x e, or empty: sized here) and leaving it advanced. N = 1 decodes a step, N >
/// 1 prefills. On an error the memory is as it was.
template <class M, class Q, class K, class V, class MS, class TS = typename M::Scalar>
Matrix<typename M::Scalar> causal(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  Memory<MS>& memory, const Options& options = {}, const TokenInputs<TS>& tokens = {});

/// Both into a caller's N x e matrix, block or map, with a caller's scratch memory.
template <class Out, class M, class Q, class K, class V, class TS = typename M::Scalar>
void causal_into(const Eigen::MatrixBase<Out>& out, const M& mixture, const Eigen::MatrixBase<Q>& queries,
                 const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values, const Options& options,
                 const TokenInputs<TS>& tokens, Workspace<typename M::Scalar>& workspace);
template <class Out, class M, class Q, class K, class V, class MS, class TS = typename M::Scalar>
void causal_into(const Eigen::MatrixBase<Out>& out, const M& mixture, const Eigen::MatrixBase<Q>& queries,
                 const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values, Memory<MS>& memory,
                 const Options& options, const TokenInputs<TS>& tokens, Workspace<typename M::Scalar>& workspace);

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

/// The scan rounds the state at every token. Once it holds the mass of this many, it is laid aside as the base, read
/// through a product of its own, and the scan goes on from zero: long streams that forget nothing stay accurate, at a
/// quarter more work. Wider scalars need none of it.
template <class S>
constexpr double largest_scanned_mass() {
  return std::is_same_v<S, float> ? 0x1p15 : std::numeric_limits<double>::infinity();
}

/// Slots and mass become those after the stream. Tokens of one stream follow each other: threads are for heads and
/// sequences.
template <class FeatureMap, class S>
void causal_tokens(const FeatureMap& map, const TokenView<S>& queries, const TokenStream<S>& stream,
                   Normalization normalization, Index tile, MemoryView<S> memory, const TokenSink<S>& out,
                   Workspace<S>& workspace) {
  typename Workspace<S>::Frame frame(workspace);
  MemoryView<S> base = take_memory(memory.slots.rows(), memory.slots.cols(), workspace);
  bool has_base = false;
  for (Index begin = 0; begin < stream.size(); begin += tile) {
    const bool goes_on = stream.size() - begin >= default_tile;
    if (goes_on && memory.mass.sum() > S(largest_scanned_mass<S>())) {
      if (!has_base) base.set_zero();
      has_base = true;
      base.add(memory);
      memory.set_zero();
    }
    typename Workspace<S>::Frame tile_frame(workspace);
    MemoryView<S>* const aside = has_base ? &base : nullptr;
    const Index count = (std::min)(tile, stream.size() - begin);
    const CausalTile<S> opened = open_tile(map, queries, stream, begin, count, normalization, false, memory.mass.data(),
                                           static_cast<const S*>(has_base ? base.mass.data() : nullptr), workspace);
    Tile<S> y = out.tile(begin, count, workspace.take(count, out.cols()), true);
    forward_tile(opened, memory.slots, aside, y, workspace);
    out.store(begin, y);
  }
  if (has_base) memory.add(base);
}

template <class Map, class S, class Q, class K, class V>
void check_causal(const char* function, const Map& natural, const Eigen::MatrixBase<Q>& queries,
                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values, const Options& options,
                  const TokenInputs<S>& tokens) {
  check_options(function, options);
  check_token_width(function, "queries", queries.cols(), natural.dim());
  check_stream(function, natural, keys, values, tokens);
  check_size(function, "queries", "rows", queries.rows(), keys.rows(), "one per key");
}

}  // namespace detail

template <class Out, class M, class Q, class K, class V, class MS, class TS>
void causal_into(const Eigen::MatrixBase<Out>& out, const M& mixture, const Eigen::MatrixBase<Q>& queries,
                 const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values, Memory<MS>& memory,
                 const Options& options, const TokenInputs<TS>& tokens, Workspace<typename M::Scalar>& workspace) {
  using S = typename M::Scalar;
  detail::check_scalar<S, MS>();
  detail::check_scalar<S, TS>();
  const detail::FeatureMapOf<M>& natural = detail::compiled("causal", mixture, workspace);
  detail::check_causal("causal", natural, queries, keys, values, options, tokens);
  detail::check_shape("causal", "out", out.rows(), out.cols(), queries.rows(), values.cols(), "queries x value width");
  if (!memory.empty()) detail::check_memory("causal", "memory", memory, natural.components(), values.cols());
  detail::Evaluated<Q> q = queries.derived();
  detail::Evaluated<K> k = keys.derived();
  detail::Evaluated<V> v = values.derived();
  detail::size_if_empty(memory, natural.components(), values.cols());
  const detail::TokenView<S> view(q);
  const detail::TokenStream<S> stream{detail::TokenView<S>(k), detail::TokenView<S>(v), tokens};
  detail::causal_tokens(natural, view, stream, options.normalization,
                        detail::tile_size(options, detail::default_tile, stream.size()), detail::view(memory),
                        detail::TokenSink<S>(detail::writable(out)), workspace);
  memory.log_forgetting += stream.total_log_forgetting();
}

template <class Out, class M, class Q, class K, class V, class TS>
void causal_into(const Eigen::MatrixBase<Out>& out, const M& mixture, const Eigen::MatrixBase<Q>& queries,
                 const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values, const Options& options,
                 const TokenInputs<TS>& tokens, Workspace<typename M::Scalar>& workspace) {
  Memory<typename M::Scalar>& memory = workspace.template keep<Memory<typename M::Scalar>>();
  detail::set_zero(memory, mixture.components(), values.cols());
  causal_into(out, mixture, queries, keys, values, memory, options, tokens, workspace);
}

template <class M, class Q, class K, class V, class TS>
Matrix<typename M::Scalar> causal(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  const Options& options, const TokenInputs<TS>& tokens) {
  Memory<typename M::Scalar> memory;
  return causal(mixture, queries, keys, values, memory, options, tokens);
}

template <class M, class Q, class K, class V, class MS, class TS>
Matrix<typename M::Scalar> causal(const M& mixture, const Eigen::MatrixBase<Q>& queries,
                                  const Eigen::MatrixBase<K>& keys, const Eigen::MatrixBase<V>& values,
                                  Memory<MS>& memory, const Options& options, const TokenInputs<TS>& tokens) {
  Workspace<typename M::Scalar> workspace;
  Matrix<typename M::Scalar> out(queries.rows(), values.cols());
  causal_into(out, mixture, queries, keys, values, memory, options, tokens, workspace);
  return out;
}

}  // namespace gma
