# SPDX-License-Identifier: MIT
#
# Flags and helpers for gma's own tests, benchmarks and examples. None of them reaches a user of gma::gma.
#
#   gma_warnings     strict warnings (errors with GMA_WERROR)
#   gma_fast_flags   -O3 -march=native with GMA_NATIVE: the flags that the README advises
#   gma_sanitize     the sanitizers of GMA_SANITIZE; with them, or under an emulator, GMA_REDUCED_TESTS
#   gma_require(package FOR what DEBIAN package-name OPTION option)    find_package with a helpful message

get_property(gma_is_multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(PROJECT_IS_TOP_LEVEL AND NOT gma_is_multi_config AND NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

# Exactly the standard that gma::gma requires, not the compiler's default.
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)

add_library(gma_warnings INTERFACE)
add_library(gma_fast_flags INTERFACE)
add_library(gma_sanitize INTERFACE)

if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  target_compile_options(gma_warnings INTERFACE
    -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast -Wcast-qual -Wundef
    -Wnon-virtual-dtor -Woverloaded-virtual -Wdouble-promotion
    "$<$<BOOL:${GMA_WERROR}>:-Werror>")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # g++ 12 reports Eigen's fixed-size temporaries as maybe uninitialized in code that initializes them. It reports the
    # packet loop over a map of one number, which never runs, as out of bounds.
    target_compile_options(gma_warnings INTERFACE -Wno-maybe-uninitialized -Wno-array-bounds -Wno-stringop-overflow)
    # Before g++ 13 it reports the undefined vectors of its own AVX-512 header (GCC bug 105593). clang++ still checks.
    target_compile_options(gma_warnings INTERFACE
      "$<$<VERSION_LESS:${CMAKE_CXX_COMPILER_VERSION},13>:-Wno-uninitialized>")
  endif()
  target_compile_options(gma_fast_flags INTERFACE "$<$<BOOL:${GMA_NATIVE}>:-O3;-march=native>")
endif()

if(MSVC)
  target_compile_options(gma_warnings INTERFACE /bigobj /utf-8)
endif()

if(GMA_SANITIZE)
  # Eigen's blocks add their offset to the null pointer of an empty matrix, which is never read. So pointer-overflow is
  # off.
  target_compile_options(gma_sanitize INTERFACE
    "-fsanitize=${GMA_SANITIZE}" -fno-sanitize=pointer-overflow -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(gma_sanitize INTERFACE "-fsanitize=${GMA_SANITIZE}")
endif()
if(GMA_SANITIZE OR CMAKE_CROSSCOMPILING)
  target_compile_definitions(gma_sanitize INTERFACE GMA_REDUCED_TESTS)
endif()

macro(gma_require package)
  cmake_parse_arguments(gma_require "" "FOR;DEBIAN;OPTION" "" ${ARGN})
  find_package(${package} QUIET)
  if(NOT ${package}_FOUND)
    message(FATAL_ERROR
      "gma's ${gma_require_FOR} need ${package}, and CMake found none. On Debian and Ubuntu: "
      "apt-get install ${gma_require_DEBIAN}. To build without them: -D${gma_require_OPTION}=OFF.")
  endif()
endmacro()
