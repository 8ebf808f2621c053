# SPDX-License-Identifier: MIT
#
# Runs a program of the examples as a user would, in DIRECTORY, and checks its exit status and its output.
# Sets `output`.
#   run_program(<program> <expected: ok or error> <regex that the output must match> arguments...)
function(run_program program expected pattern)
  execute_process(COMMAND "${program}" ${ARGN} WORKING_DIRECTORY "${DIRECTORY}" RESULT_VARIABLE result
    OUTPUT_VARIABLE output ERROR_VARIABLE output)
  get_filename_component(name "${program}" NAME)
  string(REPLACE ";" " " command "${name} ${ARGN}")
  if((expected STREQUAL "ok") AND NOT (result EQUAL 0))
    message(FATAL_ERROR "failed (${result}): ${command}\n${output}")
  endif()
  if((expected STREQUAL "error") AND (result EQUAL 0))
    message(FATAL_ERROR "was accepted: ${command}\n${output}")
  endif()
  if(NOT output MATCHES "${pattern}")
    message(FATAL_ERROR "output does not match '${pattern}': ${command}\n${output}")
  endif()
  message(STATUS "${command}")
  set(output "${output}" PARENT_SCOPE)
endfunction()

# Sets a variable to a text of 160 lines to train on.
function(set_verses variable)
  set(text "")
  foreach(verse RANGE 1 160)
    math(EXPR number "(${verse} * 7919) % 997")
    string(APPEND text "  ${verse} And the children of ${number} went up, and said unto them, ${number} and ${verse}.\n")
  endforeach()
  set(${variable} "${text}" PARENT_SCOPE)
endfunction()
