// SPDX-License-Identifier: MIT
// Google Benchmark of the attention layer: forward, backward and a decoding step. For comparison it also has the matrix
// products of the layer's projections alone: the layer cannot be faster than they are.
//
//   gma_bench_layer --benchmark_filter=D:512
#include <benchmark/benchmark.h>

#include <cmath>
#include <gma/gma.hpp>

namespace {

using gma::Index;
using Matrix = gma::Matrix<float>;

gma::LayerConfig config_of(Index width) {
  gma::LayerConfig config;
  config.width = width;
  config.heads = width / 64;
  return config;
}

/// Operations per token of the two projections, in and out.
double projection_flops(const gma::LayerConfig& config) {
  const gma::detail::LayerShape shape(config);
  return 2.0 * static_cast<double>(shape.width) * static_cast<double>(shape.projected() + shape.mixed());
}

void report(benchmark::State& state, const gma::LayerConfig& config, double passes, Index tokens) {
  using benchmark::Counter;
  state.counters["tokens/s"] = Counter(static_cast<double>(tokens), Counter::kIsIterationInvariantRate);
  state.counters["FLOP/s of projections"] =
      Counter(passes * projection_flops(config) * static_cast<double>(tokens), Counter::kIsIterationInvariantRate);
}

void projections(benchmark::State& state) {
  const gma::LayerConfig config = config_of(state.range(0));
  const auto layer = gma::compile(gma::random_layer<float>(config, 1));
  const Matrix x = Matrix::Random(state.range(1), config.width);
  Matrix between, y;
  for ([[maybe_unused]] auto _ : state) {
    gma::detail::product_of_rows<float>(nullptr, x, layer.in_weights, between);
    gma::detail::product_of_rows<float>(nullptr, x, layer.out_weights, y);
    benchmark::ClobberMemory();
  }
  report(state, config, 1, x.rows());
}

void forward(benchmark::State& state) {
  const gma::LayerConfig config = config_of(state.range(0));
  const auto layer = gma::compile(gma::random_layer<float>(config, 1));
  const Matrix x = Matrix::Random(state.range(1), config.width);
  Matrix y(x.rows(), x.cols());
  gma::LayerCache<float> cache;
  for ([[maybe_unused]] auto _ : state) {
    gma::forward_into(y, layer, x, cache);
    benchmark::ClobberMemory();
  }
  report(state, config, 1, x.rows());
}

void backward(benchmark::State& state) {
  const gma::LayerConfig config = config_of(state.range(0));
  const auto layer = gma::random_layer<float>(config, 1);
  const Matrix x = Matrix::Random(state.range(1), config.width);
  Matrix y(x.rows(), x.cols()), d_x(x.rows(), x.cols());
  gma::LayerCache<float> cache;
  gma::LayerGradientCache<float> scratch;
  gma::AttentionLayer<float> gradient(config);
  gma::forward_into(y, layer, x, cache);
  for ([[maybe_unused]] auto _ : state) {
    gma::backward_into(d_x, gradient, layer, y, cache, scratch);
    benchmark::ClobberMemory();
  }
  report(state, config, 2, x.rows());
}

/// A decoding step after many tokens. Before anything is timed, it checks that the stream agrees with one pass.
void step(benchmark::State& state) {
  const gma::LayerConfig config = config_of(state.range(0));
  const auto layer = gma::compile(gma::random_layer<float>(config, 1));
  const Matrix x = Matrix::Random(state.range(1), config.width);
  Matrix y = gma::forward(layer, x), last(1, x.cols());
  gma::LayerState<float> stream = gma::begin_stream(layer);
  gma::forward(layer, x.topRows(x.rows() - 1), stream);
  gma::LayerCache<float> cache;
  gma::step_into(last, layer, x.bottomRows(1), stream, cache);
  if (!((last - y.bottomRows(1)).norm() <= 1e-5f * last.norm())) return state.SkipWithError("the stream is wrong");
  for ([[maybe_unused]] auto _ : state) {
    gma::step_into(last, layer, x.row(0), stream, cache);
    benchmark::ClobberMemory();
  }
  report(state, config, 1, 1);
}

}  // namespace

BENCHMARK(projections)->ArgsProduct({{128, 512}, {256, 4096}})->ArgNames({"D", "N"})->Unit(benchmark::kMillisecond);
BENCHMARK(forward)->ArgsProduct({{128, 512}, {256, 4096}})->ArgNames({"D", "N"})->Unit(benchmark::kMillisecond);
BENCHMARK(backward)->ArgsProduct({{128, 512}, {256, 4096}})->ArgNames({"D", "N"})->Unit(benchmark::kMillisecond);
BENCHMARK(step)->ArgsProduct({{128, 512}, {256, 4096}})->ArgNames({"D", "N"})->Unit(benchmark::kMicrosecond);
BENCHMARK_MAIN();
