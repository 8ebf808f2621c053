# SPDX-License-Identifier: MIT
#
# cmake -DMAKE_FILES=... -DLOAD_WEIGHTS=... -DPYTHON=... -DLAYER_PY=... -DFOLDER=... -P compare.cmake
file(REMOVE_RECURSE "${FOLDER}")
execute_process(COMMAND "${MAKE_FILES}" "${FOLDER}" COMMAND_ERROR_IS_FATAL ANY)
file(GLOB cases LIST_DIRECTORIES true "${FOLDER}/*")
if(NOT cases)
  message(FATAL_ERROR "${MAKE_FILES} made no files")
endif()
foreach(case IN LISTS cases)
  message("${case}")
  set(files "${case}/layer.safetensors" "${case}/x.npy" "${case}/y.npy")
  execute_process(COMMAND "${LOAD_WEIGHTS}" ${files} COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND "${PYTHON}" "${LAYER_PY}" ${files} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
