# SPDX-License-Identifier: MIT
#
# Runs the program as a user would: train, resume, generate, evaluate, measure, compare, and a few mistakes.
#   cmake -DPROGRAM=path -DDIRECTORY=scratch -P program.cmake

file(REMOVE_RECURSE "${DIRECTORY}")
file(MAKE_DIRECTORY "${DIRECTORY}")
include("${CMAKE_CURRENT_LIST_DIR}/../../transformer/tests/run_program.cmake")
set_verses(text)
file(WRITE "${DIRECTORY}/text.txt" "${text}")
set(small --text text.txt --threads 2)
set(model --layers 1 --width 16 --heads 2 --mlp-width 16 --components 4 4 --state 4 --context 64 --batch 2)

function(run)
  run_program("${PROGRAM}" ${ARGV})
endfunction()

run(ok "bits/byte held out" train ${small} ${model} --steps 3 --save a.checkpoint --log log.json)
foreach(mixer gma-plain linear performer mamba sdpa window)
  run(ok "bits/byte held out" train ${small} ${model} --steps 3 --mixer ${mixer} --sample 20)
endforeach()
run(ok "bits/byte held out" train ${small} ${model} --steps 3 --mixer gma-plain --positions --sample 20)
run(ok "4 steps" train ${small} ${model} --steps 6 --stop-after 4 --save b.checkpoint)
run(ok "6 steps" train ${small} --resume b.checkpoint)
if(PYTHON)  # a file of parameters only
  execute_process(COMMAND "${PYTHON}" "${CMAKE_CURRENT_LIST_DIR}/parameters_only.py" a.checkpoint a.safetensors
    WORKING_DIRECTORY "${DIRECTORY}" COMMAND_ERROR_IS_FATAL ANY)
  run(ok "And it" generate a.safetensors --bytes 30 --prompt "And it")
  run(ok "streamed" evaluate a.safetensors ${small} --context 64)
  run(error "training cannot continue" train ${small} --resume a.safetensors)
endif()
run(ok "And it" generate a.checkpoint --bytes 30 --prompt "And it")
run(ok "streamed" evaluate a.checkpoint ${small})
run(ok "5-gram" baselines ${small})
run(ok "8192 .* kB" lengths a.checkpoint b.checkpoint ${small} --out lengths)
foreach(file lengths.csv lengths.md)
  if(NOT EXISTS "${DIRECTORY}/lengths/${file}")
    message(FATAL_ERROR "lengths did not write ${file}")
  endif()
endforeach()
run(error "expected more than 512" lengths a.checkpoint ${small} --longest 100)

# Finished runs are not repeated.
file(REMOVE "${DIRECTORY}/results.json")
run(ok "gma 16 x 16" compare ${small} --budget smoke --learning-rates 0.004 --results results.json)
set(two compare ${small} --budget smoke --only "sdpa + convolution" --learning-rates 0.002 0.004 --seeds 1 2 --results results.json)
run(ok "sdpa . convolution" ${two} --table table.md)
file(READ "${DIRECTORY}/results.json" before)
run(ok "sdpa . convolution" ${two})
file(READ "${DIRECTORY}/results.json" after)
if(NOT before STREQUAL after)
  message(FATAL_ERROR "a finished run was repeated")
endif()
foreach(member evaluation test_loss validation_loss test_window_losses state_numbers commit compiler flags model
    training_tokens_per_second decoding_tokens_per_second test_streamed_bits_per_byte)
  if(NOT before MATCHES "\"${member}\":")
    message(FATAL_ERROR "the results lack ${member}")
  endif()
endforeach()

file(READ "${DIRECTORY}/table.md" table)
foreach(words "Test loss by position" "reference" "0.00[24] .edge." "0.004 .only one."
    "mamba without MLP, state 128, heads of 64 . [0-9]+ . 0 . ")
  if(NOT table MATCHES "${words}")
    message(FATAL_ERROR "the table lacks '${words}':\n${table}")
  endif()
endforeach()

# Runs of earlier versions, which had no test, have a table of their own.
file(WRITE "${DIRECTORY}/earlier.json" "[{\"variant\": \"sdpa of old\", \"budget\": \"smoke\", \"token\": \"byte\", \"seed\": 1,
\"text\": \"text.txt\", \"tokens\": 2048, \"context\": 64, \"parameters\": 9, \"learning_rate\": 0.004,
\"validation_loss\": 1.25, \"bits_per_byte\": 1.8, \"seconds\": 3, \"curve\": []}]")
run(ok "earlier version.*sdpa of old . 9 . 1.2500 " compare ${small} --budget smoke --only linear --learning-rates 0.004
  --results earlier.json)
file(WRITE "${DIRECTORY}/plot.txt" "${text}")  # for the test of plots
string(SUBSTRING "${text}" 0 1000 short)
file(WRITE "${DIRECTORY}/short.txt" "${short}")
set(long "${text}")
foreach(i RANGE 1 4)
  string(APPEND long "${long}")
endforeach()
file(WRITE "${DIRECTORY}/pieces.txt" "${long}")

run(ok "bits/byte held out" train ${small} ${model} --steps 3 --gma-window 8)
run(error "even head width" train ${small} --width 15 --heads 5 --components 3 --gma-window 8 --steps 1)
if(HAS_PIECES)
  run(ok "subwords" train --text pieces.txt ${model} --pieces 300 --steps 3 --save pieces.checkpoint --sample 10)
  run(ok "And it" generate pieces.checkpoint --tokens 10 --prompt "And it")
  run(ok "bits/byte" evaluate pieces.checkpoint --text pieces.txt)
  run(error "between 300" train --text pieces.txt ${model} --pieces 20 --steps 1)
else()
  run(error "libsentencepiece-dev" train ${small} ${model} --pieces 300 --steps 1)
endif()
run(error "nowhere.txt" train --text nowhere.txt)
run(error "needs at least" train ${small} --context 5000)
run(error "multiple of heads" train ${small} --width 17 --steps 1)
run(error "half of the held-out part of short.txt has 50 tokens, expected at least a context of 64" compare --text short.txt
  --budget smoke --results short.json)
run(error "budget is huge" compare ${small} --budget huge)
run(error "--mixer" train ${small} --mixer lstm)
run(error "excludes" train ${small} --steps 1 --seconds 1)
run(error "not a model of this program" generate text.txt)
run(error "no.checkpoint" generate no.checkpoint)
run(error "subcommand" ${small})
