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
