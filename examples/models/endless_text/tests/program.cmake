# SPDX-License-Identifier: MIT
#
# Runs the program as a user would, on a model trained for a few steps: a file, a pipe, a stream in parts, a stream that
# is interrupted, and a few mistakes.
#   cmake -DPROGRAM=path -DLANGUAGE_MODEL=path -DDIRECTORY=scratch -P program.cmake

file(REMOVE_RECURSE "${DIRECTORY}")
file(MAKE_DIRECTORY "${DIRECTORY}")
include("${CMAKE_CURRENT_LIST_DIR}/../../transformer/tests/run_program.cmake")
set_verses(text)
file(WRITE "${DIRECTORY}/small.txt" "${text}")
string(REPEAT "${text}" 5 text)
file(WRITE "${DIRECTORY}/text.txt" "${text}")
string(REPEAT "${text}" 10 text)
file(WRITE "${DIRECTORY}/long.txt" "${text}")

function(run)
  run_program("${PROGRAM}" ${ARGV} --threads 2)
endfunction()
function(expect_same file)
  file(READ "${DIRECTORY}/${file}" actual)
  file(READ "${DIRECTORY}/${ARGV1}" expected)
  if(NOT actual STREQUAL expected)
    message(FATAL_ERROR "${file} is not ${ARGV1}:\n${actual}\n${expected}")
  endif()
endfunction()

set(model --layers 2 --width 16 --heads 2 --mlp-width 16 --components 4 4 --context 64 --batch 2)
foreach(mixer gma sdpa)
  run_program("${LANGUAGE_MODEL}" ok "held out" train --text small.txt --threads 2 ${model} --mixer ${mixer} --steps 3
    --save ${mixer}.checkpoint)
endforeach()

run(ok "beyond the context of training" gma.checkpoint text.txt --csv whole.csv --json whole.json)
foreach(bytes 30 20000 50000)  # in parts, from a saved state
  run(ok "bits/byte" gma.checkpoint text.txt --state a.state --bytes ${bytes})
endforeach()
run(ok "bits/byte" gma.checkpoint text.txt --state a.state --csv parts.csv)
expect_same(parts.csv whole.csv)

# Through a pipe, new and from a state.
foreach(state "" "--state;a.state")
  execute_process(COMMAND "${CMAKE_COMMAND}" -E cat text.txt COMMAND "${PROGRAM}" gma.checkpoint - --csv pipe.csv ${state}
    WORKING_DIRECTORY "${DIRECTORY}" COMMAND_ERROR_IS_FATAL ANY OUTPUT_QUIET)
  expect_same(pipe.csv whole.csv)
endforeach()

# Ctrl-C, again and again, until the stream is at its end.
find_program(TIMEOUT timeout)
if(TIMEOUT)
  foreach(i RANGE 1 4)
    execute_process(COMMAND "${TIMEOUT}" -s INT 0.${i} "${PROGRAM}" gma.checkpoint long.txt --state b.state
      WORKING_DIRECTORY "${DIRECTORY}" OUTPUT_QUIET)
  endforeach()
endif()
run(ok "bits/byte" gma.checkpoint long.txt --state b.state --csv interrupted.csv)
run(ok "bits/byte" gma.checkpoint long.txt --csv long.csv --json long.json)
expect_same(interrupted.csv long.csv)

# The report has the resident memory. That it does not grow with the text is tested where the heap is counted
# (NeedsNoMoreMemoryForTenTimesTheText): pages that threads and the system keep vary by more than these texts have bytes.
file(READ "${DIRECTORY}/long.json" json)
string(JSON peak GET "${json}" peak_resident_bytes)
if(peak LESS 1000000)
  message(FATAL_ERROR "long.json says that the program had ${peak} resident bytes")
endif()

run(error "mixer of the model is sdpa" sdpa.checkpoint text.txt)
run(error "not a model of this program" text.txt text.txt)
run(error "cannot read nowhere.txt" gma.checkpoint nowhere.txt)
run(error "longer than the bytes asked for" gma.checkpoint long.txt --state b.state --bytes 1000)
run(error "another text" gma.checkpoint gma.checkpoint --state a.state)
run(error "cannot go on from the state small.txt" gma.checkpoint text.txt --state small.txt)
run(error "expected more than" gma.checkpoint text.txt --begin 1000000)
run(error "bytes must be positive" gma.checkpoint text.txt --bytes 0)
run(error "required" gma.checkpoint)
