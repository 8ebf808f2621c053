# SPDX-License-Identifier: MIT
#
# gma::compiled: gma::gma whose inner loops for float and double are compiled once, in a static library, and not again
# in every file that uses them. It is built with the flags of the project that uses it, and only if something links it.
#
#   gma_add_compiled(name)   another such library, for targets with other flags
function(gma_add_compiled name)
  set(sources "${CMAKE_CURRENT_FUNCTION_LIST_DIR}")
  add_library(${name} STATIC EXCLUDE_FROM_ALL "${sources}/gma_compiled.cpp" "${sources}/gma_compiled_layer.cpp")
  target_link_libraries(${name} PUBLIC gma::gma)
  target_compile_definitions(${name} INTERFACE GMA_COMPILED)
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
endfunction()

if(NOT TARGET gma::compiled)
  gma_add_compiled(gma_compiled)
  add_library(gma::compiled ALIAS gma_compiled)
endif()
