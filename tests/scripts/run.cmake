# SPDX-License-Identifier: MIT
#
# run(what command...): runs a command silently and returns its combined output as run_output. A failure ends the test
# and shows the output.
function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${what} failed (${result}): ${command}\n${output}")
  endif()
  set(run_output "${output}" PARENT_SCOPE)
endfunction()

# expect(text regex): ends the test when the text does not match. White space counts as one space, line breaks included.
function(expect text regex)
  string(REGEX REPLACE "[ \n]+" " " text "${text}")
  if(NOT text MATCHES "${regex}")
    message(FATAL_ERROR "expected to find: ${regex}\nin: ${text}")
  endif()
endfunction()

# read_version(file variable): the version that this version.hpp states.
function(read_version file variable)
  file(READ "${file}" text)
  set(parts "")
  foreach(part MAJOR MINOR PATCH)
    if(NOT text MATCHES "#define GMA_VERSION_${part} ([0-9]+)")
      message(FATAL_ERROR "${file} does not define GMA_VERSION_${part}")
    endif()
    list(APPEND parts "${CMAKE_MATCH_1}")
  endforeach()
  list(JOIN parts "." version)
  set(${variable} "${version}" PARENT_SCOPE)
endfunction()
