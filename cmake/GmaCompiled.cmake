# SPDX-License-Identifier: MIT
#
# gma::compiled: gma::gma whose inner loops for float and double are compiled once, in a static library, and not again
# in every file that uses them. It is built with the flags of the project that uses it, and only if something links it.
if(NOT TARGET gma::compiled)
  add_library(gma_compiled STATIC EXCLUDE_FROM_ALL
    "${CMAKE_CURRENT_LIST_DIR}/gma_compiled.cpp" "${CMAKE_CURRENT_LIST_DIR}/gma_compiled_layer.cpp")
  add_library(gma::compiled ALIAS gma_compiled)
  target_link_libraries(gma_compiled PUBLIC gma::gma)
  target_compile_definitions(gma_compiled INTERFACE GMA_COMPILED)
  set_target_properties(gma_compiled PROPERTIES POSITION_INDEPENDENT_CODE ON)
  if(MSVC)
    target_compile_options(gma_compiled PRIVATE /bigobj)  # more sections than MSVC's object files have by default
  endif()
endif()
