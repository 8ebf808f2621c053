# SPDX-License-Identifier: MIT
#
# Looks for MPI but does not require it. Any MPI 3 will do; the tests are run with Open MPI. The C++ bindings of old
# are not used.
#
# Sets GMA_MPI_FOUND. The target MPI::MPI_CXX says nothing: FindMPI makes it also where it finds no MPI.
function(gma_find_mpi)
  set(CMAKE_MESSAGE_LOG_LEVEL NOTICE)  # FindMPI reports each place where it looks, even if it is asked to be quiet
  set(MPI_CXX_SKIP_MPICXX ON)
  find_package(MPI 3.0 QUIET COMPONENTS CXX)
  set(GMA_MPI_FOUND "${MPI_CXX_FOUND}" PARENT_SCOPE)
endfunction()
set(GMA_MPI_FOUND "${MPI_CXX_FOUND}")  # of the caller, who may cross compile with an MPI
if(NOT CMAKE_CROSSCOMPILING)
  gma_find_mpi()
endif()
