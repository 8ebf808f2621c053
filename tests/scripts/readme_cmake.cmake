# SPDX-License-Identifier: MIT
#
# The README's block of CMake with the number BLOCK, counted from 0, in a project with a program my_model. What it fetches
# is SOURCE, without a network; what it finds is the gma in PREFIX.
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
file(READ "${SOURCE}/README.md" readme)
string(REGEX MATCHALL "```cmake\n[^`]*```" blocks "${readme}")
list(GET blocks ${BLOCK} block)
string(REGEX REPLACE "```(cmake\n)?" "" block "${block}")
file(REMOVE_RECURSE "${WORK}")
file(WRITE "${WORK}/CMakeLists.txt" "cmake_minimum_required(VERSION 3.21)
project(my_model LANGUAGES CXX)
add_executable(my_model main.cpp)
${block}")
file(COPY "${CMAKE_CURRENT_LIST_DIR}/../consumer/main.cpp" DESTINATION "${WORK}")
run("configure" "${CMAKE_COMMAND}" -S "${WORK}" -B "${WORK}/build" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}"
  "-DCMAKE_PREFIX_PATH=${PREFIX}" "-DEigen3_DIR=${EIGEN_DIR}" -DFETCHCONTENT_FULLY_DISCONNECTED=ON
  "-DFETCHCONTENT_SOURCE_DIR_GMA=${SOURCE}")
run("build" "${CMAKE_COMMAND}" --build "${WORK}/build")
find_program(program my_model PATHS "${WORK}/build" "${WORK}/build/Debug" NO_DEFAULT_PATH REQUIRED)
run("run" "${program}")
