# SPDX-License-Identifier: MIT
#
# The Eigen of this machine under another version number, which Eigen3ConfigVersion.cmake beside it takes from
# GMA_FAKE_EIGEN_VERSION: enough to test how the version is looked up.
add_library(Eigen3::Eigen INTERFACE IMPORTED)
set_target_properties(Eigen3::Eigen PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${GMA_FAKE_EIGEN_INCLUDE}")
