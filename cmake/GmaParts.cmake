# SPDX-License-Identifier: MIT
#
# gma_part(NAME what PACKAGE debian-package ...)    the cache variable GMA_BUILD_NAME: whether `what` is built
#
#   AUTO  built if CMake finds every PACKAGE, so that the library installs on a machine without them. The default at the
#         top level.
#   ON    always built; a missing package is an error
#   OFF   never built. The default if gma is a dependency of another project.
#
# Afterwards the variable is ON or OFF.
macro(gma_part name what)
  set(gma_part_default OFF)
  if(PROJECT_IS_TOP_LEVEL)
    set(gma_part_default AUTO)
  endif()
  set(GMA_BUILD_${name} ${gma_part_default} CACHE STRING "Build gma's ${what}: ON, OFF, or AUTO (if possible)")
  set_property(CACHE GMA_BUILD_${name} PROPERTY STRINGS AUTO ON OFF)
  if(GMA_BUILD_${name} STREQUAL "AUTO")
    set(GMA_BUILD_${name} ON)
    gma_find_all(GMA_BUILD_${name} "${what}" ${ARGN})
  endif()
endmacro()

# Sets the variable to OFF at the first missing package, with a message.
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
