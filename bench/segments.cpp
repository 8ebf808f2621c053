// SPDX-License-Identifier: MIT
// One head and one sequence on many threads: causal passes in segments against one pass on one thread, forward,
// backward, and a layer. Wall time, in one process, round-robin. Prints one table in Markdown on stdout.
//
//   gma_bench_segments --threads 1 2 4 8 16 --segment 2048 8192
#include <CLI/CLI.hpp>

#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "executor.hpp"
#include "gma/gma.hpp"
#include "programs_common.hpp"
#include "timing.hpp"

namespace bench {
namespace {

struct SegmentOptions {
  Index tokens = 131072, components = 64, width = 32, layer_tokens = 32768, layer_width = 128, rounds = 11;
  std::vector<Index> segments = {2048, 8192}, threads = {1, 2};
  bool forgets = false, quick = false;
};

/// A call that leaves numbers to compare.
class Call : public Program {
 public:
  Call(std::string name, std::function<void()> call) : name_(std::move(name)), call_(std::move(call)) {}
  void run() override { call_(); }
  double error() override { return 0; }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  std::function<void()> call_;
};

/// What is measured: run(segment, executor) assigns `result`.
struct Measured {
  std::string name;
  std::function<void(Index, const gma::Executor*)> run;
  const Matrix<float>* result;
};

void print(const std::string& name, const std::string& how, const Samples& one, const Samples& cut) {
  const Spread times = ratio(cut, one), faster = ratio(one, cut);
  std::printf("| %s | %s | %.2f | %.3f | %.3f..%.3f | %.2f | %.2f..%.2f |\n", name.c_str(), how.c_str(),
              1e3 * cut.median(), times.median, times.lower, times.upper, faster.median, faster.lower, faster.upper);
  std::fflush(stdout);
}

void measure(const Measured& pass, const SegmentOptions& options) {
  std::vector<std::unique_ptr<gma::Executor>> executors;
  std::vector<std::unique_ptr<Call>> calls;
  const auto add = [&](const std::string& how, Index segment, const gma::Executor* executor) {
    calls.push_back(std::make_unique<Call>(how, [&pass, segment, executor] { pass.run(segment, executor); }));
  };
  add("one pass", 0, nullptr);
  for (const Index threads : options.threads) {
    executors.push_back(make_executor(threads));
    for (const Index segment : options.segments) {
      add("segments of " + std::to_string(segment) + ", " + std::to_string(threads) +
              (threads == 1 ? " thread" : " threads"),
          segment, executors.back().get());
    }
  }
  std::vector<Program*> programs;
  std::vector<double> first;
  Matrix<float> expected;
  for (const std::unique_ptr<Call>& call : calls) {
    first.push_back(warm_up(*call, Clock::wall));
    programs.push_back(call.get());
    if (expected.size() == 0) expected = *pass.result;
    const double error = relative_error(*pass.result, expected.cast<double>());
    if (!(error < 1e-5)) {
      throw std::runtime_error(pass.name + ", " + call->name() + ": the result is wrong, relative error " +
                               std::to_string(error));
    }
  }
  const std::vector<Samples> samples =
      round_robin(programs, first, {options.rounds, options.rounds, 5e-3, Clock::wall});
  for (std::size_t i = 0; i < calls.size(); ++i) print(pass.name, calls[i]->name(), samples[0], samples[i]);
}

void measure_head(const SegmentOptions& options) {
  const Index n = options.tokens, d = options.width;
  gma::Mixture<float, gma::Diagonal> mixture(options.components, d);
  mixture.means = normal_matrix(options.components, d, 1);
  const auto compiled = gma::compile(mixture);
  const Matrix<float> q = normal_matrix(n, d, 2), k = normal_matrix(n, d, 3), v = normal_matrix(n, d, 4),
                      dy = normal_matrix(n, d, 5);
  gma::TokenInputs<float> tokens;
  if (options.forgets) tokens.log_forgetting = gma::Vector<float>::Constant(n, -1.0f / 512);
  gma::Workspace<float> workspace;
  Matrix<float> y(n, d);
  const auto with = [](Index segment, const gma::Executor* executor) {
    gma::Options result;
    result.segment = segment;
    result.executor = executor;
    return result;
  };
  measure({"forward",
           [&](Index segment, const gma::Executor* executor) {
             gma::causal_into(y, compiled, q, k, v, with(segment, executor), tokens, workspace);
           },
           &y},
          options);
  gma::Gradients<gma::Mixture<float, gma::Diagonal>> gradients;
  const gma::Memory<float> none;
  measure({"backward",
           [&](Index segment, const gma::Executor* executor) {
             gma::causal_backward_into(gradients, mixture, q, k, v, dy, none, none, with(segment, executor), tokens,
                                       workspace);
           },
           &gradients.keys},
          options);
}

void measure_layer(const SegmentOptions& options) {
  const Index n = options.layer_tokens;
  gma::LayerConfig config;
  config.width = options.layer_width;
  config.heads = (std::max)(Index(1), options.layer_width / 64);
  const gma::AttentionLayer<float> layer = gma::random_layer<float>(config, 1);
  const auto compiled = gma::compile(layer);
  const Matrix<float> x = normal_matrix(n, config.width, 6), d_y = normal_matrix(n, config.width, 7);
  Matrix<float> y(n, config.width), d_x(n, config.width);
  gma::LayerCache<float> cache;
  gma::LayerGradientCache<float> scratch;
  gma::AttentionLayer<float> gradient(config);
  const auto with = [](Index segment, const gma::Executor* executor) {
    gma::LayerOptions result;
    result.segment = segment;
    result.executor = executor;
    return result;
  };
  measure({"layer forward",
           [&](Index segment, const gma::Executor* executor) {
             gma::forward_into(y, compiled, x, cache, {}, with(segment, executor));
           },
           &y},
          options);
  measure({"layer backward",
           [&](Index segment, const gma::Executor* executor) {
             gma::backward_into(d_x, gradient, layer, d_y, cache, scratch, with(segment, executor));
           },
           &d_x},
          options);
}

int run(int argc, char** argv) {
  SegmentOptions options;
  CLI::App app("One causal sequence on many threads");
  app.add_option("--n", options.tokens, "Tokens of the head")->check(CLI::Range(1, 1 << 24))->capture_default_str();
  app.add_option("--components", options.components, "K")->check(CLI::Range(1, 65536))->capture_default_str();
  app.add_option("--width", options.width, "d = e of the head")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--layer-n", options.layer_tokens, "Tokens of the layer; 0: no layer")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  app.add_option("--layer-width", options.layer_width, "D of the layer, whose heads are 64 wide")
      ->check(CLI::Range(4, 65536))
      ->capture_default_str();
  app.add_option("--segment", options.segments, "Tokens of a segment")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_option("--threads", options.threads, "Threads")->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--rounds", options.rounds, "Samples per line")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_flag("--forgets", options.forgets, "The head forgets with a time constant of 512 tokens");
  app.add_flag("--quick", options.quick, "Short sequences, 3 rounds: only checks that everything works");
  CLI11_PARSE(app, argc, argv);
  if (options.quick) {
    options.tokens = 2000;
    options.layer_tokens = 700;
    options.segments = {200};
    options.rounds = 3;
  }
  const Build about = build();
  std::printf("One head of %td tokens, K = %td, d = e = %td, diagonal, slot%s; a layer of %td tokens, D = %td. Float; ",
              options.tokens, options.components, options.width, options.forgets ? ", forgetting" : "",
              options.layer_tokens, options.layer_width);
  std::printf("%s, `%s`, threads of %s. Wall time; median and quartiles of %td rounds.\n\n", about.compiler.c_str(),
              about.flags.c_str(), executor_name(), options.rounds);
  std::printf("| pass | how | ms | time of one pass | quartiles | times faster | quartiles |\n");
  std::printf("|---|---|---:|---:|---:|---:|---:|\n");
  measure_head(options);
  if (options.layer_tokens > 0) measure_layer(options);
  return 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  try {
    return bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "gma_bench_segments: " << error.what() << '\n';
    return 1;
  }
}
