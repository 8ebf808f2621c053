// SPDX-License-Identifier: MIT
// A test for the files of a covariance family, or another routing, of your own, on GoogleTest and gma::io:
//
//   TEST(MyFamily, GoesIntoFiles) { GMA_EXPECT_FAMILY_FILES(MyFamily); }
//
// Expects that a layer of it comes back from a safetensors file with the same bits, and that a file of another layer is
// refused.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "gma/core/random.hpp"
#include "gma/io/layer_safetensors.hpp"
#include "gma/layer/layer_forward.hpp"
#include "gma/layer/layer_initialization.hpp"
#include "gma/testing/comparisons.hpp"

/// Expects that layers of `Family`, a type, go into files and come back.
#define GMA_EXPECT_FAMILY_FILES(...) ::gma::testing::expect_family_files<__VA_ARGS__>()

namespace gma::testing {

/// What GMA_EXPECT_FAMILY_FILES calls.
template <class Family>
void expect_family_files() {
  SCOPED_TRACE(std::string("files of the covariance family ") + Family::name);
  LayerConfig config;
  config.width = 8;
  config.heads = 4;
  config.key_value_heads = 2;
  config.head_width = 4;
  config.components = {3, 2};
  config.normalization = Normalization::row;
  const auto layer = random_layer<float, Family>(config, 1);
  gma::Random random(2);
  Matrix<double> numbers(9, config.width);
  random.fill_normal(numbers);
  const Matrix<float> tokens = numbers.cast<float>();

  io::SafeTensors file;
  io::put_layer(file, layer, "attention.");
  const std::vector<unsigned char> bytes = io::serialize_safetensors(file);
  const io::SafeTensors parsed = io::parse_safetensors(bytes.data(), bytes.size());
  auto other = random_layer<float, Family>(config, 3);
  io::get_layer(parsed, other, "attention.");
  EXPECT_TRUE(same_bits(forward(other, tokens), forward(layer, tokens)));
  visit_parameters([](const Parameter& parameter, const auto& read,
                      const auto& written) { EXPECT_TRUE(same_bits(read, written)) << parameter.name; },
                   other, layer);

  config.components = {3, 3};
  auto larger = random_layer<float, Family>(config, 4);
  io::SafeTensors of_larger;
  io::put_layer(of_larger, larger, "attention.");
  std::size_t as_large = 0;
  for (const auto& [name, tensor] : of_larger.tensors)
    if (tensor.shape == parsed.tensors.at(name).shape) ++as_large;
  if (as_large == of_larger.tensors.size()) return;  // a routing that does not look at the components
  EXPECT_ANY_THROW(io::get_layer(parsed, larger, "attention."));
}

}  // namespace gma::testing
