// SPDX-License-Identifier: MIT
// My tensors belong to another framework. How do they get into attention, and the outputs back?
//
// With a pointer and strides: a HeadTensor is a view of [batch, tokens, heads, width] numbers anywhere in memory, so
// the caller transposes and copies nothing. Here the same queries, keys and values are stored in four layouts, as
// frameworks provide them, and the outputs are written directly into the framework's buffer.
#include <cstdint>
#include <gma/gma.hpp>
#include <iostream>
#include <vector>

using Eigen::bfloat16;
using gma::Index;

/// Copies a tensor into another layout or type, as a framework would have done before.
template <class From, class To>
void copy(const gma::HeadTensor<From>& from, const gma::HeadTensor<To>& to) {
  for (Index b = 0; b < from.batch; ++b) {
    for (Index h = 0; h < from.heads; ++h) {
      to.head(h, b * to.tokens, to.tokens) = from.head(h, b * from.tokens, from.tokens).template cast<To>();
    }
  }
}

int main() {
  // Three sequences of 40 tokens; six query heads share two heads of keys and values (grouped queries).
  const Index batch = 3, tokens = 40, query_heads = 6, key_heads = 2, width = 16;
  const std::size_t query_size = batch * tokens * query_heads * width, key_size = batch * tokens * key_heads * width;

  // One mixture per key head, compiled once.
  std::vector<gma::CompiledMixture<float>> mixtures;
  for (const std::uint64_t seed : {1u, 2u}) {
    mixtures.push_back(gma::compile(gma::random_product_mixture<float>({8, 8}, width, seed)));
  }
  gma::Workspace<float> workspace;
  const auto attend = [&](const auto& out, const auto& q, const auto& k, const auto& v) {
    gma::causal_into(out, mixtures, q, k, v, gma::Options{}, gma::HeadInputs<float>{}, workspace);
  };

  // 1. [B, N, H, width]: a token's heads side by side.
  std::vector<float> q(query_size), k(key_size), v(key_size), y(query_size);
  for (std::vector<float>* buffer : {&q, &k, &v}) {
    Eigen::Map<gma::Vector<float>>(buffer->data(), static_cast<Index>(buffer->size())).setRandom();
  }
  const gma::HeadTensor<const float> queries =
      gma::batch_tokens_heads<const float>(q.data(), batch, tokens, query_heads, width);
  const gma::HeadTensor<const float> keys =
      gma::batch_tokens_heads<const float>(k.data(), batch, tokens, key_heads, width);
  const gma::HeadTensor<const float> values =
      gma::batch_tokens_heads<const float>(v.data(), batch, tokens, key_heads, width);
  attend(gma::batch_tokens_heads(y.data(), batch, tokens, query_heads, width), queries, keys, values);

  // The results of other layouts are copied back into this one, to be compared number by number.
  std::vector<float> back(query_size);
  const gma::HeadTensor<float> y_back = gma::batch_tokens_heads(back.data(), batch, tokens, query_heads, width);

  // 2. [B, H, N, width]: a head's tokens side by side. The order of the arguments is that of the layout.
  std::vector<float> q2(query_size), k2(key_size), v2(key_size), y2(query_size);
  const gma::HeadTensor<float> queries2 = gma::batch_heads_tokens(q2.data(), batch, query_heads, tokens, width);
  const gma::HeadTensor<float> keys2 = gma::batch_heads_tokens(k2.data(), batch, key_heads, tokens, width);
  const gma::HeadTensor<float> values2 = gma::batch_heads_tokens(v2.data(), batch, key_heads, tokens, width);
  const gma::HeadTensor<float> out2 = gma::batch_heads_tokens(y2.data(), batch, query_heads, tokens, width);
  copy(queries, queries2), copy(keys, keys2), copy(values, values2);
  attend(out2, queries2, keys2, values2);
  copy(out2, y_back);
  const bool same_heads_first = back == y;

  // 3. Your own strides. A fused projection gives [B, N, (query heads, key heads, value heads) * width]: queries, keys
  // and values are three views of one buffer, with gaps between their tokens.
  const Index fused_width = (query_heads + 2 * key_heads) * width;
  std::vector<float> fused(static_cast<std::size_t>(batch * tokens * fused_width));
  gma::HeadTensor<float> part;
  part.batch = batch, part.tokens = tokens, part.width = width;
  part.batch_stride = tokens * fused_width, part.token_stride = fused_width, part.head_stride = width;
  gma::HeadTensor<float> queries3 = part, keys3 = part, values3 = part;
  queries3.data = fused.data(), queries3.heads = query_heads;
  keys3.data = queries3.data + query_heads * width, keys3.heads = key_heads;
  values3.data = keys3.data + key_heads * width, values3.heads = key_heads;
  copy(queries, queries3), copy(keys, keys3), copy(values, values3);
  attend(y_back, queries3, keys3, values3);  // inputs and outputs may have different layouts
  const bool same_fused = back == y;

  // 4. bfloat16, [B, H, N, width]: stored in 16 bits, computed in float. A reinterpret_cast turns a framework's pointer
  // into one to Eigen::bfloat16.
  std::vector<bfloat16> q4(query_size), k4(key_size), v4(key_size), y4(query_size);
  const gma::HeadTensor<bfloat16> queries4 = gma::batch_heads_tokens(q4.data(), batch, query_heads, tokens, width);
  const gma::HeadTensor<bfloat16> keys4 = gma::batch_heads_tokens(k4.data(), batch, key_heads, tokens, width);
  const gma::HeadTensor<bfloat16> values4 = gma::batch_heads_tokens(v4.data(), batch, key_heads, tokens, width);
  const gma::HeadTensor<bfloat16> out4 = gma::batch_heads_tokens(y4.data(), batch, query_heads, tokens, width);
  copy(queries, queries4), copy(keys, keys4), copy(values, values4);
  attend(out4, queries4, keys4, values4);
  copy(out4, y_back);
  const Eigen::Map<const gma::Vector<float>> exact(y.data(), static_cast<Index>(query_size));
  const Eigen::Map<const gma::Vector<float>> rounded(back.data(), static_cast<Index>(query_size));
  const float difference = (rounded - exact).norm() / exact.norm();

  std::cout << std::boolalpha << "Outputs of " << query_heads << " heads in [B, N, H, width]; bit-identical in\n"
            << "  [B, H, N, width]:                  " << same_heads_first << '\n'
            << "  one fused buffer of all three:     " << same_fused << '\n'
            << "In bfloat16 they differ by " << difference << ", because inputs and outputs are rounded.\n";
  return same_heads_first && same_fused && difference < 1.0f / 128 ? 0 : 1;
}
