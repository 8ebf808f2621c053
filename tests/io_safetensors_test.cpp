// SPDX-License-Identifier: MIT
// Safetensors files: made by hand from bytes, in every form that is read, and in every form that is refused.
#include "gma/io/safetensors.hpp"
#include "io_support.hpp"

namespace gma_test {
namespace {

using gma::io::SafeTensors;

/// The bytes of a file with this header.
std::string file_of(const std::string& header, const std::string& data = "") {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>((header.size() >> (8 * i)) & 0xff);
  return file + header + data;
}
SafeTensors parse(const std::string& file) { return gma::io::parse_safetensors(bytes_of(file), file.size()); }
SafeTensors parse(const std::vector<unsigned char>& file) {
  return gma::io::parse_safetensors(file.data(), file.size());
}
void expect_refused(const std::string& file, const std::string& word) {
  expect_error<std::runtime_error>([&] { parse(file); }, {"gma::io::parse_safetensors: ", word});
}

SafeTensors every_type_and_shape() {
  SafeTensors file;
  for (const DataType type : all_types) {
    for (std::size_t i = 0; i < some_shapes.size(); ++i) {
      file.tensors[std::string(gma::io::name_of(type)) + "." + std::to_string(i)] = some_tensor(type, some_shapes[i]);
    }
  }
  file.metadata = {{"format", "pt"}, {"\xc3\xa9\"\\\n", ""}, {"", "\xf0\x9f\x98\x80"}};
  return file;
}

TEST(SafeTensorsFiles, EverythingComesBack) {
  const Folder folder;
  const SafeTensors file = every_type_and_shape();
  gma::io::write_safetensors(folder / "a.safetensors", file);
  const SafeTensors read = gma::io::read_safetensors(folder / "a.safetensors");
  EXPECT_EQ(read.tensors, file.tensors);
  EXPECT_EQ(read.metadata, file.metadata);
  const std::vector<unsigned char> bytes = gma::io::serialize_safetensors(file);
  EXPECT_EQ(contents(folder / "a.safetensors"), std::string(bytes.begin(), bytes.end()));
  EXPECT_EQ(parse(bytes).tensors, file.tensors);
  EXPECT_EQ(parse(gma::io::serialize_safetensors({})).tensors.size(), 0u);
  EXPECT_EQ(folder.names(), std::vector<std::string>{"a.safetensors"});
}

TEST(SafeTensorsFiles, WritesWhatIsDocumented) {
  SafeTensors file;
  file.tensors["b"] = {DataType::u8, {1}, {'u'}};
  file.tensors["a"] = {DataType::i8, {}, {'i'}};
  file.tensors["c"] = {DataType::i16, {1, 1}, {'s', 't'}};
  file.metadata["k"] = "v";
  std::string header =
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"I8","shape":[],"data_offsets":[2,3]},)"
      R"("b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]},"c":{"dtype":"I16","shape":[1,1],"data_offsets":[0,2]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::vector<unsigned char> bytes = gma::io::serialize_safetensors(file);
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), file_of(header, "stiu"));
}

TEST(SafeTensorsFiles, AnyOrderAndSpellingIsRead) {
  const SafeTensors file =
      parse(file_of("{ \"x\\u0041\\ud83d\\ude00\" : {\"data_offsets\":[1, 3],\n\"shape\":[2],\"dtype\":\"U8\"}, "
                    "\"__metadata__\" : {} , "
                    "\"z\":{\"shape\":[3,0],\"data_offsets\":[1,1],\"dtype\":\"F64\"},"
                    "\"y\":{\"shape\":[],\"dtype\":\"BOOL\",\"data_offsets\":[0,1]}}  ",
                    "\1ab"));
  EXPECT_EQ(file.tensors.at("xA\xf0\x9f\x98\x80"), (Tensor{DataType::u8, {2}, {'a', 'b'}}));
  EXPECT_EQ(file.tensors.at("y"), (Tensor{DataType::boolean, {}, {1}}));
  EXPECT_EQ(file.tensors.at("z"), (Tensor{DataType::f64, {3, 0}, {}}));
  EXPECT_EQ(file.tensors.size(), 3u);
}

TEST(SafeTensorsFiles, HeaderMustBeSound) {
  expect_refused("", "is no safetensors file: it has 0 bytes");
  expect_refused(file_of("{}").substr(0, 7), "it has 7 bytes");
  expect_refused(file_of("{}").substr(0, 9), "header of 2 bytes, expected at most 1");
  expect_refused(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), "expected at most 100000000");
  expect_refused(std::string("\1\xe1\xf5\5\0\0\0\0{}", 10), "header of 100000001 bytes, expected at most 100000000");
  expect_refused(file_of(""), "does not start with '{'");
  expect_refused(file_of(" {}"), "does not start with '{'");
  expect_refused(file_of("[]"), "does not start with '{'");
  expect_refused(file_of("{}\n"), "more than spaces after its last '}'");
  expect_refused(file_of(std::string("{}\0", 3)), "more than spaces after its last '}'");
  expect_refused(file_of(std::string("{}\0}", 4)), "holds a zero byte");
  expect_refused(file_of("{} {}"), "no JSON");
  expect_refused(file_of("{,}"), "no JSON");
  expect_refused(file_of("{/**/}"), "no JSON");
  expect_refused(file_of("{\"a\xff\":1}"), "ill-formed UTF-8");
  expect_refused(file_of("{\"\\ud800\":1}"), "no JSON");
  expect_refused(file_of("{\"w\":{\"shape\":[1e999]}}"), "no JSON");
  expect_refused(file_of("{" + std::string(100000, '[') + "}"), "no JSON");
  expect_refused(file_of("{\"w\":" + std::string(100000, '[') + "}"), "tensor 'w' is an array, expected an object");
}

const std::string good_entry = R"({"dtype":"U8","shape":[2],"data_offsets":[0,2]})";

TEST(SafeTensorsFiles, EntriesMustBeSound) {
  const auto refused = [](const std::string& entry, const std::string& word) {
    expect_refused(file_of("{\"w\":" + entry + "}", "ab"), word);
  };
  EXPECT_EQ(parse(file_of("{\"w\":" + good_entry + "}", "ab")).tensors.size(), 1u);
  for (const char* value : {"null", "true", "1", "-1", "1.5", "\"x\"", "[]"}) {
    refused(value, "expected an object");
    refused(std::string(R"({"dtype":)") + value + "}", value[0] == '"' ? "has dtype 'x'" : "expected a string");
    if (value[0] != '[') refused(std::string(R"({"shape":)") + value + "}", "expected an array");
    if (value[0] != '[') refused(std::string(R"({"data_offsets":)") + value + "}", "expected an array");
    if (value[0] == '1' && value[1] == '\0') continue;
    refused(std::string(R"({"shape":[)") + value + "]}", "in its shape, expected integers of 0 or more");
    refused(std::string(R"({"data_offsets":[)") + value + ",1]}", "in its data_offsets, expected two integers");
  }
  refused("{}", "tensor 'w' lacks dtype");
  refused(R"({"dtype":"U8","data_offsets":[0,2]})", "lacks shape");
  refused(R"({"dtype":"U8","shape":[2]})", "lacks data_offsets");
  refused(R"({"dtype":"U8","shape":[2],"data_offsets":[0,2],"x":1})", "has the key 'x', expected only");
  refused(R"({"dtype":"U8","dtype":"U8"})", "has dtype twice");
  refused(R"({"shape":[2],"dtype":"U8","shape":[2]})", "has shape twice");
  refused(R"({"data_offsets":[0,2],"data_offsets":[0,2]})", "has data_offsets twice");
  for (const char* type : {"f8_e4m3", "F8-E5M2", "8BIT", "u8", "", "BOOL "}) {
    refused(std::string(R"({"dtype":")") + type + "\"}", std::string("has dtype '") + type + "', expected F64");
  }
  refused(R"({"shape":[{}]})", "has an object in its shape");
  refused(R"({"shape":[-0]})", "in its shape");
  refused(R"({"shape":[2.0]})", "in its shape");
  refused(R"({"shape":[9223372036854775808]})", "a dimension of 9223372036854775808, which overflows");
  refused(R"({"shape":[18446744073709551616]})", "in its shape");
  refused(R"({"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,2]})", "overflows");
  refused(R"({"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,2]})", "overflows");
  refused(R"({"dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})", "overflows");
  refused(R"({"data_offsets":[]})", "0 data_offsets, expected two");
  refused(R"({"data_offsets":[0]})", "1 data_offsets, expected two");
  refused(R"({"data_offsets":[0,1,2]})", "expected two integers");
  refused(R"({"data_offsets":[2,0]})", "expected the first not to exceed the second");
  refused(R"({"dtype":"U8","shape":[2],"data_offsets":[0,1]})", "data of 1 bytes, expected 2 (shape [2] of u8)");
  refused(R"({"dtype":"U16","shape":[2],"data_offsets":[0,2]})", "data of 2 bytes, expected 4 (shape [2] of u16)");
  refused(R"({"dtype":"BOOL","shape":[2],"data_offsets":[0,2]})", "the byte 97 for a boolean");
}

TEST(SafeTensorsFiles, OtherTypesAreKeptAsBytes) {
  const std::string header = R"({"a":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[8,11]},)"
                             R"("b":{"dtype":"C64","shape":[1],"data_offsets":[0,8]},)"
                             R"("c":{"dtype":"F4","shape":[2],"data_offsets":[11,12]}})";
  const SafeTensors file = parse(file_of(header, "complex!fp8x"));
  EXPECT_EQ(file.tensors.at("a"), (Tensor{DataType::other, {3}, {'f', 'p', '8'}, "F8_E4M3"}));
  EXPECT_EQ(file.tensors.at("b").other_type, "C64");
  const std::vector<unsigned char> bytes = gma::io::serialize_safetensors(file);
  const SafeTensors again = gma::io::parse_safetensors(bytes.data(), bytes.size());
  EXPECT_EQ(again.tensors, file.tensors);  // and in the same order, that of the widths
  EXPECT_EQ(std::string(bytes.end() - 12, bytes.end()), "complex!fp8x");
  expect_error([&] { file.tensors.at("a").matrix<float>(); }, {"gma::io::Tensor::matrix", "F8_E4M3"});
  expect_error([&] { file.tensors.at("b").vector<float>(); }, {"gma::io::Tensor::vector", "C64"});

  const auto not_written = [](const Tensor& tensor, const std::string& word) {
    SafeTensors bad;
    bad.tensors["w"] = tensor;
    expect_error([&] { gma::io::serialize_safetensors(bad); }, {"tensor 'w' has ", word});
  };
  not_written({DataType::other, {3}, {1, 2, 3}}, "other_type ''");
  not_written({DataType::u8, {3}, {1, 2, 3}, "U8"}, "other_type 'U8'");
  not_written({DataType::other, {3}, {1, 2, 3}, "U8"}, "dtype 'U8', expected");
  not_written({DataType::other, {3}, {1, 2, 3}, "\"U8"}, "dtype '\"U8', expected");
  not_written({DataType::other, {-3}, {1, 2, 3}, "F8"}, "negative");
}

TEST(SafeTensorsFiles, TextsAndForeignFilesAreNamedAsSuch) {
  expect_refused("version https://git-lfs.github.com/spec/v1", "is no safetensors file: it starts with 'version '");
  expect_refused("\x89PNG\r\n\x1a\n0123", "is no safetensors file: it starts with '?PNG");
}

TEST(SafeTensorsFiles, NamesComeOnce) {
  const std::string other = R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  expect_refused(file_of("{\"w\":" + good_entry + ",\"w\":" + other + "}", "ab"), "has the tensor 'w' twice");
  expect_refused(file_of("{\"w\":" + good_entry + ",\"\\u0077\":" + other + "}", "ab"), "has the tensor 'w' twice");
  expect_refused(file_of(R"({"__metadata__":{},"__metadata__":{}})"), "__metadata__ twice");
  expect_refused(file_of(R"({"__metadata__":{"a":"1","a":"1"}})"), "__metadata__ has the key 'a' twice");
}

TEST(SafeTensorsFiles, MetadataIsStrings) {
  EXPECT_EQ(parse(file_of(R"({"__metadata__":{"a":"1","b":""}})")).metadata.size(), 2u);
  for (const char* value : {"null", "true", "1", "-1", "1.5", "[]", "{}"}) {
    expect_refused(file_of(std::string(R"({"__metadata__":{"a":)") + value + "}}"), "expected strings only");
    if (value[0] == '{') continue;
    expect_refused(file_of(std::string(R"({"__metadata__":)") + value + "}"), "expected an object");
  }
}

TEST(SafeTensorsFiles, DataIsCoveredOnce) {
  const auto two = [](const std::string& a, const std::string& b) {
    const std::string entry = R"({"dtype":"U8","shape":[2],"data_offsets":)";
    return "{\"v\":" + entry + a + "},\"w\":" + entry + b + "}}";
  };
  EXPECT_EQ(parse(file_of(two("[2,4]", "[0,2]"), "abcd")).tensors.at("v").bytes[0], 'c');
  expect_refused(file_of(two("[0,2]", "[1,3]"), "abc"),
                 "tensor 'w' starts at byte 1 of the data, expected 2 (it overlaps");
  expect_refused(file_of(two("[0,2]", "[0,2]"), "ab"), "overlaps");
  expect_refused(file_of(two("[0,2]", "[3,5]"), "abcde"), "starts at byte 3 of the data, expected 2 (there is a gap)");
  expect_refused(file_of(two("[1,3]", "[3,5]"), "abcde"), "tensor 'v' starts at byte 1 of the data, expected 0");
  expect_refused(file_of(two("[0,2]", "[2,4]"), "abc"), "data has 3 bytes, expected 4");
  expect_refused(file_of(two("[0,2]", "[2,4]"), "abcde"), "data has 5 bytes, expected 4");
  expect_refused(file_of("{}", "a"), "data has 1 bytes, expected 0");
  expect_refused(file_of(R"({"v":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                         R"("w":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}})",
                         "ab"),
                 "overlaps");
}

TEST(SafeTensorsFiles, FaultsNameTheFile) {
  const Folder folder;
  write(folder / "a.safetensors", file_of("{}", "x"));
  expect_error<std::runtime_error>([&] { gma::io::read_safetensors(folder / "a.safetensors"); },
                                   {"gma::io::read_safetensors: ", "a.safetensors: data has 1 bytes"});
  expect_error<std::runtime_error>([&] { gma::io::read_safetensors(folder / "b.safetensors"); },
                                   {"gma::io::read_safetensors: ", "b.safetensors: cannot be read", "No such file"});
  const std::string name = "a\n\x7f" + std::string(1000, 'b');
  SafeTensors file;
  file.tensors[name] = {DataType::f32, {1}, {1}};
  expect_error([&] { gma::io::serialize_safetensors(file); }, {"tensor 'a??bbb", "bbb...' has data of 1 bytes"});
}

TEST(SafeTensorsFiles, OnlyValidFilesAreWritten) {
  const Folder folder;
  const auto path = folder / "a.safetensors";
  write(path, "old");
  const auto refused = [&](const SafeTensors& file, const std::vector<std::string>& words) {
    expect_error([&] { gma::io::write_safetensors(path, file); }, words);
    expect_error([&] { gma::io::serialize_safetensors(file); }, words);
  };
  const Tensor good{DataType::u8, {1}, {1}};
  refused({{{"__metadata__", good}}, {}}, {"tensor '__metadata__'", "reserved"});
  refused({{{"w", {DataType::f32, {2}, {1}}}}, {}}, {"tensor 'w' has data of 1 bytes, expected 8"});
  refused({{{"w", {DataType::u8, {-1}, {1}}}}, {}}, {"tensor 'w'", "[-1]"});
  refused({{{"w", {DataType::boolean, {1}, {2}}}}, {}}, {"tensor 'w'", "boolean"});
  for (const char* text : {"\xff", "a\xc3", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80"}) {
    refused({{{text, good}}, {}}, {"is not UTF-8"});
    refused({{}, {{text, "a"}}}, {"is not UTF-8"});
    refused({{}, {{"a", text}}}, {"is not UTF-8"});
  }
#if !defined(GMA_REDUCED_TESTS)  // slow under sanitizers
  const SafeTensors wordy{{}, {{"a", std::string(100'000'000, 'a')}}};
  expect_error([&] { gma::io::serialize_safetensors(wordy); }, {"header would have", "expected at most 100000000"});
#endif
  expect_error<std::runtime_error>([&] { gma::io::write_safetensors(folder / "none" / "a", {}); }, {"none", "No such"});
  with_small_files([&] {
    const SafeTensors large{{{"w", some_tensor(DataType::f64, {100000})}}, {}};
    expect_error<std::runtime_error>([&] { gma::io::write_safetensors(path, large); }, {"a.safetensors", "too large"});
  });
  EXPECT_EQ(contents(path), "old");
  EXPECT_EQ(folder.names(), std::vector<std::string>{"a.safetensors"});
}

TEST(SafeTensorsFiles, DamageIsNoCrash) {
  SafeTensors file;
  file.tensors["w"] = some_tensor(DataType::f16, {2, 1});
  file.tensors["b"] = some_tensor(DataType::boolean, {2});
  file.metadata["a"] = "b";
  const std::vector<unsigned char> good = gma::io::serialize_safetensors(file);
  for_each_damage(good, [&](const std::vector<unsigned char>& bytes, std::size_t at) {
    try {
      const SafeTensors read = parse(bytes);
      EXPECT_EQ(bytes.size(), good.size()) << "cut after byte " << at;
      EXPECT_EQ(parse(gma::io::serialize_safetensors(read)).tensors, read.tensors);
    } catch (const std::runtime_error& error) {
      EXPECT_TRUE(bytes.size() < good.size() || at < good.size() - 6 || at >= good.size() - 2) << error.what();
    }
  });
}

}  // namespace
}  // namespace gma_test
