// SPDX-License-Identifier: MIT
// The contract of a feature map: what the attention operators ask of the map in front of the memory. A compiled mixture
// is one, and whatever derives from FeatureMap is another: the maps of linear attention, of Performer and of
// state-space models differ from a mixture's posterior in nothing else. Their file, gma/baselines/feature_maps.hpp, is
// the model for a new one. It then goes wherever a mixture goes, in every verb and over heads; a layer takes it through
// LayerRouting (gma/layer/layer_routing.hpp). GMA_EXPECT_FEATURE_MAP(map) of gma/testing/feature_map.hpp tests it.
//
//   template <class S>
//   struct MyFeatures : gma::FeatureMap<MyFeatures<S>> {
//     using Scalar = S;
//     MyFeatures();                                   makes one that check() refuses; copies are independent
//     Index components() const;                       K: features per token
//     Index dim() const;                              d: numbers per token
//     void check(const char* function) const;         throws if it is not ready for use, naming `function`
//     static constexpr bool is_signed = true;         only for features that may be negative. The memories written
//                                                     through them may have masses of any sign
//                                                     (Memory::has_signed_mass)
//
// phi(x) of a tile of T tokens: x is T x d, r is T x K, assigned. A row of r depends on its own row of x alone, to the
// bit.
//
//     void evaluate(const ConstTile<S>& x, Tile<S> r) const;
//
// The gradient back: r is what evaluate() made, d_r may be overwritten, d_x is assigned.
//
//     void backward(const ConstTile<S>& x, const Tile<S>& r, Tile<S> d_r, Tile<S> d_x) const;
//   };
//
// A map has no parameters to learn; gradients of it are empty.
#pragma once

#include <type_traits>
#include <utility>

#include "gma/core/checks.hpp"
#include "gma/core/elementwise.hpp"
#include "gma/core/tokens.hpp"
#include "gma/core/workspace.hpp"
#include "gma/kernels/products.hpp"
#include "gma/kernels/rows.hpp"
#include "gma/mixture/natural.hpp"

namespace gma {

/// The base that marks a struct as a feature map.
template <class Map>
struct FeatureMap {};

/// What feature maps are written with.
namespace feature_maps {

/// product(a, b, c): c = a b, for tiles and matrices, in the order of summation that all tokens share.
using detail::product;

/// dot(a, b, count): the inner product of `count` numbers, in one order wherever they lie.
using kernels::dot;

/// in_chunks(values, count, f): f(chunk) in place, a Chunk of numbers at a time, with the same bits for a number
/// wherever it lies.
using detail::Chunk;
using detail::in_chunks;

/// check_finite(function, name, matrix) throws where a number is not finite; invalid_argument(function, parts...)
/// throws "gma::function: parts".
using detail::check_finite;
using detail::invalid_argument;

}  // namespace feature_maps

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

template <class M>
inline constexpr bool is_feature_map = std::is_base_of_v<FeatureMap<M>, M>;

template <class M>
inline constexpr bool is_compiled = false;
template <class S>
inline constexpr bool is_compiled<CompiledMixture<S>> = true;

template <class M, class = void>
inline constexpr bool has_map_shape = false;
template <class M>
inline constexpr bool
    has_map_shape<M, std::void_t<typename M::Scalar, decltype(Index(std::declval<const M&>().components())),
                                 decltype(Index(std::declval<const M&>().dim()))>> =
        std::is_default_constructible_v<M>&& std::is_copy_constructible_v<M>&& std::is_copy_assignable_v<M>;

template <class M, class = void>
inline constexpr bool has_map_check = false;
template <class M>
inline constexpr bool has_map_check<M, std::void_t<decltype(std::declval<const M&>().check(""))>> = true;

template <class M, class = void>
inline constexpr bool has_map_evaluate = false;
template <class M>
inline constexpr bool has_map_evaluate<
    M, std::void_t<decltype(std::declval<const M&>().evaluate(std::declval<const ConstTile<typename M::Scalar>&>(),
                                                              std::declval<Tile<typename M::Scalar>>()))>> = true;

template <class M, class = void>
inline constexpr bool has_map_backward = false;
template <class M>
inline constexpr bool has_map_backward<
    M, std::void_t<decltype(std::declval<const M&>().backward(
           std::declval<const ConstTile<typename M::Scalar>&>(), std::declval<const Tile<typename M::Scalar>&>(),
           std::declval<Tile<typename M::Scalar>>(), std::declval<Tile<typename M::Scalar>>()))>> = true;

/// True, or one sentence per part that is missing.
template <class M>
constexpr bool check_feature_map() {
  static_assert(has_map_shape<M>,
                "gma: a feature map has a Scalar, components() and dim(), a constructor without arguments, and copies "
                "(gma/mixture/feature_map.hpp)");
  static_assert(has_map_check<M>,
                "gma: a feature map has a function check(function) const (gma/mixture/feature_map.hpp)");
  static_assert(has_map_evaluate<M>,
                "gma: a feature map has a function evaluate(x, r) const (gma/mixture/feature_map.hpp)");
  static_assert(has_map_backward<M>,
                "gma: a feature map has a function backward(x, r, d_r, d_x) const (gma/mixture/feature_map.hpp)");
  return true;
}

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
  static_assert(check_feature_map<M>());
  map.evaluate(x, r);
}
template <class M, class S, IfFeatureMap<M> = 0>
void backward(const M& map, const ConstTile<S>& x, const Tile<S>& r, Tile<S> d_r, Tile<S> d_x, M&, Workspace<S>&) {
  static_assert(check_feature_map<M>());
  if (d_x.cols() == x.cols()) map.backward(x, r, d_r, d_x);  // else not wanted
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

/// Whether M derives from FeatureMap and keeps the contract above.
template <class M>
inline constexpr bool is_complete_feature_map = detail::is_feature_map<M>&& detail::has_map_shape<M>&&
    detail::has_map_check<M>&& detail::has_map_evaluate<M>&& detail::has_map_backward<M>;

}  // namespace gma
