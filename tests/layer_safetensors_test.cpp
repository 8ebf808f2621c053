// SPDX-License-Identifier: MIT
// Layers in safetensors files: there and back to the bit, from files as PyTorch would write them, and files that are
// not of the layer refused by name with the layer as it was.
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "gma/baselines/layer_features.hpp"
#include "gma/io/layer_safetensors.hpp"
#include "gma/layer/layer_forward.hpp"
#include "gma/layer/layer_initialization.hpp"
#include "io_support.hpp"
#include "support.hpp"

namespace gma_test {
namespace {

namespace io = gma::io;
using Layer = gma::AttentionLayer<float>;

gma::LayerConfig small_config() {
  gma::LayerConfig config;
  config.width = 8;
  config.heads = 4;
  config.key_value_heads = 2;
  config.head_width = 4;
  config.components = {3, 2};
  config.has_output_gate = config.has_output_norm = true;
  config.normalization = Normalization::row;
  config.window = 5;
  return config;
}

class LayerFiles : public testing::Test {
 protected:
  Layer layer = gma::random_layer<float>(small_config(), 1);
  const Folder folder;  // of its own, since tests run side by side
  const std::filesystem::path path = folder / "layer.safetensors";
};

template <class A, class B>
void expect_same(const A& a, const B& b) {
  gma::visit_parameters([](const gma::Parameter& parameter, const auto& x,
                           const auto& y) { EXPECT_TRUE(same_bits(x, y)) << parameter.name; },
                        a, b);
}

TEST_F(LayerFiles, ThereAndBack) {
  io::write_layer(path, layer);
  const Layer read = io::read_layer<float>(path);
  expect_same(read, layer);
  EXPECT_EQ(read.config.components, layer.config.components);
  EXPECT_EQ(read.config.normalization, Normalization::row);
  EXPECT_EQ(read.config.window, 5);
  const Matrix<float> x = Random(1).matrix<float>(9, 8);
  EXPECT_TRUE(same_bits(gma::forward(read, x), gma::forward(layer, x)));
  const gma::AttentionLayer<double> wide = io::read_layer<double>(path);
  EXPECT_EQ(wide.query_weight(3, 3), static_cast<double>(layer.query_weight(3, 3)));
}

TEST_F(LayerFiles, FromBeforeTheWindow) {
  gma::LayerConfig config = small_config();
  config.window = 0;
  io::write_layer(path, gma::random_layer<float>(config, 1));
  io::SafeTensors file = io::read_safetensors(path);
  std::string& text = file.metadata["config"];
  const std::string member = ",\"window\":0";
  ASSERT_NE(text.find(member), std::string::npos) << text;
  text.erase(text.find(member), member.size());
  io::write_safetensors(path, file);
  EXPECT_EQ(io::read_layer<float>(path).config.window, 0);
}

TEST_F(LayerFiles, FromBeforeTheGateActivation) {
  io::write_layer(path, layer);
  EXPECT_EQ(io::read_layer<float>(path).config.gate_activation, gma::GateActivation::silu);
  io::SafeTensors file = io::read_safetensors(path);
  file.metadata["config"] =  // as it was written then
      "{\"width\":8,\"heads\":4,\"key_value_heads\":2,\"head_width\":4,\"value_width\":0,\"components\":[3,2],"
      "\"is_causal\":true,\"normalization\":\"row\",\"convolution\":4,\"has_forgetting\":true,\"window\":5,"
      "\"has_output_norm\":true,\"has_output_gate\":true,\"shortest_time\":16.0,\"longest_time\":512.0}";
  io::write_safetensors(path, file);
  Layer old = io::read_layer<float>(path);
  EXPECT_EQ(old.config.gate_activation, gma::GateActivation::sigmoid);
  layer.config.gate_activation = gma::GateActivation::sigmoid;
  const Matrix<float> x = Random(1).matrix<float>(9, 8);
  EXPECT_TRUE(same_bits(gma::forward(old, x), gma::forward(layer, x)));
  io::write_layer(path, old);  // from now on by name
  EXPECT_NE(io::read_safetensors(path).metadata.at("config").find("\"gate_activation\":\"sigmoid\""),
            std::string::npos);
  EXPECT_EQ(io::read_layer<float>(path).config.gate_activation, gma::GateActivation::sigmoid);
}

TEST_F(LayerFiles, ForgettingOfSlots) {
  gma::LayerConfig config = layer.config;
  config.slot_forgetting_rank = 3;
  const Layer by_slot = gma::random_layer<float>(config, 7);
  io::write_layer(path, by_slot);
  EXPECT_EQ(io::read_safetensors(path).tensors.at("slot_forget.rate").shape, (std::vector<Index>{2 * 3, 3 * 2}));
  const Layer read = io::read_layer<float>(path);
  EXPECT_EQ(read.config.slot_forgetting_rank, 3);
  EXPECT_TRUE(same_bits(read.slot_forget_rate, by_slot.slot_forget_rate));
  const Matrix<float> x = Random(1).matrix<float>(9, 8);
  EXPECT_TRUE(same_bits(gma::forward(read, x), gma::forward(by_slot, x)));
}

TEST_F(LayerFiles, SixteenBitWeights) {
  io::write_layer(path, layer, io::DataType::bf16);
  const Layer read = io::read_layer<float>(path);
  EXPECT_EQ(read.query_weight(3, 3), static_cast<float>(static_cast<Eigen::bfloat16>(layer.query_weight(3, 3))));
}

TEST_F(LayerFiles, APartOfALargerModelUnderAPrefix) {
  io::SafeTensors file;
  file.tensors["embedding"] = io::make_tensor(Matrix<float>(2, 2));
  io::put_layer(file, layer, "layers.0.");
  io::put_layer(file, gma::random_layer<float>(small_config(), 2), "layers.1.");
  // A depthwise Conv1d's weight has a dimension of one in its middle.
  io::Tensor& filter = file.tensors["layers.0.key.filter"];
  filter.shape = {8, 1, 4};
  Layer read(small_config());
  io::get_layer(file, read, "layers.0.");
  expect_same(read, layer);
}

TEST_F(LayerFiles, WhatDoesNotFitIsRefusedByName) {
  const auto expect = [&](const std::vector<std::string>& words, const auto& spoil) {
    io::SafeTensors file;
    io::put_layer(file, layer);
    spoil(file);
    Layer target = gma::random_layer<float>(small_config(), 9);
    const Layer before = target;
    expect_error<std::runtime_error>([&] { io::get_layer(file, target); }, words);
    expect_same(target, before);
  };
  expect({"gma::io::get_layer: ", "lacks the tensor mixtures.1.factors.0.means"},
         [](io::SafeTensors& f) { f.tensors.erase("mixtures.1.factors.0.means"); });
  expect({"tensor query.bias is no parameter"},
         [](io::SafeTensors& f) { f.tensors["query.bias"] = io::make_tensor(Vector<float>(16)); });
  expect({"tensor key.weight", "[9, 8]", "expected [8, 8]"},
         [](io::SafeTensors& f) { f.tensors["key.weight"] = io::make_tensor(Matrix<float>(9, 8)); });
  expect({"tensor forget.bias", "integers"}, [](io::SafeTensors& f) {
    f.tensors["forget.bias"] = io::make_tensor(Vector<std::int32_t>(Vector<std::int32_t>::Zero(2)));
  });
  expect({"tensor norm.gain", "not finite"}, [](io::SafeTensors& f) {
    f.tensors["norm.gain"] = io::make_tensor(Vector<float>(Vector<float>::Constant(16, std::nanf(""))));
  });
}

TEST_F(LayerFiles, ForeignFilesAreRefused) {
  const auto expect = [&](const std::vector<std::string>& words, const auto& spoil) {
    io::write_layer(path, layer);
    io::SafeTensors file = io::read_safetensors(path);
    spoil(file);
    io::write_safetensors(path, file);
    expect_error<std::exception>([&] { io::read_layer<float>(path); }, words);
  };
  const auto config = [](const std::string& from, const std::string& to) {
    return [from, to](io::SafeTensors& f) {
      std::string& text = f.metadata["config"];
      const std::size_t at = text.find(from);
      ASSERT_NE(at, std::string::npos);
      text.replace(at, from.size(), to);
    };
  };
  expect({"has the format \"\""}, [](io::SafeTensors& f) { f.metadata.clear(); });
  expect({"full covariances, expected diagonal"}, [](io::SafeTensors& f) { f.metadata["covariance"] = "full"; });
  expect({"no JSON object"}, [](io::SafeTensors& f) { f.metadata["config"] = "{"; });
  expect({"lacks heads"}, config("\"heads\"", "\"hats\""));
  expect({"bad value for width"}, config("\"width\":8", "\"width\":-8"));
  expect({"bad value for normalization"}, config("\"row\"", "\"rows\""));
  expect({"bad value for components"}, config("[3,2]", "[3,\"2\"]"));
  expect({"members that are not known"}, config("\"heads\"", "\"hats\":1,\"heads\""));
  expect({"lacks the tensor window.weight"}, [](io::SafeTensors& f) { f.tensors.erase("window.weight"); });
  expect({"window.bias is no parameter"}, [](io::SafeTensors& f) {
    f.tensors.erase("window.weight");
    std::string& text = f.metadata["config"];
    text.replace(text.find("\"window\":5"), 10, "\"window\":0");
  });
  expect({"width is 0"}, config("\"width\":8", "\"width\":0"));
  expect({"tensor query.weight has the shape [16, 8], expected [16, 2000000]"},
         config("\"width\":8", "\"width\":2000000"));
  expect({"mixtures.0.factors.1.means"}, config("[3,2]", "[3,2000000]"));
}

/// A layer's names and shapes, as it presents them and as the reader expects them before there is one.
template <class Covariance>
void expect_known_shapes(const gma::LayerConfig& config) {
  io::SafeTensors file;
  std::map<std::string, std::vector<Index>> presented;
  gma::AttentionLayer<float, Covariance> layer(config);
  gma::visit_parameters(
      [&](const gma::Parameter& p, const auto&) {
        presented[p.name] = p.shape;
        EXPECT_TRUE(io::detail::is_layer_part(p.name, "")) << p.name;
      },
      layer);
  for (const auto& [name, shape] : presented) file.tensors[name] = some_tensor(io::DataType::f32, shape);
  EXPECT_EQ((io::detail::layer_fault<float, Covariance>(file, config, "")), "");
  for (const auto& [name, shape] : presented) {
    io::SafeTensors without = file;
    without.tensors.erase(name);
    EXPECT_EQ((io::detail::layer_fault<float, Covariance>(without, config, "")), "the file lacks the tensor " + name);
  }
}

TEST(LayerShapes, AreKnownBeforeThereIsALayer) {
  gma::LayerConfig plain = small_config();
  plain.has_output_gate = plain.has_output_norm = plain.has_forgetting = false;
  plain.window = 0;
  plain.convolution = 1;
  plain.value_width = 3;
  for (const gma::LayerConfig& config : {small_config(), plain}) {
    all_families::for_each([&](auto family) { expect_known_shapes<decltype(family)>(config); });
    expect_known_shapes<gma::baselines::Elu>(config);
  }
}

template <class Covariance>
void expect_there_and_back(const std::filesystem::path& path) {
  const auto layer = gma::random_layer<float, Covariance>(small_config(), 5);
  const Matrix<float> x = Random(2).matrix<float>(9, 8), y = gma::forward(layer, x);
  io::write_layer(path, layer);
  EXPECT_TRUE(same_bits(gma::forward(io::read_layer<float, Covariance>(path), x), y)) << Covariance::name;
  io::SafeTensors file;
  io::put_layer(file, layer, "attention.");
  auto other = gma::random_layer<float, Covariance>(small_config(), 6);
  io::get_layer(file, other, "attention.");
  EXPECT_TRUE(same_bits(gma::forward(other, x), y)) << Covariance::name;
}

TEST_F(LayerFiles, OfEveryFamily) {
  all_families::for_each([&](auto family) { expect_there_and_back<decltype(family)>(path); });
  expect_there_and_back<gma::baselines::Elu>(path);
  expect_there_and_back<gma::baselines::RandomFeatures>(path);
}

TEST_F(LayerFiles, PerformersDirectionsAreChecked) {
  using Performer = gma::AttentionLayer<float, gma::baselines::RandomFeatures>;
  Performer performer = gma::random_layer<float, gma::baselines::RandomFeatures>(small_config(), 5);
  const auto expect = [&](const std::vector<std::string>& words, const auto& spoil) {
    io::SafeTensors file;
    io::put_layer(file, performer);
    spoil(file);
    expect_error<std::runtime_error>([&] { io::get_layer(file, performer); }, words);
  };
  expect({"lacks the tensor mixtures.1.directions"},
         [](io::SafeTensors& f) { f.tensors.erase("mixtures.1.directions"); });
  expect({"mixtures.0.directions", "[6, 5]", "expected [6, 4]"},
         [](io::SafeTensors& f) { f.tensors["mixtures.0.directions"] = io::make_tensor(Matrix<float>(6, 5)); });
  expect({"mixtures.1.directions", "not finite"}, [](io::SafeTensors& f) {
    f.tensors["mixtures.1.directions"] = io::make_tensor(Matrix<float>(Matrix<float>::Constant(6, 4, NAN)));
  });
}

TEST_F(LayerFiles, WhatWouldNotBeReadIsNotWritten) {
  io::write_layer(path, layer);
  const std::string before = contents(path);
  const auto expect = [&](const std::vector<std::string>& words, io::DataType type, const auto& spoil) {
    Layer spoilt = layer;
    spoil(spoilt);
    expect_error([&] { io::write_layer(path, spoilt, type); }, words);
    io::SafeTensors file;
    file.tensors["key.weight"] = some_tensor(io::DataType::u8, {3});
    const io::SafeTensors untouched = file;
    expect_error([&] { io::put_layer(file, spoilt, "", type); }, words);
    EXPECT_EQ(file.tensors, untouched.tensors);
  };
  const auto query = [](float value) { return [value](Layer& l) { l.query_weight(1, 2) = value; }; };
  const float infinity = std::numeric_limits<float>::infinity();
  expect({"query.weight is nan at row 1, column 2"}, io::DataType::f32, query(std::nanf("")));
  expect({"query.weight is -inf"}, io::DataType::f64, query(-infinity));
  expect({"query.weight is 1e+06", "f16"}, io::DataType::f16, query(1e6f));
  expect({"query.weight is 3.4", "bf16"}, io::DataType::bf16, query((std::numeric_limits<float>::max)()));
  expect({"log_temperature is nan"}, io::DataType::f32,
         [](Layer& l) { l.mixtures[1].factors[1].log_temperature = std::nanf(""); });
  expect({"layer.config", "components"}, io::DataType::f32, [](Layer& l) { l.config.components = {2, 3}; });
  expect({"LayerConfig", "heads is 0"}, io::DataType::f32, [](Layer& l) { l.config.heads = 0; });
  expect({"layer.gate_weight"}, io::DataType::f32, [](Layer& l) { l.config.has_output_gate = false; });
  expect({"type is i32"}, io::DataType::i32, [](Layer&) {});
  EXPECT_EQ(contents(path), before);
  io::write_layer(path, layer, io::DataType::f16);

  gma::LayerConfig deep;  // of more factors than a config in a file may have
  deep.width = deep.head_width = 65;
  deep.components.assign(65, 1);
  expect_error([&] { io::write_layer(path, gma::random_layer<float>(deep, 1)); },
               {"gma::io::write_layer", "bad value for components"});
}

TEST_F(LayerFiles, ALayerReplacesAnotherUnderItsPrefix) {
  gma::LayerConfig config = small_config();
  config.window = 0;
  config.components = {6};
  config.has_output_gate = false;
  const Layer smaller = gma::random_layer<float>(config, 3);
  for (const std::string prefix : {"layers.1.", "layers.1", ""}) {
    io::SafeTensors file;
    const io::Tensor other = some_tensor(io::DataType::f32, {2});
    file.tensors["embedding"] = file.tensors["layers.10.query.weight"] = file.tensors["layers.10query.weight"] = other;
    io::put_layer(file, layer, prefix);
    io::put_layer(file, smaller, prefix);
    EXPECT_EQ(file.tensors.at("embedding"), other);
    EXPECT_EQ(file.tensors.at("layers.10.query.weight"), other);
    if (prefix.empty()) {
      for (const char* name : {"embedding", "layers.10.query.weight", "layers.10query.weight"})
        file.tensors.erase(name);
    }
    Layer read(config);
    io::get_layer(file, read, prefix);
    expect_same(read, smaller);
  }
}

TEST_F(LayerFiles, PrefixesWithoutADotStayApart) {
  io::SafeTensors file;
  const Layer other = gma::random_layer<float>(small_config(), 2);
  io::put_layer(file, layer, "layer1");
  io::put_layer(file, other, "layer10");
  Layer read(small_config());
  io::get_layer(file, read, "layer1");
  expect_same(read, layer);
  io::get_layer(file, read, "layer10");
  expect_same(read, other);
  file.tensors["layer1query.bias"] = some_tensor(io::DataType::f32, {2});
  expect_error<std::runtime_error>([&] { io::get_layer(file, read, "layer1"); }, {"layer1query.bias is no parameter"});
}

TEST_F(LayerFiles, CarryTheirFormat) {
  io::write_layer(path, layer);
  io::SafeTensors file = io::read_safetensors(path);
  EXPECT_EQ(file.metadata.at("format"), "pt");
  EXPECT_EQ(file.metadata.at("gma_format"), "gma attention layer 1");
  file.metadata["format"] = file.metadata.at("gma_format");  // as files of earlier versions have it
  file.metadata.erase("gma_format");
  io::write_safetensors(path, file);
  expect_same(io::read_layer<float>(path), layer);
}

/// Whatever is wrong, the error is the documented one and names the file, and nothing is allocated for the layer that
/// the file does not hold.
TEST_F(LayerFiles, HostileConfigsAreRefusedByTheFilesName) {
  io::write_layer(path, layer);
  const io::SafeTensors good = io::read_safetensors(path);
  const auto refused = [&](const std::string& from, const std::string& to, const std::string& word) {
    io::SafeTensors file = good;
    std::string& text = file.metadata["config"];
    const std::size_t at = text.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text.replace(at, from.size(), to);
    io::write_safetensors(path, file);
    expect_error<std::runtime_error>([&] { io::read_layer<float>(path); },
                                     {"gma::io::read_layer: " + path.string() + ": ", word});
  };
  refused("\"heads\":4", "\"heads\":0", "heads is 0");
  refused("\"heads\":4", "\"heads\":5", "key_value_heads is 2");
  refused("\"heads\":4", "\"heads\":4,\"heads\":4", "has heads twice");
  refused("\"heads\":4", "\"heads\":[4]", "bad value for heads");
  refused("\"heads\":4", "\"heads\":{\"a\":1}", "bad value for heads");
  refused("\"heads\":4", "\"heads\":4.0", "bad value for heads");
  refused("\"heads\":4", "\"heads\":null", "bad value for heads");
  refused("\"heads\":4", "\"heads\":16777217", "bad value for heads");
  refused("\"heads\":4", "\"heads\":18446744073709551615", "bad value for heads");
  refused("\"key_value_heads\":2", "\"key_value_heads\":4", "key.weight has the shape [8, 8], expected [16, 8]");
  refused("[3,2]", "[0,2]", "components is 0");
  refused("[3,2]", "[]", "bad value for components");
  refused("[3,2]", "[3,[2]]", "bad value for components");
  refused("[3,2]", "[3,-2]", "bad value for components");
  refused("[3,2]", "[3,true]", "bad value for components");
  refused("[3,2]", "[5154,6872,4566,4090]", "components multiply to");
  refused("[3,2]", "[65536,65536,65536,65536]", "components multiply to");
  refused("\"window\":5", "\"window\":16777216", "window is 16777216");
  refused("\"shortest_time\":16.0", "\"shortest_time\":0.5", "shortest_time");
  refused("\"longest_time\":512.0", "\"longest_time\":1e999", "no JSON object");
  refused("\"longest_time\":512.0", "\"longest_time\":\"\"", "bad value for longest_time");
  refused("\"normalization\":\"row\"", "\"normalization\":2", "bad value for normalization");
  refused("\"gate_activation\":\"silu\"", "\"gate_activation\":\"relu\"", "bad value for gate_activation");
  refused("\"gate_activation\":\"silu\"", "\"gate_activation\":1", "bad value for gate_activation");
  refused("{", "[{", "no JSON object");

  io::SafeTensors file = good;  // of a config that only the first head fits
  std::string& text = file.metadata["config"];
  text.replace(text.find("[3,2]"), 5, "[3,8]");
  const auto grow = [&](const std::string& name) {
    const io::Tensor old = file.tensors.at(name);
    std::vector<Index> shape = old.shape;
    shape[0] = 8;
    file.tensors[name] = some_tensor(io::DataType::f32, shape);
  };
  for (const char* member : {"means", "weight_logits", "log_scales"})
    grow(std::string("mixtures.0.factors.1.") + member);
  io::write_safetensors(path, file);
  expect_error<std::runtime_error>([&] { io::read_layer<float>(path); },
                                   {path.string(), "mixtures.1.factors.1.means has the shape [2, 2], expected [8, 2]"});
}

}  // namespace
}  // namespace gma_test
