# SPDX-License-Identifier: MIT
#
# Headers, the CMake package and the pkg-config file. Nothing here depends on the architecture, hence DATADIR.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(gma_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/gma")

install(DIRECTORY include/gma DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.hpp")
install(TARGETS gma EXPORT gmaTargets INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT gmaTargets NAMESPACE gma:: DESTINATION "${gma_package_dir}")

# gmaConfig.cmake makes gma::io itself, since whether there is a nlohmann_json is for the user's machine to say.
configure_package_config_file(cmake/gmaConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/gmaConfig.cmake"
  INSTALL_DESTINATION "${gma_package_dir}"
  NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may break its users.
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/gmaConfigVersion.cmake"
  COMPATIBILITY SameMinorVersion
  ARCH_INDEPENDENT)
install(FILES
  cmake/GmaJson.cmake
  "${CMAKE_CURRENT_BINARY_DIR}/gmaConfig.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/gmaConfigVersion.cmake"
  DESTINATION "${gma_package_dir}")

configure_file(cmake/gma.pc.in "${CMAKE_CURRENT_BINARY_DIR}/gma.pc" @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/gma.pc" DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
