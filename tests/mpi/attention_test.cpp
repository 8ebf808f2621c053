// SPDX-License-Identifier: MIT
// Attention over ranks is attention of one process, forward and backward.
#include "gma/mpi/attention.hpp"

#include "support.hpp"

namespace {

using namespace gma_test;
using gma::HeadGradients;
using gma::HeadInputs;

/// Key heads of two widths of query groups, and what all verbs may be given.
template <class M>
struct HeadsProblem {
  using S = gma::Scalar<M>;

  std::vector<M> mixtures;
  Matrix<S> queries, keys, values, d_output;
  HeadInputs<S> inputs;
  std::vector<Memory<S>> initial, d_final;

  HeadsProblem(Index tokens, Index query_tokens, bool forgets, std::uint64_t seed) {
    constexpr Index heads = 2, group = 2, d = 4, e = 3, components = 6;
    Random random(seed);
    mixtures.resize(heads);
    for (M& mixture : mixtures) randomize(mixture, components, d, Regime::generic, random);
    queries = random.matrix<S>(query_tokens, heads * group * d);
    keys = random.matrix<S>(tokens, heads * d);
    values = random.matrix<S>(tokens, heads * e);
    d_output = random.matrix<S>(query_tokens, heads * group * e);
    inputs.key_weights = random.vector<S>(tokens).cwiseAbs();
    for (Index t = 2; t < tokens; t += 5) inputs.key_weights(t) = S(0);
    if (forgets) {
      inputs.log_forgetting = S(-0.1) * random.matrix<S>(tokens, heads).cwiseAbs();
      if (tokens > 20) inputs.log_forgetting(tokens / 3, 1) = -std::numeric_limits<S>::infinity();
    }
    for (Index h = 0; h < heads; ++h) {
      Memory<S> memory = gma::empty_memory<S>(components, e);
      random.fill(memory.slots);
      random.fill(memory.mass);
      d_final.push_back(memory);
      d_final.back().log_forgetting = S(0.5);
      memory.mass = memory.mass.cwiseAbs();
      initial.push_back(memory);
    }
  }
};

template <class S>
std::vector<Memory<double>> wide(const std::vector<Memory<S>>& memories) {
  std::vector<Memory<double>> result;
  for (const Memory<S>& memory : memories) {
    result.push_back({memory.slots.template cast<double>(), memory.mass.template cast<double>(),
                      static_cast<double>(memory.log_forgetting)});
  }
  return result;
}

/// The same problem in double.
template <class M, class W>
void widen(const HeadsProblem<M>& from, HeadsProblem<W>& to) {
  for (std::size_t h = 0; h < from.mixtures.size(); ++h) to.mixtures[h] = from.mixtures[h].template cast<double>();
  to.queries = from.queries.template cast<double>();
  to.keys = from.keys.template cast<double>();
  to.values = from.values.template cast<double>();
  to.d_output = from.d_output.template cast<double>();
  to.inputs.key_weights = from.inputs.key_weights.template cast<double>();
  to.inputs.log_forgetting = from.inputs.log_forgetting.template cast<double>();
  to.initial = wide(from.initial);
  to.d_final = wide(from.d_final);
}

template <class S>
constexpr double gradient_tolerance = std::is_same_v<S, float> ? float_gradient_tolerance : autodiff_tolerance;

template <class S>
HeadInputs<S> inputs_of(const Segment& segment, const HeadInputs<S>& inputs) {
  HeadInputs<S> result;
  result.key_weights = segment.of(inputs.key_weights);
  result.log_forgetting = segment.of(inputs.log_forgetting);
  return result;
}

template <class M, class W>
void compare_mixtures(Comparisons& all, std::vector<M>& actual, std::vector<W>& expected) {
  using S = gma::Scalar<M>;
  // Parameters as one vector: some are exactly zero by symmetry.
  std::vector<double> numbers, truth;
  std::vector<S> bits;
  for (M& mixture : actual) {
    for_each_parameter(mixture, "", [&](const std::string&, auto& part) {
      for (Index i = 0; i < part.size(); ++i) bits.push_back(part.data()[i]);
      for (Index i = 0; i < part.size(); ++i) numbers.push_back(static_cast<double>(part.data()[i]));
    });
  }
  for (W& mixture : expected) {
    for_each_parameter(mixture, "", [&](const std::string&, auto& part) {
      for (Index i = 0; i < part.size(); ++i) truth.push_back(part.data()[i]);
    });
  }
  const auto map = [](std::vector<double>& v) { return Eigen::Map<Vector<double>>(v.data(), Index(v.size())); };
  all.add("mixtures", map(numbers), map(truth), gradient_tolerance<S>);
  Vector<S> same = Eigen::Map<Vector<S>>(bits.data(), Index(bits.size()));
  all.add_same(same);
}

/// Memories of one rank.
template <class S>
void compare_memories(Comparisons& all, const char* name, const std::vector<Memory<S>>& actual,
                      const std::vector<Memory<double>>& expected, double tolerance, bool is_compared_here) {
  for (std::size_t h = 0; h < expected.size(); ++h) {
    const Memory<S> memory = is_compared_here ? actual.at(h) : Memory<S>();
    const Memory<double> truth = is_compared_here ? expected[h] : Memory<double>();
    all.add(name, memory.slots, truth.slots, tolerance);
    all.add(name, memory.mass, truth.mass, tolerance);
    const double a = static_cast<double>(memory.log_forgetting), b = truth.log_forgetting;
    EXPECT_TRUE(a == b || std::abs(a - b) <= tolerance * (1 + std::abs(b))) << name << " " << a << " " << b;
  }
}

template <class M, class W>
void expect_causal(Index tokens, bool forgets, Normalization normalization, Cut cut) {
  using S = gma::Scalar<M>;
  SCOPED_TRACE(testing::Message() << "tokens " << tokens << " forgets " << forgets << " " << name_of(normalization)
                                  << " " << name_of(cut));
  const HeadsProblem<M> p(tokens, tokens, forgets, 7);
  HeadsProblem<W> whole(tokens, tokens, forgets, 7);
  widen(p, whole);
  Options options;
  options.normalization = normalization;

  std::vector<Memory<double>> memories = whole.initial;
  const Matrix<double> y =
      gma::causal(whole.mixtures, whole.queries, whole.keys, whole.values, memories, options, whole.inputs);
  HeadGradients<W> expected = gma::causal_backward(whole.mixtures, whole.queries, whole.keys, whole.values,
                                                   whole.d_output, whole.initial, whole.d_final, options, whole.inputs);

  const Segment s = segment_of(cut, tokens);
  const HeadInputs<S> inputs = inputs_of(s, p.inputs);
  gma::mpi::Carry<S> carry;
  if (ranks().rank() == 0) carry.before = p.initial;
  const Matrix<S> out =
      gma::mpi::causal(ranks(), p.mixtures, s.of(p.queries), s.of(p.keys), s.of(p.values), carry, options, inputs);
  Comparisons all;
  all.add("output", out, s.of(y), forward_tolerance<S>());
  compare_memories(all, "memories", carry.after, memories, forward_tolerance<S>(), ranks().is_last());

  const std::vector<Memory<S>> none;
  HeadGradients<M> gradients =
      gma::mpi::causal_backward(ranks(), p.mixtures, s.of(p.queries), s.of(p.keys), s.of(p.values), s.of(p.d_output),
                                carry, ranks().is_last() ? p.d_final : none, options, inputs);
  constexpr double tolerance = gradient_tolerance<S>;
  all.add("queries", gradients.queries, s.of(expected.queries), tolerance);
  all.add("keys", gradients.keys, s.of(expected.keys), tolerance);
  all.add("values", gradients.values, s.of(expected.values), tolerance);
  all.add("key_weights", gradients.key_weights, s.of(expected.key_weights), tolerance);
  all.add("log_forgetting", gradients.log_forgetting, s.of(expected.log_forgetting), tolerance);
  compare_memories(all, "gradients of memories", gradients.memories, expected.memories, tolerance, ranks().rank() == 0);
  compare_mixtures(all, gradients.mixtures, expected.mixtures);
  all.settle();
}

template <class M, class W>
void expect_bidirectional(Index tokens, Normalization normalization, Cut cut) {
  using S = gma::Scalar<M>;
  SCOPED_TRACE(testing::Message() << "tokens " << tokens << " " << name_of(normalization) << " " << name_of(cut));
  const Index query_tokens = tokens + 3;  // cross attention
  const HeadsProblem<M> p(tokens, query_tokens, false, 8);
  HeadsProblem<W> whole(tokens, query_tokens, false, 8);
  widen(p, whole);
  Options options;
  options.normalization = normalization;
  HeadInputs<double> all_inputs = whole.inputs;
  const Matrix<double> y =
      gma::bidirectional(whole.mixtures, whole.queries, whole.keys, whole.values, options, all_inputs);
  HeadGradients<W> expected = gma::bidirectional_backward(whole.mixtures, whole.queries, whole.keys, whole.values,
                                                          whole.d_output, options, all_inputs);

  const Segment s = segment_of(cut, tokens), q = segment_of(Cut::even, query_tokens);
  const HeadInputs<S> inputs = inputs_of(s, p.inputs);
  const Matrix<S> out =
      gma::mpi::bidirectional(ranks(), p.mixtures, q.of(p.queries), s.of(p.keys), s.of(p.values), options, inputs);
  Comparisons all;
  all.add("output", out, q.of(y), forward_tolerance<S>());
  HeadGradients<M> gradients = gma::mpi::bidirectional_backward(ranks(), p.mixtures, q.of(p.queries), s.of(p.keys),
                                                                s.of(p.values), q.of(p.d_output), options, inputs);
  constexpr double tolerance = gradient_tolerance<S>;
  all.add("queries", gradients.queries, q.of(expected.queries), tolerance);
  all.add("keys", gradients.keys, s.of(expected.keys), tolerance);
  all.add("values", gradients.values, s.of(expected.values), tolerance);
  all.add("key_weights", gradients.key_weights, s.of(expected.key_weights), tolerance);
  compare_mixtures(all, gradients.mixtures, expected.mixtures);
  all.settle();
}

template <template <class> class Flavour>
void expect_one(Normalization normalization, Cut cut) {
  for (const bool forgets : {false, true}) {
    expect_causal<Flavour<double>, Flavour<double>>(61, forgets, normalization, cut);
    expect_causal<Flavour<float>, Flavour<double>>(61, forgets, normalization, cut);
  }
  expect_bidirectional<Flavour<double>, Flavour<double>>(61, normalization, cut);
  expect_bidirectional<Flavour<float>, Flavour<double>>(61, normalization, cut);
}
template <class S>
using Flat = gma::Mixture<S, gma::Diagonal>;
template <class S>
using FullFlat = gma::Mixture<S, gma::Full>;
template <class S>
using Product = gma::ProductMixture<S, gma::Diagonal>;

TEST(MpiAttention, IsThatOfOneProcess) {
  for (const Cut cut : all_cuts) {
    for (const Normalization normalization : all_normalizations) expect_one<Flat>(normalization, cut);
  }
}
TEST(MpiAttention, IsThatOfOneProcessFull) { expect_one<FullFlat>(Normalization::slot, Cut::uneven); }
TEST(MpiAttention, IsThatOfOneProcessProduct) { expect_one<Product>(Normalization::slot, Cut::uneven); }

TEST(MpiAttention, FewerTokensThanRanks) {
  for (const Index tokens : {0, 1, 2}) {
    expect_causal<Flat<double>, Flat<double>>(tokens, true, Normalization::slot, Cut::even);
    expect_bidirectional<Flat<double>, Flat<double>>(tokens, Normalization::none, Cut::even);
  }
}

TEST(MpiAttention, LongStreamsKeepTheirRemainders) {
  expect_causal<Flat<float>, Flat<double>>(40000, false, Normalization::slot, Cut::even);
  expect_causal<Flat<float>, Flat<double>>(20000, true, Normalization::slot, Cut::uneven);
  expect_bidirectional<Flat<float>, Flat<double>>(40000, Normalization::slot, Cut::even);
}

TEST(MpiAttention, HasTheSameBitsInEveryRun) {
  const HeadsProblem<Flat<float>> p(500, 500, true, 9);
  const Segment s = segment_of(Cut::uneven, 500);
  const HeadInputs<float> inputs = inputs_of(s, p.inputs);
  Matrix<float> first, first_keys, first_means;
  for (int run = 0; run < 5; ++run) {
    gma::mpi::Carry<float> carry;
    const Matrix<float> out =
        gma::mpi::causal(ranks(), p.mixtures, s.of(p.queries), s.of(p.keys), s.of(p.values), carry, {}, inputs);
    const auto gradients = gma::mpi::causal_backward(ranks(), p.mixtures, s.of(p.queries), s.of(p.keys), s.of(p.values),
                                                     s.of(p.d_output), carry, {}, {}, inputs);
    if (run == 0) {
      first = out;
      first_keys = gradients.keys;
      first_means = gradients.mixtures[0].means;
    }
    EXPECT_TRUE((first.array() == out.array()).all());
    EXPECT_TRUE((first_keys.array() == gradients.keys.array()).all());
    EXPECT_TRUE((first_means.array() == gradients.mixtures[0].means.array()).all());
  }
}

/// Bytes and messages of one forward and backward pass over `tokens` tokens.
gma::mpi::Traffic traffic_of(Index tokens) {
  const HeadsProblem<Flat<float>> p(tokens, tokens, true, 9);
  const Segment s = segment_of(Cut::even, tokens);
  const HeadInputs<float> inputs = inputs_of(s, p.inputs);
  ranks().reset_traffic();
  gma::mpi::Carry<float> carry;
  gma::mpi::causal(ranks(), p.mixtures, s.of(p.queries), s.of(p.keys), s.of(p.values), carry, {}, inputs);
  gma::mpi::causal_backward(ranks(), p.mixtures, s.of(p.queries), s.of(p.keys), s.of(p.values), s.of(p.d_output), carry,
                            {}, {}, inputs);
  return ranks().traffic();
}

TEST(MpiAttention, BytesDoNotDependOnTheNumberOfTokens) {
  const gma::mpi::Traffic few = traffic_of(70), many = traffic_of(7000);
  EXPECT_EQ(few.bytes, many.bytes);
  EXPECT_EQ(few.messages, many.messages);
  EXPECT_EQ(few.agreements, 2);
  // Of the scan alone: per head 2 (K e + K) + 5 numbers in each round.
  const HeadsProblem<Flat<float>> p(70, 70, false, 9);
  const Segment s = segment_of(Cut::even, 70);
  ranks().reset_traffic();
  gma::mpi::Carry<float> carry;
  gma::mpi::causal(ranks(), p.mixtures, s.of(p.queries), s.of(p.keys), s.of(p.values), carry);
  std::int64_t rounds = 0;
  for (Index step = 1; step < ranks().size(); step *= 2) rounds += ranks().rank() + step < ranks().size() ? 1 : 0;
  EXPECT_EQ(ranks().traffic().messages, rounds);
  EXPECT_EQ(ranks().traffic().bytes, rounds * 2 * (2 * (6 * 3 + 6) + 5) * std::int64_t(sizeof(float)));
}

TEST(MpiAttention, WhatDoesNotFitIsFoundOnEveryRank) {
  if (ranks().size() == 1) GTEST_SKIP() << "one rank";
  const HeadsProblem<Flat<double>> p(30, 30, false, 3);
  const bool is_odd_one = ranks().is_last();
  const std::string last = std::to_string(ranks().size() - 1);
  const auto call = [&](const std::vector<Flat<double>>& mixtures, const Matrix<double>& queries,
                        const Matrix<double>& values, const Options& options) {
    return message_of([&] {
      gma::mpi::Carry<double> carry;
      gma::mpi::causal(ranks(), mixtures, queries, p.keys, values, carry, options);
    });
  };
  // An error of one rank.
  const Matrix<double> short_values = p.values.topRows(29);
  EXPECT_EQ(call(p.mixtures, p.queries, is_odd_one ? short_values : p.values, {}),
            "gma::mpi::causal: values has 29 tokens an entry, expected 30 (as many as keys), on rank " + last);
  // Widths, options, parameters.
  const Matrix<double> fewer = p.queries.leftCols(8);
  EXPECT_EQ(
      call(p.mixtures, is_odd_one ? fewer : p.queries, p.values, {}),
      "gma::mpi::causal: queries.cols() is 16 on rank 0 and 8 on rank " + last + ", expected the same on every rank");
  Options row;
  row.normalization = Normalization::row;
  EXPECT_EQ(call(p.mixtures, p.queries, p.values, is_odd_one ? row : Options()),
            "gma::mpi::causal: options.normalization is " + std::to_string(static_cast<int>(Normalization::slot)) +
                " on rank 0 and " + std::to_string(static_cast<int>(Normalization::row)) + " on rank " + last +
                ", expected the same on every rank");
  std::vector<Flat<double>> others = p.mixtures;
  others[1].means(2, 1) += 1e-14;
  EXPECT_EQ(call(is_odd_one ? others : p.mixtures, p.queries, p.values, {}),
            "gma::mpi::causal: the parameters of the mixtures differ between rank 0 and rank " + last +
                ", expected the same on every rank");
  // Inputs that only some ranks give.
  HeadInputs<double> weighted;
  weighted.key_weights = Vector<double>::Ones(30);
  EXPECT_EQ(message_of([&] {
              gma::mpi::bidirectional(ranks(), p.mixtures, p.queries, p.keys, p.values, {},
                                      is_odd_one ? HeadInputs<double>() : weighted);
            }),
            "gma::mpi::bidirectional: the presence of inputs.key_weights is 1 on rank 0 and 0 on rank " + last +
                ", expected the same on every rank");
  // Another verb.
  EXPECT_EQ(message_of([&] {
              gma::mpi::Carry<double> carry;
              if (is_odd_one) {
                gma::mpi::bidirectional(ranks(), p.mixtures, p.queries, p.keys, p.values);
              } else {
                gma::mpi::causal(ranks(), p.mixtures, p.queries, p.keys, p.values, carry);
              }
            }),
            "gma::mpi: rank 0 calls gma::mpi::causal and rank " + last +
                " gma::mpi::bidirectional, expected the same call on every rank");
  // What ranks do together cannot have sequences of its own.
  HeadInputs<double> packed;
  packed.sequences = gma::Sequences::packed({0, 10, 30});
  EXPECT_EQ(message_of([&] { gma::mpi::bidirectional(ranks(), p.mixtures, p.queries, p.keys, p.values, {}, packed); }),
            "gma::mpi::bidirectional: inputs has sequences, expected none: all ranks together hold one sequence, on "
            "rank 0");
  // And the job goes on.
  expect_causal<Flat<double>, Flat<double>>(31, true, Normalization::slot, Cut::even);
}

}  // namespace
