// SPDX-License-Identifier: MIT
// Tokens from a source: the same bits as one call however they are cut, a context that many readers share, and errors
// after which the memory holds what the sink has taken.
#include <algorithm>
#include <sstream>
#include <stdexcept>

#include "executors.hpp"
#include "gma/attention/stream.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

constexpr Index components = 5, dim = 3, width = 6;

template <class S>
struct Text {
  Matrix<S> queries, keys, values;
  TokenInputs<S> tokens;

  Index size() const { return keys.rows(); }
};

/// `forgetting`: g of about every token, 0: none is given. Some tokens are absent where weights are given.
template <class S>
Text<S> random_text(Index count, bool has_weights, double forgetting, std::uint64_t seed) {
  Random random(seed);
  Text<S> text{random.matrix<S>(count, dim), random.matrix<S>(count, dim), random.matrix<S>(count, width),
               TokenInputs<S>()};
  if (has_weights) {
    text.tokens.key_weights = Vector<S>::NullaryExpr(
        count, [&](Index i) { return i % 5 == 2 ? S(0) : static_cast<S>(0.5 + random.uniform()); });
  }
  if (forgetting < 0) {
    text.tokens.log_forgetting =
        Vector<S>::NullaryExpr(count, [&](Index) { return static_cast<S>(2 * forgetting * random.uniform()); });
  }
  return text;
}

template <class S>
gma::CompiledMixture<S> random_mixture() {
  Random random(1);
  gma::Mixture<S> mixture;
  randomize(mixture, components, dim, Regime::generic, random);
  return gma::compile(mixture);
}

/// Gives a text in blocks of these sizes, over and over. Throws before the block that would go beyond `limit`.
template <class S>
struct Source {
  const Text<S>* text;
  std::vector<Index> sizes;
  Index limit = std::numeric_limits<Index>::max();
  Index at = 0;
  std::size_t block = 0;

  bool operator()(gma::TokenBlock<S>& next) {
    const Index count = (std::min)(sizes[block++ % sizes.size()], text->size() - at);
    if (count == 0) return false;
    if (at + count > limit) throw std::runtime_error("the pipe broke");
    next.queries = text->queries.middleRows(at, count);
    next.keys = text->keys.middleRows(at, count);
    next.values = text->values.middleRows(at, count);
    next.tokens = part_of(text->tokens, at, count);
    at += count;
    return true;
  }
};

/// Keeps the outputs. Throws instead of taking those beyond `limit`.
template <class S>
struct Sink {
  Matrix<S> outputs;
  Index taken = 0;
  Index limit = std::numeric_limits<Index>::max();

  explicit Sink(Index count) : outputs(count, width) {}
  void operator()(const gma::ConstTile<S>& next) {
    if (taken + next.rows() > limit) throw std::length_error("the disk is full");
    outputs.middleRows(taken, next.rows()) = next;
    taken += next.rows();
  }
};

template <class S>
bool equal(const Memory<S>& a, const Memory<S>& b) {
  return same_bits(a, b) && a.tokens == b.tokens && same_bits(a.slots_remainder, b.slots_remainder) &&
         same_bits(a.mass_remainder, b.mass_remainder);
}

template <class S>
void check_same_bits(const Text<S>& text, const Memory<S>& before, const Options& options,
                     const std::vector<std::vector<Index>>& cuts) {
  const gma::CompiledMixture<S> mixture = random_mixture<S>();
  Memory<S> expected = before;
  const Matrix<S> whole = gma::causal(mixture, text.queries, text.keys, text.values, expected, options, text.tokens);
  gma::Workspace<S> workspace;  // of several streams
  Options with_segments = options;
  with_segments.segment = 70;  // which a stream ignores
  for (const std::vector<Index>& sizes : cuts) {
    SCOPED_TRACE("blocks of " + std::to_string(sizes.front()));
    Memory<S> memory = before;
    Sink<S> sink(text.size());
    EXPECT_EQ(gma::causal_stream(sink, mixture, Source<S>{&text, sizes}, memory, with_segments, workspace),
              text.size());
    EXPECT_EQ(sink.taken, text.size());
    EXPECT_TRUE(same_bits(sink.outputs, whole));
    EXPECT_TRUE(equal(memory, expected));
  }
}

template <class S>
struct Streams : testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(Streams, Scalars, );

// About the end of a tile of 96 and of a group of 960, a lone last token among them.
TYPED_TEST(Streams, HaveTheBitsOfOneCall) {
  using S = TypeParam;
  for (const Index count : {1, 2, 95, 96, 97, 193, 959, 960, 961, 962, 963, 1920, 1921, 1922, 2500}) {
    for (const double forgetting : {0.0, -1.0 / 300}) {
      SCOPED_TRACE(testing::Message() << count << " tokens, forgetting " << forgetting);
      Options options;
      options.normalization = all_normalizations[count % 3];
      const Text<S> text = random_text<S>(count, count % 2 == 0, forgetting, 7);
      check_same_bits<S>(text, {}, options, {{5000}, {1}, {960}, {961}, {7, 96, 500, 1}});
    }
  }
}

TYPED_TEST(Streams, HaveTheBitsOfOneCallWithAnyTile) {
  using S = TypeParam;
  const Text<S> text = random_text<S>(3001, true, -0.01, 8);
  for (const Index tile : {1, 40, 500, 1000, 1500, 3000, 10000}) {
    SCOPED_TRACE(tile);
    Options options;
    options.tile = tile;
    check_same_bits<S>(text, {}, options, {{5000}, {13, 999}});
  }
}

// From a memory that becomes long on the way, and from one that is long: the last token alone would be a decoding step.
TYPED_TEST(Streams, HaveTheBitsOfOneCallInLongStreams) {
  using S = TypeParam;
  const gma::CompiledMixture<S> mixture = random_mixture<S>();
  for (const double forgetting : {0.0, -1e-5}) {
    const Text<S> past = random_text<S>(40000, false, forgetting, 9);
    Memory<S> before;
    gma::write(mixture, past.keys, past.values, before, past.tokens);
    for (const Index count : {1, 961, 1921, 5000}) {
      SCOPED_TRACE(testing::Message() << count << " tokens, forgetting " << forgetting);
      check_same_bits<S>(random_text<S>(count, false, forgetting, 10), before, {}, {{5000}, {1}, {333}});
    }
    check_same_bits<S>(past, {}, {}, {{1000}});
  }
}

TYPED_TEST(Streams, GoOnFromOneAnother) {
  using S = TypeParam;
  const gma::CompiledMixture<S> mixture = random_mixture<S>();
  const Text<S> text = random_text<S>(3 * 960, true, -0.002, 11);
  const Text<S> empty{Matrix<S>(0, dim), Matrix<S>(0, dim), Matrix<S>(0, width), TokenInputs<S>()};
  Memory<S> memory, expected;
  Sink<S> sink(text.size());
  Source<S> none{&empty, {1}};
  EXPECT_EQ(gma::causal_stream(sink, mixture, none, memory), 0);  // a reference is taken, too
  EXPECT_EQ(none.block, 1u);
  EXPECT_EQ(gma::write_stream(mixture, none, memory), 0);
  EXPECT_TRUE(memory.empty());
  for (const Index begin : {0, 960, 1920}) {
    const Text<S> part{text.queries.middleRows(begin, 960), text.keys.middleRows(begin, 960),
                       text.values.middleRows(begin, 960), part_of(text.tokens, begin, 960)};
    gma::causal_stream(sink, mixture, Source<S>{&part, {100}}, memory);
  }
  const Matrix<S> whole = gma::causal(mixture, text.queries, text.keys, text.values, expected, {}, text.tokens);
  EXPECT_TRUE(same_bits(sink.outputs, whole));
  EXPECT_TRUE(close(memory, expected, forward_tolerance<S>()));
}

TYPED_TEST(Streams, WriteAContextOfAnySize) {
  using S = TypeParam;
  const gma::CompiledMixture<S> mixture = random_mixture<S>();
  const Threads threads(3);
  Options with_threads;
  with_threads.executor = &threads;
  for (const Index count : {1, 3071, 3072, 3073, 10000, 50001}) {
    for (const double forgetting : {0.0, -1.0 / 5000}) {
      SCOPED_TRACE(testing::Message() << count << " tokens, forgetting " << forgetting);
      const Text<S> text = random_text<S>(count, count % 2 == 1, forgetting, 12);
      Memory<S> whole, groups;
      gma::write(mixture, text.keys, text.values, whole, text.tokens);
      for (Index begin = 0; begin < count; begin += 32 * 96) {
        const Index now = (std::min)(Index(32 * 96), count - begin);
        gma::write(mixture, text.keys.middleRows(begin, now), text.values.middleRows(begin, now), groups,
                   part_of(text.tokens, begin, now));
      }
      for (const Index size : {100000, 1000, 17}) {
        Memory<S> memory, parallel;
        EXPECT_EQ(gma::write_stream(mixture, Source<S>{&text, {size}}, memory), count);
        EXPECT_TRUE(equal(memory, groups)) << size;
        gma::write_stream(mixture, Source<S>{&text, {size}}, parallel, with_threads);
        EXPECT_TRUE(equal(parallel, groups)) << size;
      }
      EXPECT_TRUE(close(groups, whole, forward_tolerance<S>()));
    }
  }
}

// Built once, saved, loaded, and read by threads at the same time, some of which go on from copies.
TYPED_TEST(Streams, ShareOneContextAmongReaders) {
  using S = TypeParam;
  const gma::CompiledMixture<S> mixture = random_mixture<S>();
  const Text<S> text = random_text<S>(40000, false, 0, 13), questions = random_text<S>(2000, false, 0, 14);
  Memory<S> built, loaded;
  gma::write_stream(mixture, Source<S>{&text, {777}}, built);
  std::stringstream file;
  gma::save(built, file);
  gma::load(loaded, file);
  ASSERT_TRUE(equal(loaded, built));
  const Memory<S>& context = loaded;
  const Matrix<S> expected = gma::read(mixture, questions.queries, built);
  Memory<S> after = built;
  const Matrix<S> expected_streams = gma::causal(mixture, questions.queries, questions.keys, questions.values, after);

  constexpr Index readers = 8;
  std::vector<Matrix<S>> read(readers), streamed(readers);
  std::vector<Memory<S>> forks(readers);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < static_cast<std::size_t>(readers); ++i) {
    threads.emplace_back([&, i] {
      read[i] = gma::read(mixture, questions.queries, context);
      forks[i] = context;
      Sink<S> sink(questions.size());
      gma::causal_stream(sink, mixture, Source<S>{&questions, {static_cast<Index>(100 + i)}}, forks[i]);
      streamed[i] = sink.outputs;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < static_cast<std::size_t>(readers); ++i) {
    EXPECT_TRUE(same_bits(read[i], expected));
    EXPECT_TRUE(same_bits(streamed[i], expected_streams));
    EXPECT_TRUE(equal(forks[i], after));
  }
  EXPECT_TRUE(equal(loaded, built));
}

// What a memory must hold after an error: the tokens that the sink has taken.
TYPED_TEST(Streams, StopAtAnErrorWithWhatWasTaken) {
  using S = TypeParam;
  const gma::CompiledMixture<S> mixture = random_mixture<S>();
  const Text<S> text = random_text<S>(5000, true, -0.001, 15);
  Memory<S> before;
  gma::write(mixture, text.keys.topRows(50), text.values.topRows(50), before);
  const auto after = [&](Index count) {
    Memory<S> memory = before;
    const Matrix<S> q = text.queries.topRows(count), k = text.keys.topRows(count), v = text.values.topRows(count);
    gma::causal(mixture, q, k, v, memory, {}, part_of(text.tokens, 0, count));
    return memory;
  };
  gma::Workspace<S> workspace;
  for (const Index limit : {0, 900, 961, 962, 2000, 4999}) {
    SCOPED_TRACE(limit);
    Memory<S> memory = before;
    Sink<S> sink(text.size());
    EXPECT_THROW(gma::causal_stream(sink, mixture, Source<S>{&text, {50}, limit}, memory, {}, workspace),
                 std::runtime_error);
    EXPECT_EQ(sink.taken, limit < 962 ? 0 : (limit / 50 * 50 - 2) / 960 * 960);
    EXPECT_TRUE(equal(memory, after(sink.taken)));

    memory = before;
    Sink<S> full(text.size());
    full.limit = limit;
    EXPECT_THROW(gma::causal_stream(full, mixture, Source<S>{&text, {50}}, memory, {}, workspace), std::length_error);
    EXPECT_EQ(full.taken, limit / 960 * 960);
    EXPECT_TRUE(equal(memory, after(full.taken)));

    memory = before;
    EXPECT_THROW(gma::write_stream(mixture, Source<S>{&text, {50}, limit}, memory, {}, workspace), std::runtime_error);
    EXPECT_TRUE(equal(memory, before));
  }
}

TEST(StreamErrors, NameTheBlockAndChangeNothing) {
  const gma::CompiledMixture<float> mixture = random_mixture<float>();
  const Text<float> text = random_text<float>(4000, false, -0.001, 16);
  const Memory<float> before = gma::empty_memory<float>(components, width);
  using Block = gma::TokenBlock<float>;
  // The third block of 10 tokens is spoiled.
  const auto expect = [&](const std::vector<std::string>& words, bool is_context, const auto& spoil) {
    Source<float> good{&text, {10}};
    const auto source = [&](Block& block) {
      if (!good(block)) return false;
      if (good.block == 3) spoil(block);
      return true;
    };
    Memory<float> memory = before;
    Sink<float> sink(text.size());
    expect_error([&] { gma::causal_stream(sink, mixture, source, memory); }, words);
    EXPECT_TRUE(equal(memory, before));
    EXPECT_EQ(sink.taken, 0);
    if (!is_context) return;
    good = Source<float>{&text, {10}};
    std::vector<std::string> other = words;
    if (other.front() == "gma::causal_stream: ") other.front() = "gma::write_stream: ";
    expect_error([&] { gma::write_stream(mixture, source, memory); }, other);
    EXPECT_TRUE(equal(memory, before));
  };
  const std::string name = "gma::causal_stream: ";
  expect({name, "source, block at token 20: queries is 10 x 2, expected 10 x 3"}, false,
         [](Block& b) { b.queries.resize(10, 2); });
  expect({name, "block at token 20: queries is 9 x 3, expected 10 x 3"}, false,
         [](Block& b) { b.queries.resize(9, 3); });
  expect({name, "block at token 20: keys is 10 x 4, expected 10 x 3 (keys x routing width)"}, true,
         [](Block& b) { b.keys.resize(10, 4); });
  expect({name, "block at token 20: values is 10 x 5, expected 10 x 6 (keys x value width)"}, true,
         [](Block& b) { b.values.resize(10, 5); });
  expect({name, "block at token 20: values is 11 x 6, expected 10 x 6"}, true,
         [](Block& b) { b.values.resize(11, 6); });
  expect({name, "keys has no row, expected 1 or more: a source without more tokens returns false"}, true,
         [](Block& b) { b.keys.resize(0, 3); });
  expect({name, "tokens.log_forgetting has 0 coefficients, expected 10 (empty in all blocks, or in none)"}, true,
         [](Block& b) { b.tokens.log_forgetting.resize(0); });
  expect({name, "tokens.key_weights has 10 coefficients, expected 0"}, true,
         [](Block& b) { b.tokens.key_weights.setOnes(10); });
  expect({name, "tokens.log_forgetting has 9 coefficients, expected 10"}, true,
         [](Block& b) { b.tokens.log_forgetting.setZero(9); });
  expect({name, "tokens.log_forgetting is 1 at token 4"}, true, [](Block& b) { b.tokens.log_forgetting(4) = 1; });

  Memory<float> other = gma::empty_memory<float>(components + 1, width);
  Sink<float> sink(text.size());
  Source<float> source{&text, {10}};
  expect_error([&] { gma::causal_stream(sink, mixture, source, other); }, {name, "memory.slots is 6 x 6"});
  expect_error([&] { gma::write_stream(mixture, source, other); }, {"gma::write_stream: memory.slots is 6 x 6"});
  other = gma::empty_memory<float>(components, width + 1);
  expect_error([&] { gma::causal_stream(sink, mixture, source, other); }, {"values is 10 x 6, expected 10 x 7"});
  Options options;
  options.tile = -1;
  expect_error([&] { gma::causal_stream(sink, mixture, source, other, options); }, {name, "options.tile is -1"});
  EXPECT_EQ(sink.taken, 0);
}

}  // namespace
}  // namespace gma_test
