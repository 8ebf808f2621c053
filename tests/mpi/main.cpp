// SPDX-License-Identifier: MIT
// Runs a test program on every rank. The job fails if a test fails on some rank.
#include "support.hpp"

namespace {
gma::mpi::Communicator* job = nullptr;
}

gma::mpi::Communicator& gma_test::ranks() { return *job; }

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return gma::mpi::run(argc, argv, [](gma::mpi::Communicator& communicator) {
    job = &communicator;
    if (communicator.rank() > 0) {  // one report; failures of other ranks are printed
      testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
      delete listeners.Release(listeners.default_result_printer());
      struct Failures : testing::EmptyTestEventListener {
        void OnTestPartResult(const testing::TestPartResult& result) override {
          if (result.failed()) std::fprintf(stderr, "rank %d: %s\n", static_cast<int>(job->rank()), result.message());
        }
      };
      listeners.Append(new Failures);
    }
    return RUN_ALL_TESTS();
  });
}
