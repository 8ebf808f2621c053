// SPDX-License-Identifier: MIT
// A peer: one head of softmax attention as oneDNN's three primitives, matmul, softmax, matmul, with the N x N matrix
// between them, in the same rounds as the tiled form of gma/baselines and as GMA. Checked against the dense form first.
#include <CLI/CLI.hpp>

#include <cmath>
#include <cstdio>
#include <exception>
#include <iostream>
#include <oneapi/dnnl/dnnl.hpp>
#include <stdexcept>
#include <unordered_map>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "affinity.hpp"
#include "gma/softmax/sdpa_dense.hpp"
#include "programs_common.hpp"
#include "timing.hpp"

namespace {

using bench::Index;
using bench::Problem;
using gma::Matrix;

/// The scale 1 / sqrt(d) is in the queries already, where it costs nothing.
class OneDnn : public bench::Program {
 public:
  explicit OneDnn(const Problem& p)
      : problem_(p),
        heads_(bench::shared_heads(p)),
        engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_),
        scaled_(heads_->in[0].queries / std::sqrt(static_cast<float>(p.width))),
        scores_(p.tokens, p.tokens),
        out_(p.tokens, p.value_width),
        queries_memory_(wrap(scaled_, p.tokens, p.width)),
        keys_memory_(wrap(heads_->in[0].keys, p.width, p.tokens, true)),
        values_memory_(wrap(heads_->in[0].values, p.tokens, p.value_width)),
        scores_memory_(wrap(scores_, p.tokens, p.tokens)),
        out_memory_(wrap(out_, p.tokens, p.value_width)) {
    const dnnl::memory::desc scores = scores_memory_.get_desc();
    logits_ = matmul(queries_memory_, keys_memory_, scores_memory_);
    products_ = matmul(scores_memory_, values_memory_, out_memory_);
#if DNNL_VERSION_MAJOR >= 3
    softmax_ = dnnl::softmax_forward(
        {engine_, dnnl::prop_kind::forward_inference, dnnl::algorithm::softmax_accurate, scores, scores, 1});
#else
    softmax_ = dnnl::softmax_forward({{dnnl::prop_kind::forward_inference, scores, 1}, engine_});
#endif
  }

  void run() override {
    logits_.execute(
        stream_, {{DNNL_ARG_SRC, queries_memory_}, {DNNL_ARG_WEIGHTS, keys_memory_}, {DNNL_ARG_DST, scores_memory_}});
    softmax_.execute(stream_, {{DNNL_ARG_SRC, scores_memory_}, {DNNL_ARG_DST, scores_memory_}});
    products_.execute(
        stream_, {{DNNL_ARG_SRC, scores_memory_}, {DNNL_ARG_WEIGHTS, values_memory_}, {DNNL_ARG_DST, out_memory_}});
    stream_.wait();
  }

  double error() override {
    run();
    const bench::Inputs<double> in = heads_->in[0].cast<double>();
    const Index rows = std::min<Index>(problem_.tokens, 64);
    const Matrix<double> queries = in.queries.bottomRows(rows);
    return bench::relative_error(out_.bottomRows(rows), gma::baselines::sdpa_dense(queries, in.keys, in.values));
  }

 private:
  /// A row-major matrix of our own, or its transpose, as oneDNN sees it. oneDNN takes inputs as void* too.
  dnnl::memory wrap(const Matrix<float>& matrix, Index rows, Index cols, bool is_transposed = false) {
    const dnnl::memory::dims strides = is_transposed ? dnnl::memory::dims{1, rows} : dnnl::memory::dims{cols, 1};
    const dnnl::memory::desc desc({rows, cols}, dnnl::memory::data_type::f32, strides);
    return dnnl::memory(desc, engine_, const_cast<float*>(matrix.data()));
  }

  dnnl::matmul matmul(const dnnl::memory& a, const dnnl::memory& b, const dnnl::memory& c) {
#if DNNL_VERSION_MAJOR >= 3
    return dnnl::matmul({engine_, a.get_desc(), b.get_desc(), c.get_desc()});
#else
    return dnnl::matmul({{a.get_desc(), b.get_desc(), c.get_desc()}, engine_});
#endif
  }

  Problem problem_;
  std::shared_ptr<bench::Heads<float>> heads_;
  dnnl::engine engine_;
  dnnl::stream stream_;
  Matrix<float> scaled_, scores_, out_;
  dnnl::memory queries_memory_, keys_memory_, values_memory_, scores_memory_, out_memory_;
  dnnl::matmul logits_, products_;
  dnnl::softmax_forward softmax_;
};

/// Times a head at one length and prints its lines.
void measure(Index tokens, Index count) {
  Problem softmax, mixture;
  softmax.attention = bench::Operator::sdpa_tiled;
  softmax.tokens = mixture.tokens = tokens;
  mixture.covariance = bench::Covariance::tied;
  std::vector<std::unique_ptr<bench::Program>> owned;
  owned.push_back(bench::make_peak_program());
  owned.push_back(std::make_unique<OneDnn>(softmax));
  owned.push_back(bench::make_program(softmax));
  owned.push_back(bench::make_program(mixture));
  const std::string names[] = {"FMA peak", "oneDNN matmul-softmax-matmul", bench::name(softmax), bench::name(mixture)};
  const double flops[] = {bench::peak_flops(), bench::useful_flops(softmax), bench::useful_flops(softmax),
                          bench::useful_flops(mixture)};
  std::vector<bench::Program*> programs;
  std::vector<double> first;
  for (std::size_t i = 0; i < owned.size(); ++i) {
    const double error = owned[i]->error();
    if (!(error <= bench::tolerated_error(softmax))) {
      throw std::runtime_error(names[i] + " computes a wrong result: relative error " + std::to_string(error));
    }
    programs.push_back(owned[i].get());
    first.push_back(bench::warm_up(*owned[i]));
  }
  bench::Rounds rounds;
  rounds.rounds = rounds.long_rounds = count;
  const std::vector<bench::Samples> samples = bench::round_robin(programs, first, rounds);
  for (std::size_t i = 1; i < owned.size(); ++i) {
    const bench::Spread ms = bench::spread_of(samples[i], [](double seconds) { return 1e3 * seconds; });
    const bench::Spread of_peak = bench::ratio(samples[0], samples[i], flops[i] / flops[0]);
    const bench::Spread to_onednn = bench::ratio(samples[1], samples[i]);
    std::printf("| %td | %s | %.3f | %.3f..%.3f | %.3f | %.2f (%.2f..%.2f) |\n", tokens, names[i].c_str(), ms.median,
                ms.lower, ms.upper, of_peak.median, to_onednn.median, to_onednn.lower, to_onednn.upper);
    std::fflush(stdout);
  }
}

int run(int argc, char** argv) {
  std::vector<Index> tokens{512, 2048, 8192};
  Index rounds = 11;
  int cpu = bench::this_cpu;
  bool quick = false;
  CLI::App app("oneDNN's softmax attention against gma's, one head, one thread, float, d = e = 64");
  app.add_option("--n", tokens, "Lengths; the scores take 4 N^2 bytes")->capture_default_str();
  app.add_option("--rounds", rounds, "Samples of every program")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--cpu", cpu, "Stay on this CPU (Linux); the one it starts on where -1, on none where -2");
  app.add_flag("--quick", quick, "512 tokens, 3 rounds: does it still work?");
  CLI11_PARSE(app, argc, argv);
  if (quick) {
    tokens = {512};
    rounds = 3;
  }
#ifdef _OPENMP
  omp_set_num_threads(1);
#endif
  const bench::Pinned pinned(cpu);
  std::printf("oneDNN %d.%d.%d\n\n", DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR, DNNL_VERSION_PATCH);
  std::printf(
      "| N | program | ms | quartiles | of FMA peak | times faster than oneDNN |\n|---:|---|---:|---:|---:|---:|\n");
  for (const Index n : tokens) measure(n, rounds);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "gma_bench_onednn: " << error.what() << '\n';
    return 1;
  }
}
