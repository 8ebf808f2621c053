// SPDX-License-Identifier: MIT
// Streams of a layer: saved, loaded and continued to the bit; corrupt and foreign files that change nothing; drafts
// that are taken back.
#include "gma/layer/layer_state.hpp"

#include <cstdint>
#include <limits>
#include <sstream>

#include "gma/layer/layer_forward.hpp"
#include "gma/layer/layer_initialization.hpp"
#include "gma/layer/rollback.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

using gma::LayerState;

gma::LayerConfig small_config() {
  gma::LayerConfig config;
  config.width = 8;
  config.heads = 2;
  config.components = {2, 2};
  config.window = 3;
  return config;
}

template <class S>
bool same_state(const LayerState<S>& a, const LayerState<S>& b) {
  bool same = a.position == b.position && same_bits(a.history, b.history) && same_bits(a.window_keys, b.window_keys) &&
              same_bits(a.window_values, b.window_values) && a.memories.size() == b.memories.size();
  for (std::size_t h = 0; same && h < a.memories.size(); ++h) same = same_bits(a.memories[h], b.memories[h]);
  return same;
}

template <class S>
std::string saved(const LayerState<S>& state) {
  std::ostringstream stream;
  gma::save(state, stream);
  return stream.str();
}
template <class S>
void load_from(LayerState<S>& state, const std::string& bytes) {
  std::istringstream stream(bytes);
  gma::load(state, stream);
}

template <class S>
class LayerStates : public testing::Test {
 protected:
  gma::CompiledLayer<S> layer = gma::compile(gma::random_layer<S>(small_config(), 3));
  Random random{4};
  LayerState<S> state = gma::begin_stream(layer);
  LayerStates() { gma::forward(layer, random.matrix<S>(20, 8), state); }
};
using Scalars = testing::Types<float, double>;
struct ScalarNames {
  template <class S>
  static std::string GetName(int) {
    return sizeof(S) == 4 ? "float" : "double";
  }
};
TYPED_TEST_SUITE(LayerStates, Scalars, ScalarNames);

TYPED_TEST(LayerStates, SavedLoadedAndContinuedIsContinued) {
  using S = TypeParam;
  const std::string bytes = saved(this->state);
  EXPECT_EQ(bytes.size(), gma::serialized_size(this->state));
  LayerState<S> other = gma::begin_stream(this->layer);
  load_from(other, bytes);
  EXPECT_TRUE(same_state(other, this->state));
  const Matrix<S> x = this->random.template matrix<S>(15, 8);
  EXPECT_TRUE(same_bits(gma::forward(this->layer, x, other), gma::forward(this->layer, x, this->state)));
  EXPECT_TRUE(same_state(other, this->state));
}

TYPED_TEST(LayerStates, EveryCutAndEveryChangedByteIsRefused) {
  using S = TypeParam;
  const std::string bytes = saved(this->state);
  LayerState<S> target = gma::begin_stream(this->layer);
  const LayerState<S> before = target;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    EXPECT_THROW(load_from(target, bytes.substr(0, i)), std::runtime_error) << i;
    std::string changed = bytes;
    changed[i] = static_cast<char>(changed[i] ^ 0x10);
    EXPECT_THROW(load_from(target, changed), std::runtime_error) << i;
  }
  EXPECT_TRUE(same_state(target, before));
}

TYPED_TEST(LayerStates, OtherShapesAreRefusedByName) {
  using S = TypeParam;
  const std::string bytes = saved(this->state);
  const auto expect = [&](const std::vector<std::string>& words, const auto& change) {
    gma::LayerConfig config = small_config();
    change(config);
    LayerState<S> target = gma::begin_stream(gma::random_layer<S>(config, 1));
    const LayerState<S> before = target;
    expect_error<std::runtime_error>([&] { load_from(target, bytes); }, words);
    EXPECT_TRUE(same_state(target, before));
  };
  expect({"gma::load: ", "layer state", "it has 2 memories, expected 1"}, [](gma::LayerConfig& c) { c.heads = 1; });
  expect({"its history is 3 x 24, expected 2 x 24"}, [](gma::LayerConfig& c) { c.convolution = 3; });
  expect({"its window of keys is 2 x 8, expected 4 x 8"}, [](gma::LayerConfig& c) { c.window = 5; });
  expect({"its window of keys is 2 x 8, expected 0 x 0"}, [](gma::LayerConfig& c) { c.window = 0; });
  expect({"memory 0 is 4 x 4, expected 8 x 4"}, [](gma::LayerConfig& c) { c.components = {4, 2}; });
  std::ostringstream foreign;
  gma::save(this->state.memories[0], foreign);
  expect_error<std::runtime_error>([&] { load_from(this->state, foreign.str()); }, {"GMAMEMRY", "expected GMASTATE"});
}

/// `bytes` with the checksum that fits.
std::string with_checksum(std::string bytes) {
  const std::size_t end = bytes.size() - 8;
  gma::detail::to_little_endian(gma::detail::fnv_1a(gma::detail::fnv_start, &bytes[8], end - 8), &bytes[end]);
  return bytes;
}

TYPED_TEST(LayerStates, NumbersThatNoStreamLeavesAreNeitherSavedNorLoaded) {
  using S = TypeParam;
  const LayerState<S> before = this->state;
  const std::string bytes = saved(before);
  const auto expect = [&](const std::vector<std::string>& words, const auto& spoil, std::size_t at, auto value) {
    LayerState<S> spoilt = before;
    spoil(spoilt);
    std::ostringstream stream;
    expect_error([&] { gma::save(spoilt, stream); }, words);
    EXPECT_TRUE(stream.str().empty());
    std::string changed = bytes;
    gma::detail::to_little_endian(value, &changed[at]);
    LayerState<S> target = before;
    expect_error<std::runtime_error>([&] { load_from(target, with_checksum(changed)); }, words);
    EXPECT_TRUE(same_state(target, before));
  };
  const S nan = std::numeric_limits<S>::quiet_NaN();
  // Of the last memory, before its flags and the checksum: 4 masses, the forgetting and the number of tokens.
  const auto from_the_end = [&](std::size_t numbers) { return bytes.size() - 12 - numbers * sizeof(S); };
  expect(
      {"memory 1: mass is nan at slot 0"}, [&](auto& s) { s.memories[1].mass(0) = nan; }, from_the_end(6), nan);
  expect(
      {"memory 1: mass is -0.5 at slot 3"}, [&](auto& s) { s.memories[1].mass(3) = S(-0.5); }, from_the_end(3),
      S(-0.5));
  expect(
      {"memory 1: log_forgetting is 1"}, [&](auto& s) { s.memories[1].log_forgetting = 1; }, from_the_end(2), S(1));
  const Index most = (std::numeric_limits<Index>::max)();
  expect(
      {"position is"}, [&](auto& s) { s.position = most; }, 20, std::int64_t{most});
  expect(
      {"position is"}, [&](auto& s) { s.position = -1; }, 20, std::int64_t{-1});
}

TYPED_TEST(LayerStates, StreamsAsLongAsAnyGoOn) {
  using S = TypeParam;
  this->state.position = sizeof(Index) > 4 ? Index(1) << (sizeof(Index) * 8 - 4) : 1000;  // many more than a size
  LayerState<S> other = gma::begin_stream(this->layer);
  load_from(other, saved(this->state));
  EXPECT_TRUE(same_state(other, this->state));
}

TYPED_TEST(LayerStates, OneNaNIsMetWhenTheStateIsSaved) {
  using S = TypeParam;
  gma::LayerConfig config = small_config();
  config.has_forgetting = false;
  const auto plain = gma::random_layer<S>(config, 1);
  LayerState<S> poisoned = gma::begin_stream(plain);
  Matrix<S> x = this->random.template matrix<S>(3, 8);
  x(1, 0) = std::numeric_limits<S>::quiet_NaN();
  gma::forward(plain, x, poisoned);
  expect_error([&] { saved(poisoned); }, {"gma::save", "memory 0: mass is", "expected a number >= 0"});
}

TYPED_TEST(LayerStates, RejectedDraftsLeaveNoTrace) {
  using S = TypeParam;
  gma::Rollback<LayerState<S>> rollback(4);
  LayerState<S> drafted = this->state, plain = this->state;
  const Matrix<S> x = this->random.template matrix<S>(6, 8);
  for (Index t = 0; t < 4; ++t) {
    rollback.record(drafted);
    gma::step(this->layer, x.row(t), drafted);
  }
  rollback.rewind(drafted, 3);
  gma::step(this->layer, x.row(0), plain);
  EXPECT_TRUE(same_state(drafted, plain));
  EXPECT_TRUE(same_bits(gma::step(this->layer, x.row(5), drafted), gma::step(this->layer, x.row(5), plain)));
}

}  // namespace
}  // namespace gma_test
