// SPDX-License-Identifier: MIT
// npy_copy FROM TO: reads a file and writes what was read, so that NumPy can compare the two.
#include <cstdio>
#include <exception>
#include <gma/io/npy.hpp>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    gma::io::write_npy(argv[2], gma::io::read_npy(argv[1]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
