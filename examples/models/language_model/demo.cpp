// SPDX-License-Identifier: MIT
//
// The demo: counting models first, then Gaussian mixture attention, then its plain form and softmax attention, each
// once for the same bytes and once for the same seconds; tables, a sample, a chart.

#include <cstdio>
#include <filesystem>

#include "chart.hpp"
#include "commands.hpp"
#include "sampler.hpp"
#include "training_run.hpp"
#include "transformer/write_file.hpp"

namespace language_model {

namespace {

constexpr const char* sample_prompt = "\n  1 And it came to pass";

class Demo {
 public:
  Demo(const CommonOptions& common, const DemoOptions& options)
      : options_(options),
        directory_(options.directory),
        text_(load_text(common.text, options.train.context)),
        pool_(common.threads) {
    std::filesystem::create_directories(directory_);
  }

  void run() {
    std::printf("%s: %lld bytes, the last %lld held out. %lld threads.\n\n", text_.name.c_str(),
                static_cast<long long>(text_.size()), static_cast<long long>(text_.held_out()),
                static_cast<long long>(pool_.size()));
    baselines_ = compute_baselines(text_);
    print_baselines(baselines_);

    const auto& c = options_.train;
    std::printf("\nGaussian mixture attention learns%s:\n",
                c.steps > 0 ? "" : format(", for %.0f seconds", c.seconds).c_str());
    train(MixerKind::gma, "same bytes", c, true);
    const RunResult gma = runs_.front().result;

    TrainConfig same_bytes = c, same_seconds = c;
    same_bytes.steps = gma.steps;
    same_seconds.steps = 0;
    same_seconds.seconds = gma.seconds;
    for (const MixerKind mixer : {MixerKind::gma_plain, MixerKind::sdpa}) {
      std::printf("\n%s, for the same bytes and then for the same seconds:\n",
                  mixer == MixerKind::sdpa ? "Softmax attention with rotary positions"
                                           : "Gaussian mixture attention without forgetting, convolution and product");
      train(mixer, "same bytes", same_bytes, false);
      train(mixer, "same seconds", same_seconds, false);
    }
    print_table("same bytes");
    print_table("same seconds");
    write_files();
  }

 private:
  void train(MixerKind mixer, const std::string& budget, const TrainConfig& config, bool is_sampled) {
    ModelConfig model = options_.model;
    model.mixer = mixer;
    RunOptions run_options;
    if (is_sampled) run_options.checkpoint = (directory_ / "gma.checkpoint").string();
    TrainingRun run(model, config, text_, pool_, run_options);
    runs_.push_back({budget, run.train()});
    if (is_interrupted()) throw std::runtime_error("interrupted");
    if (!is_sampled) return;
    Sampler<float> sampler(run.model(), run.parameters(), text_.vocabulary, config.context, {});
    sampler.read(sample_prompt);
    sample_ = sample_prompt + sampler.generate(2000);
    std::printf("\nIt writes this text, with %lld bytes of memory for any length:\n%s ...\n",
                static_cast<long long>(sampler.state_bytes()), sample_.substr(0, 700).c_str());
  }

  void print_table(const std::string& budget) const {
    std::printf("\nThe %s: bits per byte over all held-out bytes.\n", budget.c_str());
    std::printf("  %-12s %10s %8s %9s %12s %10s %10s\n", "mixer", "parameters", "MB", "seconds", "bytes/s", "windowed",
                "streamed");
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      if (runs_[i].budget != budget && i != 0) continue;
      const RunResult& r = runs_[i].result;
      std::printf("  %-12s %10lld %8.2f %9.1f %12.0f %10.3f %10s\n", name_of(r.model.mixer),
                  static_cast<long long>(r.parameters), double(r.bytes) / 1e6, r.seconds, r.bytes_per_second(),
                  r.windowed, r.streamed > 0 ? format("%.3f", r.streamed).c_str() : "-");
    }
  }

  void write_files() const {
    write_file(directory_ / "sample.txt", sample_ + "\n");
    write_curves(directory_ / "curves.csv", runs_);
    nlohmann::json results;
    results["text"] = {{"name", text_.name}, {"bytes", text_.size()}, {"held_out", text_.held_out()}};
    results["threads"] = pool_.size();
    for (std::size_t n = 1; n <= baselines_.ngrams.size(); ++n)
      results["baselines"][std::to_string(n) + "-gram"] = baselines_.ngrams[n - 1];
    if (baselines_.xz) results["baselines"]["xz -9e"] = *baselines_.xz;
    for (const NamedRun& run : runs_) {
      nlohmann::json json = run.result;
      json["budget"] = run.budget;
      results["runs"].push_back(json);
    }
    write_file(directory_ / "results.json", results.dump(2) + "\n");

    const bool is_drawn = draw_curves(directory_, runs_, baselines_);
    std::printf("\nWritten to %s:\n", directory_.string().c_str());
    std::printf("  sample.txt      text that the trained model writes\n");
    std::printf("  curves.csv      validation loss over bytes and seconds%s\n",
                is_drawn ? ", drawn in curve.svg" : " (install gnuplot-nox to draw it)");
    std::printf("  results.json    all figures\n");
    std::printf("  gma.checkpoint  the model: language_model generate %s\n",
                (directory_ / "gma.checkpoint").string().c_str());
  }

  DemoOptions options_;
  std::filesystem::path directory_;
  Text text_;
  ThreadPool pool_;
  Baselines baselines_;
  std::vector<NamedRun> runs_;  // gma first, which counts for both budgets
  std::string sample_;
};

}  // namespace

int demo_command(const CommonOptions& common, const DemoOptions& options) {
  Demo(common, options).run();
  return 0;
}

}  // namespace language_model
