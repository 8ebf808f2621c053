// SPDX-License-Identifier: MIT
// The threads that the benchmarks lend to heads: OpenMP's if CMake found it, else std::thread. This is a separate file,
// because Eigen runs its own products in parallel where OpenMP is on.
#pragma once

#include <memory>

#include "gma/core/parallel.hpp"

namespace bench {

/// Null for one thread.
std::unique_ptr<gma::Executor> make_executor(gma::Index threads);

/// "OpenMP" or "std::thread".
const char* executor_name();

}  // namespace bench
