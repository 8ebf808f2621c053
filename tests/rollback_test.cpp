// SPDX-License-Identifier: MIT
// Tokens taken back: a stream goes on, to the bit, as if they had never been taken in; nothing is allocated on the way.
#include "allocation_counter.hpp"
// after it
#include <limits>
#include <stdexcept>

#include "gma/layer/rollback.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

/// The memories of two heads, decoding one stream a token at a time.
struct Decoder {
  std::vector<gma::CompiledMixture<float>> heads;
  Matrix<float> x, values;
  TokenInputs<float> tokens;
  gma::Workspace<float> workspace;
  Matrix<float> out;

  explicit Decoder(Index count) : out(1, 3) {
    Random random(1);
    for (const Index head : {1, 4}) {
      heads.push_back(every_family<float>(6, 4, Regime::generic, 2)[static_cast<std::size_t>(head)].second);
    }
    x = random.matrix<float>(count, 4);
    values = random.matrix<float>(count, 3);
    tokens = random_tokens<float>(count, true, random);
  }
  void step(Index t, std::vector<Memory<float>>& states) {
    for (std::size_t h = 0; h < heads.size(); ++h) step(t, states[h], h);
  }
  void step(Index t, Memory<float>& state, std::size_t head = 0) {
    one.key_weights = tokens.key_weights.segment(t, 1);
    one.log_forgetting = tokens.log_forgetting.segment(t, 1);
    gma::causal_into(out, heads[head], x.row(t), x.row(t), values.row(t), state, Options{}, one, workspace);
  }

 private:
  TokenInputs<float> one{Vector<float>(1), Vector<float>(1)};
};

Memory<float> fresh(const Memory<float>& /*type*/) { return gma::empty_memory<float>(6, 3); }
std::vector<Memory<float>> fresh(const std::vector<Memory<float>>& /*type*/) {
  return {gma::empty_memory<float>(6, 3), gma::empty_memory<float>(6, 3)};
}
bool same(const Memory<float>& a, const Memory<float>& b) { return same_bits(a, b); }
bool same(const std::vector<Memory<float>>& a, const std::vector<Memory<float>>& b) {
  return a.size() == b.size() && same_bits(a[0], b[0]) && same_bits(a[1], b[1]);
}

template <class State>
class Rollbacks : public testing::Test {};
using States = testing::Types<Memory<float>, std::vector<Memory<float>>>;
TYPED_TEST_SUITE(Rollbacks, States, );

TYPED_TEST(Rollbacks, RejectedTokensHaveNeverBeen) {
  Decoder decoder(40);
  TypeParam state = fresh(TypeParam()), plain = state;
  gma::Rollback<TypeParam> rollback(6);
  for (Index t = 0; t < 10; ++t) decoder.step(t, plain);
  for (Index t = 0; t < 10; ++t) {
    rollback.record(state);
    decoder.step(t, state);
  }
  for (Index round = 0; round < 7; ++round) {  // draft 5 tokens, reject 3, again and again
    const Index begin = 10 + 2 * round;
    for (Index t = begin; t < begin + 5; ++t) {
      rollback.record(state);
      decoder.step(t + 3, state);  // not the tokens that will be accepted in the end
    }
    EXPECT_EQ(rollback.available(), 6);
    rollback.rewind(state, 5);
    EXPECT_TRUE(same(state, plain));
    for (Index t = begin; t < begin + 5; ++t) {
      rollback.record(state);
      decoder.step(t, state);
    }
    rollback.rewind(state, 3);
    decoder.step(begin, plain);
    decoder.step(begin + 1, plain);
    EXPECT_TRUE(same(state, plain)) << round;
  }
  for (Index t = 24; t < 40; ++t) {
    decoder.step(t, state);
    const Matrix<float> y = decoder.out;
    decoder.step(t, plain);
    EXPECT_TRUE(same_bits(y, decoder.out));
  }
  EXPECT_TRUE(same(state, plain));
}

TYPED_TEST(Rollbacks, RewindByEveryNumberOfTokensAfterEveryNumberOfRecords) {
  constexpr Index capacity = 4;
  Decoder decoder(16);
  std::vector<TypeParam> history = {fresh(TypeParam())};
  for (Index t = 0; t < 16; ++t) {
    history.push_back(history.back());
    decoder.step(t, history.back());
  }
  for (Index records = 0; records <= 15; ++records) {
    const Index most = std::min(records, capacity);
    for (Index tokens = 0; tokens <= most; ++tokens) {
      gma::Rollback<TypeParam> rollback(capacity);
      for (Index t = 0; t < records; ++t) rollback.record(history[static_cast<std::size_t>(t)]);
      TypeParam state = history[static_cast<std::size_t>(records)];
      EXPECT_EQ(rollback.available(), most);
      rollback.rewind(state, tokens);
      EXPECT_TRUE(same(state, history[static_cast<std::size_t>(records - tokens)])) << records << ", " << tokens;
      EXPECT_EQ(rollback.available(), most - tokens);
      rollback.rewind(state, most - tokens);  // the rest, in a second go
      EXPECT_TRUE(same(state, history[static_cast<std::size_t>(records - most)])) << records << ", " << tokens;
      EXPECT_EQ(rollback.available(), 0);
    }
  }
}

TEST(Rollback, TooManyTokensAreRefusedAndNothingChanges) {
  gma::Rollback<int> rollback(3);
  EXPECT_EQ(rollback.capacity(), 3);
  int state = 7;
  expect_error([&] { rollback.rewind(state, 1); }, {"gma::Rollback::rewind", "tokens is 1", "expected 0 to 0"});
  for (state = 0; state < 5; ++state) rollback.record(state);
  expect_error([&] { rollback.rewind(state, 4); }, {"gma::Rollback::rewind", "tokens is 4", "expected 0 to 3"});
  expect_error([&] { rollback.rewind(state, -1); }, {"gma::Rollback::rewind", "tokens is -1"});
  EXPECT_EQ(state, 5);
  EXPECT_EQ(rollback.available(), 3);
  rollback.rewind(state, 0);
  EXPECT_EQ(state, 5);
  rollback.rewind(state, 3);
  EXPECT_EQ(state, 2);
  for (const Index capacity : {0, -2}) {
    expect_error([&] { gma::Rollback<int> none(capacity); }, {"gma::Rollback", "capacity is", "expected at least 1"});
  }
}

TEST(Rollback, TakesAnyCapacity) {
  for (const Index capacity : {std::numeric_limits<Index>::max(), std::numeric_limits<Index>::max() - 1,
                               std::numeric_limits<Index>::max() / 2 + 1}) {
    gma::Rollback<int> rollback(capacity);
    int state = 0;
    for (int round = 0; round < 3; ++round) {
      rollback.clear();
      for (state = 0; state < 5; ++state) rollback.record(state);
      EXPECT_EQ(rollback.available(), 5);
      rollback.rewind(state, 2);
      EXPECT_EQ(state, 3);
      for (; state < 7; ++state) rollback.record(state);
      rollback.rewind(state, 7);
      EXPECT_EQ(state, 0);
    }
  }
}

/// A state whose copy fails when it is told to.
struct Fragile {
  int value = 0;
  bool fails = false;
  Fragile& operator=(const Fragile& other) {
    if (other.fails) throw std::runtime_error("no memory");
    value = other.value;
    return *this;
  }
  Fragile(int v, bool f) : value(v), fails(f) {}
  Fragile(const Fragile&) = default;
  Fragile(Fragile&&) = default;
  Fragile& operator=(Fragile&&) = default;
};

TEST(Rollback, ARecordThatFailsIsNotThere) {
  gma::Rollback<Fragile> rollback(3);
  for (int i = 0; i < 5; ++i) rollback.record({i, false});
  EXPECT_THROW(rollback.record({5, true}), std::runtime_error);
  EXPECT_EQ(rollback.available(), 2);  // the oldest had to make room
  Fragile state(9, false);
  rollback.rewind(state, 2);
  EXPECT_EQ(state.value, 3);
  rollback.record(state);
  rollback.record({4, false});
  rollback.rewind(state, 1);
  EXPECT_EQ(state.value, 4);
}

TEST(Rollback, ClearForgetsTheRecords) {
  gma::Rollback<int> rollback(3);
  for (int state = 0; state < 5; ++state) rollback.record(state);
  rollback.clear();
  EXPECT_EQ(rollback.available(), 0);
  int state = 10;
  expect_error([&] { rollback.rewind(state, 1); }, {"expected 0 to 0"});
  for (; state < 12; ++state) rollback.record(state);
  rollback.rewind(state, 2);
  EXPECT_EQ(state, 10);
}

TYPED_TEST(Rollbacks, AllocateNothingOnceFull) {
  Decoder decoder(40);
  TypeParam state = fresh(TypeParam());
  for (Index t = 0; t < 40; ++t) decoder.step(t, state);  // sizes the workspace
  gma::Rollback<TypeParam> rollback(5);
  const auto draft = [&](Index begin) {
    for (Index t = begin; t < begin + 5; ++t) {
      rollback.record(state);
      decoder.step(t, state);
    }
    rollback.rewind(state, 3);
  };
  draft(0);
  const long allocations = allocations_of([&] {
    for (Index round = 1; round < 10; ++round) draft(2 * round);
    rollback.clear();
    draft(30);
  });
  EXPECT_EQ(allocations, 0);
}

}  // namespace
}  // namespace gma_test
