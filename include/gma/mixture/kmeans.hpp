// SPDX-License-Identifier: MIT
// k-means++ seeding and Lloyd's iteration on weighted tokens: the first half of an initialisation from samples. In
// double, whatever the mixture's scalar.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "gma/core/random.hpp"
#include "gma/core/types.hpp"

namespace gma::detail {

/// Tokens to fit, n x d, and their weights, all positive.
struct Samples {
  Matrix<double> tokens;
  Vector<double> weights;

  Index size() const { return tokens.rows(); }
  Index dim() const { return tokens.cols(); }
};

/// Centres, K x d, and for every sample the index of its nearest centre.
struct Clusters {
  Matrix<double> centers;
  std::vector<Index> nearest;
};

/// An index drawn with probability proportional to `scores` (not negative), or -1 if all are zero. Cost O(n).
inline Index draw_index(const Vector<double>& scores, Random& random);

/// k-means++: the first centre is a sample drawn by weight, each further one a sample drawn by weight times squared
/// distance to the centres so far. Once every sample is a centre, the surplus centres are samples drawn by weight and
/// displaced by normal noise of standard deviation `spread`, so that no two centres are equal. Cost O(n K d).
inline Matrix<double> seed_centers(const Samples& samples, Index components, double spread, Random& random);

/// Lloyd's iteration from k-means++ seeds: at most `iterations` rounds, fewer when no assignment changes. A centre
/// without samples moves to the sample with the greatest weighted squared distance to its own centre; when every sample
/// lies on a centre, it stays. Cost O(n K d) a round.
inline Clusters kmeans(const Samples& samples, Index components, Index iterations, double spread, Random& random);

// Implementation -----------------------------------------------------------------------------------------------------

inline Index draw_index(const Vector<double>& scores, Random& random) {
  double total = 0;
  for (Index i = 0; i < scores.size(); ++i) total += scores(i);
  const double target = random.uniform() * total;
  double sum = 0;
  Index last = -1;  // rounding may leave the sum just below the target: then the last index that can be drawn
  for (Index i = 0; i < scores.size(); ++i) {
    if (!(scores(i) > 0)) continue;
    last = i;
    sum += scores(i);
    if (sum > target) break;
  }
  return last;
}

inline Matrix<double> seed_centers(const Samples& samples, Index components, double spread, Random& random) {
  Matrix<double> centers(components, samples.dim());
  Vector<double> scores = samples.weights;
  for (Index k = 0; k < components; ++k) {
    const Index chosen = draw_index(scores, random);
    if (chosen >= 0) {
      centers.row(k) = samples.tokens.row(chosen);
    } else {
      Matrix<double> noise(1, samples.dim());
      random.fill_normal(noise);
      centers.row(k) = samples.tokens.row(draw_index(samples.weights, random)) + spread * noise;
    }
    const Vector<double> distances = (samples.tokens.rowwise() - centers.row(k)).rowwise().squaredNorm();
    const Vector<double> candidates = samples.weights.cwiseProduct(distances);
    scores = k == 0 ? candidates : Vector<double>(scores.cwiseMin(candidates));
  }
  return centers;
}

/// Assigns every sample to its nearest centre, the lower index on a tie; `distances` are squared and weighted. Returns
/// whether an assignment changed.
inline bool assign(const Samples& samples, Clusters& clusters, Vector<double>& distances) {
  distances.setConstant(samples.size(), std::numeric_limits<double>::infinity());
  std::vector<Index> nearest(clusters.nearest.size(), 0);
  for (Index k = 0; k < clusters.centers.rows(); ++k) {
    const Vector<double> to_center = (samples.tokens.rowwise() - clusters.centers.row(k)).rowwise().squaredNorm();
    for (Index i = 0; i < samples.size(); ++i) {
      if (to_center(i) < distances(i)) {
        distances(i) = to_center(i);
        nearest[static_cast<std::size_t>(i)] = k;
      }
    }
  }
  distances = distances.cwiseProduct(samples.weights);
  const bool changed = nearest != clusters.nearest;
  clusters.nearest.swap(nearest);
  return changed;
}

/// Moves every centre to the weighted mean of its samples, and centres without samples to the worst served samples.
/// Returns whether a centre without samples was moved.
inline bool update_centers(const Samples& samples, Clusters& clusters, Vector<double> distances) {
  const Index components = clusters.centers.rows();
  Matrix<double> sums = Matrix<double>::Zero(components, samples.dim());
  Vector<double> masses = Vector<double>::Zero(components);
  for (Index i = 0; i < samples.size(); ++i) {
    const Index k = clusters.nearest[static_cast<std::size_t>(i)];
    sums.row(k) += samples.weights(i) * (samples.tokens.row(i) - clusters.centers.row(k));  // small sums round less
    masses(k) += samples.weights(i);
  }
  bool moved = false;
  for (Index k = 0; k < components; ++k) {
    if (masses(k) > 0) {
      clusters.centers.row(k) += sums.row(k) / masses(k);
      continue;
    }
    Index worst = 0;
    if (distances.maxCoeff(&worst) > 0) {
      clusters.centers.row(k) = samples.tokens.row(worst);
      const Vector<double> to_center = (samples.tokens.rowwise() - clusters.centers.row(k)).rowwise().squaredNorm();
      distances = distances.cwiseMin(to_center.cwiseProduct(samples.weights));
      moved = true;
    }
  }
  return moved;
}

inline Clusters kmeans(const Samples& samples, Index components, Index iterations, double spread, Random& random) {
  Clusters clusters{seed_centers(samples, components, spread, random),
                    std::vector<Index>(static_cast<std::size_t>(samples.size()), -1)};
  Vector<double> distances;
  assign(samples, clusters, distances);
  for (Index round = 0; round < iterations; ++round) {
    const bool moved = update_centers(samples, clusters, distances);
    if (!assign(samples, clusters, distances) && !moved) break;
  }
  return clusters;
}

}  // namespace gma::detail
