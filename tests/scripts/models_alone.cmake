# SPDX-License-Identifier: MIT
#
# Copies examples/models out of the tree, builds its language model against the gma that is installed in PREFIX, without
# optimisation, and trains it for a step.
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
file(REMOVE_RECURSE "${WORK}")
file(COPY "${SOURCE}/examples/models" DESTINATION "${WORK}")
run("configure" "${CMAKE_COMMAND}" -S "${WORK}/models" -B "${WORK}/build" -G "${GENERATOR}"
  "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_PREFIX_PATH=${PREFIX}" "-DEigen3_DIR=${EIGEN_DIR}"
  "-Dnlohmann_json_DIR=${JSON_DIR}" "-DCLI11_DIR=${CLI11_DIR}" -DCMAKE_BUILD_TYPE=Release
  -DCMAKE_CXX_FLAGS_RELEASE=-O0 -DCMAKE_DISABLE_FIND_PACKAGE_GTest=ON)
run("build" "${CMAKE_COMMAND}" --build "${WORK}/build" --target gma_language_model --parallel 2)
string(REPEAT "Alone, far away from the tree that it grew in. " 30 text)
file(WRITE "${WORK}/text.txt" "${text}")
find_program(program language_model PATHS "${WORK}/build/language_model" NO_DEFAULT_PATH REQUIRED)
run("train" "${program}" train --text "${WORK}/text.txt" --layers 1 --width 8 --heads 1 --mlp-width 8 --components 2 2
  --context 16 --batch 1 --steps 1 --save "${WORK}/model.safetensors")
expect("${run_output}" "bits/byte held out")
run("evaluate" "${program}" evaluate "${WORK}/model.safetensors" --text "${WORK}/text.txt")
expect("${run_output}" "streamed: [0-9.]+ bits/byte")
