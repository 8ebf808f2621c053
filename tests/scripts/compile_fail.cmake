# SPDX-License-Identifier: MIT
#
# SOURCE must compile. With GMA_MUST_NOT_COMPILE defined, and with the flags of its line "// Flags: ..." if it has one,
# it must not compile, and the compiler's message must contain the text of its line "// Expected: ...".
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
file(STRINGS "${SOURCE}" expected REGEX "^// Expected: ")
list(LENGTH expected count)
if(NOT count EQUAL 1)
  message(FATAL_ERROR "${SOURCE} needs exactly one line '// Expected: ...'")
endif()
string(REPLACE "// Expected: " "" expected "${expected}")
file(STRINGS "${SOURCE}" flags REGEX "^// Flags: ")
string(REPLACE "// Flags: " "" flags "${flags}")
separate_arguments(flags)

set(compile "${COMPILER}" -std=c++17 -fsyntax-only "-I${GMA_INCLUDE}")
foreach(dir IN LISTS EIGEN_INCLUDE)
  list(APPEND compile -isystem "${dir}")
endforeach()
run("the correct form" ${compile} "${SOURCE}")
execute_process(COMMAND ${compile} -DGMA_MUST_NOT_COMPILE ${flags} "${SOURCE}"
  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiled with GMA_MUST_NOT_COMPILE")
endif()
string(FIND "${output}" "${expected}" position)
if(position EQUAL -1)
  message(FATAL_ERROR "expected the message: ${expected}\ncompiler said: ${output}")
endif()
