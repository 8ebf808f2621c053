# SPDX-License-Identifier: MIT
#
# Compiles and runs the consumer with the flags that pkg-config reports for the installation in PREFIX.
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
set(ENV{PKG_CONFIG_PATH} "${PREFIX}/share/pkgconfig:$ENV{PKG_CONFIG_PATH}")
run("pkg-config" "${PKG_CONFIG}" --cflags gma)
separate_arguments(flags UNIX_COMMAND "${run_output}")
file(MAKE_DIRECTORY "${WORK}")
run("compile" "${COMPILER}" -std=c++17 ${flags} "${CMAKE_CURRENT_LIST_DIR}/../consumer/main.cpp" -o "${WORK}/consumer")
run("run" "${WORK}/consumer")
message(STATUS "${run_output}")
