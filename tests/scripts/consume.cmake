# SPDX-License-Identifier: MIT
#
# Configures, builds and runs the project in tests/consumer. ROUTE: find_package, add_subdirectory, fetch_content.
# It uses gma::io if IO is on, and finds nlohmann_json if WITH_JSON is on and MPI if WITH_MPI is on. COMPONENT is another
# component to request.
# With EIGEN_VERSION, it gets an Eigen with that version number and, unless EIGEN_IS_REAL, stops after configuring. With
# EXPECT, configuring must fail with that message.
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
read_version("${SOURCE}/include/gma/version.hpp" version)
string(REGEX REPLACE "[.][0-9]+$" "" wanted "${version}")  # as a user asks: major and minor
file(REMOVE_RECURSE "${WORK}")
set(configure "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}/../consumer" -B "${WORK}" -G "${GENERATOR}"
  "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_PREFIX_PATH=${PREFIX}"
  "-DGMA_ROUTE=${ROUTE}" "-DGMA_IO=${IO}" "-DGMA_COMPONENT=${COMPONENT}" "-DGMA_SOURCE_DIR=${SOURCE}"
  "-DGMA_WANTED_VERSION=${wanted}"
  -DFETCHCONTENT_FULLY_DISCONNECTED=ON)
if(WITH_JSON)
  list(APPEND configure "-Dnlohmann_json_DIR=${JSON_DIR}")
else()
  list(APPEND configure -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON)
endif()
if(NOT WITH_MPI)  # CMake looks for MPI and finds none, as on a system without it
  list(APPEND configure -DMPI_SKIP_COMPILER_WRAPPER=ON -DMPI_SKIP_GUESSING=ON)
  set(ENV{PKG_CONFIG_LIBDIR} /nowhere)
endif()
if(EIGEN_VERSION)
  list(APPEND configure "-DEigen3_DIR=${CMAKE_CURRENT_LIST_DIR}/../consumer/fake_eigen"
    "-DGMA_FAKE_EIGEN_VERSION=${EIGEN_VERSION}" "-DGMA_FAKE_EIGEN_INCLUDE=${EIGEN_INCLUDE}")
  if(EIGEN_IS_REAL)
    string(REGEX MATCH "^[0-9]+" major "${EIGEN_VERSION}")
    list(APPEND configure "-DCMAKE_CXX_FLAGS=-DEXPECTED_EIGEN_MAJOR=${major}")
  endif()
else()
  list(APPEND configure "-DEigen3_DIR=${EIGEN_DIR}")
endif()
if(EXPECT)
  execute_process(COMMAND ${configure} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(result EQUAL 0)
    message(FATAL_ERROR "configuring succeeded, expected: ${EXPECT}")
  endif()
  expect("${output}" "${EXPECT}")
  return()
endif()
run("configure" ${configure})
if(NOT EIGEN_VERSION OR EIGEN_IS_REAL)
  run("build" "${CMAKE_COMMAND}" --build "${WORK}")
  find_program(consumer consumer PATHS "${WORK}" "${WORK}/Debug" NO_DEFAULT_PATH REQUIRED)
  run("run" "${consumer}")
  message(STATUS "${run_output}")
  if(NOT IO AND NOT COMPONENT STREQUAL "mpi")
    expect("${run_output}" "^gma ${version}: ")
  endif()
endif()
