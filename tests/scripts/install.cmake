# SPDX-License-Identifier: MIT
#
# Installs BUILD and moves the result to PREFIX: a package must not depend on its first location.
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
file(REMOVE_RECURSE "${PREFIX}" "${PREFIX}.before")
run("install" "${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${PREFIX}.before" --config "${CONFIG}")
file(RENAME "${PREFIX}.before" "${PREFIX}")
