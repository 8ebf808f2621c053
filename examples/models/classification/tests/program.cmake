# SPDX-License-Identifier: MIT
#
# Runs the program as a user would: train, compare, compare again, and a few mistakes.
#   cmake -DPROGRAM=path -DDIRECTORY=scratch -P program.cmake

file(REMOVE_RECURSE "${DIRECTORY}")
file(MAKE_DIRECTORY "${DIRECTORY}")

include("${CMAKE_CURRENT_LIST_DIR}/../../transformer/tests/run_program.cmake")
function(run)
  run_program("${PROGRAM}" ${ARGV})
endfunction()

set(tasks listops recall)
if(EXISTS /usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz)
  list(APPEND tasks fashion)
endif()

# Every variant of every task; and finished runs are not repeated.
foreach(task ${tasks})
  run(ok "sdpa . convolution" compare --task ${task} --budget smoke --results results.json --table ${task}.md
    --threads 2)
  if(NOT EXISTS "${DIRECTORY}/${task}.md")
    message(FATAL_ERROR "there is no table of ${task}")
  endif()
endforeach()
file(READ "${DIRECTORY}/results.json" before)
foreach(task ${tasks})
  run(ok "gma 16 x 16" compare --task ${task} --budget smoke --results results.json)
endforeach()
file(READ "${DIRECTORY}/results.json" after)
if(NOT before STREQUAL after)
  message(FATAL_ERROR "a finished run was repeated")
endif()
run(ok "rate 0.003, seed 2" compare --task recall --budget smoke --results results.json --only 16 --seeds 1 2
  --learning-rates 0.001 0.003)

foreach(mixer gma gma-plain linear performer mamba sdpa window)
  run(ok "accuracy" train --task listops --budget smoke --steps 2 --mixer ${mixer} --log log.json)
endforeach()
run(ok "3 steps" train --task recall --budget smoke --mixer gma --components 3 5 --layers 2 --width 32 --steps 3)

run(error "dataset-fashion-mnist" train --task fashion --budget smoke --data nowhere)
run(error "budget is huge" compare --budget huge)
run(error "no variant is called lstm" compare --task recall --budget smoke --only lstm)
run(error "task is chess" train --task chess)
run(error "--mixer" train --mixer lstm)
run(error "multiple of heads" train --budget smoke --width 17)
run(error "three tokens" train --budget smoke --pairs 20)
run(error "subcommand" --threads 2)
