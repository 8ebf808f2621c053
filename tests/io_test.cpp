// SPDX-License-Identifier: MIT
// Tensors, their way to matrices and back, and .npy files: made by hand from bytes, in every form that is read, and in
// every form that is refused.
#include <limits>
#include <numeric>

#include "gma/io/npy.hpp"
#include "io_support.hpp"

namespace gma_test {
namespace {

using Eigen::bfloat16;
using Eigen::half;

// Tensors ------------------------------------------------------------------------------------------------------------

TEST(Tensors, ShapesBecomeMatrices) {
  Tensor tensor{DataType::u8, {}, {7}};
  EXPECT_EQ(tensor.matrix<float>(), Matrix<float>::Constant(1, 1, 7));
  tensor = {DataType::u8, {4}, {1, 2, 3, 4}};
  EXPECT_EQ(tensor.matrix<double>(), (Matrix<double>(4, 1) << 1, 2, 3, 4).finished());
  tensor.shape = {2, 2};
  EXPECT_EQ(tensor.matrix<double>(), (Matrix<double>(2, 2) << 1, 2, 3, 4).finished());
  tensor.shape = {1, 2, 2};
  EXPECT_EQ(tensor.matrix<double>(), (Matrix<double>(1, 4) << 1, 2, 3, 4).finished());
  EXPECT_EQ(tensor.size(), 4);
  tensor = {DataType::f32, {3, 0, 2}, {}};
  EXPECT_EQ(tensor.matrix<float>().rows(), 3);
  EXPECT_EQ(tensor.matrix<float>().cols(), 0);
  EXPECT_EQ(Tensor().matrix<float>().size(), 0);
}

TEST(Tensors, VectorsHaveOneDimension) {
  Tensor tensor{DataType::i8, {1, 3, 1}, {1, 2, 0xff}};
  EXPECT_EQ(tensor.vector<float>(), (Vector<float>(3) << 1, 2, -1).finished());
  tensor.shape = {3};
  EXPECT_EQ(tensor.vector<float>().size(), 3);
  EXPECT_EQ((Tensor{DataType::u8, {}, {1}}).vector<float>().size(), 1);
  EXPECT_EQ((Tensor{DataType::u8, {0}, {}}).vector<float>().size(), 0);
  tensor = {DataType::u8, {2, 2}, {1, 2, 3, 4}};
  expect_error([&] { tensor.vector<float>(); }, {"gma::io::Tensor::vector", "[2, 2]", "one dimension"});
}

TEST(Tensors, MustBeWellFormed) {
  const auto fails = [](const Tensor& bad, const std::vector<std::string>& words) {
    expect_error([&] { bad.matrix<float>(); }, words);
    expect_error([&] { bad.vector<float>(); }, words);
    expect_error([&] { gma::io::serialize_npy(bad); }, words);
  };
  fails({DataType::f32, {2}, {1, 2, 3}}, {"data of 3 bytes, expected 8", "shape [2] of f32"});
  fails({DataType::f32, {}, {}}, {"data of 0 bytes, expected 4", "shape []"});
  fails({DataType::u8, {-1, -1}, {1}}, {"[-1, -1]", "negative"});
  const Index large = Index{1} << 40;
  fails({DataType::u8, {large, large, 0}, {}}, {"overflows"});
  fails({DataType::f64, {Index{1} << 62}, {}}, {"overflows"});
  expect_error([&] { (Tensor{DataType::u8, {large, 0, large}, {}}).size(); }, {"gma::io::Tensor::size", "overflows"});
  fails({DataType::boolean, {2}, {1, 2}}, {"byte 2 for a boolean"});
  fails({static_cast<DataType>(99), {0}, {}}, {"no enumerator has the value 99"});
}

TEST(Tensors, MatricesBecomeTensors) {
  const Matrix<float> m = (Matrix<float>(2, 3) << 1, 2, 3, 4, 5, 6).finished();
  EXPECT_EQ(make_tensor(m).shape, (std::vector<Index>{2, 3}));
  EXPECT_EQ(make_tensor(m).type, DataType::f32);
  EXPECT_EQ(make_tensor(m).bytes.size(), 24u);
  EXPECT_EQ(make_tensor(m).bytes[3], 0x3f);  // 1 is 0x3f800000, little-endian
  EXPECT_EQ(make_tensor(m).matrix<float>(), m);
  EXPECT_EQ(make_tensor(m.transpose()).matrix<float>(), m.transpose());
  EXPECT_EQ(make_tensor(m * 2).matrix<float>(), m * 2);
  EXPECT_EQ(make_tensor(m.col(1)).shape, std::vector<Index>{2});
  EXPECT_EQ(make_tensor(m.col(1)).vector<float>(), m.col(1));
  EXPECT_EQ(make_tensor(m.row(1)).vector<float>(), m.row(1).transpose());
  EXPECT_EQ(make_tensor(Eigen::MatrixXf(m)).matrix<float>(), m);
  EXPECT_EQ(make_tensor(m, {1, 6, 1}).shape, (std::vector<Index>{1, 6, 1}));
  EXPECT_EQ(make_tensor(m, {6, 1}).matrix<float>(), (Matrix<float>(6, 1) << 1, 2, 3, 4, 5, 6).finished());
  EXPECT_EQ(make_tensor(m.topLeftCorner(1, 1), std::vector<Index>{}).shape, std::vector<Index>{});
  EXPECT_EQ(make_tensor(Matrix<double>(0, 5)).matrix<double>().cols(), 5);
  expect_error([&] { make_tensor(m, {2, 2}); }, {"gma::io::make_tensor", "[2, 2]", "product of 6"});
  const Eigen::Matrix<std::int64_t, 2, 1> integers(-1, std::int64_t{1} << 53);
  EXPECT_EQ(make_tensor(integers).type, DataType::i64);
  EXPECT_EQ(make_tensor(integers).vector<double>(), integers.cast<double>());
  EXPECT_EQ(make_tensor(integers, DataType::f64).vector<double>(), integers.cast<double>());
  expect_error([&] { make_tensor(m, DataType::i32); }, {"type is i32, expected f32"});
  expect_error([&] { make_tensor(integers, DataType::i32); }, {"type is i32, expected i64"});
}

template <class To, class From>
void expect_conversion(const Matrix<From>& from) {
  const Matrix<To> expected =
      from.unaryExpr([](const From& x) -> To { return static_cast<To>(static_cast<float>(x)); });
  EXPECT_TRUE(same_bits(make_tensor(from).template matrix<To>(), expected));
  EXPECT_TRUE(same_bits(make_tensor(from, gma::io::data_type_of<To>()).template matrix<To>(), expected));
}

TEST(Tensors, SixteenBitsRoundAsEigenDoes) {
  Random random(3);
  Matrix<float> numbers = random.matrix<float>(64, 3);
  numbers.col(1) *= 1e-6f;  // subnormal as half
  numbers.col(2) *= 1e5f;   // partly infinite as half
  numbers.row(0) << 0.0f, -0.0f, std::numeric_limits<float>::infinity();
  numbers.row(1) << 1.0009765625f, 65519.0f, 65520.0f;
  expect_conversion<half>(numbers);
  expect_conversion<bfloat16>(numbers);
  const Matrix<half> halves = numbers.cast<half>();
  const Matrix<bfloat16> brains = numbers.cast<bfloat16>();
  expect_conversion<float>(halves);
  expect_conversion<float>(brains);
  expect_conversion<bfloat16>(halves);
  expect_conversion<half>(brains);
  expect_conversion<half>(Matrix<double>(numbers.cast<double>()));
  EXPECT_TRUE(same_bits(make_tensor(halves).matrix<double>(), halves.cast<float>().cast<double>().eval()));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Matrix<float> not_numbers = Matrix<float>::Constant(1, 1, nan);
  EXPECT_TRUE(std::isnan(make_tensor(not_numbers, DataType::f16).matrix<double>()(0, 0)));
  EXPECT_TRUE(std::isnan(make_tensor(not_numbers, DataType::bf16).matrix<double>()(0, 0)));
}

TEST(Tensors, EveryTypeConverts) {
  const auto value = [](DataType type, const std::vector<unsigned char>& bytes) {
    return (Tensor{type, {}, bytes}).matrix<double>()(0, 0);
  };
  EXPECT_EQ(value(DataType::f64, {0, 0, 0, 0, 0, 0, 0xf8, 0x3f}), 1.5);
  EXPECT_EQ(value(DataType::f32, {0, 0, 0xc0, 0x3f}), 1.5);
  EXPECT_EQ(value(DataType::f16, {0, 0x3e}), 1.5);
  EXPECT_EQ(value(DataType::bf16, {0xc0, 0x3f}), 1.5);
  EXPECT_EQ(value(DataType::i64, {0, 1, 0, 0, 0, 0, 0, 0x80}), -0x1p63 + 256);
  EXPECT_EQ(value(DataType::u64, {0, 8, 0, 0, 0, 0, 0, 0x80}), 0x1p63 + 2048);
  EXPECT_EQ(value(DataType::i32, {0xfe, 0xff, 0xff, 0xff}), -2);
  EXPECT_EQ(value(DataType::u32, {0xfe, 0xff, 0xff, 0xff}), 4294967294.0);
  EXPECT_EQ(value(DataType::i16, {0xfe, 0xff}), -2);
  EXPECT_EQ(value(DataType::u16, {0xfe, 0xff}), 65534);
  EXPECT_EQ(value(DataType::i8, {0xfe}), -2);
  EXPECT_EQ(value(DataType::u8, {0xfe}), 254);
  EXPECT_EQ(value(DataType::boolean, {1}), 1);
  EXPECT_STREQ(gma::io::name_of(DataType::boolean), "boolean");
  for (const DataType type : all_types) EXPECT_EQ(some_tensor(type, {3}).bytes.size() % 3, 0u);
}

// Files that are whole or not there ----------------------------------------------------------------------------------

TEST(Files, AppearWholeOrNotAtAll) {
  const Folder folder;
  const Tensor first = some_tensor(DataType::f32, {2, 3}), second = some_tensor(DataType::f64, {100});
  gma::io::write_npy(folder / "a.npy", first);
  gma::io::write_npy(folder / "a.npy", second);
  EXPECT_EQ(gma::io::read_npy(folder / "a.npy"), second);
  gma::io::write_npy((folder / "a.npy").string(), first);  // a string is a path too
  EXPECT_EQ(folder.names(), std::vector<std::string>{"a.npy"});

  Tensor bad = second;
  bad.bytes.pop_back();
  expect_error([&] { gma::io::write_npy(folder / "a.npy", bad); }, {"gma::io::write_npy", "799", "800"});
  std::filesystem::create_directories(folder / "b.npy" / "c");
  expect_error<std::runtime_error>([&] { gma::io::write_npy(folder / "b.npy", first); },
                                   {"gma::io::write_npy", "b.npy", "cannot be written"});
  expect_error<std::runtime_error>([&] { gma::io::write_npy(folder / "none" / "a.npy", first); },
                                   {"gma::io::write_npy", "none", "No such file"});
  expect_error<std::runtime_error>([&] { gma::io::read_npy(folder / "none.npy"); },
                                   {"gma::io::read_npy", "none.npy", "No such file"});
  expect_error<std::runtime_error>([&] { gma::io::read_npy(folder / "b.npy"); }, {"b.npy", "irectory"});
  EXPECT_EQ(gma::io::read_npy(folder / "a.npy"), first);
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"a.npy", "b.npy"}));
}

TEST(Files, FullDiskLeavesTheOldFile) {
  const Folder folder;
  const Tensor old = some_tensor(DataType::u8, {3});
  gma::io::write_npy(folder / "a.npy", old);
  if (!with_small_files([&] {
        expect_error<std::runtime_error>(
            [&] { gma::io::write_npy(folder / "a.npy", some_tensor(DataType::f64, {100000})); },
            {"gma::io::write_npy", "a.npy", "cannot be written", "File too large"});
      })) {
    GTEST_SKIP() << "no limit on the size of files here";
  }
  EXPECT_EQ(gma::io::read_npy(folder / "a.npy"), old);
  EXPECT_EQ(folder.names(), std::vector<std::string>{"a.npy"});
}

// npy ----------------------------------------------------------------------------------------------------------------

/// The bytes of a file with this header text.
std::string npy(const std::string& text, const std::string& data, int version = 1) {
  std::string file = "\x93NUMPY";
  file += static_cast<char>(version);
  file += '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) file += static_cast<char>((text.size() >> (8 * i)) & 0xff);
  return file + text + data;
}
std::string header_of(const std::string& descr, const std::string& order, const std::string& shape) {
  return "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }   \n";
}
Tensor parse(const std::string& file) { return gma::io::parse_npy(bytes_of(file), file.size()); }
void expect_refused(const std::string& file, const std::string& word) {
  expect_error<std::runtime_error>([&] { parse(file); }, {"gma::io::parse_npy: ", word});
}

TEST(Npy, EveryTypeAndShapeComesBack) {
  const Folder folder;
  for (const DataType type : all_types) {
    for (const std::vector<Index>& shape : some_shapes) {
      const Tensor tensor = some_tensor(type, shape);
      if (type == DataType::bf16) {
        expect_error([&] { gma::io::serialize_npy(tensor); }, {"gma::io::serialize_npy", "bf16"});
        continue;
      }
      const std::vector<unsigned char> bytes = gma::io::serialize_npy(tensor);
      EXPECT_EQ((bytes.size() - tensor.bytes.size()) % 64, 0u);
      EXPECT_EQ(gma::io::parse_npy(bytes.data(), bytes.size()), tensor);
      gma::io::write_npy(folder / "a.npy", tensor);
      EXPECT_EQ(gma::io::read_npy(folder / "a.npy"), tensor);
      EXPECT_EQ(contents(folder / "a.npy"), std::string(bytes.begin(), bytes.end()));
    }
  }
}

TEST(Npy, WritesWhatIsDocumented) {
  const std::vector<unsigned char> bytes = gma::io::serialize_npy({DataType::i16, {1}, {1, 2}});
  std::string text = "{'descr': '<i2', 'fortran_order': False, 'shape': (1,), }";
  text.resize(117, ' ');
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), npy(text + '\n', "\1\2"));
}

TEST(Npy, LongHeadersAreOfVersionTwo) {
  const Tensor tensor{DataType::u8, std::vector<Index>(30000, 1), {5}};
  const std::vector<unsigned char> bytes = gma::io::serialize_npy(tensor);
  EXPECT_EQ(bytes[6], 2);
  EXPECT_EQ((bytes.size() - 1) % 64, 0u);
  EXPECT_EQ(gma::io::parse_npy(bytes.data(), bytes.size()), tensor);
}

TEST(Npy, ReadsEveryVersionAndSpelling) {
  const Tensor expected{DataType::u16, {2}, {1, 0, 2, 0}};
  const std::string data("\1\0\2\0", 4);
  for (const int version : {1, 2, 3}) EXPECT_EQ(parse(npy(header_of("<u2", "False", "(2,)"), data, version)), expected);
  EXPECT_EQ(parse(npy("{\"shape\":(2,),\"fortran_order\":True,'descr':'<u2'}\n", data)), expected);
  EXPECT_EQ(parse(npy("{ 'shape' : ( 2 , ) ,'descr' : '<u2' , 'fortran_order' : False , } \n", data)), expected);
  EXPECT_EQ(parse(npy(header_of("<u2", "False", "(2, 1)"), data)).shape, (std::vector<Index>{2, 1}));
  EXPECT_EQ(parse(npy(header_of("<u2", "False", "(2, 1,)"), data)).shape, (std::vector<Index>{2, 1}));
  EXPECT_EQ(parse(npy(header_of("<u2", "False", "()"), "\1\1")).shape, std::vector<Index>{});
  for (const char* descr : {"|u1", "<u1", ">u1"}) {
    EXPECT_EQ(parse(npy(header_of(descr, "False", "(1,)"), "x")), (Tensor{DataType::u8, {1}, {'x'}}));
  }
}

TEST(Npy, BigEndianIsSwapped) {
  EXPECT_EQ(parse(npy(header_of(">u2", "False", "(2,)"), "\1\2\3\4")), (Tensor{DataType::u16, {2}, {2, 1, 4, 3}}));
  EXPECT_EQ(parse(npy(header_of(">f4", "False", "()"), std::string("\x3f\xc0\0\0", 4))).matrix<float>()(0, 0), 1.5f);
  EXPECT_EQ(parse(npy(header_of(">i8", "True", "(1,)"), "\1\2\3\4\5\6\7\x8")),
            (Tensor{DataType::i64, {1}, {8, 7, 6, 5, 4, 3, 2, 1}}));
}

TEST(Npy, FortranOrderIsReordered) {
  EXPECT_EQ(parse(npy(header_of("|u1", "True", "(2, 3)"), "adbecf")).bytes,
            parse(npy(header_of("|u1", "False", "(2, 3)"), "abcdef")).bytes);
  // Against the definition: the first index is fastest. Larger than the reader's buffer, and with dimensions of 1.
  const std::vector<Index> shape = {5, 1, 7, 60, 1, 50};
  std::string text = "(5, 1, 7, 60, 1, 50)", data;
  std::vector<unsigned char> expected(105000 * 2);
  for (Index s = 0; s < 50; ++s) {
    for (Index r = 0; r < 60; ++r) {
      for (Index q = 0; q < 7; ++q) {
        for (Index p = 0; p < 5; ++p) {
          const Index number = ((p * 7 + q) * 60 + r) * 50 + s;
          const unsigned low = static_cast<unsigned>(number) & 0xff, high = (static_cast<unsigned>(number) >> 8) & 0xff;
          expected[static_cast<std::size_t>(2 * number)] = static_cast<unsigned char>(low);
          expected[static_cast<std::size_t>(2 * number + 1)] = static_cast<unsigned char>(high);
          data += static_cast<char>(low);
          data += static_cast<char>(high);
        }
      }
    }
  }
  EXPECT_EQ(parse(npy(header_of("<u2", "True", text), data)), (Tensor{DataType::u16, shape, expected}));
  EXPECT_EQ(parse(npy(header_of("<f4", "True", "(2, 0, 3)"), "")), (Tensor{DataType::f32, {2, 0, 3}, {}}));
}

TEST(Npy, MalformedFilesAreRefused) {
  const auto with_text = [](const std::string& text) { return npy(text, "ab"); };
  const std::string good = header_of("<u2", "False", "(1,)");
  EXPECT_EQ(parse(with_text(good)).size(), 1);
  // the frame
  expect_refused("", "is no npy file: it has 0 bytes");
  expect_refused("\x93NUMPZ\1" + std::string(60, '\0'), "is no npy file: expected it to start with NUMPY");
  expect_refused(npy(good, "ab", 4), "version 4.0, expected 1.0, 2.0 or 3.0");
  expect_refused(npy(good, "ab", 0), "version 0.0");
  expect_refused("\x93NUMPY\1\1" + with_text(good).substr(8), "version 1.1");
  expect_refused(with_text(""), "header is empty");
  expect_refused(with_text(good).substr(0, 40), "bytes, expected at most 30");
  // the dictionary
  expect_refused(with_text("[1]\n"), "expected '{'");
  expect_refused(with_text("{'descr' '<u2'}\n"), "expected ':'");
  expect_refused(with_text("{'descr': '<u2' 'shape': (1,)}\n"), "expected ',' or '}'");
  expect_refused(with_text("{descr: '<u2'}\n"), "expected a key in quotes");
  expect_refused(with_text("{'descr': '<u2"), "without its closing quote");
  expect_refused(with_text("{'descr': '<u\\x32'}\n"), "expected no escapes");
  expect_refused(with_text("{'descr': '<u2', 'shape': (1,)}\n"), "lacks the key 'fortran_order'");
  expect_refused(with_text("{'descr': '<u2', 'fortran_order': False}\n"), "lacks the key 'shape'");
  expect_refused(with_text("{'fortran_order': False, 'shape': (1,)}\n"), "lacks the key 'descr'");
  expect_refused(with_text("{}\n"), "lacks the key 'descr'");
  expect_refused(with_text("{'descr': '<u2', 'descr': '<u2'}\n"), "the key 'descr' twice");
  expect_refused(with_text("{'descr': '<u2', 'x': 1}\n"), "the key 'x', expected only");
  expect_refused(with_text(good + "x\n"), "only spaces and one new line");
  expect_refused(with_text(good + " "), "only spaces and one new line");
  expect_refused(with_text(good.substr(0, good.size() - 1)), "only spaces and one new line");
  expect_refused(with_text(std::string("{\0}\n", 4)), "expected a key in quotes");
  // fortran_order and shape
  expect_refused(with_text(header_of("<u2", "false", "(1,)")), "expected True or False");
  expect_refused(with_text(header_of("<u2", "0", "(1,)")), "expected True or False");
  expect_refused(with_text(header_of("<u2", "Falsey", "(1,)")), "expected ',' or '}'");
  expect_refused(with_text(header_of("<u2", "False", "1")), "expected a tuple");
  expect_refused(with_text(header_of("<u2", "False", "[1]")), "expected a tuple");
  expect_refused(with_text(header_of("<u2", "False", "(1)")), "(n) is no tuple");
  expect_refused(with_text(header_of("<u2", "False", "(1 1)")), "(n) is no tuple");
  expect_refused(with_text(header_of("<u2", "False", "(1, 1 1)")), "expected ',' or ')'");
  expect_refused(with_text(header_of("<u2", "False", "(,)")), "expected a dimension");
  expect_refused(with_text(header_of("<u2", "False", "(-1,)")), "expected a dimension");
  expect_refused(with_text(header_of("<u2", "False", "(1L,)")), "(n) is no tuple");
  expect_refused(with_text(header_of("<u2", "False", "(01,)")), "starts with 0");
  expect_refused(with_text(header_of("<u2", "False", "(9223372036854775808,)")), "overflows");
  expect_refused(with_text(header_of("<u2", "False", "(4294967296, 4294967296)")), "overflows");
  expect_refused(with_text(header_of("<u2", "False", "(9223372036854775807,)")), "overflows");
  expect_refused(with_text("{'shape': (1,"), "ends where a dimension");
}

TEST(Npy, OtherTypesAreRefusedByName) {
  const auto refused = [](const std::string& descr, const std::string& word) {
    expect_refused(npy(header_of(descr, "False", "(1,)"), "abcdefgh"), word);
  };
  refused("|O", "'|O': Python objects are pickled and never read");
  for (const char* descr : {"<c8", "<U2", "|S8", "<M8[D]", "|V8", "<f16", "u2", "", "<"}) {
    refused(descr, std::string("has descr '") + descr + "', expected one of");
  }
  for (const char* descr : {"=u2", "|u2", "=u1", "?u2"}) refused(descr, "expected '<' or '>' as its order of bytes");
  expect_refused(npy("{'descr': [('a', '<u2')], 'fortran_order': False, 'shape': (1,)}\n", "ab"), "describes records");
  expect_refused(npy("{'descr': 5, 'fortran_order': False, 'shape': (1,)}\n", "ab"), "expected a type in quotes");
}

TEST(Npy, DataMustFillTheShape) {
  const std::string text = header_of("<u2", "False", "(2, 3)");
  expect_refused(npy(text, std::string(11, 'x')), "data of 11 bytes, expected 12 (shape [2, 3] of u16)");
  expect_refused(npy(text, std::string(13, 'x')), "data of 13 bytes, expected 12");
  expect_refused(npy(header_of("|b1", "False", "(2,)"), "\1\2"), "the byte 2 for a boolean");
  const Folder folder;
  write(folder / "a.npy", npy(text, "x"));
  expect_error<std::runtime_error>([&] { gma::io::read_npy(folder / "a.npy"); },
                                   {"gma::io::read_npy: ", "a.npy: has data of 1 bytes"});
}

TEST(Npy, DamageIsNoCrash) {
  const Tensor tensor = some_tensor(DataType::f32, {2, 3});
  const std::vector<unsigned char> good = gma::io::serialize_npy(tensor);
  for_each_damage(good, [&](const std::vector<unsigned char>& bytes, std::size_t at) {
    try {
      const Tensor read = gma::io::parse_npy(bytes.data(), bytes.size());
      EXPECT_EQ(bytes.size(), good.size()) << "cut after byte " << at;
      EXPECT_EQ(gma::io::serialize_npy(read).size(), good.size());
    } catch (const std::runtime_error& error) {
      EXPECT_LT(at, good.size() - tensor.bytes.size() + (bytes.size() < good.size() ? 24 : 0)) << error.what();
    }
  });
}

}  // namespace
}  // namespace gma_test
