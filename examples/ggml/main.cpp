// SPDX-License-Identifier: MIT
// My model is a graph of ggml. How does Gaussian mixture attention become one of its operators?
//
// As a custom operator, ggml_custom_4d. Its arguments are tensors of queries, keys, values, and the state: a column of
// numbers per head, which a gma::MemoryView takes for a memory. A program that saves, copies or clears this tensor
// saves, copies or clears the memories. ggml's threads share the heads.
//
// Here a graph of projections and attention reads a stream in pieces, with one and with two threads. Outputs and state
// have the same bits as gma alone gives from the same queries, keys and values.
#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <gma/attention/memory_view.hpp>
#include <gma/gma.hpp>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using gma::Index;
using gma::Matrix;

using Context = std::unique_ptr<ggml_context, void (*)(ggml_context*)>;
using Rows = Eigen::Map<Matrix<float>, 0, Eigen::OuterStride<>>;

Context make_context(std::size_t bytes) { return {ggml_init({bytes, nullptr, false}), ggml_free}; }

float* numbers_of(const ggml_tensor* tensor) { return static_cast<float*>(tensor->data); }

/// Head h of a tensor [width, heads, tokens] as tokens x width. ggml counts strides in bytes.
Rows head_of(const ggml_tensor* tensor, Index h) {
  const auto numbers = [](std::size_t bytes) { return static_cast<Index>(bytes / sizeof(float)); };
  return {numbers_of(tensor) + h * numbers(tensor->nb[1]), tensor->ne[2], tensor->ne[0],
          Eigen::OuterStride<>(numbers(tensor->nb[2]))};
}

/// The memory of head h in a state tensor [gma::MemoryView<float>::size(K, e), heads].
gma::MemoryView<float> memory_of(const ggml_tensor* state, Index h, Index slots, Index width) {
  return {numbers_of(state) + h * state->ne[0], slots, width};
}

/// What the operator needs beside its tensors. It must outlive the graph.
struct Attention {
  std::vector<gma::CompiledMixture<float>> mixtures;  // one per head
  std::vector<gma::Workspace<float>> workspaces;      // one per thread
  std::vector<std::string> faults;                    // one per thread: no exception may pass through ggml

  Attention(std::vector<gma::CompiledMixture<float>> of_heads, int threads)
      : mixtures(std::move(of_heads)),
        workspaces(static_cast<std::size_t>(threads)),
        faults(static_cast<std::size_t>(threads)) {}
};

/// ggml calls this function in every thread, with the thread's number i of n.
void run_heads(ggml_tensor* out, int i, int n, void* data) {
  Attention& attention = *static_cast<Attention*>(data);
  const auto thread = static_cast<std::size_t>(i);
  try {
    for (Index h = i; h < out->ne[1]; h += n) {
      const auto& mixture = attention.mixtures[static_cast<std::size_t>(h)];
      const gma::MemoryView<float> memory = memory_of(out->src[3], h, mixture.components(), out->ne[0]);
      gma::causal_into(head_of(out, h), mixture, head_of(out->src[0], h), head_of(out->src[1], h),
                       head_of(out->src[2], h), memory, {}, {}, attention.workspaces[thread]);
    }
  } catch (const std::exception& error) {
    attention.faults[thread] = error.what();
  }
}

/// Causal attention: queries and keys [d, H, N], values [e, H, N] -> [e, H, N]. Reads the state and leaves it advanced
/// by N tokens. All tensors are F32.
ggml_tensor* causal(ggml_context* context, ggml_tensor* queries, ggml_tensor* keys, ggml_tensor* values,
                    ggml_tensor* state, Attention& attention) {
  ggml_tensor* arguments[] = {queries, keys, values, state};
  return ggml_custom_4d(context, GGML_TYPE_F32, values->ne[0], values->ne[1], values->ne[2], 1, arguments, 4, run_heads,
                        static_cast<int>(attention.workspaces.size()), &attention);
}

constexpr Index heads = 6, routing_width = 32, value_width = 16, model_width = 64;
const std::vector<Index> pieces = {70, 1, 1, 128};

std::vector<gma::CompiledMixture<float>> make_mixtures() {
  std::vector<gma::CompiledMixture<float>> mixtures;
  for (Index h = 0; h < heads; ++h) {
    mixtures.push_back(
        gma::compile(gma::random_product_mixture<float>({8, 8}, routing_width, static_cast<std::uint64_t>(h + 1))));
  }
  return mixtures;
}

ggml_tensor* random_tensor(ggml_context* context, gma::Random& random, Index rows, Index cols) {
  ggml_tensor* tensor = ggml_new_tensor_2d(context, GGML_TYPE_F32, cols, rows);  // ggml names the fastest first
  Matrix<double> numbers(rows, cols);
  random.fill_normal(numbers);
  Eigen::Map<Matrix<float>>(numbers_of(tensor), rows, cols) = numbers.cast<float>() / 8;
  return tensor;
}

bool same_bits(const float* a, const float* b, Index size) {
  return std::memcmp(a, b, static_cast<std::size_t>(size) * sizeof(float)) == 0;
}

/// Runs the graph over all pieces. Returns whether outputs and state are those of gma alone.
bool check(int threads) {
  Attention attention(make_mixtures(), threads);
  const Index slots = attention.mixtures[0].components(), state_size = gma::MemoryView<float>::size(slots, value_width);
  gma::Random random(1);
  const Context weights = make_context(std::size_t{1} << 24);
  ggml_tensor* query_weight = random_tensor(weights.get(), random, heads * routing_width, model_width);
  ggml_tensor* key_weight = random_tensor(weights.get(), random, heads * routing_width, model_width);
  ggml_tensor* value_weight = random_tensor(weights.get(), random, heads * value_width, model_width);
  ggml_tensor* state = ggml_new_tensor_2d(weights.get(), GGML_TYPE_F32, state_size, heads);
  ggml_set_zero(state);  // memories that have seen nothing

  std::vector<gma::Memory<float>> memories;  // of gma alone
  bool is_same = true;
  for (const Index tokens : pieces) {
    const Context context = make_context(std::size_t{1} << 24);
    ggml_context* c = context.get();
    ggml_tensor* x = random_tensor(c, random, tokens, model_width);
    const auto projected = [&](ggml_tensor* weight, Index columns) {
      return ggml_reshape_3d(c, ggml_mul_mat(c, weight, x), columns, heads, tokens);
    };
    ggml_tensor* queries = projected(query_weight, routing_width);
    ggml_tensor* keys = projected(key_weight, routing_width);
    ggml_tensor* values = projected(value_weight, value_width);
    ggml_tensor* y = causal(c, queries, keys, values, state, attention);
    ggml_cgraph* graph = ggml_new_graph(c);
    ggml_build_forward_expand(graph, y);
    if (ggml_graph_compute_with_ctx(c, graph, threads) != GGML_STATUS_SUCCESS) throw std::runtime_error("ggml failed");
    for (const std::string& fault : attention.faults) {
      if (!fault.empty()) throw std::runtime_error(fault);
    }

    const auto rows = [&](const ggml_tensor* t) {
      return gma::batch_tokens_heads<const float>(numbers_of(t), 1, tokens, heads, t->ne[0]);
    };
    const Matrix<float> expected = gma::causal(attention.mixtures, rows(queries), rows(keys), rows(values), memories);
    is_same = is_same && expected.allFinite() && expected.norm() > 0 &&
              same_bits(numbers_of(y), expected.data(), expected.size());
  }
  std::vector<float> numbers(static_cast<std::size_t>(state_size));
  for (Index h = 0; h < heads; ++h) {
    gma::MemoryView<float>(numbers.data(), slots, value_width).store(memories[static_cast<std::size_t>(h)]);
    is_same = is_same && same_bits(numbers_of(state) + h * state_size, numbers.data(), state_size);
  }
  return is_same;
}

int main() {
  try {
    bool is_same = true;
    for (const int threads : {1, 2}) {
      const bool result = check(threads);
      std::cout << threads << (threads == 1 ? " thread: " : " threads: ")
                << (result ? "the same bits as gma alone\n" : "DIFFERS from gma alone\n");
      is_same = is_same && result;
    }
    return is_same ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
