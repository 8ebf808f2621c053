# SPDX-License-Identifier: MIT
#
# Finds Eigen 3.4 or newer, Eigen 5 included. Eigen's version file accepts a request only from its own major version,
# so a request for 3.4 refuses 5.0 and a range refuses both. Request no version, then compare.
if(NOT TARGET Eigen3::Eigen)
  find_package(Eigen3 CONFIG QUIET)
  if(NOT Eigen3_FOUND)
    message(FATAL_ERROR
      "gma needs Eigen 3.4 or newer, and CMake found none. On Debian and Ubuntu: apt-get install libeigen3-dev. "
      "Elsewhere set Eigen3_DIR to the folder that holds Eigen3Config.cmake.")
  endif()
  if(Eigen3_VERSION VERSION_LESS 3.4)
    message(FATAL_ERROR "gma needs Eigen 3.4 or newer, and ${Eigen3_DIR} holds Eigen ${Eigen3_VERSION}.")
  endif()
endif()
