# SPDX-License-Identifier: MIT
#
# pkg-config finds the headers in every layout: relative folders of any depth, also after the installation was moved,
# and absolute folders, as NixOS has them.
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")

# A copy of the sources: CMake exports no absolute folder inside its source folder, where WORK may be.
set(copy "${WORK}/source")
file(REMOVE_RECURSE "${copy}")
file(COPY "${SOURCE}/CMakeLists.txt" "${SOURCE}/LICENSE" "${SOURCE}/cmake" "${SOURCE}/include" DESTINATION "${copy}")

function(check name datadir)
  set(root "${WORK}/${name}")
  file(REMOVE_RECURSE "${root}")
  run("configure" "${CMAKE_COMMAND}" -S "${copy}" -B "${root}/build" -G "${GENERATOR}"
    "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DEigen3_DIR=${EIGEN_DIR}" "-DCMAKE_INSTALL_PREFIX=${root}/first"
    -DGMA_BUILD_TESTS=OFF -DGMA_BUILD_BENCH=OFF -DGMA_BUILD_EXAMPLES=OFF ${ARGN})
  run("install" "${CMAKE_COMMAND}" --install "${root}/build")
  file(RENAME "${root}/first" "${root}/second")
  cmake_path(ABSOLUTE_PATH datadir BASE_DIRECTORY "${root}/second")
  set(ENV{PKG_CONFIG_PATH} "${datadir}/pkgconfig:$ENV{PKG_CONFIG_PATH}")
  run("pkg-config" "${PKG_CONFIG}" --cflags gma)
  separate_arguments(flags UNIX_COMMAND "${run_output}")
  foreach(flag IN LISTS flags)
    string(REGEX REPLACE "^-I" "" folder "${flag}")
    if(EXISTS "${folder}/gma/gma.hpp")
      return()
    endif()
  endforeach()
  message(FATAL_ERROR "${name}: no folder of ${run_output} holds gma/gma.hpp")
endfunction()

check(plain share)
check(deep lib/data/of/gma -DCMAKE_INSTALL_DATADIR=lib/data/of/gma -DCMAKE_INSTALL_INCLUDEDIR=include/gma-0)
check(flat . -DCMAKE_INSTALL_DATADIR=. -DCMAKE_INSTALL_INCLUDEDIR=headers)
check(spaces "a b/share" "-DCMAKE_INSTALL_DATADIR=a b/share" "-DCMAKE_INSTALL_INCLUDEDIR=c d")
check(absolute share "-DCMAKE_INSTALL_INCLUDEDIR=${WORK}/absolute/dev/include")
check(absolute_spaces share "-DCMAKE_INSTALL_INCLUDEDIR=${WORK}/absolute_spaces/d e v/include")
check(absolute_data "${WORK}/absolute_data/data" "-DCMAKE_INSTALL_DATADIR=${WORK}/absolute_data/data"
  "-DCMAKE_INSTALL_INCLUDEDIR=${WORK}/absolute_data/include")
