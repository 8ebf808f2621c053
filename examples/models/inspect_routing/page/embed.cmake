# SPDX-License-Identifier: MIT
#
# The parts of the page as a header of string constants: part_page, part_style, part_script.
#   cmake -DOUT=page_parts.hpp -P embed.cmake
set(header "// Made by embed.cmake.\n#pragma once\n\nnamespace inspect_routing {\n\n")
foreach(file page.html style.css script.js)
  cmake_path(GET file STEM name)
  file(READ "${CMAKE_CURRENT_LIST_DIR}/${file}" contents)
  string(FIND "${contents}" ")~page~\"" end_mark)
  string(LENGTH "${contents}" length)
  if(NOT end_mark EQUAL -1 OR length GREATER 65000)
    message(FATAL_ERROR "${file} does not fit into a string constant")
  endif()
  string(APPEND header "inline constexpr char part_${name}[] = R\"~page~(${contents})~page~\";\n\n")
endforeach()
string(APPEND header "}  // namespace inspect_routing\n")
file(WRITE "${OUT}" "${header}")
