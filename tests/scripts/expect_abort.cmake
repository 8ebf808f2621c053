# SPDX-License-Identifier: MIT
#
# PROGRAM must abort, and its output must match EXPECT.
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
execute_process(COMMAND "${PROGRAM}" RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT result MATCHES "[Aa]bort")
  message(FATAL_ERROR "expected an abort, got '${result}': ${output}")
endif()
expect("${output}" "${EXPECT}")
