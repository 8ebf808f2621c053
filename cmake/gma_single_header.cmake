# SPDX-License-Identifier: MIT
#
# cmake -DOUTPUT=gma_single.hpp -P cmake/gma_single_header.cmake
#
# Writes gma/gma.hpp and every header that it includes into one file. Each header stands where it is first included, so
# the same sources give the same bytes.
cmake_minimum_required(VERSION 3.21)
set(include "${CMAKE_CURRENT_LIST_DIR}/../include")

# text(header): what gma/... and the headers that it includes first contribute, as `result` of the caller.
function(text header)
  set(result "" PARENT_SCOPE)
  get_property(seen GLOBAL PROPERTY "seen_${header}")
  if(seen)
    return()
  endif()
  set_property(GLOBAL PROPERTY "seen_${header}" TRUE)
  file(READ "${include}/${header}" rest)
  string(REPLACE "// SPDX-License-Identifier: MIT\n" "" rest "${rest}")
  string(REPLACE "#pragma once\n" "" rest "${rest}")
  string(REGEX REPLACE "#ifdef GMA_COMPILED [^\n]*\n(#include[^\n]*\n)*#endif\n" "" rest "${rest}")
  set(all "// ${header}\n")
  while(rest MATCHES "\n#include \"(gma/[a-z_/]+[.]hpp)\"\n")
    set(line "#include \"${CMAKE_MATCH_1}\"\n")
    string(FIND "${rest}" "${line}" begin)
    string(LENGTH "${line}" length)
    math(EXPR end "${begin} + ${length}")
    string(SUBSTRING "${rest}" 0 ${begin} before)
    string(SUBSTRING "${rest}" ${end} -1 rest)
    text("${CMAKE_MATCH_1}")
    string(APPEND all "${before}${result}")
    string(PREPEND rest "\n")
  endwhile()
  string(APPEND all "${rest}")
  set(result "${all}" PARENT_SCOPE)
endfunction()

text("gma/version.hpp")
set(version_header "${result}")
foreach(part MAJOR MINOR PATCH)
  string(REGEX MATCH "#define GMA_VERSION_${part} ([0-9]+)" line "${version_header}")
  list(APPEND version "${CMAKE_MATCH_1}")
endforeach()
list(JOIN version "." version)
text("gma/gma.hpp")
string(REGEX REPLACE "\n\n\n+" "\n\n" body "${version_header}\n${result}")
if(body MATCHES "\n *# *include *[<\"](gma/[^>\"]*)")
  message(FATAL_ERROR "gma_single.hpp still includes ${CMAKE_MATCH_1}")
endif()

file(READ "${CMAKE_CURRENT_LIST_DIR}/../LICENSE" licence)
string(STRIP "${licence}" licence)
string(REPLACE "\n" "\n// " licence "\n${licence}")
string(REPLACE "// \n" "//\n" licence "${licence}")
string(STRIP "${licence}" licence)
string(REGEX REPLACE "\n+$" "\n" body "${body}")
file(WRITE "${OUTPUT}" "// gma ${version} in one file: what gma/gma.hpp includes. Made by cmake/gma_single_header.cmake; needs Eigen 3.4 or newer.
//
// SPDX-License-Identifier: MIT
//
${licence}
#ifndef GMA_SINGLE_HPP
#define GMA_SINGLE_HPP

#ifdef GMA_VERSION
#error \"Include gma_single.hpp or the headers of gma/, not both.\"
#endif

${body}
#endif  // GMA_SINGLE_HPP
")
