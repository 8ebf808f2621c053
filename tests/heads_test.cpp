// SPDX-License-Identifier: MIT
// Multi-head verbs over batches: the single-head verbs, head by head and sequence by sequence, to the bit, whatever the
// layout, the grouping, the packing and the threads; padding that reaches nothing; errors that change nothing.
#include <algorithm>
#include <vector>

#include "executors.hpp"
#include "gma/heads/heads_backward.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

using gma::HeadInputs;
using gma::HeadTensor;
using gma::Sequences;
using Mixtures = std::vector<gma::ProductMixture<double>>;
constexpr Index head_width = 4, value_width = 3;

Mixtures random_mixtures(Index heads, std::uint64_t seed) {
  Random random(seed);
  Mixtures mixtures(static_cast<std::size_t>(heads));
  for (auto& mixture : mixtures) randomize(mixture, 6, head_width, Regime::generic, random);
  return mixtures;
}

/// Sequences and, written out by hand, the rows of each.
struct Batch {
  const char* name;
  Index rows;
  Sequences sequences;
  std::vector<std::vector<Index>> members;
};

std::vector<Index> range(Index begin, Index end) {
  std::vector<Index> result;
  for (Index i = begin; i < end; ++i) result.push_back(i);
  return result;
}

Sequences padded_and_masked() {
  Sequences sequences = Sequences::padded({9, 7});
  sequences.keep.assign(24, 1);
  for (const std::size_t row : {0u, 1u, 5u, 14u, 20u}) sequences.keep[row] = 0;
  return sequences;
}

std::vector<Batch> all_batches() {
  return {{"one", 23, {}, {range(0, 23)}},
          {"packed", 31, Sequences::packed({0, 11, 11, 12, 31}), {range(0, 11), {}, {11}, range(12, 31)}},
          {"padded", 24, Sequences::padded({8, 0, 3}), {range(0, 8), {}, range(16, 19)}},
          {"left padded", 6, Sequences::masked({0, 0, 1, 1, 1, 1}), {range(2, 6)}},
          {"masked", 24, padded_and_masked(), {{2, 3, 4, 6, 7, 8}, {12, 13, 15, 16, 17, 18}}}};
}

Matrix<double> gathered(const Matrix<double>& x, const std::vector<Index>& rows, Index head, Index width) {
  Matrix<double> result(static_cast<Index>(rows.size()), width);
  for (Index i = 0; i < result.rows(); ++i) {
    result.row(i) = x.row(rows[static_cast<std::size_t>(i)]).segment(head * width, width);
  }
  return result;
}

/// A whole multi-head problem; NaN and infinity in every row that belongs to no sequence.
struct HeadProblem {
  Batch batch;
  Index query_heads, key_heads;
  Mixtures mixtures;
  Matrix<double> queries, keys, values, d_output;
  HeadInputs<double> inputs;

  HeadProblem(const Batch& b, Index hq, Index hk, bool with_tokens)
      : batch(b), query_heads(hq), key_heads(hk), mixtures(random_mixtures(hk, 5)) {
    Random random(7);
    queries = random.matrix<double>(b.rows, hq * head_width);
    keys = random.matrix<double>(b.rows, hk * head_width);
    values = random.matrix<double>(b.rows, hk * value_width);
    d_output = random.matrix<double>(b.rows, hq * value_width);
    inputs.sequences = b.sequences;
    if (with_tokens) {
      inputs.key_weights = random_tokens<double>(b.rows, false, random).key_weights;
      inputs.log_forgetting = -random.matrix<double>(b.rows, hk).cwiseAbs();
    }
    for (Index row = 0; row < b.rows; ++row) {
      if (is_member(row)) continue;
      for (Matrix<double>* m : {&queries, &keys, &values, &d_output}) m->row(row).setConstant(not_a_number);
      values(row, 0) = infinity;
      if (!with_tokens) continue;
      inputs.key_weights(row) = not_a_number;
      inputs.log_forgetting.row(row).setConstant(not_a_number);
    }
  }

  bool is_member(Index row) const {
    for (const auto& rows : batch.members) {
      if (std::find(rows.begin(), rows.end(), row) != rows.end()) return true;
    }
    return false;
  }
  Index group() const { return query_heads / key_heads; }
  const gma::ProductMixture<double>& mixture(Index h) const { return mixtures[static_cast<std::size_t>(h)]; }
  Matrix<double> q(std::size_t i, Index h) const { return gathered(queries, batch.members[i], h, head_width); }
  Matrix<double> k(std::size_t i, Index h) const { return gathered(keys, batch.members[i], h, head_width); }
  Matrix<double> v(std::size_t i, Index h) const { return gathered(values, batch.members[i], h, value_width); }
  Matrix<double> dy(std::size_t i, Index h) const { return gathered(d_output, batch.members[i], h, value_width); }
  TokenInputs<double> tokens(std::size_t i, Index h) const {
    TokenInputs<double> result;
    if (inputs.key_weights.size() == 0) return result;
    const std::vector<Index>& rows = batch.members[i];
    result.key_weights.resize(static_cast<Index>(rows.size()));
    result.log_forgetting.resize(static_cast<Index>(rows.size()));
    for (std::size_t t = 0; t < rows.size(); ++t) {
      result.key_weights(static_cast<Index>(t)) = inputs.key_weights(rows[t]);
      result.log_forgetting(static_cast<Index>(t)) = inputs.log_forgetting(rows[t], h);
    }
    return result;
  }

  Matrix<double> expected(bool is_causal) const {
    Matrix<double> out = Matrix<double>::Zero(batch.rows, query_heads * value_width);
    for (std::size_t i = 0; i < batch.members.size(); ++i) {
      for (Index h = 0; h < query_heads; ++h) {
        const Index kh = h / group();
        const Matrix<double> y =
            is_causal ? gma::causal(mixture(kh), q(i, h), k(i, kh), v(i, kh), Options{}, tokens(i, kh))
                      : gma::bidirectional(mixture(kh), q(i, h), k(i, kh), v(i, kh), Options{}, tokens(i, kh));
        for (Index t = 0; t < y.rows(); ++t) {
          out.row(batch.members[i][static_cast<std::size_t>(t)]).segment(h * value_width, value_width) = y.row(t);
        }
      }
    }
    return out;
  }

  Matrix<double> computed(bool is_causal, const Options& options = {}) const {
    return is_causal ? gma::causal(mixtures, queries, keys, values, options, inputs)
                     : gma::bidirectional(mixtures, queries, keys, values, options, inputs);
  }
  gma::HeadGradients<gma::ProductMixture<double>> gradients(bool is_causal, const Options& options = {}) const {
    return is_causal ? gma::causal_backward(mixtures, queries, keys, values, d_output, options, inputs)
                     : gma::bidirectional_backward(mixtures, queries, keys, values, d_output, options, inputs);
  }
};

template <class F>
void for_each_problem(F&& f) {
  for (const Batch& batch : all_batches()) {
    for (const Index key_heads : {1, 2}) {
      for (const Index group : {1, 3}) {
        for (const bool with_tokens : {false, true}) {
          SCOPED_TRACE(testing::Message() << batch.name << ", " << key_heads << " key heads, groups of " << group
                                          << (with_tokens ? ", weights and forgetting" : ""));
          f(HeadProblem(batch, key_heads * group, key_heads, with_tokens));
        }
      }
    }
  }
}

TEST(Heads, EqualSingleHeadVerbsToTheBit) {
  for_each_problem([](const HeadProblem& problem) {
    EXPECT_TRUE(same_bits(problem.computed(true), problem.expected(true)) || problem.group() > 1);
    EXPECT_TRUE(close(problem.computed(true), problem.expected(true), forward_tolerance<double>()));
    EXPECT_TRUE(close(problem.computed(false), problem.expected(false), forward_tolerance<double>()));
    EXPECT_TRUE(same_bits(problem.computed(false), problem.expected(false)) || problem.group() > 1);
    for (const bool is_causal : {false, true}) {
      const Matrix<double> y = problem.computed(is_causal);
      for (Index row = 0; row < y.rows(); ++row) {
        EXPECT_TRUE(problem.is_member(row) || (y.row(row).array() == 0).all()) << "row " << row;
      }
    }
  });
}

TEST(Heads, EqualSingleHeadVerbsToTheBitInGroupsStepsAndTiles) {
  Random random(11);
  const auto mixtures = random_mixtures(2, 5);
  for (const Index count : {1, 2, 70, 300}) {
    for (const Index group : {1, 2, 4}) {
      const Matrix<double> q = random.matrix<double>(count, 2 * group * head_width);
      const Matrix<double> k = random.matrix<double>(count, 2 * head_width);
      const Matrix<double> v = random.matrix<double>(count, 2 * value_width);
      HeadInputs<double> inputs;
      inputs.log_forgetting = -random.matrix<double>(count, 2).cwiseAbs();
      for (const Normalization normalization : all_normalizations) {
        for (const Index tile : {0, 1, 7, 1000}) {
          SCOPED_TRACE(testing::Message() << count << " tokens, groups of " << group << ", tile " << tile << ", "
                                          << name_of(normalization));
          Options options;
          options.normalization = normalization;
          options.tile = tile;
          std::vector<Memory<double>> memories(2);
          for (Index h = 0; h < 2; ++h) {
            gma::write(mixtures[static_cast<std::size_t>(h)], random.matrix<double>(9, head_width),
                       random.matrix<double>(9, value_width), memories[static_cast<std::size_t>(h)]);
          }
          const std::vector<Memory<double>> before = memories;
          const Matrix<double> causal = gma::causal(mixtures, q, k, v, memories, options, inputs);
          const Matrix<double> both = gma::bidirectional(mixtures, q, k, v, options, inputs);
          for (Index h = 0; h < 2 * group; ++h) {
            const std::size_t kh = static_cast<std::size_t>(h / group);
            const TokenInputs<double> tokens{{}, inputs.log_forgetting.col(h / group)};
            const auto of = [](const Matrix<double>& m, Index head, Index width) {
              return m.middleCols(head * width, width);
            };
            Memory<double> memory = before[kh];
            EXPECT_TRUE(same_bits(of(causal, h, value_width),
                                  gma::causal(mixtures[kh], of(q, h, head_width), of(k, h / group, head_width),
                                              of(v, h / group, value_width), memory, options, tokens)));
            EXPECT_TRUE(same_bits(memory, memories[kh]));
            EXPECT_TRUE(same_bits(of(both, h, value_width),
                                  gma::bidirectional(mixtures[kh], of(q, h, head_width), of(k, h / group, head_width),
                                                     of(v, h / group, value_width), options, tokens)));
          }
        }
      }
    }
  }
}

/// A buffer of rows of 40 numbers, in which tensors lie at some offset: side by side, or over each other.
struct Shared {
  Matrix<double> numbers;
  explicit Shared(std::uint64_t seed) : numbers(Random(seed).matrix<double>(24, 40)) {}
  HeadTensor<double> at(Index offset, Index heads, Index width) {
    HeadTensor<double> tensor = gma::batch_tokens_heads(numbers.data() + offset, 2, 12, heads, width);
    tensor.token_stride = 40;
    tensor.batch_stride = 12 * 40;
    return tensor;
  }
};

TEST(Heads, OutputsMayOverlapInputs) {
  const Mixtures mixtures = random_mixtures(2, 5);
  HeadInputs<double> inputs;
  inputs.sequences = Sequences::padded({12, 7});
  gma::Workspace<double> workspace;
  for (const bool is_causal : {false, true}) {
    for (const Index group : {1, 2}) {
      const auto run = [&](Shared& shared, Index at, Index token_shift) {
        const auto q = shared.at(0, 2 * group, head_width), k = shared.at(16, 2, head_width);
        const auto v = shared.at(24, 2, value_width);
        HeadTensor<double> out = shared.at(at, 2 * group, value_width);
        if (token_shift != 0) {  // entries swapped: what one sequence writes another has yet to read
          out.data += out.batch_stride;
          out.batch_stride = -out.batch_stride;
        }
        if (is_causal) {
          gma::causal_into(out, mixtures, q, k, v, Options{}, inputs, workspace);
        } else {
          gma::bidirectional_into(out, mixtures, q, k, v, Options{}, inputs, workspace);
        }
        Matrix<double> result(24, 2 * group * value_width);
        for (Index b = 0; b < 2; ++b) {
          for (Index h = 0; h < 2 * group; ++h) {
            result.block(b * 12, h * value_width, 12, value_width) = out.head(h, b * 12, 12);
          }
        }
        return result;
      };
      Shared apart(3);
      EXPECT_FALSE(gma::detail::may_overlap(apart.at(30, 2, 3), apart.at(24, 2, 3)));
      EXPECT_TRUE(gma::detail::may_overlap(apart.at(29, 2, 3), apart.at(24, 2, 3)));
      Matrix<double> elsewhere(24, 2 * group * value_width);
      if (is_causal) {
        gma::causal_into(gma::batch_tokens_heads(elsewhere.data(), 2, 12, 2 * group, value_width), mixtures,
                         apart.at(0, 2 * group, head_width), apart.at(16, 2, head_width), apart.at(24, 2, value_width),
                         Options{}, inputs, workspace);
      } else {
        gma::bidirectional_into(gma::batch_tokens_heads(elsewhere.data(), 2, 12, 2 * group, value_width), mixtures,
                                apart.at(0, 2 * group, head_width), apart.at(16, 2, head_width),
                                apart.at(24, 2, value_width), Options{}, inputs, workspace);
      }
      for (const Index at : {0, 2, 14, 17, 24, 25, 28}) {
        for (const Index shift : {0, 1}) {
          Shared shared(3);
          EXPECT_TRUE(same_bits(run(shared, at, shift), elsewhere)) << "out at " << at << ", " << shift;
        }
      }
    }
  }
}

TEST(Heads, GradientsMayTakeThePlaceOfInputs) {
  using Gradients = gma::HeadGradients<gma::ProductMixture<double>>;
  const HeadProblem problem(all_batches()[0], 4, 2, true);
  std::vector<Memory<double>> memories;
  gma::causal(problem.mixtures, problem.queries, problem.keys, problem.values, memories, Options{}, problem.inputs);
  gma::Workspace<double> workspace;
  const std::vector<Memory<double>> none;
  Gradients expected, actual;
  const auto heads = [](const Matrix<double>& m, Index count) { return gma::split_heads(m, count); };
  gma::causal_backward_into(expected, problem.mixtures, heads(problem.queries, 4), heads(problem.keys, 2),
                            heads(problem.values, 2), heads(problem.d_output, 4), memories, none, Options{},
                            problem.inputs, workspace);
  const auto expect = [&](const char* what) {
    EXPECT_TRUE(same_bits(actual.queries, expected.queries) && same_bits(actual.keys, expected.keys) &&
                same_bits(actual.values, expected.values) && same_bits(actual.memories[1], expected.memories[1]) &&
                same_bits(actual.mixtures[1].factors[0].means, expected.mixtures[1].factors[0].means))
        << what;
  };
  for (Matrix<double> Gradients::*place : {&Gradients::queries, &Gradients::keys, &Gradients::values}) {
    actual.*place = problem.d_output;
    gma::causal_backward_into(actual, problem.mixtures, heads(problem.queries, 4), heads(problem.keys, 2),
                              heads(problem.values, 2), heads(actual.*place, 4), memories, none, Options{},
                              problem.inputs, workspace);
    expect("d_output");
    actual.*place = problem.values;
    gma::causal_backward_into(actual, problem.mixtures, heads(problem.queries, 4), heads(problem.keys, 2),
                              heads(actual.*place, 2), heads(problem.d_output, 4), memories, none, Options{},
                              problem.inputs, workspace);
    expect("values");
  }
  actual.memories = memories;
  gma::causal_backward_into(actual, problem.mixtures, heads(problem.queries, 4), heads(problem.keys, 2),
                            heads(problem.values, 2), heads(problem.d_output, 4), actual.memories, none, Options{},
                            problem.inputs, workspace);
  expect("memories");
}

TEST(Heads, EmptyListsOfSequencesAreNoDefaults) {
  const Mixtures mixtures = random_mixtures(2, 5);
  const auto call = [&](const Sequences& sequences, Index rows) {
    Random random(1);
    HeadInputs<double> inputs;
    inputs.sequences = sequences;
    const Matrix<double> x = random.matrix<double>(rows, 8), v = random.matrix<double>(rows, 6);
    std::vector<Memory<double>> memories;
    gma::causal(mixtures, x, x, v, memories, Options{}, inputs);
    gma::causal_backward(mixtures, x, x, v, v, Options{}, inputs);
    return memories.size();
  };
  EXPECT_EQ(call(Sequences{}, 0), 2u);
  EXPECT_EQ(call(Sequences::packed({0}), 0), 0u);
  EXPECT_EQ(call(Sequences::padded({}), 0), 0u);
  EXPECT_EQ(call(Sequences::masked({}), 0), 2u);
  expect_error([&] { call(Sequences::padded({}), 3); }, {"lengths has 0 entries for 3 rows"});
  expect_error([&] { call(Sequences::masked({}), 3); }, {"keep has 0 entries, expected 3"});
  expect_error([&] { Sequences::packed({}); }, {"Sequences::packed: offsets is empty"});
}

/// Adds the single-head gradients of one sequence and query head where they belong.
void add_expected(const HeadProblem& p, std::size_t i, Index h, bool is_causal,
                  gma::HeadGradients<gma::ProductMixture<double>>& all) {
  const Index kh = h / p.group();
  const auto one = is_causal ? gma::causal_backward(p.mixture(kh), p.q(i, h), p.k(i, kh), p.v(i, kh), p.dy(i, h),
                                                    Options{}, p.tokens(i, kh))
                             : gma::bidirectional_backward(p.mixture(kh), p.q(i, h), p.k(i, kh), p.v(i, kh), p.dy(i, h),
                                                           Options{}, p.tokens(i, kh));
  for (Index t = 0; t < one.queries.rows(); ++t) {
    const Index row = p.batch.members[i][static_cast<std::size_t>(t)];
    all.queries.row(row).segment(h * head_width, head_width) += one.queries.row(t);
    all.keys.row(row).segment(kh * head_width, head_width) += one.keys.row(t);
    all.values.row(row).segment(kh * value_width, value_width) += one.values.row(t);
    if (one.key_weights.size() == 0) continue;
    all.key_weights(row) += one.key_weights(t);
    all.log_forgetting(row, kh) += one.log_forgetting(t);
  }
  gma::detail::add_parameters(all.mixtures[static_cast<std::size_t>(kh)], one.mixture);
}

TEST(Heads, GradientsAreSumsOfSingleHeadGradients) {
  for_each_problem([](const HeadProblem& problem) {
    for (const bool is_causal : {false, true}) {
      SCOPED_TRACE(is_causal ? "causal" : "bidirectional");
      auto actual = problem.gradients(is_causal), expected = actual;
      for (Matrix<double>* m : {&expected.queries, &expected.keys, &expected.values, &expected.log_forgetting}) {
        m->setZero();
      }
      expected.key_weights.setZero();
      for (auto& mixture : expected.mixtures) gma::detail::set_zero_like(mixture, problem.mixtures.front());
      for (std::size_t i = 0; i < problem.batch.members.size(); ++i) {
        for (Index h = 0; h < problem.query_heads; ++h) add_expected(problem, i, h, is_causal, expected);
      }
      constexpr double tolerance = forward_tolerance<double>();
      EXPECT_TRUE(close(actual.queries, expected.queries, tolerance));
      EXPECT_TRUE(close(actual.keys, expected.keys, tolerance));
      EXPECT_TRUE(close(actual.values, expected.values, tolerance));
      EXPECT_TRUE(close(actual.key_weights, expected.key_weights, tolerance));
      EXPECT_TRUE(close(actual.log_forgetting, expected.log_forgetting, tolerance));
      for (std::size_t h = 0; h < expected.mixtures.size(); ++h) {
        std::vector<Matrix<double>> parts;
        for_each_parameter(expected.mixtures[h], "", [&](const auto&, const auto& m) { parts.push_back(m); });
        std::size_t part = 0;
        for_each_parameter(actual.mixtures[h], "", [&](const std::string& name, const auto& m) {
          EXPECT_TRUE(close(m, parts[part++], tolerance)) << name;
        });
      }
      for (Index row = 0; row < problem.batch.rows; ++row) {
        if (problem.is_member(row)) continue;
        EXPECT_TRUE((actual.queries.row(row).array() == 0).all() && (actual.keys.row(row).array() == 0).all() &&
                    (actual.values.row(row).array() == 0).all());
      }
    }
  });
}

TEST(Heads, SameBitsWhateverRunsThem) {
  const Backwards backwards;
  const Threads threads(3);
  const HeadProblem problem(all_batches()[1], 4, 2, true);
  for (const bool is_causal : {false, true}) {
    const Matrix<double> y = problem.computed(is_causal);
    const auto gradients = problem.gradients(is_causal);
    for (const gma::Executor* executor :
         {static_cast<const gma::Executor*>(&backwards), static_cast<const gma::Executor*>(&threads)}) {
      Options options;
      options.executor = executor;
      EXPECT_TRUE(same_bits(problem.computed(is_causal, options), y));
      const auto again = problem.gradients(is_causal, options);
      EXPECT_TRUE(same_bits(again.keys, gradients.keys) && same_bits(again.key_weights, gradients.key_weights));
      EXPECT_TRUE(same_bits(again.mixtures[1].factors[0].means, gradients.mixtures[1].factors[0].means));
    }
  }
}

/// Permutes the two middle dimensions of a [B, N, H, d] buffer.
Matrix<double> heads_first(const Matrix<double>& x, Index batch, Index heads) {
  const Index tokens = x.rows() / batch, width = x.cols() / heads;
  Matrix<double> result(batch * heads * tokens, width);
  for (Index b = 0; b < batch; ++b) {
    for (Index h = 0; h < heads; ++h) {
      result.middleRows((b * heads + h) * tokens, tokens) = x.block(b * tokens, h * width, tokens, width);
    }
  }
  return result;
}

TEST(Heads, ForeignLayoutsMapIn) {
  const Index batch = 3, tokens = 8, heads = 2;
  const HeadProblem problem({"", batch * tokens, Sequences::padded({8, 5, 0}), {}}, heads, heads, false);
  const Matrix<double> q = problem.queries.unaryExpr([](double x) { return std::isfinite(x) ? x : 0.5; });
  const Matrix<double> k = 0.7 * q, v = problem.values.unaryExpr([](double x) { return std::isfinite(x) ? x : 0.25; });
  const HeadInputs<double>& inputs = problem.inputs;
  const Matrix<double> expected = gma::causal(problem.mixtures, q, k, v, Options{}, inputs);

  gma::Workspace<double> workspace;
  const Matrix<double> q_heads = heads_first(q, batch, heads), k_heads = heads_first(k, batch, heads);
  const Matrix<double> v_heads = heads_first(v, batch, heads);
  Matrix<double> out(batch * heads * tokens, value_width);
  gma::causal_into(gma::batch_heads_tokens(out.data(), batch, heads, tokens, value_width), problem.mixtures,
                   gma::batch_heads_tokens(q_heads.data(), batch, heads, tokens, head_width),
                   gma::batch_heads_tokens(k_heads.data(), batch, heads, tokens, head_width),
                   gma::batch_heads_tokens(v_heads.data(), batch, heads, tokens, value_width), Options{}, inputs,
                   workspace);
  EXPECT_TRUE(same_bits(out, heads_first(expected, batch, heads)));

  Matrix<double> flat = Matrix<double>::Constant(batch * tokens, heads * value_width, not_a_number);
  gma::causal_into(gma::batch_tokens_heads(flat.data(), batch, tokens, heads, value_width), problem.mixtures,
                   gma::batch_tokens_heads(q.data(), batch, tokens, heads, head_width),
                   gma::batch_tokens_heads(k.data(), batch, tokens, heads, head_width),
                   gma::batch_tokens_heads(v.data(), batch, tokens, heads, value_width), Options{}, inputs, workspace);
  EXPECT_TRUE(same_bits(flat, expected));

  const Eigen::MatrixXd by_columns = q;  // column-major
  EXPECT_TRUE(same_bits(gma::causal(problem.mixtures, by_columns, k, v, Options{}, inputs), expected));
}

TEST(Heads, SixteenBitStorage) {
  Random random(3);
  std::vector<gma::ProductMixture<float>> mixtures;
  for (const auto& mixture : random_mixtures(2, 5)) mixtures.push_back(mixture.cast<float>());
  using Stored = Matrix<Eigen::bfloat16>;
  const Stored q = random.matrix<float>(20, 8).cast<Eigen::bfloat16>(), k = q;
  const Stored v = random.matrix<float>(20, 6).cast<Eigen::bfloat16>();
  HeadInputs<float> inputs;
  inputs.sequences.keep.assign(20, 1);
  inputs.sequences.keep[3] = 0;
  const Matrix<float> as_float = gma::causal(mixtures, Matrix<float>(q.cast<float>()), Matrix<float>(k.cast<float>()),
                                             Matrix<float>(v.cast<float>()), Options{}, inputs);
  EXPECT_TRUE(same_bits(gma::causal(mixtures, q, k, v, Options{}, inputs), as_float));
}

TEST(Heads, CrossAttentionWithSequencesOfOtherLengths) {
  const Mixtures mixtures = random_mixtures(2, 5);
  Random random(9);
  const Matrix<double> q = random.matrix<double>(7, 8), k = random.matrix<double>(12, 8);
  const Matrix<double> v = random.matrix<double>(12, 6);
  HeadInputs<double> inputs;
  inputs.sequences = Sequences::packed({0, 3, 7});
  inputs.key_sequences = Sequences::packed({0, 10, 12});
  const Matrix<double> y = gma::bidirectional(mixtures, q, k, v, Options{}, inputs);
  const Matrix<double> second =
      gma::bidirectional(mixtures[1], q.block(3, 4, 4, 4), k.block(10, 4, 2, 4), v.block(10, 3, 2, 3));
  EXPECT_TRUE(same_bits(y.block(3, 3, 4, 3), second));
  EXPECT_EQ(y.rows(), 7);
}

TEST(Heads, MemoriesContinueSequenceBySequence) {
  const HeadProblem problem(all_batches()[0], 4, 2, true);
  const Matrix<double> whole = problem.computed(true);
  for (const std::vector<Index>& cuts : {std::vector<Index>{0, 10, 23}, std::vector<Index>{0, 1, 2, 3, 22, 23}}) {
    std::vector<Memory<double>> memories;
    Matrix<double> parts(whole.rows(), whole.cols());
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const Index begin = cuts[i], count = cuts[i + 1] - begin;
      HeadInputs<double> inputs;
      inputs.key_weights = problem.inputs.key_weights.segment(begin, count);
      inputs.log_forgetting = problem.inputs.log_forgetting.middleRows(begin, count);
      parts.middleRows(begin, count) =
          gma::causal(problem.mixtures, problem.queries.middleRows(begin, count), problem.keys.middleRows(begin, count),
                      problem.values.middleRows(begin, count), memories, Options{}, inputs);
    }
    EXPECT_EQ(memories.size(), 2u);
    EXPECT_TRUE(close(parts, whole, forward_tolerance<double>()));
  }
}

TEST(Heads, GradientsThroughMemories) {
  // The loss of a whole sequence, cut in two: the second half's gradient with respect to its initial memories, handed
  // to the first half, gives the whole sequence's gradient.
  const HeadProblem problem(all_batches()[0], 4, 2, true);
  const auto whole = problem.gradients(true);
  const auto half = [&](Index begin, Index count) {
    HeadInputs<double> inputs;
    inputs.key_weights = problem.inputs.key_weights.segment(begin, count);
    inputs.log_forgetting = problem.inputs.log_forgetting.middleRows(begin, count);
    return inputs;
  };
  const auto rows = [&](const Matrix<double>& m, Index begin, Index count) {
    return Matrix<double>(m.middleRows(begin, count));
  };
  std::vector<Memory<double>> middle;
  gma::causal(problem.mixtures, rows(problem.queries, 0, 9), rows(problem.keys, 0, 9), rows(problem.values, 0, 9),
              middle, Options{}, half(0, 9));
  const std::vector<Memory<double>> none;
  const auto second = gma::causal_backward(problem.mixtures, rows(problem.queries, 9, 14), rows(problem.keys, 9, 14),
                                           rows(problem.values, 9, 14), rows(problem.d_output, 9, 14), middle, none,
                                           Options{}, half(9, 14));
  const auto first = gma::causal_backward(problem.mixtures, rows(problem.queries, 0, 9), rows(problem.keys, 0, 9),
                                          rows(problem.values, 0, 9), rows(problem.d_output, 0, 9), none,
                                          second.memories, Options{}, half(0, 9));
  EXPECT_TRUE(close(first.keys, rows(whole.keys, 0, 9), autodiff_tolerance));
  EXPECT_TRUE(close(first.log_forgetting, rows(whole.log_forgetting, 0, 9), autodiff_tolerance));
  EXPECT_TRUE(close(second.values, rows(whole.values, 9, 14), autodiff_tolerance));
}

TEST(Heads, ErrorsNameWhatIsWrongAndChangeNothing) {
  const HeadProblem good(all_batches()[1], 4, 2, true);
  std::vector<Memory<double>> memories(8);
  const auto call = [&](const HeadProblem& p) {
    gma::causal(p.mixtures, p.queries, p.keys, p.values, memories, Options{}, p.inputs);
  };
  call(good);
  const std::vector<Memory<double>> before = memories;
  const auto expect = [&](const std::vector<std::string>& words, const auto& spoil) {
    HeadProblem bad = good;
    spoil(bad);
    expect_error([&] { call(bad); }, words);
    for (std::size_t i = 0; i < memories.size(); ++i) EXPECT_TRUE(same_bits(memories[i], before[i])) << words.front();
  };
  const auto offsets = [](std::vector<std::int64_t> values) {
    return [values](HeadProblem& p) { p.inputs.sequences.offsets = values; };
  };
  expect({"gma::causal: ", "mixtures is empty"}, [](HeadProblem& p) { p.mixtures.clear(); });
  expect({"queries has 15 columns", "multiple of 4"}, [](HeadProblem& p) { p.queries.conservativeResize(31, 15); });
  expect({"queries has 3 heads", "multiple of 2"}, [](HeadProblem& p) { p.queries.conservativeResize(31, 12); });
  expect({"keys has 5 columns a head", "expected 4"}, [](HeadProblem& p) { p.keys.resize(31, 10); });
  expect({"values has 7 columns", "multiple of 2"}, [](HeadProblem& p) { p.values.resize(31, 7); });
  expect({"values has 30 tokens", "expected 31"}, [](HeadProblem& p) { p.values.resize(30, 6); });
  expect({"offsets begin with 1", "expected 0 and 31"}, offsets({1, 31}));
  expect({"offsets begin with 0 and end with 30", "31 (the number of rows)"}, offsets({0, 30}));
  expect({"offsets fall from 12 to 11", "monotone"}, offsets({0, 12, 11, 12, 31}));
  expect({"offsets and lengths"}, [](HeadProblem& p) { p.inputs.sequences.lengths = {31}; });
  expect({"lengths has 2 entries for 31 rows"}, [](HeadProblem& p) { p.inputs.sequences = Sequences::padded({1, 2}); });
  expect({"lengths is 32 at 0", "0 to 31"}, [](HeadProblem& p) { p.inputs.sequences = Sequences::padded({32}); });
  expect({"lengths is -1 at 0"}, [](HeadProblem& p) { p.inputs.sequences = Sequences::padded({-1}); });
  expect({"keep has 30 entries, expected 31"}, [](HeadProblem& p) { p.inputs.sequences.keep.assign(30, 1); });
  expect({"keep is 2 at 4"}, [](HeadProblem& p) {
    p.inputs.sequences.keep.assign(31, 1);
    p.inputs.sequences.keep[4] = 2;
  });
  expect({"key_weights has 3 coefficients"}, [](HeadProblem& p) { p.inputs.key_weights.resize(3); });
  expect({"key_weights is -1 at row 30"}, [](HeadProblem& p) { p.inputs.key_weights(30) = -1; });
  expect({"log_forgetting is 31 x 3", "31 x 2"}, [](HeadProblem& p) { p.inputs.log_forgetting.setZero(31, 3); });
  expect({"log_forgetting is 0.5 at row 30, head 1"}, [](HeadProblem& p) {
    p.inputs.key_weights(30) = 1;
    p.inputs.log_forgetting(30, 1) = 0.5;
  });
  expect({"key_sequences is given"}, [](HeadProblem& p) { p.inputs.key_sequences = p.inputs.sequences; });
  expect({"memories has 8 entries, expected 2"}, [](HeadProblem& p) { p.inputs.sequences = {}; });
  expect_error([] { gma::split_heads(Matrix<double>(2, 5), 2); }, {"split_heads", "heads is 2 for 5 columns"});
}

}  // namespace
}  // namespace gma_test
