# SPDX-License-Identifier: MIT
#
# NEW_CMAKE, 4.3 or newer, installs SOURCE with GMA_INSTALL_CPS. The consumer finds gma.cps, also without gmaConfig.cmake
# and in another place, and builds with it. This CMake, if it is older, refuses the option with a reason.
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
read_version("${SOURCE}/include/gma/version.hpp" version)
file(REMOVE_RECURSE "${WORK}")
set(options -S "${SOURCE}" -B "${WORK}/build" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}"
  "-DEigen3_DIR=${EIGEN_DIR}" -DGMA_BUILD_TESTS=OFF -DGMA_BUILD_BENCH=OFF -DGMA_BUILD_EXAMPLES=OFF -DGMA_MPI=OFF
  -DGMA_INSTALL_CPS=ON)
if(CMAKE_VERSION VERSION_LESS 4.3)
  execute_process(COMMAND "${CMAKE_COMMAND}" ${options} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  expect("${output}" "GMA_INSTALL_CPS needs CMake 4.3 or newer, and this is CMake ${CMAKE_VERSION}")
  file(REMOVE_RECURSE "${WORK}/build")
endif()
run("configure" "${NEW_CMAKE}" ${options})
run("install" "${NEW_CMAKE}" --install "${WORK}/build" --prefix "${WORK}/first")
file(RENAME "${WORK}/first" "${WORK}/second")
file(REMOVE_RECURSE "${WORK}/second/share/cmake")
run("configure the consumer" "${NEW_CMAKE}" -S "${SOURCE}/tests/consumer" -B "${WORK}/consumer" -G "${GENERATOR}"
  "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_PREFIX_PATH=${WORK}/second" "-DEigen3_DIR=${EIGEN_DIR}"
  -DGMA_ROUTE=find_package "-DGMA_WANTED_VERSION=${version}")
run("build the consumer" "${NEW_CMAKE}" --build "${WORK}/consumer")
find_program(consumer consumer PATHS "${WORK}/consumer" "${WORK}/consumer/Debug" NO_DEFAULT_PATH REQUIRED)
run("run the consumer" "${consumer}")
expect("${run_output}" "^gma ${version}: ")
