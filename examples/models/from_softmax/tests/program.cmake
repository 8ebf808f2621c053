# SPDX-License-Identifier: MIT
#
# Runs the program as a user would, on a model trained for a few steps.
#   cmake -DPROGRAM=path -DLANGUAGE_MODEL=path -DDIRECTORY=scratch -P program.cmake

file(REMOVE_RECURSE "${DIRECTORY}")
file(MAKE_DIRECTORY "${DIRECTORY}")
include("${CMAKE_CURRENT_LIST_DIR}/../../transformer/tests/run_program.cmake")
set_verses(text)
file(WRITE "${DIRECTORY}/text.txt" "${text}")

set(common --text text.txt --threads 2 --context 64 --batch 2)
set(model --layers 2 --width 16 --heads 2 --mlp-width 16)
run_program("${LANGUAGE_MODEL}" ok "held out" train ${common} ${model} --mixer sdpa --steps 20 --save sdpa.checkpoint)
run_program("${LANGUAGE_MODEL}" ok "held out" train ${common} ${model} --mixer gma --components 4 4 --steps 2
  --save gma.checkpoint)

run_program("${PROGRAM}" ok "after the transfer.*after training" sdpa.checkpoint ${common} --components 4 4
  --transfer-steps 5 --steps 5 --save new.checkpoint --json new.json)
run_program("${LANGUAGE_MODEL}" ok "streamed" evaluate new.checkpoint --text text.txt)
run_program("${LANGUAGE_MODEL}" ok "5 steps" train --text text.txt --threads 2 --resume new.checkpoint)
file(READ "${DIRECTORY}/new.json" json)
foreach(stage softmax converted transferred trained)
  string(JSON loss GET "${json}" ${stage} test_loss)
endforeach()
run_program("${PROGRAM}" ok "after training" sdpa.checkpoint ${common} --components 4 --take nothing --transfer-steps 0
  --steps 2 --gma-window 8 --no-output-gate --no-output-norm)

run_program("${PROGRAM}" error "mixer of the model is gma, expected a causal sdpa" gma.checkpoint ${common})
run_program("${PROGRAM}" error "not a model of this program" text.txt ${common})
run_program("${PROGRAM}" error "--take" sdpa.checkpoint ${common} --take all)
