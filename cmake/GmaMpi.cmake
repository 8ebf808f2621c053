# SPDX-License-Identifier: MIT
#
# Looks for MPI but does not require it. Any MPI 3 will do; the tests are run with Open MPI. The C++ bindings of old
# are not used.
if(NOT TARGET MPI::MPI_CXX AND NOT CMAKE_CROSSCOMPILING)
  set(MPI_CXX_SKIP_MPICXX ON)
  find_package(MPI 3.0 QUIET COMPONENTS CXX)
endif()
