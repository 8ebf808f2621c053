# SPDX-License-Identifier: MIT
#
# Runs PROGRAM WAY on three ranks: the job must fail within 20 seconds, with a message that matches EXPECT.
execute_process(COMMAND "${MPIEXEC}" "${NUMPROC_FLAG}" 3 "${PROGRAM}" "${WAY}"
  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output TIMEOUT 20)
if(result STREQUAL "0")
  message(FATAL_ERROR "the job succeeded, expected: ${EXPECT}\n${output}")
endif()
if(result MATCHES "timeout")
  message(FATAL_ERROR "the job did not end within 20 seconds\n${output}")
endif()
if(NOT output MATCHES "${EXPECT}")
  message(FATAL_ERROR "expected: ${EXPECT}\n${output}")
endif()
