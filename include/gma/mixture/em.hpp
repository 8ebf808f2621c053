// SPDX-License-Identifier: MIT
// Expectation-maximisation on weighted tokens: the second half of an initialisation from samples. In double, whatever
// the mixture's scalar; tokens are standardised directly and not through natural parameters, so that neither a far
// outlier nor a variance at the floor costs accuracy.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gma/mixture/families/diagonal_fit.hpp"
#include "gma/mixture/families/full_fit.hpp"
#include "gma/mixture/families/isotropic_fit.hpp"
#include "gma/mixture/families/tied_fit.hpp"
#include "gma/mixture/family_fit.hpp"
#include "gma/mixture/kmeans.hpp"

namespace gma::detail {

/// What a fit never falls below.
struct FitFloors {
  double variance = 0;  ///< of every coordinate; for Full of every direction
  double weight = 0;    ///< of every component
};

/// log p(x) of every sample, and optionally the moments of the posterior. Cost O(n K d), for Full O(n K d^2).
template <class Covariance>
Vector<double> expectation(const Mixture<double, Covariance>& mixture, const Samples& samples, FitMoments* moments);

/// The M step: means, scales and weights of the greatest likelihood given the moments, under the floors.
template <class Covariance>
void maximize(const FitMoments& moments, const FitFloors& floors, Mixture<double, Covariance>& mixture);

/// The weights of the greatest likelihood, mass / sum, but none below `floor` (at most 1 / K); they sum to 1.
inline Vector<double> floored_weights(const Vector<double>& mass, double floor);

/// The samples as one Gaussian: a mixture of one component.
template <class Covariance>
Mixture<double, Covariance> single_gaussian(const Samples& samples, const FitFloors& floors);

/// A mixture that starts from clusters: their means, scales and weights; a component without samples has the scales of
/// all samples together.
template <class Covariance>
Mixture<double, Covariance> mixture_of_clusters(const Samples& samples, const Clusters& clusters,
                                                const FitFloors& floors);

/// EM steps, the log-likelihood never falling. A component at the weight floor, or the twin of another, is tried for
/// some steps at the sample farthest from all means, and kept there if that raises the likelihood.
template <class Covariance>
void maximize_likelihood(const Samples& samples, Index iterations, const FitFloors& floors,
                         Mixture<double, Covariance>& mixture);

/// Moves every twin of an earlier component away from it by one standard deviation of normal noise: exact twins would
/// receive the same gradient and stay twins for ever.
template <class Covariance>
void separate_twins(Random& random, Mixture<double, Covariance>& mixture);

// Implementation -----------------------------------------------------------------------------------------------------

/// Adds a tile of samples (T x d) with weighted responsibilities r (T x K) to the moments about the present means.
template <class Covariance>
void add_moments(const Mixture<double, Covariance>& mixture, const Matrix<double>& x, const Matrix<double>& r,
                 FitMoments& moments) {
  moments.mass += r.colwise().sum().transpose();
  Matrix<double> centered;
  for (Index k = 0; k < mixture.components(); ++k) {
    centered = x.rowwise() - mixture.means.row(k);
    moments.first.row(k) += r.col(k).transpose() * centered;
    if (moments.second.cols() == mixture.dim()) {
      moments.second.row(k) += r.col(k).transpose() * centered.cwiseAbs2();
    } else {
      Eigen::Map<Matrix<double>>(moments.second.row(k).data(), mixture.dim(), mixture.dim()) +=
          centered.transpose() * (r.col(k).asDiagonal() * centered);
    }
  }
}

template <class Covariance>
FitMoments zero_moments(Index components, Index dim) {
  return FitMoments{
      Vector<double>::Zero(components), Matrix<double>::Zero(components, dim),
      Matrix<double>::Zero(components, FamilyFit<Covariance>::needs_covariances ? product_of_counts(dim, dim) : dim)};
}

inline constexpr Index fit_tile = 256;

template <class Covariance>
Vector<double> expectation(const Mixture<double, Covariance>& mixture, const Samples& samples, FitMoments* moments) {
  const double constant = -0.9189385332046727418 * static_cast<double>(mixture.dim());  // log sqrt(2 pi)
  const double largest_logit = mixture.weight_logits.maxCoeff();
  const double log_sum = largest_logit + std::log((mixture.weight_logits.array() - largest_logit).exp().sum());
  Vector<double> log_density(samples.size());
  if (moments != nullptr) *moments = zero_moments<Covariance>(mixture.components(), mixture.dim());
  for (Index begin = 0; begin < samples.size(); begin += fit_tile) {
    const Index count = (std::min)(fit_tile, samples.size() - begin);
    const Matrix<double> x = samples.tokens.middleRows(begin, count);
    Matrix<double> joint(count, mixture.components()), rows;
    for (Index k = 0; k < mixture.components(); ++k) {
      rows = x.rowwise() - mixture.means.row(k);
      const double log_det = FamilyFit<Covariance>::standardize(mixture, k, rows);
      joint.col(k) = rows.rowwise().squaredNorm() * -0.5;
      joint.col(k).array() += log_det + constant + mixture.weight_logits(k) - log_sum;
    }
    for (Index i = 0; i < count; ++i) {
      const double largest = joint.row(i).maxCoeff();
      joint.row(i) = (joint.row(i).array() - largest).exp();
      const double sum = joint.row(i).sum();
      log_density(begin + i) = largest + std::log(sum);
      joint.row(i) *= samples.weights(begin + i) / sum;
    }
    if (moments != nullptr) add_moments(mixture, x, joint, *moments);
  }
  return log_density;
}

inline Vector<double> floored_weights(const Vector<double>& mass, double floor) {
  const Index components = mass.size();
  Vector<double> weights = Vector<double>::Constant(components, floor);
  std::vector<char> at_floor(static_cast<std::size_t>(components), 0);
  for (bool changed = true; changed;) {  // each round fixes at least one more component at the floor
    changed = false;
    double free_mass = 0, free_weight = 1;
    for (Index k = 0; k < components; ++k) {
      if (at_floor[static_cast<std::size_t>(k)] != 0)
        free_weight -= floor;
      else
        free_mass += mass(k);
    }
    for (Index k = 0; k < components; ++k) {
      if (at_floor[static_cast<std::size_t>(k)] != 0) continue;
      weights(k) = mass(k) / free_mass * free_weight;
      if (!(weights(k) >= floor)) {
        weights(k) = floor;
        at_floor[static_cast<std::size_t>(k)] = 1;
        changed = true;
      }
    }
  }
  return weights;
}

template <class Covariance>
void maximize(const FitMoments& about_old_means, const FitFloors& floors, Mixture<double, Covariance>& mixture) {
  FitMoments moments = about_old_means;
  moments.dead_mass = 1e-12 * moments.mass.sum() / static_cast<double>(moments.mass.size());
  for (Index k = 0; k < mixture.components(); ++k) {
    if (moments.is_dead(k)) continue;
    const RowVector<double> shift = moments.first.row(k) / moments.mass(k);
    mixture.means.row(k) += shift;
    moments.second.row(k) /= moments.mass(k);
    if (moments.second.cols() == mixture.dim()) {
      moments.second.row(k) -= shift.cwiseAbs2();
    } else {
      Eigen::Map<Matrix<double>>(moments.second.row(k).data(), mixture.dim(), mixture.dim()) -=
          shift.transpose() * shift;
    }
  }
  FamilyFit<Covariance>::maximize_scales(moments, floors.variance, mixture);
  mixture.weight_logits = floored_weights(moments.mass, floors.weight).array().log();
}

/// The M step for given assignments, from a mixture whose means are near.
template <class Covariance>
void maximize_assigned(const Samples& samples, const std::vector<Index>& assigned, const FitFloors& floors,
                       Mixture<double, Covariance>& mixture) {
  FitMoments moments = zero_moments<Covariance>(mixture.components(), samples.dim());
  for (Index begin = 0; begin < samples.size(); begin += fit_tile) {
    const Index count = (std::min)(fit_tile, samples.size() - begin);
    Matrix<double> r = Matrix<double>::Zero(count, mixture.components());
    for (Index i = 0; i < count; ++i) {
      r(i, assigned[static_cast<std::size_t>(begin + i)]) = samples.weights(begin + i);
    }
    add_moments(mixture, samples.tokens.middleRows(begin, count), r, moments);
  }
  maximize(moments, floors, mixture);
}

template <class Covariance>
Mixture<double, Covariance> single_gaussian(const Samples& samples, const FitFloors& floors) {
  Mixture<double, Covariance> mixture(1, samples.dim());
  mixture.means = samples.weights.transpose() * samples.tokens / samples.weights.sum();
  maximize_assigned(samples, std::vector<Index>(static_cast<std::size_t>(samples.size()), 0), floors, mixture);
  return mixture;
}

template <class Covariance>
Mixture<double, Covariance> mixture_of_clusters(const Samples& samples, const Clusters& clusters,
                                                const FitFloors& floors) {
  Mixture<double, Covariance> mixture(clusters.centers.rows(), samples.dim());
  mixture.means = clusters.centers;
  mixture.log_scales.rowwise() = single_gaussian<Covariance>(samples, floors).log_scales.row(0);
  maximize_assigned(samples, clusters.nearest, floors, mixture);
  return mixture;
}

/// Whether components a and b are the same within a ten-thousandth of a standard deviation.
template <class Covariance>
bool are_twins(const Mixture<double, Covariance>& mixture, Index a, Index b) {
  constexpr double tolerance = 1e-4;
  if (!Covariance::shares_scales &&
      (mixture.log_scales.row(a) - mixture.log_scales.row(b)).cwiseAbs().maxCoeff() > tolerance) {
    return false;
  }
  Matrix<double> difference = mixture.means.row(a) - mixture.means.row(b);
  FamilyFit<Covariance>::standardize(mixture, a, difference);
  return difference.norm() <= tolerance;
}

/// The first component before b whose twin b is, or -1.
template <class Covariance>
Index earlier_twin(const Mixture<double, Covariance>& mixture, Index b) {
  for (Index a = 0; a < b; ++a) {
    if (are_twins(mixture, a, b)) return a;
  }
  return -1;
}

/// Components that serve nothing: dead ones and twins. `twin` is the component that a twin leaves its weight to, or -1.
struct Spare {
  Index component, twin;
};

template <class Covariance>
std::vector<Spare> spare_components(const Mixture<double, Covariance>& mixture, const FitFloors& floors) {
  std::vector<Spare> spares;
  for (Index k = 0; k < mixture.components(); ++k) {
    const Index twin = earlier_twin(mixture, k);
    const bool is_dead = std::exp(mixture.weight_logits(k)) <= floors.weight * (1 + 1e-9);
    if (twin >= 0 || is_dead) spares.push_back({k, twin});
  }
  if (static_cast<Index>(spares.size()) == mixture.components()) {  // a floor of 1/K, which all are at: only twins go
    spares.erase(std::remove_if(spares.begin(), spares.end(), [](const Spare& spare) { return spare.twin < 0; }),
                 spares.end());
  }
  return spares;
}

/// Moves each spare component to the sample farthest from its nearest mean, as k-means does, to share weight and scales
/// of the component with that mean: with little weight or narrow scales it would settle on the single sample.
template <class Covariance>
void relocate(const Samples& samples, const std::vector<Spare>& spares, const FitFloors& floors,
              Mixture<double, Covariance>& mixture) {
  Vector<double> weights = mixture.weight_logits.array().exp();
  for (const Spare& spare : spares) {  // out of the way first
    if (spare.twin >= 0) weights(spare.twin) += weights(spare.component);
    weights(spare.component) = 0;
  }
  Vector<double> distances(samples.size());
  for (const Spare& spare : spares) {
    std::vector<Index> nearest(static_cast<std::size_t>(samples.size()), -1);
    distances.setConstant(std::numeric_limits<double>::infinity());
    for (Index k = 0; k < mixture.components(); ++k) {
      if (!(weights(k) > 0)) continue;
      const Vector<double> to_mean = (samples.tokens.rowwise() - mixture.means.row(k)).rowwise().squaredNorm();
      for (Index i = 0; i < samples.size(); ++i) {
        if (to_mean(i) < distances(i)) nearest[static_cast<std::size_t>(i)] = k;
      }
      distances = distances.cwiseMin(to_mean);
    }
    Index sample = 0;
    if (!(distances.cwiseProduct(samples.weights).maxCoeff(&sample) > 0)) break;  // every sample lies on a mean
    const Index parent = nearest[static_cast<std::size_t>(sample)];
    weights(spare.component) = weights(parent) *= 0.5;
    mixture.means.row(spare.component) = samples.tokens.row(sample);
    if (!Covariance::shares_scales) mixture.log_scales.row(spare.component) = mixture.log_scales.row(parent);
  }
  mixture.weight_logits = floored_weights(weights, floors.weight).array().log();
}

template <class Covariance>
double log_likelihood(const Mixture<double, Covariance>& mixture, const Samples& samples) {
  return samples.weights.dot(expectation(mixture, samples, nullptr));
}

template <class Covariance>
void em_step(const Samples& samples, const FitFloors& floors, Mixture<double, Covariance>& mixture) {
  FitMoments moments;
  expectation(mixture, samples, &moments);
  maximize(moments, floors, mixture);
}

template <class Covariance>
void maximize_likelihood(const Samples& samples, Index iterations, const FitFloors& floors,
                         Mixture<double, Covariance>& mixture) {
  constexpr int trial_steps = 5;
  bool may_relocate = true;
  for (Index i = 0; i < iterations; ++i) {
    em_step(samples, floors, mixture);
    const std::vector<Spare> spares = may_relocate ? spare_components(mixture, floors) : std::vector<Spare>();
    if (spares.empty()) continue;
    Mixture<double, Covariance> candidate = mixture;
    relocate(samples, spares, floors, candidate);
    for (int trial = 0; trial < trial_steps; ++trial) em_step(samples, floors, candidate);
    may_relocate = log_likelihood(candidate, samples) > log_likelihood(mixture, samples);
    if (may_relocate) mixture = candidate;
  }
}

template <class Covariance>
void separate_twins(Random& random, Mixture<double, Covariance>& mixture) {
  for (Index k = 1; k < mixture.components(); ++k) {
    if (earlier_twin(mixture, k) < 0) continue;
    Matrix<double> noise(1, mixture.dim());
    random.fill_normal(noise);
    FamilyFit<Covariance>::displace(mixture, k, noise);
    mixture.means.row(k) += noise;
  }
}

}  // namespace gma::detail
