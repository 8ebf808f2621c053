# SPDX-License-Identifier: MIT
#
# Configures SOURCE as on a machine that has Eigen but no package that only tests, benchmarks and examples need, and
# installs it into WORK. Requesting one of these parts is then an error that names the missing package.
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
file(REMOVE_RECURSE "${WORK}")
set(configure "${CMAKE_COMMAND}" -S "${SOURCE}" -B "${WORK}/build" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}"
  "-DEigen3_DIR=${EIGEN_DIR}")
foreach(package GTest benchmark CLI11 nlohmann_json MPI)
  list(APPEND configure "-DCMAKE_DISABLE_FIND_PACKAGE_${package}=ON")
endforeach()
run("configure" ${configure})
expect("${run_output}" "gma: tests are left out, since CMake found no GTest .Debian and Ubuntu: libgtest-dev")
expect("${run_output}" "gma: benchmarks are left out, since CMake found no benchmark")
expect("${run_output}" "gma: examples are left out, since CMake found no CLI11")
run("install" "${CMAKE_COMMAND}" --install "${WORK}/build" --prefix "${WORK}/prefix")
foreach(file include/gma/gma.hpp include/gma/attention/DERIVATION.md include/gma/kernels/COSTS.md
    share/cmake/gma/gmaConfig.cmake share/pkgconfig/gma.pc)
  if(NOT EXISTS "${WORK}/prefix/${file}")
    message(FATAL_ERROR "not installed: ${file}")
  endif()
endforeach()
foreach(part BENCH TESTS)
  execute_process(COMMAND ${configure} -DGMA_BUILD_${part}=ON RESULT_VARIABLE result OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(result EQUAL 0)
    message(FATAL_ERROR "configuring with GMA_BUILD_${part}=ON succeeded without what it needs")
  endif()
  expect("${output}" "gma's (benchmarks|tests) need (benchmark|GTest), and CMake found none")
  run("configure" ${configure} -DGMA_BUILD_${part}=OFF)
endforeach()
