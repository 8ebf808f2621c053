// SPDX-License-Identifier: MIT
// Saved memories: to the bit and to the byte what was there, and every damaged stream refused with the memory left as
// it was.
#include <limits>
#include <sstream>
#include <streambuf>

#include "support.hpp"

namespace gma_test {
namespace {

constexpr std::ios::openmode binary = std::ios::in | std::ios::out | std::ios::binary;

template <class S>
std::string saved(const Memory<S>& memory) {
  std::ostringstream stream(binary);
  gma::save(memory, stream);
  return stream.str();
}

template <class S>
Memory<S> loaded(const std::string& bytes) {
  std::istringstream stream(bytes, binary);
  Memory<S> memory;
  gma::load(memory, stream);
  return memory;
}

template <class S>
Memory<S> random_memory(Index components, Index width, std::uint64_t seed) {
  Random random(seed);
  return {random.matrix<S>(components, width), random.vector<S>(components).cwiseAbs(), static_cast<S>(-0.25)};
}

/// The stream is refused, with all of `words` in the message, and the target keeps every bit.
template <class S>
void expect_refused(const std::string& bytes, const std::vector<std::string>& words) {
  std::istringstream stream(bytes, binary);
  const Memory<S> before = random_memory<S>(2, 3, 99);
  Memory<S> target = before;
  std::vector<std::string> all = {"gma::load", "memory"};
  all.insert(all.end(), words.begin(), words.end());
  expect_error<std::runtime_error>([&] { gma::load(target, stream); }, all);
  EXPECT_TRUE(same_bits(target, before));
}

/// `bytes` with one integer replaced, little-endian, and the checksum that then fits.
template <class Integer>
std::string replaced(std::string bytes, std::size_t at, Integer value) {
  gma::detail::to_little_endian(value, &bytes[at]);
  const std::size_t end = bytes.size() - 8;
  gma::detail::to_little_endian(gma::detail::fnv_1a(gma::detail::fnv_start, bytes.data() + 8, end - 8), &bytes[end]);
  return bytes;
}

template <class S>
class Serialization : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(Serialization, Scalars, );

TYPED_TEST(Serialization, RoundTripsToTheBit) {
  using S = TypeParam;
  const Index shapes[][2] = {{0, 0}, {0, 4}, {1, 0}, {5, 0}, {1, 1}, {7, 3}, {64, 65}, {300, 700}};
  for (const auto& shape : shapes) {
    const Memory<S> memory = random_memory<S>(shape[0], shape[1], 1);
    const std::string bytes = saved(memory);
    EXPECT_TRUE(same_bits(loaded<S>(bytes), memory)) << shape[0] << " x " << shape[1];
    EXPECT_EQ(bytes.size(), gma::serialized_size(memory)) << shape[0] << " x " << shape[1];
  }
  EXPECT_TRUE(loaded<S>(saved(Memory<S>())).empty());
}

TYPED_TEST(Serialization, KeepsExtremeNumbers) {
  using S = TypeParam;
  using Limits = std::numeric_limits<S>;
  Memory<S> memory = gma::empty_memory<S>(3, 3);
  memory.slots << Limits::quiet_NaN(), -Limits::infinity(), Limits::infinity(), Limits::denorm_min(), -S(0),
      (Limits::max)(), (Limits::min)(), Limits::lowest(), S(1) / S(3);
  memory.mass << -S(0), Limits::denorm_min(), Limits::infinity();
  memory.log_forgetting = -Limits::infinity();
  EXPECT_TRUE(same_bits(loaded<S>(saved(memory)), memory));
}

TYPED_TEST(Serialization, SaveLoadContinueEqualsContinueToTheBit) {
  using S = TypeParam;
  Random random(3);
  const Matrix<S> x = random.matrix<S>(40, 4), values = random.matrix<S>(40, 3);
  const TokenInputs<S> tokens = random_tokens<S>(40, true, random);
  const TokenInputs<S> first = part_of(tokens, 0, 25), rest = part_of(tokens, 25, 15);
  for (const auto& [name, mixture] : every_family<S>(6, 4, Regime::generic, 2)) {
    Memory<S> memory;
    gma::causal(mixture, x.topRows(25), x.topRows(25), values.topRows(25), memory, {}, first);
    Memory<S> restored = loaded<S>(saved(memory));
    EXPECT_TRUE(same_bits(restored, memory)) << name;
    const auto go_on = [&, &map = mixture](Memory<S>& from) {
      return gma::causal(map, x.bottomRows(15), x.bottomRows(15), values.bottomRows(15), from, {}, rest);
    };
    EXPECT_TRUE(same_bits(go_on(restored), go_on(memory))) << name;
    EXPECT_TRUE(same_bits(restored, memory)) << name;
  }
}

TYPED_TEST(Serialization, StreamsHoldSeveralMemories) {
  using S = TypeParam;
  const Memory<S> a = random_memory<S>(4, 3, 4), b = random_memory<S>(2, 6, 5);
  std::stringstream stream(binary);
  gma::save(a, stream);
  gma::save(b, stream);
  stream << "tail";
  Memory<S> first, second;
  gma::load(first, stream);
  gma::load(second, stream);
  EXPECT_TRUE(same_bits(first, a));
  EXPECT_TRUE(same_bits(second, b));
  std::string tail;
  stream >> tail;
  EXPECT_EQ(tail, "tail");
}

TYPED_TEST(Serialization, RefusesEveryTruncation) {
  using S = TypeParam;
  const std::string good = saved(random_memory<S>(3, 2, 6));
  for (std::size_t size = 0; size < good.size(); ++size) {
    expect_refused<S>(good.substr(0, size), {"ends after " + std::to_string(size) + " bytes"});
  }
}

TYPED_TEST(Serialization, RefusesEveryChangedByte) {
  using S = TypeParam;
  const std::string good = saved(random_memory<S>(3, 2, 7));
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (int change = 1; change < 256; ++change) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(bytes[at] ^ change);
      expect_refused<S>(bytes, {});
    }
  }
}

TYPED_TEST(Serialization, NumbersAreLittleEndianOnAnyMachine) {
  using S = TypeParam;
  const Vector<S> values = Random(8).vector<S>(100);
  std::string portable(100 * sizeof(S), '\0');
  for (Index i = 0; i < 100; ++i) {
    char* at = &portable[static_cast<std::size_t>(i) * sizeof(S)];
    gma::detail::to_little_endian(values(i), at);
    EXPECT_EQ(gma::detail::from_little_endian<S>(at), values(i));
  }
  Memory<S> memory{values, Vector<S>::Ones(100), S(0)};
  EXPECT_EQ(saved(memory).substr(36, portable.size()), portable);
}

TEST(SavedMemory, HasTheStatedBytes) {
  Memory<float> memory = gma::empty_memory<float>(1, 2);
  memory.slots << 1.0f, -2.0f;
  memory.mass << 0.5f;
  memory.tokens = 3;
  const unsigned char expected[] = {
      'G', 'M', 'A',  'M',  'E', 'M', 'R', 'Y',                              // magic
      4,   3,   2,    1,    3,   0,   0,   0,    4, 0, 0, 0,                 // mark, version, scalar size
      1,   0,   0,    0,    0,   0,   0,   0,    2, 0, 0, 0,    0, 0, 0, 0,  // K, e
      0,   0,   0x80, 0x3f, 0,   0,   0,   0xc0, 0, 0, 0, 0x3f, 0, 0, 0, 0,  // slots, mass, log_forgetting
      0,   0,   0x40, 0x40, 0,   0,   0,   0                                 // tokens, flags
  };
  const std::string bytes(reinterpret_cast<const char*>(expected), sizeof expected);
  std::string checksum(8, '\0');
  gma::detail::to_little_endian(gma::detail::fnv_1a(gma::detail::fnv_start, &bytes[8], bytes.size() - 8), &checksum[0]);
  EXPECT_EQ(saved(memory), bytes + checksum);
}

/// `bytes` and the hash of all of them but the first 8.
std::string with_checksum(const std::string& bytes) {
  std::string checksum(8, '\0');
  gma::detail::to_little_endian(gma::detail::fnv_1a(gma::detail::fnv_start, &bytes[8], bytes.size() - 8), &checksum[0]);
  return bytes + checksum;
}

TEST(SavedMemory, OfVersion2IsRead) {
  const unsigned char written[] = {
      'G', 'M', 'A',  'M',  'E', 'M', 'R', 'Y',                              // magic
      4,   3,   2,    1,    2,   0,   0,   0,    4, 0, 0, 0,                 // mark, version, scalar size
      1,   0,   0,    0,    0,   0,   0,   0,    2, 0, 0, 0,    0, 0, 0, 0,  // K, e
      0,   0,   0x80, 0x3f, 0,   0,   0,   0xc0, 0, 0, 0, 0x3f, 0, 0, 0, 0   // slots, mass, log_forgetting
  };
  const Memory<float> memory =
      loaded<float>(with_checksum(std::string(reinterpret_cast<const char*>(written), sizeof written)));
  EXPECT_EQ(memory.slots, (Matrix<float>(1, 2) << 1.0f, -2.0f).finished());
  EXPECT_EQ(memory.mass(0), 0.5f);
  EXPECT_EQ(memory.log_forgetting, 0);
  EXPECT_EQ(memory.slots_remainder.size() + memory.mass_remainder.size(), 0);
}

TEST(SavedMemory, KeepsRemaindersAndSigns) {
  Memory<float> memory = random_memory<float>(3, 2, 5);
  memory.tokens = 1e6F;
  memory.slots_remainder = memory.slots * 1e-8F;
  memory.mass_remainder = memory.mass * -1e-8F;
  memory.has_signed_mass = true;
  memory.mass(1) = -2;
  const std::string bytes = saved(memory);
  EXPECT_EQ(bytes.size(), gma::serialized_size(memory));
  const Memory<float> again = loaded<float>(bytes);
  EXPECT_EQ(again.slots_remainder, memory.slots_remainder);
  EXPECT_EQ(again.mass_remainder, memory.mass_remainder);
  EXPECT_EQ(again.mass, memory.mass);
  EXPECT_EQ(again.tokens, memory.tokens);
  EXPECT_TRUE(again.has_signed_mass);
  EXPECT_EQ(saved(again), bytes);
  memory.mass_remainder.resize(2);
  expect_error<std::invalid_argument>([&] { saved(memory); }, {"gma::save", "memory.slots_remainder is 3 x 2"});
}

TEST(SavedMemory, ChecksumIsFnv1a) {  // published values of the hash
  const auto hash = [](const std::string& text) {
    return gma::detail::fnv_1a(gma::detail::fnv_start, text.data(), text.size());
  };
  EXPECT_EQ(hash(""), 0xcbf29ce484222325u);
  EXPECT_EQ(hash("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(hash("foobar"), 0x85944171f73967e8u);
}

TEST(SavedMemory, RefusesOtherFormatsByName) {
  const std::string good = saved(random_memory<double>(3, 2, 9));
  std::string other = good;
  other[0] = 'X';
  expect_refused<double>(other, {"starts with XMAMEMRY", "expected GMAMEMRY"});
  expect_refused<double>(replaced(good, 8, std::uint32_t{0x04030201}), {"big-endian", "expected little-endian"});
  expect_refused<double>(replaced(good, 8, std::uint32_t{7}), {"byte-order mark is 7", "expected 16909060"});
  expect_refused<double>(replaced(good, 12, std::uint32_t{1}), {"version 1, expected 2 to 3"});
  expect_refused<double>(replaced(good, 12, std::uint32_t{4}), {"version 4, expected 2 to 3"});
  expect_refused<double>(replaced(good, 16, std::uint32_t{4}), {"4 bytes, expected 8"});
  expect_refused<float>(good, {"8 bytes, expected 4"});
}

TEST(BinaryReader, TakesEveryVersionFromTheOldestOn) {
  const auto read = [](std::uint32_t written, const gma::detail::BinaryFormat& format) {
    std::stringstream stream(binary);
    gma::detail::BinaryWriter::start<float>("save", {"GMATHING", "thing", written}, stream).finish();
    auto reader = gma::detail::BinaryReader::start<float>("load", format, stream);
    reader.finish();
    return reader.version();
  };
  for (const std::uint32_t version : {2u, 3u, 4u}) EXPECT_EQ(read(version, {"GMATHING", "thing", 4, 2}), version);
  const auto refused = [&](std::uint32_t version, const gma::detail::BinaryFormat& format, const char* words) {
    expect_error<std::runtime_error>([&] { read(version, format); }, {"gma::load", "no valid thing", words});
  };
  refused(1, {"GMATHING", "thing", 4, 2}, "it is of version 1, expected 2 to 4");
  refused(5, {"GMATHING", "thing", 4, 2}, "it is of version 5, expected 2 to 4");
  EXPECT_EQ(read(4, {"GMATHING", "thing", 4}), 4u);
  refused(3, {"GMATHING", "thing", 4}, "it is of version 3, expected 4");
  refused(0, {"GMATHING", "thing", 4}, "it is of version 0, expected 4");
}

TEST(SavedMemory, RefusesImpossibleSizesWithoutBelievingThem) {
  const std::string good = saved(random_memory<double>(3, 2, 10));
  const std::uint64_t most = static_cast<std::uint64_t>(gma::detail::largest_saved_size);
  expect_refused<double>(replaced(good, 20, most + 1), {"impossible size", "number of slots"});
  expect_refused<double>(replaced(good, 28, ~std::uint64_t{0}), {"impossible size", "value width"});
  expect_refused<double>(replaced(good, 20, most / 2 + 1), {"impossible size", "slots"});  // times two columns
  // 2^40 rows, with and without columns, of which no byte comes: neither is allocated.
  expect_refused<double>(replaced(good, 20, most / 2), {"ends after", "slots"});
  const std::string narrow = saved(random_memory<double>(3, 0, 10));
  expect_refused<double>(replaced(narrow, 20, most), {"ends after", "mass"});
}

TEST(SavedMemory, RefusesNumbersThatNoOperatorLeaves) {
  const Memory<double> good = random_memory<double>(3, 2, 11);
  const auto refused = [&](std::size_t at, double value, const std::vector<std::string>& words) {
    std::uint64_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    expect_refused<double>(replaced(saved(good), at, bits), words);
  };
  const std::size_t mass = 36 + 6 * 8;
  refused(mass + 8, -1, {"mass is -1 at slot 1"});
  refused(mass + 16, not_a_number, {"mass is ", "at slot 2"});
  refused(mass + 24, 0.5, {"log_forgetting is 0.5"});
  refused(mass + 24, not_a_number, {"log_forgetting is "});
}

TEST(SavedMemory, SavesNothingThatLoadRefuses) {
  const Memory<double> good = random_memory<double>(4, 2, 12);
  const auto refused = [&](auto change, const std::vector<std::string>& words) {
    Memory<double> bad = good;
    change(bad);
    std::ostringstream sink;
    expect_error([&] { gma::save(bad, sink); }, words);
    EXPECT_TRUE(sink.str().empty());
  };
  refused([](auto& m) { m.mass.conservativeResize(3); }, {"gma::save", "memory.mass has 3", "expected 4"});
  refused([](auto& m) { m.mass(1) = -2; }, {"gma::save", "memory.mass is -2 at slot 1"});
  refused([](auto& m) { m.log_forgetting = 1; }, {"gma::save", "memory.log_forgetting is 1"});
}

/// Takes so many bytes and fails.
class FullDisk : public std::streambuf {
 public:
  explicit FullDisk(std::size_t room) : room_(room) {}

 protected:
  int_type overflow(int_type c) override {
    if (room_ == 0) return traits_type::eof();
    --room_;
    return c;
  }

 private:
  std::size_t room_;
};

TEST(SavedMemory, SaysThatTheStreamFailed) {
  const Memory<double> memory = random_memory<double>(3, 2, 13);
  for (std::size_t room = 0; room < gma::serialized_size(memory); ++room) {
    FullDisk disk(room);
    std::ostream stream(&disk);
    expect_error<std::runtime_error>([&] { gma::save(memory, stream); }, {"gma::save", "the stream failed"});
  }
  std::ostringstream broken;
  broken.setstate(std::ios::badbit);
  expect_error<std::runtime_error>([&] { gma::save(memory, broken); }, {"gma::save"});
}

/// Takes bytes into a buffer of its own, and meets the end of the disk when it is to hand them over.
class BufferBeforeAFullDisk : public std::stringbuf {
 protected:
  int sync() override { return -1; }
};

TEST(SavedMemory, MeetsTheFullDiskBehindABuffer) {
  BufferBeforeAFullDisk disk;
  std::ostream stream(&disk);
  expect_error<std::runtime_error>([&] { gma::save(random_memory<double>(3, 2, 13), stream); },
                                   {"gma::save", "the stream failed"});
}

TEST(MemorySizes, CountBytesAndShares) {
  EXPECT_EQ(gma::bytes(gma::empty_memory<float>(4, 3)), (4 * 3 + 4 + 1) * sizeof(float));
  EXPECT_EQ(gma::bytes(Memory<double>()), sizeof(double));
  Memory<double> memory = gma::empty_memory<double>(4, 3);
  EXPECT_TRUE(gma::slot_shares(memory).isZero(0));
  memory.mass << 1, 0, 2, 1;
  EXPECT_EQ(gma::slot_shares(memory), Eigen::Vector4d(0.25, 0, 0.5, 0.25));
  EXPECT_EQ(gma::slot_shares(Memory<double>()).size(), 0);
}

}  // namespace
}  // namespace gma_test
