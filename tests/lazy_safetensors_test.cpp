// SPDX-License-Identifier: MIT
// Safetensors files read a tensor at a time, and models in shards: what comes back, what is refused, and that nothing
// else is read.
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <new>
#include <string>
#include <vector>

#include "gma/io/layer_safetensors.hpp"
#include "gma/io/lazy_safetensors.hpp"
#include "gma/layer/layer_initialization.hpp"
#include "io_support.hpp"

#if defined(__unix__)
#include <sys/stat.h>
#endif

namespace gma_test {
namespace {

std::atomic<std::size_t> heap_bytes{0};  // that operator new gave, in all

namespace io = gma::io;
using io::LazySafeTensors;
using io::SafeTensors;
using io::SafeTensorsIndex;

std::string file_of(const std::string& header, const std::string& data = "") {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>((header.size() >> (8 * i)) & 0xff);
  return file + header + data;
}

SafeTensors every_type_and_shape() {
  SafeTensors file;
  for (const DataType type : all_types) {
    for (std::size_t i = 0; i < some_shapes.size(); ++i) {
      file.tensors[std::string(io::name_of(type)) + "." + std::to_string(i)] = some_tensor(type, some_shapes[i]);
    }
  }
  file.tensors["z"] = {DataType::other, {3}, {1, 2, 3}, "F8_E4M3"};
  file.metadata = {{"format", "pt"}};
  return file;
}

void expect_all(const LazySafeTensors& lazy, const SafeTensors& file) {
  std::vector<std::string> names;
  for (const auto& named : file.tensors) names.push_back(named.first);
  EXPECT_EQ(lazy.names(), names);
  EXPECT_EQ(lazy.metadata(), file.metadata);
  for (const auto& [name, tensor] : file.tensors) {
    EXPECT_TRUE(lazy.contains(name));
    EXPECT_EQ(lazy.read(name), tensor) << name;
    const io::TensorView view = lazy.view(name);
    EXPECT_EQ(view.info().shape, tensor.shape);
    EXPECT_EQ(view.info().bytes, tensor.bytes.size());
    EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), view.data())) << name;
    if (tensor.type == DataType::other) {
      EXPECT_EQ(view.info().other_type, tensor.other_type);
      expect_error([&] { view.matrix<float>(); }, {"gma::io::TensorView::matrix", "F8_E4M3"});
    } else {
      EXPECT_TRUE(same_bits(view.matrix<double>(), tensor.matrix<double>())) << name;
    }
  }
}

template <class F>
void expect_refused(F&& f, const std::vector<std::string>& words) {
  std::vector<std::string> all = words;
  all.emplace_back("gma::io::LazySafeTensors: ");
  expect_error<std::runtime_error>(f, all);
}

TEST(LazySafeTensorsFiles, EverythingComesBack) {
  const Folder folder;
  const SafeTensors file = every_type_and_shape();
  io::write_safetensors(folder / "model.safetensors", file);
  expect_all(LazySafeTensors(folder / "model.safetensors"), file);
  const LazySafeTensors by_folder((folder / "x").parent_path());
  expect_all(by_folder, file);
  by_folder.check_all();
  EXPECT_FALSE(by_folder.contains("none"));
  expect_refused([&] { by_folder.read("none"); }, {"model.safetensors: there is no tensor 'none'"});
}

TEST(LazySafeTensorsFiles, ShardsAreOneModel) {
  const Folder folder;
  const SafeTensors file = every_type_and_shape();
  for (const std::uint64_t most : {1u, 100u, 1u << 20}) {
    io::write_safetensors_shards((folder / "x").parent_path(), file, most);
    for (const auto& path : {(folder / "x").parent_path(), folder / "model.safetensors.index.json"}) {
      const LazySafeTensors model(path);
      expect_all(model, file);
      model.check_all();
    }
  }
}

TEST(LazySafeTensorsFiles, ShardsAreWrittenAsDocumented) {
  const Folder folder;
  SafeTensors file;
  for (const char* name : {"a", "b", "c", "d"}) file.tensors[name] = some_tensor(DataType::u8, {3});
  file.tensors["c"] = some_tensor(DataType::u8, {9});
  file.metadata["format"] = "pt";
  io::write_safetensors_shards((folder / "x").parent_path(), file, 6, "m");
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"m-00001-of-00003.safetensors", "m-00002-of-00003.safetensors",
                                                      "m-00003-of-00003.safetensors", "m.safetensors.index.json"}));
  EXPECT_EQ(contents(folder / "m.safetensors.index.json"),
            "{\"metadata\":{\"total_size\":18},\"weight_map\":{\"a\":\"m-00001-of-00003.safetensors\","
            "\"b\":\"m-00001-of-00003.safetensors\",\"c\":\"m-00002-of-00003.safetensors\","
            "\"d\":\"m-00003-of-00003.safetensors\"}}\n");
  EXPECT_EQ(io::read_safetensors(folder / "m-00002-of-00003.safetensors").tensors.count("c"), 1u);
  expect_error([&] { io::write_safetensors_shards((folder / "x").parent_path(), file, 6, "../m"); },
               {"gma::io::write_safetensors_shards: name is '../m'"});
  expect_error([&] { io::write_safetensors_shards((folder / "x").parent_path(), file, 0); }, {"most_bytes is 0"});
  file.tensors["c"].bytes.pop_back();
  expect_error([&] { io::write_safetensors_shards((folder / "x").parent_path(), file, 6, "n"); }, {"tensor 'c'"});
  EXPECT_EQ(folder.names().size(), 4u);  // nothing of it was written
  io::write_safetensors_shards((folder / "x").parent_path(), {}, 6, "empty");
  EXPECT_TRUE(LazySafeTensors(folder / "empty.safetensors.index.json").names().empty());
}

TEST(LazySafeTensorsFiles, OnlyNeededShardsAreOpened) {
  const Folder folder;
  SafeTensors file;
  for (const char* name : {"a", "b", "c"}) file.tensors[name] = some_tensor(DataType::f32, {3});
  io::write_safetensors_shards((folder / "x").parent_path(), file, 1);
  std::filesystem::remove(folder / "model-00002-of-00003.safetensors");
  write(folder / "model-00003-of-00003.safetensors", "no shard");
  const LazySafeTensors model((folder / "x").parent_path());
  EXPECT_EQ(model.read("a"), file.tensors["a"]);
  EXPECT_EQ(model.names().size(), 3u);
  for (int i = 0; i < 2; ++i) {  // the second time, too
    expect_refused([&] { model.read("b"); }, {"model-00002-of-00003.safetensors: cannot be read: No such file"});
    expect_refused([&] { model.view("c"); }, {"model-00003-of-00003.safetensors: is no safetensors file"});
  }
  expect_refused([&] { model.check_all(); }, {"model-00002-of-00003.safetensors: cannot be read"});
}

TEST(LazySafeTensorsFiles, ShardsMustHaveTheirTensors) {
  const Folder folder;
  SafeTensors file;
  for (const char* name : {"a", "b"}) file.tensors[name] = some_tensor(DataType::f32, {3});
  io::write_safetensors_shards((folder / "x").parent_path(), file, 1);
  std::filesystem::copy_file(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  const LazySafeTensors model((folder / "x").parent_path());
  EXPECT_EQ(model.read("a"), file.tensors["a"]);
  const std::vector<std::string> words = {
      "model-00002-of-00002.safetensors: it lacks the tensor 'b', which the index model.safetensors.index.json says"};
  expect_refused([&] { model.read("b"); }, words);
  expect_refused([&] { model.info("b"); }, words);
  expect_refused([&] { model.check_all(); }, words);
}

TEST(LazySafeTensorsFiles, TotalSizeIsChecked) {
  const Folder folder;
  SafeTensors file;
  file.tensors["a"] = some_tensor(DataType::f32, {3});
  io::write_safetensors_shards((folder / "x").parent_path(), file, 1);
  const auto index = folder / "model.safetensors.index.json";
  const std::string text = contents(index);
  write(index, std::string(text).replace(text.find(":12"), 3, ":13"));
  const LazySafeTensors wrong(index);
  EXPECT_EQ(wrong.read("a"), file.tensors["a"]);
  expect_refused([&] { wrong.check_all(); }, {"index.json: metadata.total_size is 13, expected 12"});
}

SafeTensorsIndex parse_index(const std::string& text) {
  return io::parse_safetensors_index(bytes_of(text), text.size());
}

TEST(SafeTensorsIndexes, OfEveryFormAreRead) {
  const SafeTensorsIndex index = parse_index(
      " {\"weight_map\": {\"\\u0061\": \"x.safetensors\", \"\": \"\xc3\xa9 ..safetensors\"},\n \"more\": [1, {\"a\": "
      "[]}], \"metadata\": {\"total_size\": 18446744073709551615, \"total_parameters\": -1.5, \"x\": {\"total_size\": "
      "null}}} \n");
  EXPECT_EQ(index.files, (std::map<std::string, std::string>{{"a", "x.safetensors"}, {"", "\xc3\xa9 ..safetensors"}}));
  EXPECT_EQ(index.total_size, std::uint64_t{18446744073709551615u});
  EXPECT_FALSE(parse_index("{\"weight_map\":{}}").total_size.has_value());
}

TEST(SafeTensorsIndexes, MustBeSound) {
  const auto refused = [](const std::string& text, const std::string& word) {
    expect_error<std::runtime_error>([&] { parse_index(text); }, {"gma::io::parse_safetensors_index: ", word});
  };
  refused("", "index is no JSON");
  refused("{", "index is no JSON");
  refused("model", "index is no JSON");
  refused(std::string(100000, '['), "expected an object");
  refused("{\"x\":" + std::string(100000, '[') + "}", "index is no JSON");
  refused(std::string("{\"weight_map\":{}}\0", 18), "zero byte");
  refused("{\"weight_map\":{}} {}", "index is no JSON");
  refused("{\"weight_map\":{\"a\xff\":\"b\"}}", "ill-formed UTF-8");
  refused("{}", "index lacks weight_map");
  refused("{\"x\":{\"weight_map\":{}}}", "index lacks weight_map");
  refused("{\"weight_map\":{},\"weight_map\":{}}", "index has weight_map twice");
  refused(R"({"weight_map":{"a":"b","\u0061":"b"}})", "index has the tensor 'a' twice");
  for (const char* value : {"null", "true", "1", "-1", "1.5", "\"x\"", "[]"}) {
    refused(value, "expected an object");
    refused(std::string(R"({"weight_map":)") + value + "}", "weight_map is ");
    if (value[0] != '"') {
      refused(std::string(R"({"weight_map":{"a":)") + value + "}}", "tensor 'a' has in weight_map ");
    }
    if (value[0] == '1' && value[1] == 0) continue;
    refused(std::string(R"({"weight_map":{},"metadata":{"total_size":)") + value + "}}", "total_size is ");
  }
  refused(R"({"weight_map":{"a":{}}})", "tensor 'a' has in weight_map an object");
  refused(R"({"weight_map":{},"metadata":{"total_size":1,"total_size":1}})", "total_size twice");
}

TEST(SafeTensorsIndexes, LeadToNoOtherFolder) {
  for (const char* name : {"", ".", "..", "../x", "/etc/passwd", "a/b", "./x", "a\\\\..\\\\b", "C:x", "C:\\\\x",
                           "\\\\\\\\host\\\\x", "a\\u0000", "a\\nb", "a\\u007f", "x/.."}) {
    expect_error<std::runtime_error>(
        [&] { parse_index(std::string(R"({"weight_map":{"a":")") + name + "\"}}"); },
        {"tensor 'a' is in the file ", "expected the name of a file in the index's folder"});
  }
  const Folder folder;
  std::filesystem::create_directory(folder / "model");
  io::write_safetensors(folder / "secret.safetensors", {{{"a", some_tensor(DataType::u8, {1})}}, {}});
  write(folder / "model" / "model.safetensors.index.json", R"({"weight_map":{"a":"../secret.safetensors"}})");
  expect_refused([&] { LazySafeTensors(folder / "model"); }, {"index.json: tensor 'a' is in the file '../secret"});
}

TEST(LazySafeTensorsFiles, OtherThingsAreRefused) {
  const Folder folder;
  const auto refused = [&](const std::string& name, const std::string& word) {
    expect_refused([&] { LazySafeTensors(folder / name); }, {name + ": ", word});
  };
  refused("none", "cannot be read: No such file");
  std::filesystem::create_directory(folder / "empty");
  refused("empty", "holds neither model.safetensors nor model.safetensors.index.json");
  std::filesystem::create_directories(folder / "model.json");
  refused("model.json", "holds neither");
  write(folder / "short", "1234567");
  refused("short", "is no safetensors file: it has 7 bytes");
  write(folder / "long", file_of("{}").substr(0, 9));
  refused("long", "header of 2 bytes, expected at most 1");
  write(folder / "huge", std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10));
  refused("huge", "is no safetensors file");
  write(folder / "far", file_of(R"({"w":{"dtype":"F8_E4M3","shape":[9],"data_offsets":[0,18446744073709551615]}})"));
  refused("far", "data has 0 bytes, expected 18446744073709551615");
  write(folder / "wide",
        file_of(R"({"w":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,8]}})", "12345678"));
  refused("wide", "overflows");
  write(folder / "gap", file_of(R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "ab"));
  refused("gap", "there is a gap");
#if defined(__unix__)
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  refused("pipe", "it is no regular file");
  refused(std::string("a\0b", 1) + std::string(300, 'x'), "cannot be opened: File name too long");
#endif
}

TEST(LazySafeTensorsFiles, AFileThatBecomesShorterIsAnError) {
  const Folder folder;
  SafeTensors file;
  file.tensors["a"] = some_tensor(DataType::f32, {1000});
  file.tensors["b"] = some_tensor(DataType::f32, {1000});
  const auto path = folder / "a.safetensors";
  io::write_safetensors(path, file);
  const LazySafeTensors lazy(path);
  const io::TensorView before = lazy.view("b");
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  expect_refused([&] { before.matrix<float>(); }, {"ends after 3999 bytes of the next 4000: it has become shorter"});
#if GMA_IO_MAPS_FILES  // else it is a copy
  expect_refused([&] { before.map<float>(); }, {"ends after 3999 bytes of the next 4000: it has become shorter"});
#endif
  EXPECT_EQ(lazy.read("a"), file.tensors["a"]);
  EXPECT_EQ(lazy.view("a").map<float>()(999), file.tensors["a"].vector<float>()(999));
  expect_refused([&] { lazy.read("b"); }, {"ends after 3999 bytes of the next 4000: it has become shorter"});
  expect_refused([&] { lazy.view("b"); }, {"ends after 3999 bytes of the next 4000: it has become shorter"});
  expect_refused([&] { LazySafeTensors again(path); }, {"data has 7999 bytes, expected 8000"});
  std::filesystem::resize_file(path, 0);
  expect_refused([&] { lazy.read("a"); }, {"ends after 0 bytes of the next 4000"});
  expect_refused([&] { lazy.view("a"); }, {"ends after 0 bytes of the next 4000"});
}

TEST(LazySafeTensorsFiles, StaysTheFileThatWasOpened) {
  const Folder folder;
  SafeTensors old, fresh;
  old.tensors["a"] = some_tensor(DataType::f32, {1000});
  fresh.tensors["b"] = some_tensor(DataType::u8, {1});
  io::write_safetensors(folder / "a", old);
  const LazySafeTensors lazy(folder / "a");
  io::write_safetensors(folder / "a", fresh);
  EXPECT_EQ(lazy.read("a"), old.tensors["a"]);
}

TEST(LazySafeTensorsFiles, ViewsAreOperandsAndOutliveTheFile) {
  const Folder folder;
  const Matrix<float> m = Random(1).matrix<float>(300, 70);  // more than is read at a time
  SafeTensors file;
  file.tensors["m"] = make_tensor(m);
  file.tensors["half"] = make_tensor(m, DataType::bf16);
  file.tensors["odd"] = some_tensor(DataType::u8, {1});
  io::write_safetensors(folder / "a", file);
  auto lazy = std::make_unique<LazySafeTensors>(folder / "a");
  const io::TensorView view = lazy->view("m"), half = lazy->view("half");
  lazy.reset();
  std::filesystem::remove(folder / "a");
  EXPECT_TRUE(same_bits(Matrix<float>(view.map<float>()), m));
  EXPECT_TRUE(same_bits(view.matrix<float>(), m));
  EXPECT_TRUE(same_bits(Matrix<float>(half.map<Eigen::bfloat16>().cast<float>()), half.matrix<float>()));
  expect_error([&] { view.map<double>(); }, {"gma::io::TensorView::map: tensor is of the type f32, expected f64"});
  write(folder / "b", file_of(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                              R"("b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
                              "abcde"));
  const io::TensorView crooked = LazySafeTensors(folder / "b").view("b");
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(crooked.data()) % alignof(float) == 0;
  if (!is_aligned)
    expect_error([&] { crooked.map<float>(); }, {"map: tensor's bytes are not laid out", "aligned to 4"});
  EXPECT_EQ(crooked.matrix<float>().size(), 1);
}

TEST(LazySafeTensorsFiles, RefuseWhatTheOtherReaderRefuses) {
  const Folder folder;
  SafeTensors file;
  file.tensors["w"] = some_tensor(DataType::f16, {2, 1});
  file.tensors["b"] = some_tensor(DataType::boolean, {2});
  const std::vector<unsigned char> good = io::serialize_safetensors(file);
  int read = 0;
  const auto path = folder / "a";
  for_each_damage(good, [&](const std::vector<unsigned char>& bytes, std::size_t) {
    write(path, std::string(bytes.begin(), bytes.end()));
    std::string expected, found;
    SafeTensors whole, parts;
    try {
      whole = io::read_safetensors(path);
    } catch (const std::runtime_error& error) {
      expected = std::string(error.what()).substr(std::string("gma::io::read_safetensors").size());
    }
    try {
      const LazySafeTensors lazy(path);
      for (const std::string& name : lazy.names()) {
        parts.tensors[name] = lazy.read(name);
        lazy.view(name);
      }
    } catch (const std::runtime_error& error) {
      found = std::string(error.what()).substr(std::string("gma::io::LazySafeTensors").size());
    }
    ASSERT_EQ(found, expected);
    ASSERT_TRUE(!expected.empty() || parts.tensors == whole.tensors);
    read += expected.empty() ? 1 : 0;
  });
  EXPECT_GT(read, 10);
}

gma::LayerConfig small_config() {
  gma::LayerConfig config;
  config.width = 8;
  config.heads = 2;
  config.components = {3, 2};
  return config;
}

template <class A, class B>
void expect_same(const A& a, const B& b) {
  gma::visit_parameters([](const gma::Parameter& parameter, const auto& x,
                           const auto& y) { EXPECT_TRUE(same_bits(x, y)) << parameter.name; },
                        a, b);
}

TEST(LayersOfLargeModels, AreReadFromTheirShardsAlone) {
  const Folder folder;
  const auto model = (folder / "x").parent_path();
  SafeTensors file;
  const auto first = gma::random_layer<float>(small_config(), 1), second = gma::random_layer<float>(small_config(), 2);
  io::put_layer(file, first, "layers.0.attention.");
  io::put_layer(file, second, "layers.1.attention.");
  file.tensors["zz"] = some_tensor(DataType::f32, {100});
  io::write_safetensors_shards(model, file, 500);
  const SafeTensorsIndex index = io::read_safetensors_index(folder / "model.safetensors.index.json");
  expect_same(io::read_layer<float>(model, small_config(), "layers.0.attention."), first);
  for (const auto& [name, shard] : index.files) {
    if (name.compare(0, 9, "layers.1.") != 0) std::filesystem::remove(folder / shard);
  }
  // The shard in which one layer ends and the next begins may be gone: write the second layer's alone.
  for (const auto& [name, tensor] : file.tensors) {
    if (name.compare(0, 9, "layers.1.") != 0) continue;
    const auto path = folder / index.files.at(name);
    SafeTensors shard = std::filesystem::exists(path) ? io::read_safetensors(path) : SafeTensors();
    shard.tensors[name] = tensor;
    io::write_safetensors(path, shard);
  }
  expect_same(io::read_layer<float>(model, small_config(), "layers.1.attention."), second);
  expect_error<std::runtime_error>([&] { io::read_layer<float>(model, small_config(), "layers.0.attention."); },
                                   {"gma::io::LazySafeTensors: ", "model-00001-of-", "cannot be read: No such file"});
}

TEST(LayersOfLargeModels, AreCheckedBeforeNumbersAreRead) {
  const Folder folder;
  SafeTensors file;
  io::put_layer(file, gma::random_layer<float>(small_config(), 1), "a.");
  file.tensors["b"] = some_tensor(DataType::f32, {3});
  const auto path = folder / "model.safetensors";
  const auto expect = [&](const std::vector<std::string>& words, const gma::LayerConfig& config, const char* prefix) {
    io::write_safetensors(path, file);
    expect_error<std::runtime_error>([&] { io::read_layer<float>(path, config, prefix); }, words);
  };
  gma::LayerConfig other = small_config();
  other.width = 16;
  expect({"gma::io::read_layer: " + path.string() + ": tensor a.", "expected ["}, other, "a.");
  expect({"gma::io::read_layer: ", "the file lacks the tensor c.query.weight"}, small_config(), "c.");
  expect({"the file lacks the tensor query.weight"}, small_config(), "");
  file.tensors["a.more"] = some_tensor(DataType::f32, {3});
  expect({"tensor a.more is no parameter of this layer"}, small_config(), "a.");
  file.tensors.erase("a.more");
  file.tensors["a.norm.gain"] = make_tensor(Vector<float>(Vector<float>::Constant(8, std::nanf(""))));
  expect({"gma::io::read_layer: ", "tensor a.norm.gain has a number that is not finite"}, small_config(), "a.");
  gma::LayerConfig bad = small_config();
  bad.width = -1;
  expect_error([&] { io::read_layer<float>(path, bad, "a."); }, {"width is -1"});
}

/// The bytes that this process has read from files so far; -1 where the system does not say.
long long bytes_read() {
  std::ifstream counts("/proc/self/io");
  std::string name;
  long long value = 0;
  while (counts >> name >> value) {
    if (name == "rchar:") return value;
  }
  return -1;
}

TEST(LayersOfLargeModels, AreReadWithoutTheRest) {
  const Folder folder;
  const auto path = folder / "model.safetensors";
  const auto layer = gma::random_layer<float>(small_config(), 1);
  SafeTensors file;
  io::put_layer(file, layer, "layers.1.");
  constexpr std::uint64_t rest = std::uint64_t{3} << 30;  // bytes before the layer, and after it
  io::detail::SafeTensorsHeader header;
  header.entries["a"] = {DataType::u8, {}, {Index{rest}}, 0, rest};
  std::uint64_t position = rest;
  std::string data;
  for (const auto& [name, tensor] : file.tensors) {
    header.entries[name] = {tensor.type, {}, tensor.shape, position, position + tensor.bytes.size()};
    position += tensor.bytes.size();
    data.append(tensor.bytes.begin(), tensor.bytes.end());
  }
  header.entries["z"] = {DataType::f32, {}, {Index{rest / 4}}, position, position + rest};
  const std::string start = file_of(io::detail::safetensors_json("test", header));
  {
    std::ofstream out(path, std::ios::binary);
    out << start;
    out.seekp(static_cast<std::streamoff>(start.size() + rest));
    out << data;
    if (!out.flush()) GTEST_SKIP() << "this file system takes no sparse file of 3 GiB";
  }
  std::error_code error;
  std::filesystem::resize_file(path, start.size() + position + rest, error);
  if (error) GTEST_SKIP() << "this file system takes no sparse file of 6 GiB: " << error.message();

  const long long read_before = bytes_read();
  const std::size_t heap_before = heap_bytes;
  const auto read = io::read_layer<float>(path, small_config(), "layers.1.");
  const std::size_t heap = heap_bytes - heap_before;
  const long long from_files = bytes_read() - read_before;
  expect_same(read, layer);
  EXPECT_LT(heap, 20 * (start.size() + data.size()));
  if (read_before >= 0 && GMA_IO_MAPS_FILES) {  // a stream's buffer reads more
    EXPECT_GE(from_files, static_cast<long long>(start.size() + data.size()));
    EXPECT_LT(from_files, static_cast<long long>(start.size() + data.size()) + 10000);  // and /proc/self/io itself
  }

  // A tensor of 3 GiB, mapped, costs neither.
  const LazySafeTensors lazy(path);
  const std::size_t heap_before_view = heap_bytes;
  const long long read_before_view = bytes_read();
  const io::TensorView view = lazy.view("z");
  EXPECT_EQ(view.info().bytes, rest);
  EXPECT_EQ(view.data()[rest - 1], 0);
#if GMA_IO_MAPS_FILES
  EXPECT_LT(heap_bytes - heap_before_view, 100000u);
  EXPECT_TRUE(read_before < 0 || bytes_read() - read_before_view < 10000);
#endif
}

void* allocate(std::size_t size) {
  heap_bytes += size;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}

}  // namespace
}  // namespace gma_test

void* operator new(std::size_t size) { return gma_test::allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
