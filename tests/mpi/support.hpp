// SPDX-License-Identifier: MIT
// What the tests over ranks share: the way a sequence is cut into segments, and comparisons with one process. Every
// rank makes the whole problem from the same seed, computes it alone, and compares its own rows. All ranks make the
// same calls and come to the same verdict.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "../support.hpp"
#include "gma/mpi/agreement.hpp"

namespace gma_test {

using gma::mpi::Communicator;

/// The job's communicator, which main() makes.
Communicator& ranks();

/// even: as equal as can be. uneven: very unequal. sparse: only every second rank has tokens, the first has none.
enum class Cut { even, uneven, sparse };
constexpr Cut all_cuts[] = {Cut::even, Cut::uneven, Cut::sparse};
inline const char* name_of(Cut cut) { return cut == Cut::even ? "even" : cut == Cut::uneven ? "uneven" : "sparse"; }

/// Where every rank's segment of N tokens begins, and N.
inline std::vector<Index> offsets_of(Cut cut, Index tokens, Index count) {
  std::vector<Index> weights, offsets{0};
  Index total = 0;
  for (Index r = 0; r < count; ++r) {
    const bool is_empty = cut == Cut::sparse && count > 1 && r % 2 == 0;
    weights.push_back(cut == Cut::even     ? 1
                      : cut == Cut::uneven ? (r * r * 5) % 7 + (r == 1 ? 0 : 1)
                      : is_empty           ? 0
                                           : 1);
    total += weights.back();
  }
  Index sum = 0;
  for (Index r = 0; r < count; ++r) {
    sum += weights[static_cast<std::size_t>(r)];
    offsets.push_back(tokens * sum / total);
  }
  return offsets;
}

struct Segment {
  Index begin, count;
  template <class Derived>
  auto of(const Eigen::MatrixBase<Derived>& rows) const {
    return rows.derived().middleRows(rows.rows() == 0 ? 0 : begin, rows.rows() == 0 ? 0 : count);
  }
};
inline Segment segment_of(Cut cut, Index tokens) {
  const std::vector<Index> offsets = offsets_of(cut, tokens, ranks().size());
  const std::size_t r = static_cast<std::size_t>(ranks().rank());
  return {offsets[r], offsets[r + 1] - offsets[r]};
}

/// Comparisons of numbers that lie on all ranks, which are settled together: every collective of more ranks than cores
/// costs milliseconds.
class Comparisons {
 public:
  /// ||actual - expected|| / ||expected|| over the rows of all ranks, each of which gives its own.
  template <class A, class B>
  void add(const char* name, const Eigen::MatrixBase<A>& actual, const Eigen::MatrixBase<B>& expected,
           double tolerance) {
    double error = 0, norm = 0;
    if (actual.rows() != expected.rows() || actual.cols() != expected.cols()) {
      error = std::numeric_limits<double>::infinity();
    } else {
      error = (actual.template cast<double>() - expected.template cast<double>()).squaredNorm();
      norm = expected.template cast<double>().squaredNorm();
    }
    sums_.push_back(error);
    sums_.push_back(norm);
    tolerances_.emplace_back(name, tolerance);
  }

  /// Numbers that must be the same on all ranks, bit by bit.
  template <class Derived>
  void add_same(const Eigen::PlainObjectBase<Derived>& numbers) {
    gma::mpi::detail::Digest digest;
    digest.add(numbers.data(), numbers.size());
    same_.push_back(digest.value());
    same_.push_back(-digest.value());
  }

  /// Collective.
  void settle() {
    MPI_Allreduce(MPI_IN_PLACE, sums_.data(), static_cast<int>(sums_.size()), MPI_DOUBLE, MPI_SUM, ranks().handle());
    for (std::size_t i = 0; i < tolerances_.size(); ++i) {
      const double error = sums_[2 * i], norm = sums_[2 * i + 1];
      EXPECT_TRUE(std::isfinite(norm)) << tolerances_[i].first;
      EXPECT_LE(norm > 0 ? std::sqrt(error / norm) : std::sqrt(error), tolerances_[i].second) << tolerances_[i].first;
    }
    if (same_.empty()) return;
    MPI_Allreduce(MPI_IN_PLACE, same_.data(), static_cast<int>(same_.size()), MPI_INT64_T, MPI_MIN, ranks().handle());
    for (std::size_t i = 0; i < same_.size(); i += 2) {
      EXPECT_EQ(same_[i], -same_[i + 1]) << "numbers differ between ranks";
    }
  }

 private:
  std::vector<double> sums_;
  std::vector<std::pair<const char*, double>> tolerances_;
  std::vector<std::int64_t> same_;
};

/// The message of the std::invalid_argument that call() throws; "" if it throws none.
template <class Call>
std::string message_of(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

}  // namespace gma_test
