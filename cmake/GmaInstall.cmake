# SPDX-License-Identifier: MIT
#
# Installs the headers, the CMake package and the pkg-config file. Nothing here depends on the architecture, so the
# package goes to DATADIR.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(gma_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/gma")

install(DIRECTORY include/gma DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" FILES_MATCHING PATTERN "*.hpp"
  PATTERN "*.md")  # comments cite these
install(TARGETS gma EXPORT gmaTargets INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT gmaTargets NAMESPACE gma:: DESTINATION "${gma_package_dir}")

# gma.cps says the same to tools other than CMake (Common Package Specification). It is not installed by default, because
# CMake itself then prefers it where a request names no component, and it is the poorer one: it asks for Eigen's version
# of today, so it refuses Eigen 5 where 3.4 was found, and a later request for a component in the same project fails.
option(GMA_INSTALL_CPS "Install gma.cps too (CMake 4.3 or newer)" OFF)
if(GMA_INSTALL_CPS AND CMAKE_VERSION VERSION_LESS 4.3)
  message(FATAL_ERROR "GMA_INSTALL_CPS needs CMake 4.3 or newer, and this is CMake ${CMAKE_VERSION}.")
elseif(GMA_INSTALL_CPS)
  install(PACKAGE_INFO gma EXPORT gmaTargets DESTINATION "${CMAKE_INSTALL_DATADIR}/cps/gma"
    VERSION "${PROJECT_VERSION}" COMPAT_VERSION "${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}.0"
    LICENSE MIT DESCRIPTION "${PROJECT_DESCRIPTION}" DEFAULT_TARGETS gma)
endif()

# gmaConfig.cmake creates gma::io and gma::mpi, because only the user's machine knows whether nlohmann_json and MPI are
# there.
configure_package_config_file(cmake/gmaConfig.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/gmaConfig.cmake"
  INSTALL_DESTINATION "${gma_package_dir}"
  NO_SET_AND_CHECK_MACRO)
configure_file(cmake/gmaConfigVersion.cmake.in "${CMAKE_CURRENT_BINARY_DIR}/gmaConfigVersion.cmake" @ONLY)
install(FILES
  cmake/GmaCompiled.cmake
  cmake/gma_compiled.cpp
  cmake/gma_compiled_layer.cpp
  cmake/GmaJson.cmake
  cmake/GmaMpi.cmake
  "${CMAKE_CURRENT_BINARY_DIR}/gmaConfig.cmake"
  "${CMAKE_CURRENT_BINARY_DIR}/gmaConfigVersion.cmake"
  DESTINATION "${gma_package_dir}")

# The paths are relative to the file if the folders are relative to the prefix. The installation can then be moved.
if(IS_ABSOLUTE "${CMAKE_INSTALL_DATADIR}")
  set(gma_pc_prefix "${CMAKE_INSTALL_PREFIX}")
else()
  file(RELATIVE_PATH gma_pc_prefix "${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig" "${CMAKE_INSTALL_PREFIX}")
  string(REGEX REPLACE "/+$" "" gma_pc_prefix "\${pcfiledir}/${gma_pc_prefix}")
endif()
if(IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(gma_pc_includedir "${CMAKE_INSTALL_INCLUDEDIR}")
else()
  set(gma_pc_includedir "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()
foreach(variable gma_pc_prefix gma_pc_includedir)
  string(REPLACE " " "\\ " ${variable} "${${variable}}")
endforeach()
configure_file(cmake/gma.pc.in "${CMAKE_CURRENT_BINARY_DIR}/gma.pc" @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/gma.pc" DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DOCDIR}")
