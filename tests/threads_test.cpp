// SPDX-License-Identifier: MIT
// Executors: whatever runs the stretches, in whatever order and on however many threads, the results are the same to
// the bit, forward and backward.
#include <vector>

#include "executors.hpp"
#include "gma/core/openmp.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

template <class M>
std::vector<Matrix<double>> everything(const M& mixture, const Options& options, bool with_tokens) {
  using S = typename M::Scalar;
  constexpr Index count = 2100;  // several stretches, the last one short
  Random random(3);
  const Matrix<S> queries = random.matrix<S>(count, 4), keys = random.matrix<S>(count, 4);
  const Matrix<S> values = random.matrix<S>(count, 5), d_output = random.matrix<S>(count, 5);
  TokenInputs<S> tokens;
  if (with_tokens) tokens = random_tokens<S>(count, true, random);
  std::vector<Matrix<double>> results;
  const auto keep = [&](const auto& matrix) { results.push_back(in_double(Matrix<S>(matrix))); };
  keep(gma::bidirectional(mixture, queries, keys, values, options, tokens));
  keep(gma::causal(mixture, queries, keys, values, options, tokens));
  Memory<S> memory;
  gma::write(mixture, keys, values, memory, tokens);
  keep(gma::read(mixture, queries, memory, options));
  const auto keep_all = [&](auto gradients) {
    for_each_part(gradients, false, [&](const std::string&, const auto& part) { keep(part); });
  };
  keep_all(gma::bidirectional_backward(mixture, queries, keys, values, d_output, options, tokens));
  keep_all(gma::causal_backward(mixture, queries, keys, values, d_output, options, tokens));
  keep_all(gma::read_backward(mixture, queries, memory, d_output, options));
  return results;
}

TEST(Executors, ChangeNoBit) {
  Random random(1);
  gma::ProductMixture<float, gma::Diagonal> mixture;
  randomize(mixture, 12, 4, Regime::generic, random);
  const Backwards backwards;
  const Threads two(2), seven(7);
  std::vector<const gma::Executor*> executors{&backwards, &two, &seven};
#ifdef _OPENMP
  const gma::OpenMpExecutor open_mp(3);
  executors.push_back(&open_mp);
#endif
  for (const Normalization normalization : all_normalizations) {
    for (const bool with_tokens : {false, true}) {
      Options options;
      options.normalization = normalization;
      const auto serial = everything(mixture, options, with_tokens);
      for (const gma::Executor* executor : executors) {
        options.executor = executor;
        const auto parallel = everything(mixture, options, with_tokens);
        ASSERT_EQ(serial.size(), parallel.size());
        for (std::size_t i = 0; i < serial.size(); ++i) {
          EXPECT_TRUE(same_bits(serial[i], parallel[i])) << "result " << i << ", " << name_of(normalization);
        }
      }
    }
  }
}

TEST(Executors, ParallelForRunsEveryTaskOnce) {
  const Threads three(3);
  std::vector<std::atomic<int>> runs(100);
  gma::parallel_for(&three, 100, [&](Index i, Index worker) {
    ASSERT_LT(worker, 3);
    ++runs[static_cast<std::size_t>(i)];
  });
  for (const std::atomic<int>& count : runs) EXPECT_EQ(count, 1);
  Index serial = 0;
  gma::parallel_for(nullptr, 5, [&](Index i, Index worker) {
    EXPECT_EQ(i, serial++);
    EXPECT_EQ(worker, 0);
  });
  EXPECT_EQ(serial, 5);
}

}  // namespace
}  // namespace gma_test
