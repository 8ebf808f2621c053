// SPDX-License-Identifier: MIT
// Errors. One cold function reports, and every message names the function, the argument and what was expected. A check
// costs O(1), or O(N) for values that are given per token. Release builds check too. With -fno-exceptions the same
// message is printed to stderr and the program aborts.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>

#include "gma/core/numeric.hpp"
#include "gma/core/types.hpp"

namespace gma::detail {

#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
template <class Exception>
[[noreturn]] inline void raise(const std::string& message) {
  throw Exception(message);
}
#else
template <class Exception>
[[noreturn]] inline void raise(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  std::abort();
}
#endif

/// The parts one after another, as text. It does not depend on the program's locale.
template <class... Parts>
std::string concatenate(const Parts&... parts) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  (text << ... << parts);
  return text.str();
}

/// Throws std::invalid_argument: "gma::<function>: <parts...>".
template <class... Parts>
[[noreturn]] void invalid_argument(const char* function, const Parts&... parts) {
  raise<std::invalid_argument>(concatenate("gma::", function, ": ", parts...));
}

/// "gma::causal: values has 7 rows, expected 8 (one per key)".
inline void check_size(const char* function, const char* argument, const char* what, Index actual, Index expected,
                       const char* why) {
  if (actual != expected) {
    invalid_argument(function, argument, " has ", actual, " ", what, ", expected ", expected, " (", why, ")");
  }
}

/// Checks both sizes of a matrix argument.
inline void check_shape(const char* function, const char* argument, Index rows, Index cols, Index expected_rows,
                        Index expected_cols, const char* why) {
  if (rows != expected_rows || cols != expected_cols) {
    invalid_argument(function, argument, " is ", rows, " x ", cols, ", expected ", expected_rows, " x ", expected_cols,
                     " (", why, ")");
  }
}

/// Checks that every coefficient is finite; the message names the first that is not.
template <class Derived>
void check_finite(const char* function, const std::string& argument, const Eigen::DenseBase<Derived>& values) {
  for (Index i = 0; i < values.rows(); ++i) {
    for (Index j = 0; j < values.cols(); ++j) {
      if (!is_finite(values.derived().coeff(i, j))) {
        invalid_argument(function, argument, " has a coefficient that is not finite at row ", i, ", column ", j);
      }
    }
  }
}

}  // namespace gma::detail
