# SPDX-License-Identifier: MIT
#
# The target gma_single_header writes gma_single.hpp into the build folder: gma/gma.hpp and all that it includes, in one
# file. With GMA_INSTALL_SINGLE_HEADER, installing writes it too, and puts it beside the folder gma.
option(GMA_INSTALL_SINGLE_HEADER "Install gma_single.hpp too" OFF)
set(gma_single_header "${CMAKE_CURRENT_BINARY_DIR}/gma_single.hpp")
set(gma_single_header_script "${CMAKE_CURRENT_LIST_DIR}/gma_single_header.cmake")
file(GLOB_RECURSE gma_headers CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/include/*.hpp")
add_custom_command(OUTPUT "${gma_single_header}"
  COMMAND "${CMAKE_COMMAND}" "-DOUTPUT=${gma_single_header}" -P "${gma_single_header_script}"
  DEPENDS ${gma_headers} "${gma_single_header_script}" "${CMAKE_CURRENT_SOURCE_DIR}/LICENSE"
  VERBATIM)
add_custom_target(gma_single_header DEPENDS "${gma_single_header}")

if(GMA_INSTALL AND GMA_INSTALL_SINGLE_HEADER)
  include(GNUInstallDirs)
  # Written now, since `cmake --install` may follow without a build.
  install(CODE "execute_process(COMMAND \"${CMAKE_COMMAND}\" \"-DOUTPUT=${gma_single_header}\"
    -P \"${gma_single_header_script}\" COMMAND_ERROR_IS_FATAL ANY)")
  install(FILES "${gma_single_header}" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
endif()
