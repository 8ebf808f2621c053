// SPDX-License-Identifier: MIT
//
// A stream gives the same numbers for any number of threads, in however many parts it is read, and from any source; its
// memory does not grow with the text; and errors leave the saved state alone.

#include <gtest/gtest.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "endless_text/report.hpp"
#include "language_model/model.hpp"
#include "transformer/write_file.hpp"

namespace {

namespace et = endless_text;
namespace lm = language_model;
using lm::Index;

constexpr lm::MixerKind mixers[] = {lm::MixerKind::gma,       lm::MixerKind::gma_plain, lm::MixerKind::linear,
                                    lm::MixerKind::performer, lm::MixerKind::mamba,     lm::MixerKind::delta};

lm::Checkpoint small_model(lm::MixerKind mixer = lm::MixerKind::gma, std::uint64_t seed = 1) {
  lm::Checkpoint checkpoint;
  lm::ModelConfig& config = checkpoint.model;
  config.mixer = mixer;
  config.layers = 2;
  config.width = 16;
  config.heads = 2;
  config.mlp_width = 16;
  config.components = {4, 4};
  config.plain_components = 6;
  config.state = 8;
  config.mamba_head = 8;
  const lm::Model<float> model(config);
  checkpoint.state.parameters = model.initial_parameters(seed);
  transformer::Random random(seed, 3);  // branches start at zero
  for (float& p : checkpoint.state.parameters) p += float(0.1 * random.normal());
  return checkpoint;
}

// Bytes of every value, a little regular.
char byte_at(std::int64_t i) { return i % 3 == 0 ? ' ' : char(unsigned(i * i % 251) ^ unsigned(i >> 7)); }
std::string text_of(std::int64_t count) {
  std::string text;
  for (std::int64_t i = 0; i < count; ++i) text += byte_at(i);
  return text;
}

// A text in pieces of up to `most` bytes, as from a pipe. At byte `interrupt_at` somebody presses Ctrl-C.
struct TextSource {
  const std::string* text;
  std::size_t at = 0, most = 1000, interrupt_at = std::string::npos;

  std::size_t operator()(char* to, std::size_t wanted) {
    if (at == interrupt_at) {
      interrupt_at = std::string::npos;
      std::raise(SIGINT);
      return 0;
    }
    const std::size_t count =
        (std::min)({wanted, most, text->size() - at, (at < interrupt_at ? interrupt_at : at + wanted) - at});
    std::copy_n(text->data() + at, count, to);
    at += count;
    return count;
  }
};

et::ReadOptions options_of(Index chunk, const std::string& state = {}) {
  et::ReadOptions options;
  options.chunk = chunk;
  options.threads = 2;
  options.is_quiet = true;
  options.state = state;
  return options;
}

std::string scratch(const char* name) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / (std::string("endless_text_") + name);
  std::filesystem::remove(path);
  return path.string();
}
std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

template <class Call>
void expect_error(const Call& call, const std::string& words) {
  try {
    call();
    ADD_FAILURE() << "no error; expected one that says " << words;
  } catch (const std::exception& error) {
    EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what() << " lacks " << words;
  }
}

TEST(EndlessText, PredictsAsOnePassOverTheWholeText) {
  const std::string text = text_of(3001);
  for (const lm::MixerKind mixer : mixers) {
    SCOPED_TRACE(lm::name_of(mixer));
    const lm::Checkpoint checkpoint = small_model(mixer);
    lm::Model<float> model(checkpoint.model);
    model.prepare(checkpoint.state.parameters);
    auto cache = model.make_cache();
    std::vector<lm::Token> tokens;
    for (const char c : text) tokens.push_back(lm::Token(static_cast<unsigned char>(c)));
    model.forward(checkpoint.state.parameters, tokens.data(), 3000, nullptr, cache);
    const double expected = model.losses(tokens.data() + 1, cache);
    const et::ReadResult result = et::read_text(checkpoint, TextSource{&text}, options_of(256));
    EXPECT_TRUE(result.is_complete);
    EXPECT_EQ(result.losses.total().bytes, 3000);
    EXPECT_NEAR(result.losses.total().nats, expected, 1e-5 * expected);
  }
}

TEST(EndlessText, CountsBytesByPosition) {
  const std::string text = text_of(5000);
  const et::Losses losses = et::read_text(small_model(), TextSource{&text}, options_of(256)).losses;
  ASSERT_EQ(losses.bands().size(), 8u);
  double nats = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    const et::Span& band = losses.bands()[i];
    EXPECT_EQ(band.begin, i == 0 ? 0 : 32ll << i);
    EXPECT_EQ(band.end, 64ll << i);
    EXPECT_EQ(band.bytes, i == 0 ? 63 : i == 7 ? 4999 - 4095 : 32ll << i);
    nats += band.nats;
  }
  EXPECT_NEAR(nats, losses.total().nats, 1e-9 * nats);
  ASSERT_EQ(losses.megabytes().size(), 1u);
  EXPECT_EQ(losses.megabytes()[0].nats, losses.total().nats);

  et::Losses long_text;
  for (Index i = 0; i < 2 * et::megabyte; ++i)
    long_text.add(i + 1 < et::megabyte ? 1 : i + 1 < 2 * et::megabyte ? 2 : 5);
  ASSERT_EQ(long_text.megabytes().size(), 3u);
  EXPECT_EQ(long_text.megabytes()[0].bytes, et::megabyte - 1);
  EXPECT_EQ(long_text.megabytes()[0].nats, double(et::megabyte - 1));
  EXPECT_EQ(long_text.megabytes()[1].nats, 2.0 * et::megabyte);
  EXPECT_EQ(long_text.megabytes()[2].nats, 5.0);
  EXPECT_EQ(long_text.bands().back().begin, 1ll << 20);
}

TEST(EndlessText, HasTheSameBitsForAnyThreadsAndPieces) {
  const std::string text = text_of(5000);
  const lm::Checkpoint checkpoint = small_model();
  const std::string expected = et::csv(et::read_text(checkpoint, TextSource{&text}, options_of(300)));
  for (const Index threads : {1, 3, 5}) {
    for (const std::size_t most : {std::size_t(1), std::size_t(299), std::size_t(1) << 20}) {
      et::ReadOptions options = options_of(300);
      options.threads = threads;
      EXPECT_EQ(et::csv(et::read_text(checkpoint, TextSource{&text, 0, most}, options)), expected) << threads << most;
    }
  }
  // A stream that begins later is that of the rest of the text.
  et::ReadOptions options = options_of(300);
  options.begin = 1234;
  options.bytes = 2000;
  const std::string rest = text.substr(1234, 2000);
  EXPECT_EQ(et::csv(et::read_text(checkpoint, TextSource{&text}, options)),
            et::csv(et::read_text(checkpoint, TextSource{&rest}, options_of(300))));
}

// Interrupted inside a chunk and at its ends, before anything and after everything.
TEST(EndlessText, InterruptedAndResumedHasTheSameBits) {
  const std::string text = text_of(6500), state = scratch("interrupted.state");
  for (const lm::MixerKind mixer : mixers) {
    SCOPED_TRACE(lm::name_of(mixer));
    const lm::Checkpoint checkpoint = small_model(mixer);
    const std::string expected = et::csv(et::read_text(checkpoint, TextSource{&text}, options_of(250)));
    for (const bool is_feed : {false, true}) {
      std::filesystem::remove(state);
      et::ReadOptions options = options_of(250, state);
      options.is_feed = is_feed;
      options.save_every = is_feed ? 0 : 60;
      TextSource source{&text};
      for (const Index at : {0, 1, 251, 500, 4321, 4322, 6500}) {
        source.interrupt_at = std::size_t(at);
        const et::ReadResult part = et::read_text(checkpoint, std::ref(source), options);
        EXPECT_FALSE(part.is_complete);
        EXPECT_EQ(part.losses.total().bytes, at == 0 ? 0 : (at - 1) / 250 * 250);
        if (!is_feed) source.at = 0;
      }
      const et::ReadResult whole = et::read_text(checkpoint, std::ref(source), options);
      EXPECT_TRUE(whole.is_complete);
      EXPECT_EQ(et::csv(whole), expected);
      EXPECT_LE(whole.bytes_here, 250);
      // Once more, when nothing is left.
      if (!is_feed) source.at = 0;
      EXPECT_EQ(et::csv(et::read_text(checkpoint, std::ref(source), options)), expected);
    }
  }
}

TEST(EndlessText, GoesOnWhenTheTextHasGrown) {
  const std::string text = text_of(6000), beginning = text.substr(0, 3333), state = scratch("grown.state");
  const lm::Checkpoint checkpoint = small_model();
  const std::string expected = et::csv(et::read_text(checkpoint, TextSource{&text}, options_of(256)));
  const et::ReadResult first = et::read_text(checkpoint, TextSource{&beginning}, options_of(256, state));
  EXPECT_TRUE(first.is_complete);
  EXPECT_EQ(first.losses.total().bytes, 3332);
  et::ReadOptions options = options_of(256, state);
  options.bytes = 5001;
  EXPECT_EQ(et::read_text(checkpoint, TextSource{&text}, options).losses.total().bytes, 5000);
  EXPECT_EQ(et::csv(et::read_text(checkpoint, TextSource{&text}, options_of(256, state))), expected);
}

TEST(EndlessText, ErrorsLoseNothing) {
  const std::string text = text_of(4000), state = scratch("errors.state");
  const lm::Checkpoint checkpoint = small_model();
  et::ReadOptions options = options_of(256, state);
  options.bytes = 2000;
  et::read_text(checkpoint, TextSource{&text}, options);
  const std::string saved = contents(state);
  ASSERT_GT(saved.size(), 1000u);
  options.bytes = -1;
  const auto expect = [&](const std::string& words, const lm::Checkpoint& model, const std::string& other,
                          const et::ReadOptions& changed) {
    expect_error([&] { et::read_text(model, TextSource{&other}, changed); }, words);
    EXPECT_TRUE(contents(state) == saved) << words;
  };
  std::string other = text;
  other[1000] ^= 1;
  expect("is of another text: the first 2000 bytes differ", checkpoint, other, options);
  expect("the text has 1999 bytes, expected more than the 2000", checkpoint, text.substr(0, 1999), options);
  expect("through another model", small_model(lm::MixerKind::gma, 2), text, options);
  expect("through another model", small_model(lm::MixerKind::mamba), text, options);
  et::ReadOptions changed = options;
  changed.chunk = 255;
  expect("was read in chunks of 256 bytes", checkpoint, text, changed);
  changed = options;
  changed.begin = 1;
  expect("began at byte 0", checkpoint, text, changed);
  changed = options;
  changed.bytes = 1999;
  expect("is longer than the bytes asked for", checkpoint, text, changed);
  changed = options;
  changed.chunk = 0;
  expect("the chunk is 0", checkpoint, text, changed);
  expect("the mixer of the model is sdpa", small_model(lm::MixerKind::sdpa), text, options);

  // Files that are damaged anywhere.
  for (std::size_t i = 0; i < saved.size(); i += 1 + saved.size() / 50) {
    std::string damaged = saved;
    damaged[i] ^= 4;
    transformer::write_file(state, damaged);
    expect_error([&] { et::read_text(checkpoint, TextSource{&text}, options); }, "cannot go on from the state");
    transformer::write_file(state, saved.substr(0, i));
    expect_error([&] { et::read_text(checkpoint, TextSource{&text}, options); }, "cannot go on from the state");
  }
  transformer::write_file(state, saved);

  // A source that fails after some more chunks: what it gave is not lost.
  TextSource good{&text};
  const et::ByteSource bad = [&](char* to, std::size_t most) {
    if (good.at == 3500) throw std::runtime_error("the cable is cut");
    return good(to, (std::min)(most, 3500 - good.at));
  };
  expect_error([&] { et::read_text(checkpoint, bad, options); }, "the cable is cut");
  EXPECT_FALSE(contents(state) == saved);
  const et::ReadResult rest = et::read_text(checkpoint, TextSource{&text}, options);
  EXPECT_EQ(rest.bytes_here, 500);
  EXPECT_EQ(et::csv(rest), et::csv(et::read_text(checkpoint, TextSource{&text}, options_of(256))));
}

#ifdef __GLIBC__
// Ten times the text, and no more bytes of the heap in use, by what the C library counts. Resident memory also has what
// the heap keeps for later, which threads let grow by a megabyte or so.
TEST(EndlessText, NeedsNoMoreMemoryForTenTimesTheText) {
  ASSERT_EQ(mallopt(M_ARENA_MAX, 1), 1);  // mallinfo2() counts one arena
  for (const lm::MixerKind mixer : mixers) {
    SCOPED_TRACE(lm::name_of(mixer));
    const lm::Checkpoint checkpoint = small_model(mixer);
    const auto most_in_use = [&](std::int64_t count) {
      std::int64_t at = 0;
      std::size_t most = 0;
      const et::ByteSource source = [&](char* to, std::size_t room) {
        const struct mallinfo2 heap = mallinfo2();
        most = (std::max)(most, heap.uordblks + heap.hblkhd);
        const std::int64_t now = (std::min)(std::int64_t(room), count - at);
        for (std::int64_t i = 0; i < now; ++i) to[i] = byte_at(at++);
        return std::size_t(now);
      };
      et::ReadOptions options = options_of(512, scratch("memory.state"));
      options.save_every = 0.1;
      const et::ReadResult result = et::read_text(checkpoint, source, options);
      EXPECT_EQ(result.losses.total().bytes, count - 1);
      EXPECT_GT(result.peak_resident_bytes, 0);
      return static_cast<std::int64_t>(most);
    };
    const std::int64_t once = most_in_use(30000), ten_times = most_in_use(300000);
    EXPECT_LE(ten_times - once, 50000) << once;
  }
}
#endif

}  // namespace
