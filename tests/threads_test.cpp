// SPDX-License-Identifier: MIT
// Executors: for any executor, order and number of threads the results have the same
// bits, forward and backward.
#include <vector>

#include "executors.hpp"
#include "gma/core/openmp.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

template <class M>
std::vector<Matrix<double>> everything(const M& mixture, const Options& options, bool with_tokens) {
  using S = typename M::Scalar;
  constexpr Index count = 2100;  // several chunks, the last one short
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

/// Throws std::runtime_error with the index at every index of `failing`.
struct Failing {
  std::vector<Index> failing;
  void operator()(Index i, Index) const {
    for (const Index index : failing) {
      if (i == index) throw std::runtime_error("task " + std::to_string(i));
    }
  }
};

TEST(Executors, TheFirstExceptionOfATaskReachesTheCaller) {
  const Backwards backwards;
  const Threads threads(3);
  std::vector<const gma::Executor*> executors{nullptr, &backwards, &threads};
#ifdef _OPENMP
  const gma::OpenMpExecutor open_mp(3);
  executors.push_back(&open_mp);
#endif
  for (const gma::Executor* executor : executors) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      expect_error<std::runtime_error>([&] { gma::parallel_for(executor, 50, Failing{{41, 17, 18}}); }, {"task 17"});
      gma::parallel_for(executor, 50, Failing{{}});  // and it serves on
    }
  }
}

#ifdef _OPENMP
TEST(Executors, OpenMpCarriesAnExceptionOutOfItsRegion) {
  const gma::OpenMpExecutor open_mp(3);
  const Failing failing{{9, 4}};
  expect_error<std::runtime_error>([&] { open_mp.run(12, gma::Task(failing)); }, {"task 4"});
}
#endif

TEST(Executors, AnErrorInOneHeadIsTheErrorOfTheLoop) {
  Random random(1);
  gma::Mixture<float, gma::Diagonal> mixture;
  randomize(mixture, 3, 2, Regime::generic, random);
  const Matrix<float> x = random.matrix<float>(20, 2);
  std::vector<Matrix<float>> out(4, Matrix<float>(20, 2));
  std::vector<TokenInputs<float>> tokens(4);
  for (auto& each : tokens) each.log_forgetting = Vector<float>::Constant(20, -0.1f);
  tokens[2].log_forgetting(7) = std::numeric_limits<float>::quiet_NaN();
  const Threads threads(2);
  std::vector<gma::Workspace<float>> scratch(2);
  expect_error<std::invalid_argument>(
      [&] {
        gma::parallel_for(&threads, 4, [&](Index h, Index worker) {
          const std::size_t at = static_cast<std::size_t>(h);
          gma::causal_into(out[at], mixture, x, x, x, Options{}, tokens[at], scratch[static_cast<std::size_t>(worker)]);
        });
      },
      {"tokens.log_forgetting is nan at token 7"});
}

TEST(Executors, WorkspacesAndCachesLieInVectors) {
  std::vector<gma::Workspace<float>> workspaces(2);
  std::vector<gma::LayerCache<float>> caches(2);
  std::vector<gma::LayerGradientCache<float>> scratch(2);
  Random random(1);
  gma::Mixture<float, gma::Diagonal> mixture;
  randomize(mixture, 3, 2, Regime::generic, random);
  const Matrix<float> x = random.matrix<float>(20, 2), expected = gma::causal(mixture, x, x, x);
  Matrix<float> out(20, 2);
  for (const std::size_t count : {3u, 40u}) {
    workspaces.resize(count);
    caches.resize(count);
    scratch.resize(count);
    gma::causal_into(out, mixture, x, x, x, Options{}, TokenInputs<float>{}, workspaces[1]);
    EXPECT_TRUE(same_bits(out, expected));
  }
  static_assert(std::is_nothrow_move_constructible_v<gma::LayerCache<float>>);
  static_assert(!std::is_copy_constructible_v<gma::LayerCache<float>>);
}

}  // namespace
}  // namespace gma_test
