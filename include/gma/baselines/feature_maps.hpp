// SPDX-License-Identifier: MIT
// Peers of a Gaussian mixture in front of the same memory: go wherever a mixture goes, in every verb of gma and over
// heads, with the same forgetting, weights and memories. None has parameters to learn; gradients of them are empty.
//
//   linear attention   phi(x) = elu(x) + 1                               normalisation row
//   Performer          phi(x) = exp(W x' - |x'|^2 / 2) / sqrt(K)         normalisation row
//   state space        phi(x) = x                                        normalisation none
//
// The last is a state-space model of scalar decay (Mamba-2): with queries C, keys B, key weights dt and log-forgetting
// dt A, causal() computes h_t = exp(dt A) h_{t-1} + dt B x^T and y = C h.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>

#include "gma/core/random.hpp"
#include "gma/mixture/feature_map.hpp"

namespace gma::baselines {

/// phi(x) = elu(x) + 1, coordinate by coordinate: K = d. A. Katharopoulos et al., Transformers are RNNs, 2020.
template <class S>
struct EluFeatures : FeatureMap<EluFeatures<S>> {
  using Scalar = S;

  EluFeatures() = default;
  /// Throws std::invalid_argument if `dim` is below 1.
  explicit EluFeatures(Index dim);

  Index width = 0;  ///< d
  Index components() const { return width; }
  Index dim() const { return width; }

  void check(const char* function) const;
  void evaluate(const ConstTile<S>& x, Tile<S> r) const;
  void backward(const ConstTile<S>& x, const Tile<S>& r, Tile<S> d_r, Tile<S> d_x) const;
};

/// phi(x) = exp(w_k . x' - |x'|^2 / 2) / sqrt(K) with x' = x / d^(1/4): phi(q) . phi(k) estimates exp(q . k / sqrt(d)).
/// K. Choromanski et al., Rethinking attention with Performers, 2021. Exponents are not shifted, so tokens should be of
/// about unit root mean square.
template <class S>
struct PositiveRandomFeatures : FeatureMap<PositiveRandomFeatures<S>> {
  using Scalar = S;

  PositiveRandomFeatures() = default;
  /// Directions that are orthogonal in blocks of d, with the lengths of normal vectors. Throws std::invalid_argument if
  /// `components` or `dim` is below 1.
  PositiveRandomFeatures(Index components, Index dim, std::uint64_t seed);
  /// These directions, K x d. Throws std::invalid_argument if there are none, or one is not finite.
  explicit PositiveRandomFeatures(Matrix<S> directions);

  const Matrix<S>& directions() const { return directions_; }  ///< w, K x d
  Index components() const { return directions_.rows(); }
  Index dim() const { return directions_.cols(); }

  void check(const char* function) const;
  void evaluate(const ConstTile<S>& x, Tile<S> r) const;
  void backward(const ConstTile<S>& x, const Tile<S>& r, Tile<S> d_r, Tile<S> d_x) const;

 private:
  S scale() const;  // d^(-1/4)
  Matrix<S> directions_, transposed_directions_;
};

/// phi(x) = x: K = d. Of any sign, so only normalisation none makes sense.
template <class S>
struct IdentityFeatures : FeatureMap<IdentityFeatures<S>> {
  using Scalar = S;
  static constexpr bool is_signed = true;

  IdentityFeatures() = default;
  /// Throws std::invalid_argument if `dim` is below 1.
  explicit IdentityFeatures(Index dim);

  Index width = 0;  ///< d
  Index components() const { return width; }
  Index dim() const { return width; }

  void check(const char* function) const;
  void evaluate(const ConstTile<S>& x, Tile<S> r) const { r = x; }
  void backward(const ConstTile<S>&, const Tile<S>&, Tile<S> d_r, Tile<S> d_x) const { d_x = d_r; }
};

// Implementation -----------------------------------------------------------------------------------------------------

namespace detail {

using feature_maps::invalid_argument;

inline void check_dim(const char* type, Index dim) {
  if (dim < 1) invalid_argument(type, "dim is ", dim, ", expected at least 1");
}
inline void check_ready(const char* function, Index dim) {
  if (dim < 1) invalid_argument(function, "the feature map is empty, expected one made with its widths");
}

/// Gram and Schmidt, twice against rounding, in blocks of as many rows as there are columns; then every row gets the
/// length of a normal vector of its own.
inline void make_orthogonal(Matrix<double>& rows, gma::Random& random) {
  const Index d = rows.cols();
  for (Index i = 0; i < rows.rows(); ++i) {
    const Index block = i / d * d;
    for (int twice = 0; twice < 2; ++twice) {
      for (Index j = block; j < i; ++j) rows.row(i) -= rows.row(i).dot(rows.row(j)) * rows.row(j);
      rows.row(i) /= rows.row(i).norm();
    }
  }
  for (Index i = 0; i < rows.rows(); ++i) {
    double squares = 0;
    for (Index c = 0; c < d; ++c) squares += std::pow(random.normal(), 2);
    rows.row(i) *= std::sqrt(squares);
  }
}

}  // namespace detail

template <class S>
EluFeatures<S>::EluFeatures(Index dim) : width(dim) {
  detail::check_dim("EluFeatures", dim);
}

template <class S>
void EluFeatures<S>::check(const char* function) const {
  detail::check_ready(function, width);
}

template <class S>
void EluFeatures<S>::evaluate(const ConstTile<S>& x, Tile<S> r) const {
  for (Index t = 0; t < x.rows(); ++t) {
    r.row(t) = x.row(t);
    feature_maps::in_chunks(r.row(t).data(), r.cols(), [](feature_maps::Chunk<S>& z) {
      const feature_maps::Chunk<S> below = (z.min)(S(0)).exp();
      z = (z > S(0)).select(z + S(1), below);
    });
  }
}

/// elu' = 1 above zero, phi itself below.
template <class S>
void EluFeatures<S>::backward(const ConstTile<S>& x, const Tile<S>& r, Tile<S> d_r, Tile<S> d_x) const {
  d_x = (x.array() > S(0)).select(d_r.array(), d_r.array() * r.array());
}

template <class S>
PositiveRandomFeatures<S>::PositiveRandomFeatures(Index components, Index dim, std::uint64_t seed) {
  detail::check_dim("PositiveRandomFeatures", dim);
  if (components < 1) {
    detail::invalid_argument("PositiveRandomFeatures", "components is ", components, ", expected at least 1");
  }
  gma::Random random(seed);
  Matrix<double> rows(components, dim);
  random.fill_normal(rows);
  detail::make_orthogonal(rows, random);
  *this = PositiveRandomFeatures(rows.template cast<S>());
}

template <class S>
PositiveRandomFeatures<S>::PositiveRandomFeatures(Matrix<S> directions)
    : directions_(std::move(directions)), transposed_directions_(directions_.transpose()) {
  if (directions_.size() == 0) {
    detail::invalid_argument("PositiveRandomFeatures", "directions is ", directions_.rows(), " x ", directions_.cols(),
                             ", expected at least one row and one column");
  }
  feature_maps::check_finite("PositiveRandomFeatures", "directions", directions_);
}

template <class S>
S PositiveRandomFeatures<S>::scale() const {
  return S(std::pow(static_cast<double>(dim()), -0.25));
}

template <class S>
void PositiveRandomFeatures<S>::check(const char* function) const {
  detail::check_ready(function, dim());
}

template <class S>
void PositiveRandomFeatures<S>::evaluate(const ConstTile<S>& x, Tile<S> r) const {
  const S c = scale(), log_share = S(-0.5 * std::log(static_cast<double>(components())));
  feature_maps::product(x, transposed_directions_, r);
  for (Index t = 0; t < x.rows(); ++t) {
    const S* row = x.row(t).data();
    const S shift = log_share - S(0.5) * c * c * feature_maps::dot(row, row, x.cols());
    feature_maps::in_chunks(r.row(t).data(), r.cols(), [&](feature_maps::Chunk<S>& z) { z = (z * c + shift).exp(); });
  }
}

/// With l = c w . x - c^2 |x|^2 / 2: dl = dr r and dx = c sum_k dl_k w_k - c^2 x sum_k dl_k.
template <class S>
void PositiveRandomFeatures<S>::backward(const ConstTile<S>& x, const Tile<S>& r, Tile<S> d_r, Tile<S> d_x) const {
  const S c = scale();
  d_r.array() *= r.array();
  feature_maps::product(d_r, directions_, d_x);
  for (Index t = 0; t < x.rows(); ++t) d_x.row(t) = c * d_x.row(t) - (c * c * d_r.row(t).sum()) * x.row(t);
}

template <class S>
IdentityFeatures<S>::IdentityFeatures(Index dim) : width(dim) {
  detail::check_dim("IdentityFeatures", dim);
}

template <class S>
void IdentityFeatures<S>::check(const char* function) const {
  detail::check_ready(function, width);
}

}  // namespace gma::baselines
