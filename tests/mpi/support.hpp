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
#include "gma/mpi/communicator.hpp"

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

/// ||actual - expected|| / ||expected|| over the rows of all ranks. Collective.
template <class A, class B>
double error_over_ranks(const Eigen::MatrixBase<A>& actual, const Eigen::MatrixBase<B>& expected) {
  double sums[3] = {0, 0, 0};
  if (actual.rows() != expected.rows() || actual.cols() != expected.cols()) {
    sums[2] = 1;
  } else {
    sums[0] = (actual.template cast<double>() - expected.template cast<double>()).squaredNorm();
    sums[1] = expected.template cast<double>().squaredNorm();
    if (!(std::isfinite(sums[0]) && std::isfinite(sums[1]))) sums[2] = 1;
  }
  MPI_Allreduce(MPI_IN_PLACE, sums, 3, MPI_DOUBLE, MPI_SUM, ranks().handle());
  if (sums[2] > 0) return std::numeric_limits<double>::infinity();
  return sums[1] > 0 ? std::sqrt(sums[0] / sums[1]) : std::sqrt(sums[0]);
}

/// Whether numbers are the same on all ranks, bit by bit. Collective.
template <class Derived>
bool are_same_everywhere(const Eigen::PlainObjectBase<Derived>& numbers) {
  using S = typename Derived::Scalar;
  std::vector<S> first(numbers.data(), numbers.data() + numbers.size());
  MPI_Bcast(first.data(), static_cast<int>(first.size() * sizeof(S)), MPI_BYTE, 0, ranks().handle());
  int same = std::memcmp(first.data(), numbers.data(), first.size() * sizeof(S)) == 0 ? 1 : 0;
  MPI_Allreduce(MPI_IN_PLACE, &same, 1, MPI_INT, MPI_MIN, ranks().handle());
  return same == 1;
}

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
