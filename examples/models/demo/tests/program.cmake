# SPDX-License-Identifier: MIT
#
# Runs the demo on a small text and checks its files, the links of its page, and the commands that it prints.
#   cmake -DPROGRAM=path -DLANGUAGE_MODEL=path -DDIRECTORY=scratch -P program.cmake

file(REMOVE_RECURSE "${DIRECTORY}")
file(MAKE_DIRECTORY "${DIRECTORY}")
include("${CMAKE_CURRENT_LIST_DIR}/../../transformer/tests/run_program.cmake")
set_verses(text)
file(WRITE "${DIRECTORY}/text.txt" "${text}")

set(model --layers 1 --width 16 --heads 2 --mlp-width 16 --components 4 4 --context 64 --batch 2)
run_program("${PROGRAM}" ok "one more.*To go on" --language-model "${LANGUAGE_MODEL}" --text text.txt --threads 2 ${model}
  --seconds 0.3 --out out --longest 2048)
string(REGEX MATCHALL "\n  '[^\n]*" commands "${output}")
set(log "${output}")

set(files sample.txt curves.csv lengths.csv tables.md results.json gma.checkpoint sdpa.checkpoint index.html
  routing/routing.html routing/usage.csv)
find_program(GNUPLOT gnuplot)
if(GNUPLOT)
  list(APPEND files curve.svg lengths.svg)
endif()
foreach(file IN LISTS files)
  if(NOT EXISTS "${DIRECTORY}/out/${file}")
    message(FATAL_ERROR "the demo did not write out/${file}")
  endif()
  if(file MATCHES "html$" AND NOT log MATCHES "file://${DIRECTORY}/out/${file}")
    message(FATAL_ERROR "the demo did not say where ${file} is:\n${log}")
  endif()
endforeach()

# Two tables of losses with three mixers, one of lengths, each with a head: 2 * 4 + 1 + 3 lengths.
file(READ "${DIRECTORY}/out/index.html" page)
string(REGEX MATCHALL "<tr>" rows "${page}")
list(LENGTH rows count)
if(NOT count EQUAL 12)
  message(FATAL_ERROR "the page has ${count} rows, expected 12:\n${page}")
endif()
string(REGEX MATCHALL "(href|src)=\"[^\"]*\"" links "${page}")
foreach(link IN LISTS links)
  string(REGEX REPLACE ".*=\"(.*)\"" "\\1" link "${link}")
  if(NOT EXISTS "${DIRECTORY}/out/${link}" AND (GNUPLOT OR NOT link MATCHES "svg$"))
    message(FATAL_ERROR "the page has a link to ${link}, which is missing")
  endif()
endforeach()

# The commands run as they are printed, the one that trains for ten minutes excepted.
list(LENGTH commands count)
if(NOT count EQUAL 3)
  message(FATAL_ERROR "the demo prints ${count} commands, expected 3:\n${log}")
endif()
foreach(command IN LISTS commands)
  string(STRIP "${command}" command)
  string(REPLACE "--seconds 600" "--steps 2 --text '${DIRECTORY}/text.txt' --context 64" command "${command}")
  string(REPLACE " --out " " --text '${DIRECTORY}/text.txt' --out " command "${command}")
  execute_process(COMMAND sh -c "${command}" RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "failed: ${command}\n${output}")
  endif()
endforeach()

run_program("${PROGRAM}" error "nowhere.txt" --language-model x --text nowhere.txt)
run_program("${PROGRAM}" error "required" --text text.txt)
