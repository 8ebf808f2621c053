# SPDX-License-Identifier: MIT
#
# The Eigen in GMA_FAKE_EIGEN_INCLUDE, with the version number that Eigen3ConfigVersion.cmake beside this file takes from
# GMA_FAKE_EIGEN_VERSION. With this machine's Eigen under another number it is enough to test how the version is looked up;
# with the headers of a real Eigen 5, which came without a package for CMake, it is that package.
add_library(Eigen3::Eigen INTERFACE IMPORTED)
set_target_properties(Eigen3::Eigen PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${GMA_FAKE_EIGEN_INCLUDE}")
