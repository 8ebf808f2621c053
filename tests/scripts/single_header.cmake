# SPDX-License-Identifier: MIT
#
# gma_single.hpp, from the target of BUILD: the README's first program, PROGRAM, compiles with it without a warning, with
# COMPILER and OTHER_COMPILER, and returns 0. Two units of tests/link link. Making the file again gives the same bytes,
# and so does installing a bare configuration with GMA_INSTALL_SINGLE_HEADER.
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
file(REMOVE_RECURSE "${WORK}")
file(MAKE_DIRECTORY "${WORK}")
run("build" "${CMAKE_COMMAND}" --build "${BUILD}" --target gma_single_header)
file(COPY "${BUILD}/gma_single.hpp" DESTINATION "${WORK}")
run("make it again" "${CMAKE_COMMAND}" "-DOUTPUT=${WORK}/again.hpp" -P "${SOURCE}/cmake/gma_single_header.cmake")
run("configure" "${CMAKE_COMMAND}" -S "${SOURCE}" -B "${WORK}/bare" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}"
  "-DEigen3_DIR=${EIGEN_DIR}" -DGMA_INSTALL_SINGLE_HEADER=ON -DGMA_BUILD_TESTS=OFF -DGMA_BUILD_BENCH=OFF
  -DGMA_BUILD_EXAMPLES=OFF)
run("install" "${CMAKE_COMMAND}" --install "${WORK}/bare" --prefix "${WORK}/prefix")
foreach(other "${WORK}/again.hpp" "${WORK}/prefix/include/gma_single.hpp")
  run("compare" "${CMAKE_COMMAND}" -E compare_files "${WORK}/gma_single.hpp" "${other}")
endforeach()

function(copy_with_single_header from to)
  file(READ "${from}" text)
  string(REPLACE "#include <gma/gma.hpp>" "#include \"gma_single.hpp\"" changed "${text}")
  if(changed STREQUAL text)
    message(FATAL_ERROR "${from} does not include gma/gma.hpp")
  endif()
  file(WRITE "${WORK}/${to}" "${changed}")
endfunction()

copy_with_single_header("${PROGRAM}" program.cpp)
copy_with_single_header("${SOURCE}/tests/link/first_unit.cpp" first_unit.cpp)
copy_with_single_header("${SOURCE}/tests/link/second_unit.cpp" second_unit.cpp)
file(READ "${WORK}/program.cpp" program)
file(WRITE "${WORK}/both.cpp" "#include <gma/version.hpp>\n${program}")
set(flags -std=c++17 -O0 -Wall -Wextra -Wshadow -Werror)
foreach(dir IN LISTS EIGEN_INCLUDE)
  list(APPEND flags -isystem "${dir}")
endforeach()
foreach(compiler "${COMPILER}" ${OTHER_COMPILER})
  run("compile" "${compiler}" ${flags} "${WORK}/program.cpp" -o "${WORK}/program")
  run("run" "${WORK}/program")
endforeach()
run("compile two units" "${COMPILER}" ${flags} "${WORK}/first_unit.cpp" "${WORK}/second_unit.cpp" -o "${WORK}/units")
run("run two units" "${WORK}/units")
execute_process(COMMAND "${COMPILER}" ${flags} -fsyntax-only -Wfatal-errors "-I${SOURCE}/include" "${WORK}/both.cpp"
  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "gma_single.hpp compiled after a header of gma/")
endif()
expect("${output}" "Include gma_single.hpp or the headers of gma/, not both")
