// SPDX-License-Identifier: MIT
// The Eigen of this program is Eigen 5.
#include <Eigen/Core>

static_assert(EIGEN_MAJOR_VERSION == 5, "not Eigen 5");
