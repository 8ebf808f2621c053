# SPDX-License-Identifier: MIT
#
# Runs the program as a user would, on models trained for a few steps, and a few mistakes. The text has markup in it.
#   cmake -DPROGRAM=path -DLANGUAGE_MODEL=path -DDIRECTORY=scratch -P program.cmake

file(REMOVE_RECURSE "${DIRECTORY}")
file(MAKE_DIRECTORY "${DIRECTORY}")
set(text "")
foreach(verse RANGE 1 120)
  math(EXPR number "(${verse} * 7919) % 997")
  string(APPEND text "  ${verse} And \"the children\" of </script><b>${number}</b> & their's went up, unto ${number}.\n")
endforeach()
file(WRITE "${DIRECTORY}/text.txt" "${text}")

include("${CMAKE_CURRENT_LIST_DIR}/../../transformer/tests/run_program.cmake")

foreach(mixer gma gma-plain sdpa)
  run_program("${LANGUAGE_MODEL}" ok "held out" train --text text.txt --threads 2 --layers 2 --width 16 --heads 2 --mlp-width 16
    --components 4 4 --plain-components 5 --context 64 --batch 2 --steps 3 --mixer ${mixer} --save ${mixer}.checkpoint)
endforeach()
run_program("${PROGRAM}" ok "components/token.*routing.html" gma.checkpoint --text text.txt --out out --window 40)
run_program("${PROGRAM}" ok "routing.html" gma-plain.checkpoint --text text.txt --out plain --window 100 --window-at 5 --strongest 3)

# lines(<file> <number of lines that it must have>): heads x sides x ...
function(lines file expected)
  file(STRINGS "${DIRECTORY}/${file}" all)
  list(LENGTH all count)
  if(NOT count EQUAL expected)
    message(FATAL_ERROR "${file} has ${count} lines, expected ${expected}")
  endif()
endfunction()
lines(out/summary.csv 9)
lines(out/usage.csv 129)
lines(out/affinity.csv 3441)          # 1 + 4 heads x (40 + 40 * 41 / 2)
lines(plain/usage.csv 41)
lines(plain/tokens.csv 121)
foreach(file tokens.csv responsibilities.csv routing.html)
  if(NOT EXISTS "${DIRECTORY}/out/${file}")
    message(FATAL_ERROR "out/${file} was not written")
  endif()
endforeach()

run_program("${PROGRAM}" error "mixer is sdpa" sdpa.checkpoint --text text.txt)
run_program("${PROGRAM}" error "not a model of this program" text.txt --text text.txt)
run_program("${PROGRAM}" error "no.checkpoint" no.checkpoint)
run_program("${PROGRAM}" error "nowhere.txt" gma.checkpoint --text nowhere.txt)
run_program("${PROGRAM}" error "window must" gma.checkpoint --text text.txt --window 0)
run_program("${PROGRAM}" error "room for the window" gma.checkpoint --text text.txt --window-at 100000)
run_program("${PROGRAM}" error "tokens must" gma.checkpoint --text text.txt --tokens 0)
