// SPDX-License-Identifier: MIT
// A job of one process, which needs no mpirun.
#include <cstdio>
#include <gma/mpi/attention.hpp>

int main(int argc, char** argv) {
  return gma::mpi::run(argc, argv, [](gma::mpi::Communicator& ranks) {
    std::vector<gma::Mixture<float>> mixtures(1, gma::Mixture<float>(4, 3));
    mixtures[0].means.setRandom();
    const gma::Matrix<float> x = gma::Matrix<float>::Random(10, 3);
    gma::mpi::Carry<float> carry;
    const gma::Matrix<float> out = gma::mpi::causal(ranks, mixtures, x, x, x, carry);
    const float error = (out - gma::causal(mixtures, x, x, x)).norm() / out.norm();
    std::printf("%d process: error %.1e\n", static_cast<int>(ranks.size()), static_cast<double>(error));
    return error < 1e-6f ? 0 : 1;
  });
}
