# SPDX-License-Identifier: MIT
#
# An overlay port, which builds the tree that it lies in:
#   vcpkg install gma --overlay-ports=<this repository>/cmake/vcpkg/ports
# A port of a release would get its sources from vcpkg_from_github instead.
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../../.." ABSOLUTE)

# gma is header-only: there is nothing to build for debugging.
set(VCPKG_BUILD_TYPE release)
vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    -DGMA_BUILD_TESTS=OFF
    -DGMA_BUILD_BENCH=OFF
    -DGMA_BUILD_EXAMPLES=OFF
    -DGMA_MPI=OFF)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/gma)
vcpkg_fixup_pkgconfig()
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/lib" "${CURRENT_PACKAGES_DIR}/share/doc")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
