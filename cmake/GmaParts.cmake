# SPDX-License-Identifier: MIT
#
# gma_part(NAME what PACKAGE debian-package ...)    the cache variable GMA_BUILD_NAME: whether `what` is built
#
# AUTO, the default at the top level: where CMake finds every PACKAGE, so that the library installs on a machine that
# has none of them. ON: always, and a missing one is an error. OFF, the default as a dependency: never. Afterwards the
# variable is ON or OFF.
macro(gma_part name what)
  set(gma_part_default OFF)
  if(PROJECT_IS_TOP_LEVEL)
    set(gma_part_default AUTO)
  endif()
  set(GMA_BUILD_${name} ${gma_part_default} CACHE STRING "Build gma's ${what}: ON, OFF, or AUTO, where it can be done")
  set_property(CACHE GMA_BUILD_${name} PROPERTY STRINGS AUTO ON OFF)
  if(GMA_BUILD_${name} STREQUAL "AUTO")
    set(GMA_BUILD_${name} ON)
    gma_find_all(GMA_BUILD_${name} "${what}" ${ARGN})
  endif()
endmacro()

# Sets the variable to OFF, and says so, at the first package that is missing.
function(gma_find_all variable what)
  while(ARGN)
    list(POP_FRONT ARGN package debian)
    find_package(${package} QUIET)
    if(NOT ${package}_FOUND)
      message(STATUS "gma: ${what} are left out, since CMake found no ${package} (Debian and Ubuntu: ${debian})")
      set(${variable} OFF PARENT_SCOPE)
      return()
    endif()
  endwhile()
endfunction()
