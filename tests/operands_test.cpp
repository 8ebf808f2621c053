// SPDX-License-Identifier: MIT
// Operands of the verbs: any matrix, block, map, expression or storage goes in; outputs and gradients go where the
// caller says, and what is not asked for is left out. Results have the same bits as those of plain matrices.
#include <algorithm>
#include <thread>
#include <vector>

#include "executors.hpp"
#include "gma/heads/head_jobs.hpp"
#include "gma/heads/heads_backward.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

using S = double;
using Mixture = gma::Mixture<S>;
using Targets = gma::GradientTargets<Mixture>;
using ColumnMajor = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>;
constexpr Index rows = 70, dim = 4, width = 3, components = 5;

struct Problem {
  Mixture mixture;
  Matrix<S> queries, keys, values, d_output;
  TokenInputs<S> tokens;
  Memory<S> initial, d_final;

  Problem() {
    Random random(4);
    randomize(mixture, components, dim, Regime::generic, random);
    queries = random.matrix<S>(rows, dim);
    keys = random.matrix<S>(rows, dim);
    values = random.matrix<S>(rows, width);
    d_output = random.matrix<S>(rows, width);
    tokens = random_tokens<S>(rows, true, random);
    tokens.key_weights(3) = 0;
    initial.slots = random.matrix<S>(components, width);
    initial.mass = Vector<S>::Constant(components, 2);
    d_final.slots = random.matrix<S>(components, width);
    d_final.mass = random.vector<S>(components);
  }
};

// Inputs -------------------------------------------------------------------------------------------------------------

TEST(Operands, InputsOfAnyLayoutGiveTheSameBits) {
  const Problem p;
  const Matrix<S> expected = gma::causal(p.mixture, p.queries, p.keys, p.values);
  const ColumnMajor queries = p.queries;
  Matrix<S> wide = Matrix<S>::Zero(rows, 20);
  wide.middleCols(5, dim) = p.keys;
  Matrix<S> apart = Matrix<S>::Zero(rows, 2 * width);
  const Eigen::Map<Matrix<S>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> values(apart.data(), rows, width,
                                                                                       {2 * width, 2});
  Eigen::Map<Matrix<S>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>(apart.data(), rows, width, {2 * width, 2}) =
      p.values;
  EXPECT_TRUE(same_bits(gma::causal(p.mixture, queries, wide.middleCols(5, dim), values), expected));
  EXPECT_TRUE(same_bits(
      gma::causal(p.mixture, 0.5 * (2 * p.queries), p.keys * Matrix<S>::Identity(dim, dim), p.values.topRows(rows)),
      expected));
}

TEST(Operands, ExpressionsOfSixteenBitNumbersAreEvaluated) {
  const Problem p;
  using Half = Eigen::Matrix<Eigen::bfloat16, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Half queries = p.queries.cast<Eigen::bfloat16>();
  const Matrix<S> same = queries.cast<S>();
  EXPECT_TRUE(
      same_bits(gma::causal(p.mixture, queries, p.keys, p.values), gma::causal(p.mixture, same, p.keys, p.values)));
  EXPECT_TRUE(same_bits(gma::causal(p.mixture, queries + Half::Zero(rows, dim), p.keys, p.values),
                        gma::causal(p.mixture, same, p.keys, p.values)));
}

TEST(Operands, TokenInputsMayBeViews) {
  const Problem p;
  const std::vector<S> weights(p.tokens.key_weights.data(), p.tokens.key_weights.data() + rows);
  const gma::TokenInputsView<S> view(gma::TokenInputsView<S>::Numbers(weights.data(), rows),
                                     gma::TokenInputsView<S>::Numbers(p.tokens.log_forgetting.data(), rows));
  const Matrix<S> expected = gma::causal(p.mixture, p.queries, p.keys, p.values, {}, p.tokens);
  EXPECT_TRUE(same_bits(gma::causal(p.mixture, p.queries, p.keys, p.values, {}, view), expected));
  EXPECT_TRUE(same_bits(
      gma::causal(p.mixture, p.queries, p.keys, p.values, {}, {p.tokens.key_weights, p.tokens.log_forgetting}),
      expected));
}

TEST(Operands, WriteAndReadTakeOptionsAndAWorkspace) {
  const Problem p;
  Memory<S> expected, memory;
  gma::write(p.mixture, p.keys, p.values, expected, p.tokens);
  gma::Workspace<S> workspace;
  const Threads threads(3);
  Options options;
  options.executor = &threads;
  gma::write(p.mixture, p.keys, p.values, memory, options, p.tokens, workspace);
  EXPECT_TRUE(same_bits(memory, expected));
  options.tile = 16;
  Memory<S> tiled;
  gma::write(p.mixture, p.keys, p.values, tiled, options, p.tokens, &workspace);
  EXPECT_TRUE(close(tiled.slots, expected.slots, forward_tolerance<S>()));
  options.tile = -1;
  expect_error([&] { gma::write(p.mixture, p.keys, p.values, memory, options); }, {"gma::write", "options.tile is -1"});
  EXPECT_TRUE(same_bits(memory, expected));
  EXPECT_TRUE(
      same_bits(gma::read(p.mixture, p.queries, memory, {}, workspace), gma::read(p.mixture, p.queries, memory)));
}

TEST(MemoryViews, InACallersBufferGiveTheSameBits) {
  const Problem p;
  std::vector<S> buffer(static_cast<std::size_t>(gma::MemoryView<S>::size(components, width)), S(0));
  const gma::MemoryView<S> view(buffer.data(), components, width);
  Memory<S> memory = gma::empty_memory<S>(components, width), loaded;
  Matrix<S> y(rows, width), expected(rows, width);
  gma::write(p.mixture, p.keys, p.values, memory, p.tokens);
  gma::write(p.mixture, p.keys, p.values, view, {}, p.tokens);
  for (int round = 0; round < 3; ++round) {
    gma::causal_into(expected, p.mixture, p.queries, p.keys, p.values, memory, {}, p.tokens);
    gma::causal_into(y, p.mixture, p.queries, p.keys, p.values, view, {}, p.tokens);
    EXPECT_TRUE(same_bits(y, expected));
  }
  const std::vector<S> fork = buffer;
  std::fill(buffer.begin(), buffer.end(), S(0));
  std::copy(fork.begin(), fork.end(), buffer.begin());
  view.load(loaded);
  EXPECT_TRUE(same_bits(loaded, memory));
  gma::read_into(y, p.mixture, p.queries, view);
  EXPECT_TRUE(same_bits(y, gma::read(p.mixture, p.queries, memory)));
  Matrix<S> narrow(rows, width - 1);
  expect_error([&] { gma::causal_into(y, p.mixture, p.queries, p.keys, narrow, view); }, {"gma::causal"});
  EXPECT_EQ(buffer, fork);
}

TEST(MemoryViews, HoldTheRemaindersOfLongStreams) {
  std::vector<float> buffer(static_cast<std::size_t>(gma::MemoryView<float>::size(2, 3)), 0.0F);
  const gma::MemoryView<float> view(buffer.data(), 2, 3);
  gma::Mixture<float> mixture(2, 1);
  mixture.means << -1, 1;
  const Index count = 40000;
  const Matrix<float> keys = Random(1).matrix<float>(count, 1), values = Random(2).matrix<float>(count, 3);
  Memory<float> memory, loaded;
  gma::write(mixture, keys, values, memory);
  gma::write(mixture, keys, values, view);
  view.load(loaded);
  ASSERT_EQ(memory.slots_remainder.rows(), 2);
  EXPECT_TRUE(same_bits(loaded, memory) && same_bits(loaded.slots_remainder, memory.slots_remainder));
  expect_error([] { gma::MemoryView<float>(nullptr, 2, 3); }, {"gma::MemoryView", "null"});
}

// Gradients where the caller says ------------------------------------------------------------------------------------

/// Places for every gradient, each in another layout, filled with numbers that show whether they were written.
struct Places {
  static constexpr S untouched = -12345;
  ColumnMajor queries = ColumnMajor::Constant(rows, dim, untouched);
  Matrix<S> wide = Matrix<S>::Constant(rows, dim + width + 9, untouched);
  Vector<S> weights = Vector<S>::Constant(rows, untouched);
  Matrix<S> forgetting = Matrix<S>::Constant(rows, 2, untouched);
  Memory<S> memory;
  Mixture mixture;

  auto keys() { return wide.middleCols(2, dim); }
  auto values() { return wide.middleCols(dim + 5, width); }

  /// Bit b of `wanted` stands for gradient b.
  Targets targets(unsigned wanted) {
    Targets result;
    if ((wanted & 1U) != 0) result.queries = queries;
    if ((wanted & 2U) != 0) result.keys = keys();
    if ((wanted & 4U) != 0) result.values = values();
    if ((wanted & 8U) != 0) result.key_weights = weights;
    if ((wanted & 16U) != 0) result.log_forgetting = forgetting.col(1);
    if ((wanted & 32U) != 0) result.memory = &memory;
    if ((wanted & 64U) != 0) result.mixture = &mixture;
    return result;
  }

  void expect(unsigned wanted, const gma::Gradients<Mixture>& all) {
    const auto is_right = [&](unsigned bit, const auto& actual, const auto& expected) {
      const Matrix<S> found = actual, right = expected;
      return (wanted & bit) != 0 ? same_bits(found, right) : (found.array() == untouched).all();
    };
    EXPECT_TRUE(is_right(1, queries, all.queries));
    EXPECT_TRUE(is_right(2, keys(), all.keys));
    EXPECT_TRUE(is_right(4, values(), all.values));
    EXPECT_TRUE(is_right(8, weights, all.key_weights));
    EXPECT_TRUE(is_right(16, forgetting.col(1), all.log_forgetting));
    EXPECT_TRUE((forgetting.col(0).array() == untouched).all());
    EXPECT_TRUE((wide.leftCols(2).array() == untouched).all() && (wide.rightCols(4).array() == untouched).all());
    if ((wanted & 32U) != 0) {
      EXPECT_TRUE(same_bits(memory, all.memory));
    } else {
      EXPECT_TRUE(memory.empty());
    }
    if ((wanted & 64U) != 0) {
      EXPECT_TRUE(same_bits(mixture.means, all.mixture.means) &&
                  same_bits(mixture.weight_logits, all.mixture.weight_logits));
    } else {
      EXPECT_EQ(mixture.components(), 0);
    }
  }
};

TEST(GradientTargets, OfCausalAnyChoiceIsWrittenAndNothingElse) {
  const Problem p;
  const auto all =
      gma::causal_backward(p.mixture, p.queries, p.keys, p.values, p.d_output, p.initial, p.d_final, {}, p.tokens);
  for (unsigned wanted = 0; wanted < 128; ++wanted) {
    SCOPED_TRACE(wanted);
    Places places;
    gma::causal_backward_into(places.targets(wanted), p.mixture, p.queries, p.keys, p.values, p.d_output, p.initial,
                              p.d_final, {}, p.tokens);
    places.expect(wanted, all);
  }
}

TEST(GradientTargets, OfBidirectionalReadAndWrite) {
  const Problem p;
  Memory<S> memory;
  gma::write(p.mixture, p.keys, p.values, memory, p.tokens);
  const auto both = gma::bidirectional_backward(p.mixture, p.queries, p.keys, p.values, p.d_output, {}, p.tokens);
  const auto read = gma::read_backward(p.mixture, p.queries, memory, p.d_output);
  const auto written = gma::write_backward(p.mixture, p.keys, p.values, p.d_final, p.tokens, p.initial);
  for (unsigned wanted = 0; wanted < 128; ++wanted) {
    SCOPED_TRACE(wanted);
    Places places;
    gma::bidirectional_backward_into(places.targets(wanted), p.mixture, p.queries, p.keys, p.values, p.d_output, {},
                                     p.tokens);
    places.expect(wanted, both);
    Places of_write;
    gma::write_backward_into(of_write.targets(wanted & ~1U), p.mixture, p.keys, p.values, p.initial, p.d_final, {},
                             p.tokens);
    of_write.expect(wanted & ~1U, written);
    Places of_read;
    gma::read_backward_into(of_read.targets(wanted & 97U), p.mixture, p.queries, memory, p.d_output);
    of_read.expect(wanted & 97U, read);
  }
}

TEST(GradientTargets, MayBeTheInputs) {
  const Problem p;
  const auto all = gma::causal_backward(p.mixture, p.queries, p.keys, p.values, p.d_output, {}, p.tokens);
  Problem in_place;
  Targets targets;
  targets.queries = in_place.queries;
  targets.keys = in_place.keys;
  targets.values = in_place.d_output;
  gma::causal_backward_into(targets, p.mixture, in_place.queries, in_place.keys, in_place.values, in_place.d_output, {},
                            {}, {}, p.tokens);
  EXPECT_TRUE(same_bits(in_place.queries, all.queries));
  EXPECT_TRUE(same_bits(in_place.keys, all.keys));
  EXPECT_TRUE(same_bits(in_place.d_output, all.values));
}

TEST(GradientTargets, SixteenBitStorageIsRounded) {
  const Problem p;
  const auto all = gma::causal_backward(p.mixture, p.queries, p.keys, p.values, p.d_output);
  Eigen::Matrix<Eigen::bfloat16, Eigen::Dynamic, Eigen::Dynamic> keys(rows, dim);
  Targets targets;
  targets.keys = keys;
  gma::causal_backward_into(targets, p.mixture, p.queries, p.keys, p.values, p.d_output);
  EXPECT_TRUE(same_bits(Matrix<S>(keys.cast<S>()), Matrix<S>(all.keys.cast<Eigen::bfloat16>().cast<S>())));
}

TEST(GradientTargets, WrongShapesAreRefusedByName) {
  const Problem p;
  Matrix<S> small(rows - 1, dim);
  Targets targets;
  targets.keys = small;
  expect_error([&] { gma::causal_backward_into(targets, p.mixture, p.queries, p.keys, p.values, p.d_output); },
               {"gma::causal_backward", "targets.keys is 69 x 4", "expected 70 x 4"});
  Vector<S> weights(rows);
  targets = Targets();
  targets.key_weights = weights;
  expect_error([&] { gma::bidirectional_backward_into(targets, p.mixture, p.queries, p.keys, p.values, p.d_output); },
               {"gma::bidirectional_backward", "targets.key_weights", "if weights were given"});
}

// Many heads ---------------------------------------------------------------------------------------------------------

struct HeadsProblem {
  static constexpr Index query_heads = 4, key_heads = 2;
  std::vector<Mixture> mixtures{key_heads};
  Matrix<S> queries, keys, values, d_output;
  gma::HeadInputs<S> inputs;

  explicit HeadsProblem(const gma::Sequences& sequences) {
    Random random(6);
    for (Mixture& mixture : mixtures) randomize(mixture, components, dim, Regime::generic, random);
    queries = random.matrix<S>(rows, query_heads * dim);
    keys = random.matrix<S>(rows, key_heads * dim);
    values = random.matrix<S>(rows, key_heads * width);
    d_output = random.matrix<S>(rows, query_heads * width);
    inputs.sequences = sequences;
    inputs.key_weights = Vector<S>::Constant(rows, 0.5);
    inputs.log_forgetting = -random.matrix<S>(rows, key_heads).cwiseAbs();
  }
};

std::vector<gma::Sequences> some_sequences() {
  std::vector<std::uint8_t> keep(rows, 1);
  for (const std::size_t row : {0U, 7U, 8U, 33U, 69U}) keep[row] = 0;
  return {{}, gma::Sequences::packed({0, 20, 20, 70}), gma::Sequences::masked(keep)};
}

TEST(HeadGradientTargets, HoldWhatHeadGradientsHold) {
  for (const gma::Sequences& sequences : some_sequences()) {
    const HeadsProblem p(sequences);
    const auto all = gma::causal_backward(p.mixtures, p.queries, p.keys, p.values, p.d_output, {}, p.inputs);
    ColumnMajor queries(rows, p.query_heads * dim), values(rows, p.key_heads * width);
    std::vector<S> keys(static_cast<std::size_t>(rows * p.key_heads * dim));
    Vector<S> weights(rows);
    Matrix<S> forgetting(rows, p.key_heads);
    std::vector<Mixture> mixtures;
    gma::HeadGradientTargets<Mixture> targets;
    targets.queries = queries;
    targets.keys = gma::batch_heads_tokens(keys.data(), 1, p.key_heads, rows, dim);
    targets.values = values;
    targets.key_weights = weights;
    targets.log_forgetting = forgetting;
    targets.mixtures = &mixtures;
    gma::causal_backward_into(targets, p.mixtures, p.queries, p.keys, p.values, p.d_output, {}, {}, {}, p.inputs);
    EXPECT_TRUE(same_bits(Matrix<S>(queries), all.queries));
    EXPECT_TRUE(same_bits(Matrix<S>(values), all.values));
    EXPECT_TRUE(same_bits(weights, all.key_weights));
    EXPECT_TRUE(same_bits(forgetting, all.log_forgetting));
    for (Index h = 0; h < p.key_heads; ++h) {
      const Matrix<S> one = Eigen::Map<Matrix<S>>(keys.data() + h * rows * dim, rows, dim);
      EXPECT_TRUE(same_bits(one, Matrix<S>(all.keys.middleCols(h * dim, dim))));
      EXPECT_TRUE(
          same_bits(mixtures[static_cast<std::size_t>(h)].means, all.mixtures[static_cast<std::size_t>(h)].means));
    }
    gma::HeadGradientTargets<Mixture> one;
    one.values = values;
    values.setZero();
    gma::bidirectional_backward_into(one, p.mixtures, p.queries, p.keys, p.values, p.d_output, {}, p.inputs);
    EXPECT_TRUE(same_bits(
        Matrix<S>(values),
        gma::bidirectional_backward(p.mixtures, p.queries, p.keys, p.values, p.d_output, {}, p.inputs).values));
  }
}

TEST(HeadGradientTargets, OverAnInputAreRefused) {
  HeadsProblem p({});
  gma::HeadGradientTargets<Mixture> targets;
  targets.keys = p.keys;
  expect_error([&] { gma::causal_backward_into(targets, p.mixtures, p.queries, p.keys, p.values, p.d_output); },
               {"gma::causal_backward", "targets.keys overlaps an input"});
  targets = {};
  targets.mixtures = &p.mixtures;
  expect_error([&] { gma::causal_backward_into(targets, p.mixtures, p.queries, p.keys, p.values, p.d_output); },
               {"targets.mixtures", "expected another vector"});
}

TEST(HeadOperands, OutputsMayBeMatricesBlocksAndTensors) {
  const HeadsProblem p({});
  const Matrix<S> expected = gma::causal(p.mixtures, p.queries, p.keys, p.values, {}, p.inputs);
  Matrix<S> wide = Matrix<S>::Zero(rows, 30);
  gma::causal_into(wide.middleCols(7, p.query_heads * width), p.mixtures, 1.0 * p.queries, p.keys, p.values, {},
                   p.inputs);
  EXPECT_TRUE(same_bits(Matrix<S>(wide.middleCols(7, p.query_heads * width)), expected));
  Matrix<S> y(rows, p.query_heads * width);
  gma::causal_into(y, p.mixtures, gma::split_heads(p.queries, p.query_heads), p.keys, p.values, {}, p.inputs);
  EXPECT_TRUE(same_bits(y, expected));
}

// Jobs ---------------------------------------------------------------------------------------------------------------

TEST(HeadJobs, OnThreadsOfTheCallersGiveTheSameBits) {
  for (const gma::Sequences& sequences : some_sequences()) {
    const HeadsProblem p(sequences);
    for (const bool is_causal : {true, false}) {
      std::vector<Memory<S>> memories, expected_memories;
      Matrix<S> y = Matrix<S>::Constant(rows, p.query_heads * width, 7), expected = y;
      if (is_causal) {
        gma::causal_into(expected, p.mixtures, p.queries, p.keys, p.values, expected_memories, {}, p.inputs);
      } else {
        gma::bidirectional_into(expected, p.mixtures, p.queries, p.keys, p.values, {}, p.inputs);
      }
      using Jobs = gma::HeadJobs<Mixture>;
      const Jobs jobs = is_causal ? Jobs::causal(y, p.mixtures, p.queries, p.keys, p.values, &memories, {}, p.inputs)
                                  : Jobs::bidirectional(y, p.mixtures, p.queries, p.keys, p.values, {}, p.inputs);
      std::vector<std::thread> threads;
      for (Index worker = 0; worker < 3; ++worker) {
        threads.emplace_back([&jobs, worker] {
          gma::Workspace<S> workspace;
          for (Index i = worker; i < jobs.jobs(); i += 3) jobs.run_job(i, workspace);
        });
      }
      for (std::thread& thread : threads) thread.join();
      EXPECT_TRUE(same_bits(y, expected));
      ASSERT_EQ(memories.size(), expected_memories.size());
      for (std::size_t i = 0; i < memories.size(); ++i) EXPECT_TRUE(same_bits(memories[i], expected_memories[i]));
    }
  }
}

TEST(HeadJobs, RefuseWhatWouldNotLast) {
  HeadsProblem p({});
  Matrix<S> y(rows, p.query_heads * width);
  using Jobs = gma::HeadJobs<Mixture>;
  expect_error([&] { Jobs::bidirectional(y, p.mixtures, 2 * p.queries, p.keys, p.values); },
               {"gma::HeadJobs::bidirectional", "queries is an expression"});
  expect_error(
      [&] {
        Jobs::causal(p.d_output, p.mixtures, p.queries, p.keys, gma::split_heads(p.d_output.leftCols(6), 2), nullptr);
      },
      {"gma::HeadJobs::causal", "overlap"});
  const Jobs jobs = Jobs::causal(y, p.mixtures, p.queries, p.keys, p.values, nullptr);
  gma::Workspace<S> workspace;
  expect_error([&] { jobs.run_job(2, workspace); }, {"gma::HeadJobs::run_job", "i is 2", "expected 0 to 1"});
}

}  // namespace
}  // namespace gma_test
