# SPDX-License-Identifier: MIT
#
# `conan create` of a copy of SOURCE, with and without the option with_json, in a new Conan home and without a
# network: the recipe's test_package uses the package. Conan does not bring Eigen and nlohmann_json. The profile says
# that the system has them, and CMake finds them there.
include("${CMAKE_CURRENT_LIST_DIR}/run.cmake")
file(REMOVE_RECURSE "${WORK}")
file(COPY "${SOURCE}/CMakeLists.txt" "${SOURCE}/LICENSE" "${SOURCE}/cmake" "${SOURCE}/include"
  DESTINATION "${WORK}/source" PATTERN build EXCLUDE)
set(ENV{CONAN_HOME} "${WORK}/home")
set(ENV{CXX} "${COMPILER}")
run("detect the compiler" "${CONAN}" profile detect)
set(profile "include(default)
[settings]
build_type=Debug
compiler.cppstd=17
[platform_requires]
eigen/${EIGEN_VERSION}
")
set(with_json False)
if(JSON_VERSION)
  string(APPEND profile "nlohmann_json/${JSON_VERSION}\n")
  set(with_json True)
endif()
file(WRITE "${WORK}/profile" "${profile}")
read_version("${SOURCE}/include/gma/version.hpp" version)
foreach(option False ${with_json})
  run("create" "${CONAN}" create "${WORK}/source/cmake/conan" --no-remote --profile:all "${WORK}/profile"
    --options "gma/*:with_json=${option}")
  expect("${run_output}" "gma ${version}: error [0-9.e-]+, with_json=${option}")
endforeach()
