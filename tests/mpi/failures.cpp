// SPDX-License-Identifier: MIT
// A job of passes without end, in which rank 1 fails after the third: it is killed, it throws between calls, or it
// throws in the middle of one.
#include <csignal>
#include <stdexcept>
#include <string>

#include "gma/mpi/attention.hpp"

namespace {

/// Fails in the middle of a verb.
class FailingExecutor : public gma::Executor {
 public:
  gma::Index workers() const override { return 2; }
  void run(gma::Index, const gma::Task&) const override { throw std::runtime_error("out of threads"); }
};

}  // namespace

int main(int argc, char** argv) {
  return gma::mpi::run(argc, argv, [&](gma::mpi::Communicator& ranks) {
    const std::string way = argc > 1 ? argv[1] : "";
    std::vector<gma::Mixture<float>> mixtures(2, gma::Mixture<float>(16, 8));
    for (auto& mixture : mixtures) mixture.means.setConstant(0.5f);
    const gma::Matrix<float> x = gma::Matrix<float>::Ones(1000, 16);
    const FailingExecutor failing;
    for (int pass = 0;; ++pass) {
      const bool fails = pass == 3 && ranks.rank() == 1;
      if (fails && way == "killed") std::raise(SIGKILL);
      if (fails && way == "throws") throw std::runtime_error("out of luck");
      gma::Options options;
      if (fails && way == "throws_in_verb") options.executor = &failing;
      gma::mpi::Carry<float> carry;
      gma::mpi::causal(ranks, mixtures, x, x, x, carry, options);
    }
    return 0;
  });
}
