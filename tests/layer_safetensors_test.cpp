// SPDX-License-Identifier: MIT
// Layers in safetensors files: there and back to the bit, from files as PyTorch would write them, and files that are
// not of the layer refused by name with the layer as it was.
#include <filesystem>

#include "gma/io/layer_safetensors.hpp"
#include "gma/nn/layer_forward.hpp"
#include "gma/nn/layer_initialization.hpp"
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

}  // namespace
}  // namespace gma_test
