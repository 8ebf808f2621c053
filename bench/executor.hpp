// SPDX-License-Identifier: MIT
// The threads that the benchmarks lend to heads: OpenMP's where it was found, else std::thread. In a file of its own,
// because Eigen would run its own products in parallel wherever OpenMP is on.
#pragma once

#include <memory>

#include "gma/core/parallel.hpp"

namespace bench {

/// Null for one thread.
std::unique_ptr<gma::Executor> make_executor(gma::Index threads);

/// "OpenMP" or "std::thread".
const char* executor_name();

}  // namespace bench
