# SPDX-License-Identifier: MIT
#
# As Eigen's own version file: compatible within one major version, and only upwards.
set(PACKAGE_VERSION "${GMA_FAKE_EIGEN_VERSION}")
string(REGEX MATCH "^[0-9]+" major "${PACKAGE_VERSION}")
if(NOT PACKAGE_FIND_VERSION
    OR (PACKAGE_FIND_VERSION_MAJOR EQUAL major AND NOT PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION))
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
else()
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
endif()
