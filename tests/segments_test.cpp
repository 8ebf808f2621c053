// SPDX-License-Identifier: MIT
// Causal passes in segments: the dense reference, the gradients of one pass and those of differences, for segments of
// any length and restarts at any token; the same bits for any number of threads; later tokens that change no bit.
#include <vector>

#include "executors.hpp"
#include "gma/baselines/feature_maps.hpp"
#include "gma/heads/head_jobs.hpp"
#include "gma/heads/heads_backward.hpp"
#include "layer_support.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

Options with(Normalization normalization, Index segment, const gma::Executor* executor = nullptr) {
  Options options;
  options.normalization = normalization;
  options.segment = segment;
  options.executor = executor;
  return options;
}

constexpr Index components = 6, dim = 4, width = 3;

/// A causal problem. `restarts`: tokens at which the memory restarts.
template <class S, class M>
Problem<S, M> make_problem(Index count, bool with_tokens, bool with_memory, const std::vector<Index>& restarts = {}) {
  Random random(11);
  Problem<S, M> problem;
  randomize(problem.mixture, components, dim, Regime::generic, random);
  problem.queries = random.matrix<S>(count, dim);
  problem.keys = random.matrix<S>(count, dim);
  problem.values = random.matrix<S>(count, width);
  if (with_tokens) {
    problem.tokens = random_tokens<S>(count, false, random);
    poison_absent(problem.tokens, problem.keys, problem.values);
  }
  for (const Index t : restarts) {
    problem.tokens.key_weights(t) = S(1);
    problem.keys.row(t).setConstant(S(0.5));
    problem.values.row(t).setConstant(S(-1));
    problem.tokens.log_forgetting(t) = -static_cast<S>(infinity);
  }
  if (!with_memory) return problem;
  problem.memory.slots = random.matrix<S>(components, width, 3);
  problem.memory.mass = random.vector<S>(components).cwiseAbs();
  problem.memory.log_forgetting = S(-0.25);
  return problem;
}

template <class S, class M>
Matrix<S> outputs(const Problem<S, M>& problem, const Options& options, Memory<S>& memory) {
  memory = problem.memory;
  return gma::causal(problem.mixture, problem.queries, problem.keys, problem.values, memory, options, problem.tokens);
}

// Forward ------------------------------------------------------------------------------------------------------------

template <class S>
struct Segments : testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(Segments, Scalars, );

/// Segments of one token, of a tile, a token more and less, of all tokens and of more; restarts inside a segment, at
/// its first and its last token.
TYPED_TEST(Segments, EqualTheDenseReference) {
  using S = TypeParam;
  using M = gma::ProductMixture<S, gma::Diagonal>;
  for (const Normalization normalization : all_normalizations) {
    for (const Index count : {0, 1, 5, 96, 97, 193, 300}) {
      for (int kind = 0; kind < 4; ++kind) {
        std::vector<Index> restarts;
        for (const Index t : {0, 1, 95, 96, 191, 200}) {
          if (kind == 3 && t < count) restarts.push_back(t);
        }
        const Problem<S, M> problem = make_problem<S, M>(count, kind > 1, kind % 2 == 1, restarts);
        Memory<double> expected_memory = in_double(problem.memory);
        const auto mixture = problem.mixture.template cast<double>();
        const Matrix<double> expected = gma::reference::causal(
            mixture, in_double(problem.queries), in_double(problem.keys), in_double(problem.values), expected_memory,
            with(normalization, 0), in_double(problem.tokens));
        const double tolerance = forward_tolerance<S>() * largest_logit(mixture, in_double(problem.queries));
        for (const Index segment : {1, 7, 95, 96, 97, 192, 300, 100000}) {
          SCOPED_TRACE(testing::Message() << name_of(normalization) << ", " << count << " tokens in segments of "
                                          << segment << ", kind " << kind);
          Memory<S> memory;
          EXPECT_TRUE(close(outputs(problem, with(normalization, segment), memory), expected, tolerance));
          if (count == 0) continue;
          EXPECT_TRUE(close(in_double(memory), expected_memory, tolerance));
        }
      }
    }
  }
}

TYPED_TEST(Segments, OfAllTokensOrMoreAreOnePass) {
  using S = TypeParam;
  using M = gma::Mixture<S, gma::Diagonal>;
  const Problem<S, M> problem = make_problem<S, M>(150, true, true);
  Random random(3);
  const Matrix<S> d_output = random.matrix<S>(150, width);
  Memory<S> whole, cut;
  const Matrix<S> expected = outputs(problem, with(Normalization::slot, 0), whole);
  const auto gradients_of = [&](Index segment) {
    return gma::causal_backward(problem.mixture, problem.queries, problem.keys, problem.values, d_output,
                                problem.memory, whole, with(Normalization::slot, segment), problem.tokens);
  };
  const gma::Gradients<M> gradients = gradients_of(0);
  for (const Index segment : {150, 151, 1000000}) {
    EXPECT_TRUE(same_bits(outputs(problem, with(Normalization::slot, segment), cut), expected));
    EXPECT_TRUE(same_bits(cut, whole));
    EXPECT_TRUE(same_bits(gradients_of(segment).keys, gradients.keys));
    EXPECT_TRUE(same_bits(gradients_of(segment).mixture.means, gradients.mixture.means));
  }
}

/// What a restart hides reaches nothing behind it, wherever the cuts are.
TYPED_TEST(Segments, EndAtRestartsNaNIncluded) {
  using S = TypeParam;
  using M = gma::Mixture<S, gma::Diagonal>;
  constexpr Index count = 400;
  for (const Index restart : {100, 150, 199, 200, 201, 299, 300}) {
    for (const Index segment : {1, 50, 100, 160}) {
      SCOPED_TRACE(testing::Message() << "restart at " << restart << ", segments of " << segment);
      const Problem<S, M> clean = make_problem<S, M>(count, true, true, {restart});
      Problem<S, M> problem = clean;
      problem.values.topRows(restart).setConstant(static_cast<S>(not_a_number));
      problem.memory.slots.setConstant(static_cast<S>(not_a_number));
      Random random(3);
      const Matrix<S> d_output = random.matrix<S>(count, width);
      for (const Normalization normalization : all_normalizations) {
        const Options options = with(normalization, segment);
        Memory<S> memory, clean_memory;
        const Matrix<S> y = outputs(problem, options, memory), expected = outputs(clean, options, clean_memory);
        EXPECT_TRUE(same_bits(y.bottomRows(count - restart), expected.bottomRows(count - restart)));
        EXPECT_TRUE(same_bits(memory, clean_memory));
        // And on the way back.
        Matrix<S> behind = d_output;
        behind.bottomRows(count - restart).setConstant(static_cast<S>(not_a_number));
        const auto backward = [&](const Matrix<S>& dy) {
          return gma::causal_backward(clean.mixture, clean.queries, clean.keys, clean.values, dy, clean.memory,
                                      Memory<S>(), options, clean.tokens);
        };
        const gma::Gradients<M> actual = backward(behind), wanted = backward(d_output);
        EXPECT_TRUE(same_bits(actual.queries.topRows(restart), wanted.queries.topRows(restart)));
        EXPECT_TRUE(close(actual.values.topRows(restart), wanted.values.topRows(restart), forward_tolerance<S>()));
        EXPECT_TRUE(close(actual.memory.slots, wanted.memory.slots, forward_tolerance<S>()));
      }
    }
  }
}

// Gradients ----------------------------------------------------------------------------------------------------------

template <class M>
std::vector<std::pair<std::string, Matrix<double>>> gradients_of(const Problem<double, M>& problem,
                                                                 const Matrix<double>& d_output,
                                                                 const Memory<double>& d_final,
                                                                 const Options& options) {
  gma::Gradients<M> gradients = gma::causal_backward(problem.mixture, problem.queries, problem.keys, problem.values,
                                                     d_output, problem.memory, d_final, options, problem.tokens);
  std::vector<std::pair<std::string, Matrix<double>>> parts;
  for_each_part(gradients, !problem.memory.empty(),
                [&](const std::string& name, const auto& part) { parts.emplace_back(name, Matrix<double>(part)); });
  return parts;
}

template <class M>
void check_gradients(const Problem<double, M>& given) {
  Problem<double, M> problem = given;
  const Index count = problem.keys.rows();
  Random random(3);
  const Matrix<double> d_output = random.matrix<double>(count, width);
  Memory<double> d_final;
  d_final.slots = random.matrix<double>(components, width);
  d_final.mass = random.vector<double>(components);
  d_final.log_forgetting = problem.memory.empty() ? 0 : 0.3;
  for (const Normalization normalization : all_normalizations) {
    for (const Index segment : {1, 9, 16}) {
      SCOPED_TRACE(testing::Message() << name_of(normalization) << ", segments of " << segment);
      const auto cut = gradients_of(problem, d_output, d_final, with(normalization, segment));
      const auto whole = gradients_of(problem, d_output, d_final, with(normalization, 0));
      ASSERT_EQ(cut.size(), whole.size());
      for (std::size_t i = 0; i < cut.size(); ++i) {
        if (whole[i].second.norm() < 1e-12) continue;
        EXPECT_TRUE(close(cut[i].second, whole[i].second, 1e-11)) << cut[i].first;
      }
      if (segment != 9) continue;
      std::size_t i = 0;
      for_each_part(problem, [&](const std::string& name, auto& numbers) {
        const Matrix<double>& analytic = cut[i++].second;
        if (name == "memory.log_forgetting" || numbers.size() == 0) return;
        const auto loss = [&] {
          Memory<double> memory;
          const double of_outputs = outputs(problem, with(normalization, segment), memory).cwiseProduct(d_output).sum();
          const double g = d_final.log_forgetting * (std::isfinite(memory.log_forgetting) ? memory.log_forgetting : 0);
          return of_outputs + memory.slots.cwiseProduct(d_final.slots).sum() + memory.mass.dot(d_final.mass) + g;
        };
        for (Index t = 0; t < numbers.rows(); t += 5) {
          if (!std::isfinite(numbers(t, 0))) continue;
          const double slope = gma::testing::difference_quotient(numbers(t, 0), 1e-3, loss);
          EXPECT_NEAR(analytic(t, 0), slope, difference_tolerance * std::max(1.0, analytic.norm())) << name << " " << t;
        }
      });
    }
  }
}

TEST(SegmentGradients, AreThoseOfOnePassAndOfDifferences) {
  using M = gma::ProductMixture<double, gma::Diagonal>;
  check_gradients(make_problem<double, M>(33, false, false));
  Problem<double, M> weighted = make_problem<double, M>(33, true, true);
  for (Index t = 0; t < 33; ++t) {  // nothing on the rim of what may be differentiated
    if (weighted.tokens.key_weights(t) > 0) continue;
    weighted.tokens.key_weights(t) = 0.5;
    weighted.tokens.log_forgetting(t) = -0.1;
    weighted.keys.row(t).setConstant(0.3);
    weighted.values.row(t).setConstant(-0.4);
  }
  check_gradients(weighted);
}

TEST(SegmentGradients, OfEveryFamilyAreThoseOfOnePass) {
  all_families::for_each([](auto family) {
    using M = gma::Mixture<double, decltype(family)>;
    SCOPED_TRACE(family.name);
    const Problem<double, M> problem = make_problem<double, M>(300, true, true, {64, 100, 127});
    Random random(4);
    const Matrix<double> d_output = random.matrix<double>(300, width);
    for (const Index tile : {0, 10}) {  // 10: segments of several tiles
      const Options one_pass = with(Normalization::slot, 0);
      Options segments = with(Normalization::slot, 64);
      segments.tile = tile;
      const auto whole = gradients_of(problem, d_output, Memory<double>(), one_pass);
      const auto cut = gradients_of(problem, d_output, Memory<double>(), segments);
      for (std::size_t i = 0; i < cut.size(); ++i) EXPECT_TRUE(close(cut[i].second, whole[i].second, 1e-11));
    }
  });
}

TEST(SegmentGradients, OfFeatureMapsAreThoseOfOnePass) {
  constexpr Index count = 250;
  Random random(5);
  const Matrix<double> q = random.matrix<double>(count, dim), k = random.matrix<double>(count, dim);
  const Matrix<double> v = random.matrix<double>(count, width), dy = random.matrix<double>(count, width);
  const auto check = [&](const auto& map, Normalization normalization) {
    SCOPED_TRACE(name_of(normalization));
    const auto whole = gma::causal_backward(map, q, k, v, dy, with(normalization, 0));
    const auto cut = gma::causal_backward(map, q, k, v, dy, with(normalization, 60));
    EXPECT_TRUE(close(gma::causal(map, q, k, v, with(normalization, 60)),
                      gma::causal(map, q, k, v, with(normalization, 0)), forward_tolerance<double>()));
    EXPECT_TRUE(close(cut.queries, whole.queries, 1e-11));
    EXPECT_TRUE(close(cut.keys, whole.keys, 1e-11));
    EXPECT_TRUE(close(cut.values, whole.values, 1e-11));
    EXPECT_TRUE(close(cut.memory.slots, whole.memory.slots, 1e-11));
  };
  for (const Normalization normalization : all_normalizations) {
    check(gma::baselines::EluFeatures<double>(dim), normalization);
    check(gma::baselines::PositiveRandomFeatures<double>(16, dim, 1), normalization);
  }
  check(gma::baselines::IdentityFeatures<double>(dim), Normalization::none);
}

// Threads ------------------------------------------------------------------------------------------------------------

TYPED_TEST(Segments, HaveTheSameBitsWhateverRunsThem) {
  using S = TypeParam;
  using M = gma::ProductMixture<S, gma::Diagonal>;
  const Backwards backwards;
  const Threads one(1), two(2), three(3), seven(7);
  gma::Workspace<S> workspace;
  for (const bool with_tokens : {false, true}) {
    const Problem<S, M> problem = make_problem<S, M>(701, with_tokens, with_tokens);
    Random random(6);
    const Matrix<S> d_output = random.matrix<S>(701, width);
    for (const Normalization normalization : all_normalizations) {
      for (const Index segment : {60, 96, 350}) {
        SCOPED_TRACE(testing::Message() << name_of(normalization) << ", segments of " << segment);
        const auto everything = [&](const gma::Executor* executor) {
          const Options options = with(normalization, segment, executor);
          std::vector<Matrix<S>> results;
          Memory<S> memory = problem.memory;
          Matrix<S> y(701, width);
          gma::causal_into(y, problem.mixture, problem.queries, problem.keys, problem.values, memory, options,
                           problem.tokens, workspace);
          results.insert(results.end(), {y, memory.slots, Matrix<S>(memory.mass)});
          gma::Gradients<M> gradients;
          gma::causal_backward_into(gradients, problem.mixture, problem.queries, problem.keys, problem.values, d_output,
                                    problem.memory, memory, options, problem.tokens, workspace);
          for_each_part(gradients, true,
                        [&](const std::string&, const auto& part) { results.push_back(Matrix<S>(part)); });
          return results;
        };
        const auto expected = everything(nullptr);
        for (const gma::Executor* executor :
             {static_cast<const gma::Executor*>(&backwards), static_cast<const gma::Executor*>(&one),
              static_cast<const gma::Executor*>(&two), static_cast<const gma::Executor*>(&three),
              static_cast<const gma::Executor*>(&seven)}) {
          const auto actual = everything(executor);
          for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(same_bits(actual[i], expected[i])) << i;
        }
      }
    }
  }
}

/// An executor that fails on its way leaves the memory as it was.
TEST(SegmentThreads, ThatFailLeaveTheMemory) {
  struct Failing : Backwards {
    mutable int calls_left = 1;
    void run(Index count, const gma::Task& task) const override {
      if (calls_left-- == 0) throw std::runtime_error("no thread");
      Backwards::run(count, task);
    }
  };
  using M = gma::Mixture<float, gma::Diagonal>;
  const Problem<float, M> problem = make_problem<float, M>(300, true, true);
  const Failing failing;
  Memory<float> memory = problem.memory;
  expect_error<std::runtime_error>(
      [&] {
        gma::causal(problem.mixture, problem.queries, problem.keys, problem.values, memory,
                    with(Normalization::slot, 50, &failing), problem.tokens);
      },
      {"no thread"});
  EXPECT_TRUE(same_bits(memory, problem.memory));
}

// Heads --------------------------------------------------------------------------------------------------------------

struct SegmentBatch {
  const char* name;
  Index rows;
  gma::Sequences sequences;
};

std::vector<SegmentBatch> all_batches() {
  std::vector<std::uint8_t> keep(260, 1);
  for (std::size_t row = 0; row < keep.size(); row += 3) keep[row] = 0;
  return {{"one", 200, {}},
          {"ragged", 331, gma::Sequences::packed({0, 150, 150, 151, 200, 331})},
          {"padded", 300, gma::Sequences::padded({80, 0, 100})},
          {"masked", 260, gma::Sequences::masked(keep)}};
}

TEST(SegmentHeads, OfRaggedBatchesAndGroups) {
  const Threads three(3);
  const Backwards backwards;
  std::vector<gma::ProductMixture<double>> mixtures(2);
  Random random(7);
  for (auto& mixture : mixtures) randomize(mixture, components, dim, Regime::generic, random);
  for (const SegmentBatch& batch : all_batches()) {
    for (const Index group : {1, 2}) {
      const Matrix<double> q = random.matrix<double>(batch.rows, 2 * group * dim);
      const Matrix<double> k = random.matrix<double>(batch.rows, 2 * dim);
      const Matrix<double> v = random.matrix<double>(batch.rows, 2 * width);
      const Matrix<double> dy = random.matrix<double>(batch.rows, 2 * group * width);
      gma::HeadInputs<double> inputs;
      inputs.sequences = batch.sequences;
      inputs.log_forgetting = -random.matrix<double>(batch.rows, 2).cwiseAbs() * 0.1;
      std::vector<Memory<double>> first;  // also sized by a call
      gma::causal(mixtures, q, k, v, first, Options{}, inputs);
      const auto everything = [&](Index segment, const gma::Executor* executor) {
        const Options options = with(Normalization::slot, segment, executor);
        std::vector<Matrix<double>> results;
        std::vector<Memory<double>> memories = first;
        results.push_back(gma::causal(mixtures, q, k, v, memories, options, inputs));
        for (const Memory<double>& memory : memories) results.push_back(memory.slots);
        const auto gradients = gma::causal_backward(mixtures, q, k, v, dy, first, memories, options, inputs);
        results.insert(results.end(), {gradients.queries, gradients.keys, gradients.values, gradients.log_forgetting,
                                       gradients.mixtures[1].factors[0].means, gradients.memories[0].slots});
        return results;
      };
      const auto whole = everything(0, nullptr);
      for (const Index segment : {1, 33, 96}) {
        SCOPED_TRACE(testing::Message() << batch.name << ", groups of " << group << ", segments of " << segment);
        const auto cut = everything(segment, nullptr);
        for (std::size_t i = 0; i < cut.size(); ++i) EXPECT_TRUE(close(cut[i], whole[i], 1e-11)) << i;
        for (const gma::Executor* executor :
             {static_cast<const gma::Executor*>(&three), static_cast<const gma::Executor*>(&backwards)}) {
          const auto threaded = everything(segment, executor);
          for (std::size_t i = 0; i < cut.size(); ++i) EXPECT_TRUE(same_bits(threaded[i], cut[i])) << i;
        }
        // The same call as jobs.
        Matrix<double> out(batch.rows, 2 * group * width);
        std::vector<Memory<double>> memories = first;
        const auto jobs = gma::HeadJobs<gma::ProductMixture<double>>::causal(
            out, mixtures, q, k, v, &memories, with(Normalization::slot, segment), inputs);
        gma::Workspace<double> workspace;
        for (Index i = jobs.jobs() - 1; i >= 0; --i) jobs.run_job(i, workspace);
        EXPECT_TRUE(same_bits(out, cut[0]));
        EXPECT_TRUE(same_bits(memories[0].slots, cut[1]));
      }
    }
  }
}

// The layer ----------------------------------------------------------------------------------------------------------

TEST(SegmentLayer, GivesWhatOnePassGives) {
  const Threads three(3);
  for (const bool has_window : {false, true}) {
    LayerConfig config = config_of_width(12);
    config.window = has_window ? 5 : 0;
    const Layer layer = layer_of(config);
    Random random(8);
    const Matrix<double> x = random.matrix<double>(230, 12), d_out = random.matrix<double>(230, 12);
    const Sequences sequences = Sequences::packed({0, 30, 230});
    const auto everything = [&](Index segment, const gma::Executor* executor) {
      LayerOptions options;
      options.segment = segment;
      options.executor = executor;
      std::vector<Matrix<double>> results{gma::forward(layer, x, sequences, options)};
      const auto gradients = gma::backward(layer, x, d_out, sequences, options);
      results.push_back(gradients.x);
      gma::visit_parameters(
          [&](const gma::Parameter&, const Eigen::Map<const Matrix<double>>& values) { results.push_back(values); },
          gradients.layer);
      LayerState<double> state = gma::begin_stream(layer);
      results.push_back(gma::forward(layer, x.topRows(170), state, options));  // a prefill
      results.push_back(gma::forward(layer, x.bottomRows(60), state, options));
      for (const Memory<double>& memory : state.memories) results.push_back(memory.slots);
      return results;
    };
    const auto whole = everything(0, nullptr);
    for (const Index segment : {1, 40, 96}) {
      SCOPED_TRACE(segment);
      const auto cut = everything(segment, nullptr), threaded = everything(segment, &three);
      ASSERT_EQ(cut.size(), whole.size());
      for (std::size_t i = 0; i < cut.size(); ++i) {
        EXPECT_TRUE(close(cut[i], whole[i], 1e-11)) << i;
        EXPECT_TRUE(same_bits(cut[i], threaded[i])) << i;
      }
    }
  }
}

/// Longer than the parts in which a layer takes its rows: each sequence is as if it were alone.
TEST(SegmentLayer, OfLongBatchesIsThatOfTheirSequences) {
  const Threads seven(7);
  const Layer layer = layer_of(config_of_width(12));
  const std::vector<std::int64_t> offsets{0, 1500, 1500, 4200, 4500};
  Random random(9);
  const Matrix<double> x = random.matrix<double>(4500, 12), d_out = random.matrix<double>(4500, 12);
  LayerOptions options;
  options.segment = 300;
  const auto backward = [&](const Matrix<double>& some, const Matrix<double>& d_some, const Sequences& sequences) {
    const auto gradients = gma::backward(layer, some, d_some, sequences, options);
    std::vector<Matrix<double>> results{gradients.x};
    gma::visit_parameters(
        [&](const gma::Parameter&, const Eigen::Map<const Matrix<double>>& values) { results.push_back(values); },
        gradients.layer);
    return results;
  };
  const Matrix<double> y = gma::forward(layer, x, Sequences::packed(offsets), options);
  const auto all = backward(x, d_out, Sequences::packed(offsets));
  std::vector<Matrix<double>> sums;
  for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
    const Index begin = offsets[i], count = offsets[i + 1] - begin;
    const Matrix<double> part = x.middleRows(begin, count), d_part = d_out.middleRows(begin, count);
    EXPECT_TRUE(same_bits(gma::forward(layer, part, Sequences(), options), y.middleRows(begin, count)));
    auto one = backward(part, d_part, Sequences());
    EXPECT_TRUE(same_bits(one[0], all[0].middleRows(begin, count)));
    for (std::size_t p = 1; p < one.size(); ++p) {
      if (i == 0) sums.push_back(Matrix<double>::Zero(one[p].rows(), one[p].cols()));
      sums[p - 1] += one[p];
    }
  }
  for (std::size_t p = 0; p < sums.size(); ++p) EXPECT_TRUE(close(all[p + 1], sums[p], 1e-11)) << p;
  options.executor = &seven;
  EXPECT_TRUE(same_bits(gma::forward(layer, x, Sequences::packed(offsets), options), y));
  const auto threaded = backward(x, d_out, Sequences::packed(offsets));
  for (std::size_t p = 0; p < all.size(); ++p) EXPECT_TRUE(same_bits(threaded[p], all[p])) << p;
}

// Errors -------------------------------------------------------------------------------------------------------------

TEST(SegmentErrors, NameTheOption) {
  using M = gma::Mixture<double, gma::Diagonal>;
  const Problem<double, M> problem = make_problem<double, M>(10, false, false);
  const Options options = with(Normalization::slot, -1);
  expect_error([&] { gma::causal(problem.mixture, problem.queries, problem.keys, problem.values, options); },
               {"causal", "options.segment is -1", "expected 0 or more"});
  expect_error(
      [&] {
        gma::causal_backward(problem.mixture, problem.queries, problem.keys, problem.values, problem.values, options);
      },
      {"causal_backward", "options.segment is -1"});
  const Layer layer = layer_of(config_of_width(12));
  LayerOptions layer_options;
  layer_options.segment = -3;
  const Matrix<double> x = Matrix<double>::Zero(4, 12);
  expect_error([&] { gma::forward(layer, x, Sequences(), layer_options); }, {"forward", "options.segment is -3"});
  LayerCache<double> cache;
  gma::LayerGradientCache<double, gma::Diagonal> scratch;
  Matrix<double> y(4, 12);
  Layer gradient(layer.config);
  gma::forward_into(y, layer, x, cache);
  expect_error([&] { gma::backward_into(y, gradient, layer, x, cache, scratch, layer_options); },
               {"backward", "options.segment is -3"});
}

}  // namespace
}  // namespace gma_test
