// SPDX-License-Identifier: MIT
// What the attention operators ask of the map in front of the memory. A compiled mixture is one, and whatever derives
// from FeatureMap is another: the maps of linear attention, of Performer and of state-space models differ from a
// mixture's posterior in nothing else (gma/baselines/feature_maps.hpp).
#pragma once

#include <type_traits>

#include "gma/core/tokens.hpp"
#include "gma/core/workspace.hpp"
#include "gma/mixture/natural.hpp"

namespace gma {

/// Base of feature maps without parameters to learn. Map has a Scalar, components() and dim(), and
///   void check(const char* function) const;                              throws if it is not ready for use
///   void evaluate(const ConstTile<S>& x, Tile<S> r) const;               T x d to T x K
///   void backward(const ConstTile<S>& x, const Tile<S>& r, Tile<S> d_r, Tile<S> d_x) const;
///                                                                        d_r may be overwritten, d_x is assigned
/// A map whose features may be negative also has
///   static constexpr bool is_signed = true;
/// and the memories written through it may have masses of any sign (Memory::has_signed_mass).
template <class Map>
struct FeatureMap {};

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

template <class M>
inline constexpr bool is_feature_map = std::is_base_of_v<FeatureMap<M>, M>;

template <class M>
inline constexpr bool is_compiled = false;
template <class S>
inline constexpr bool is_compiled<CompiledMixture<S>> = true;

/// Whether a map's features may be negative: it then says so with a static member `is_signed`.
template <class M, class = void>
inline constexpr bool has_signed_features = false;
template <class M>
inline constexpr bool has_signed_features<M, std::void_t<decltype(M::is_signed)>> = M::is_signed;

/// What the inner loops run on for a mixture, or other map, of type M.
template <class M>
using FeatureMapOf = std::conditional_t<is_feature_map<M>, M, CompiledMixture<typename M::Scalar>>;

template <class M>
using IfFeatureMap = std::enable_if_t<is_feature_map<M>, int>;

template <class M, class S, IfFeatureMap<M> = 0>
void evaluate(const M& map, const ConstTile<S>& x, Tile<S> r, Workspace<S>&) {
  map.evaluate(x, r);
}
template <class M, class S, IfFeatureMap<M> = 0>
void backward(const M& map, const ConstTile<S>& x, const Tile<S>& r, Tile<S> d_r, Tile<S> d_x, M&, Workspace<S>&) {
  map.backward(x, r, d_r, d_x);
}

template <class M, IfFeatureMap<M> = 0>
void compile_into(M& compiled, const M& map) {
  compiled = M(map);  // copying into numbers of another size is not safe where memory runs out (core/resize.hpp)
}

/// No parameters, no gradient: what gathers it stays empty.
template <class M, IfFeatureMap<M> = 0>
void set_zero_like(M&, const M&) {}
template <class M, IfFeatureMap<M> = 0>
void add_gradient(M&, const M&) {}
template <class M, IfFeatureMap<M> = 0>
void add_parameters(M&, const M&) {}
template <class M, IfFeatureMap<M> = 0>
void pull_back(const M&, const M&, const M&, M&) {}

}  // namespace detail
}  // namespace gma
