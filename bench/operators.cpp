// SPDX-License-Identifier: MIT
// Google Benchmark over N, K, covariance family, causal or not, forward and backward, and decoding: time and memory of
// GMA, and of dense and tiled softmax attention.
//
//   gma_bench_operators --benchmark_filter='forward/.*/N:4096' --benchmark_out=out.json --benchmark_out_format=json
#include <benchmark/benchmark.h>

#include <memory>
#include <string>

#include "allocations.hpp"
#include "programs.hpp"

namespace {

using bench::Covariance;
using bench::Index;
using bench::Operator;
using bench::Pass;
using bench::Problem;

/// Checks the result of `program`, counts its memory, then times it.
void measure(benchmark::State& state, bench::Program& program, const Problem& problem, double flops, Index tokens) {
  const std::optional<std::size_t> peak = bench::peak_extra_bytes([&] { program.run(); });
  const double error = program.error();
  if (!(error <= bench::tolerated_error(problem))) {
    state.SkipWithError(("the output is wrong: relative error " + std::to_string(error)).c_str());
    return;
  }
  for ([[maybe_unused]] auto _ : state) {
    program.run();
    benchmark::ClobberMemory();
  }
  using benchmark::Counter;
  state.counters["useful FLOP/s"] = Counter(flops, Counter::kIsIterationInvariantRate);
  state.counters["tokens/s"] = Counter(static_cast<double>(tokens), Counter::kIsIterationInvariantRate);
  if (peak) {
    const std::size_t returned = program.returned_bytes();
    state.counters["peak extra bytes"] =
        Counter(static_cast<double>(*peak > returned ? *peak - returned : 0), Counter::kDefaults, Counter::kIs1024);
  }
}

std::string label(const Problem& p) {
  std::string text;
  switch (p.attention) {
    case Operator::gma:
      text = std::string("gma_") + bench::name(p.covariance);
      break;
    case Operator::sdpa_tiled:
      text = "sdpa_tiled";
      break;
    case Operator::sdpa_dense:
      text = "sdpa_dense";
      break;
  }
  text += p.is_causal ? "/causal" : "/bidirectional";
  if (p.attention == Operator::gma) text += "/K:" + std::to_string(p.components);
  return text;
}

void add(const Problem& problem) {
  const std::string text = std::string(problem.pass == Pass::forward ? "forward/" : "backward/") + label(problem) +
                           "/N:" + std::to_string(problem.tokens);
  benchmark::RegisterBenchmark(text.c_str(), [problem](benchmark::State& state) {
    const std::unique_ptr<bench::Program> program = bench::make_program(problem);
    measure(state, *program, problem, bench::useful_flops(problem), problem.tokens);
  })->Unit(benchmark::kMillisecond);
}

void add_decoding(const Problem& problem, Index context) {
  const std::string text = "decoding/" + (problem.attention == Operator::gma ? label(problem) : "sdpa_cache") +
                           "/context:" + std::to_string(context);
  benchmark::RegisterBenchmark(text.c_str(), [problem, context](benchmark::State& state) {
    const std::unique_ptr<bench::Program> program = bench::make_decoding_program(problem, context);
    Problem one_token = problem;
    one_token.tokens = problem.attention == Operator::gma ? 1 : context;
    const double flops = problem.attention == Operator::gma
                             ? bench::useful_flops(one_token)
                             : bench::useful_flops(one_token) / static_cast<double>(context);
    measure(state, *program, one_token, flops, 1);
  })->Unit(benchmark::kMicrosecond);
}

void add_all() {
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    for (const bool is_causal : {false, true}) {
      for (const Index tokens : {256, 1024, 4096, 16384, 65536}) {
        Problem p;
        p.pass = pass;
        p.is_causal = is_causal;
        p.tokens = tokens;
        for (const Covariance covariance : {Covariance::tied, Covariance::diagonal}) {
          p.covariance = covariance;
          for (const Index components : {64, 128, 256}) {
            p.components = components;
            add(p);
          }
        }
        p.attention = Operator::sdpa_tiled;
        if (tokens <= 16384) add(p);
        p.attention = Operator::sdpa_dense;
        if (tokens <= 4096) add(p);
      }
    }
  }
  for (const Index context : {256, 1024, 4096, 16384, 65536}) {
    Problem p;
    p.is_causal = true;
    for (const Index components : {64, 128, 256}) {
      p.components = components;
      add_decoding(p, context);
    }
    p.attention = Operator::sdpa_tiled;
    p.is_causal = false;  // for the count of operations: the newest token sees the whole cache
    add_decoding(p, context);
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  add_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
