// SPDX-License-Identifier: MIT
//
// The demo: counting models first, then Gaussian mixture attention, then its plain form and softmax attention, each
// once for the same bytes and once for the same seconds; what a stream of the trained models costs over its length;
// what the components learned; a sample. Everything is printed and goes into files, and one page shows them.

#include "demo.hpp"

#include <cstdio>
#include <filesystem>

#include "curves.hpp"
#include "inspect_routing/files.hpp"
#include "language_model/lengths.hpp"
#include "language_model/sampler.hpp"
#include "language_model/training_run.hpp"
#include "page.hpp"
#include "transformer/quoting.hpp"
#include "transformer/write_file.hpp"

namespace demo {

namespace {

constexpr const char* sample_prompt = "\n  1 And it came to pass";
constexpr const char *same_bytes = "same bytes", *same_seconds = "same seconds";

class Demo {
 public:
  Demo(const CommonOptions& common, const DemoOptions& options)
      : options_(options),
        directory_(std::filesystem::absolute(options.directory).lexically_normal()),
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
    train(MixerKind::gma, same_bytes, c);
    write_sample();
    const RunResult gma = runs_.front().result;

    TrainConfig bytes = c, seconds = c;
    bytes.steps = gma.steps;
    seconds.steps = 0;
    seconds.seconds = gma.seconds;
    for (const MixerKind mixer : {MixerKind::gma_plain, MixerKind::sdpa}) {
      std::printf("\n%s, for the same bytes and then for the same seconds:\n",
                  mixer == MixerKind::sdpa ? "Softmax attention with rotary positions"
                                           : "Gaussian mixture attention without forgetting, convolution and product");
      train(mixer, same_bytes, bytes);
      train(mixer, same_seconds, seconds);
    }
    for (const char* budget : {same_bytes, same_seconds})
      show(format("The %s: bits per byte over all held-out bytes", budget), loss_table(budget));
    measure_lengths();
    inspect();
    write_results();
    print_files();
  }

 private:
  std::filesystem::path checkpoint(MixerKind mixer) const {
    return directory_ / (std::string(name_of(mixer)) + ".checkpoint");
  }

  // The run with the last budget of a mixer leaves its checkpoint.
  void train(MixerKind mixer, const char* budget, const TrainConfig& config) {
    ModelConfig model = options_.model;
    model.mixer = mixer;
    RunOptions run_options;
    run_options.checkpoint = checkpoint(mixer).string();
    TrainingRun run(model, config, text_, pool_, run_options);
    runs_.push_back({budget, run.train()});
    if (is_interrupted()) throw std::runtime_error("interrupted");
  }

  void write_sample() {
    const Checkpoint gma = load_checkpoint(checkpoint(MixerKind::gma).string());
    Model<float> model(gma.model);
    model.prepare(gma.state.parameters);
    Sampler<float> sampler(model, gma.state.parameters, text_.vocabulary, gma.train.context, {});
    sampler.read(sample_prompt);
    sample_ = sample_prompt + sampler.generate(2000);
    write_file(directory_ / "sample.txt", sample_ + "\n");
    std::printf("\nIt writes this text, with %lld bytes of memory for any length:\n%s ...\n",
                static_cast<long long>(sampler.state_bytes()), sample_.substr(0, 700).c_str());
  }

  // Prints a table, and keeps it for the page.
  void show(const std::string& title, const std::string& table) {
    std::printf("\n%s:\n\n%s", title.c_str(), table.c_str());
    tables_.push_back({title, table});
  }

  std::string loss_table(const std::string& budget) const {
    std::string table =
        "| mixer     | parameters |    MB | seconds | bytes/s | windowed | streamed |\n"
        "|:----------|-----------:|------:|--------:|--------:|---------:|---------:|\n";
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      if (runs_[i].budget != budget && i != 0) continue;
      const RunResult& r = runs_[i].result;
      table += format("| %-9s | %10lld | %5.2f | %7.1f | %7.0f | %8.3f | %8s |\n", name_of(r.model.mixer),
                      static_cast<long long>(r.parameters), double(r.bytes) / 1e6, r.seconds, r.bytes_per_second(),
                      r.windowed, r.streamed > 0 ? format("%.3f", r.streamed).c_str() : "-");
    }
    return table;
  }

  // One core, and the text from its beginning.
  void measure_lengths() {
    std::printf("\nOne stream of each trained model, up to %lld bytes, on one core:\n",
                static_cast<long long>(options_.longest));
    std::vector<LengthCurve> curves;
    for (const MixerKind mixer : {MixerKind::gma, MixerKind::sdpa}) {
      const Checkpoint trained = load_checkpoint(checkpoint(mixer).string());
      Model<float> model(trained.model);
      model.prepare(trained.state.parameters);
      Progress progress;
      curves.push_back(language_model::measure_lengths(
          name_of(mixer), model, trained.state.parameters, text_.tokens, options_.longest, [&](const LengthCost& cost) {
            if (progress.is_due())
              progress.show(format("%-9s %lld bytes read", name_of(mixer), static_cast<long long>(cost.length)));
          }));
      progress.finish(
          format("%-9s %lld bytes read", name_of(mixer),
                 static_cast<long long>(curves.back().costs.empty() ? 0 : curves.back().costs.back().length)));
    }
    if (curves.front().costs.empty()) return;  // the text is shorter than the shortest stream
    write_lengths(directory_, curves);
    show("Time and memory of one stream, on one core", length_table(curves));
  }

  void inspect() {
    inspect_routing::Inspection inspection = inspect_routing::inspect(
        load_checkpoint(checkpoint(MixerKind::gma).string()), text_, inspect_routing::InspectOptions());
    inspection.checkpoint = checkpoint(MixerKind::gma).filename().string();
    inspect_routing::write_files(directory_ / "routing", inspection);
  }

  void write_results() const {
    write_curves(directory_ / "curves.csv", runs_);
    draw_curves(directory_, runs_, baselines_);
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
    std::string markdown = "# " + text_.name + "\n";
    for (const Table& table : tables_) markdown += "\n## " + table.title + "\n\n" + table.markdown;
    write_file(directory_ / "tables.md", markdown);
    write_file(directory_ / "index.html", page({text_.name, tables_, commands(), sample_}));
  }

  // What can be done next. Each works if it is copied into a shell.
  std::vector<Command> commands() const {
    const auto word = [](const std::filesystem::path& path) { return transformer::shell_word(path.string()); };
    const std::string program = word(options_.language_model), gma = word(checkpoint(MixerKind::gma));
    return {
        {"write another text", program + " generate " + gma + " --seed 2"},
        {"train for ten minutes", program + " train --seconds 600 --save " + word(directory_ / "longer.checkpoint")},
        {"measure a stream of a million bytes",
         program + " lengths " + gma + " --longest 1048576 --out " + word(directory_ / "longer")}};
  }

  void print_files() const {
    std::printf("\nThe results, with pictures:\n  file://%s\n", (directory_ / "index.html").c_str());
    std::printf("What the components learned:\n  file://%s\n", (directory_ / "routing" / "routing.html").c_str());
    if (!std::filesystem::exists(directory_ / "curve.svg"))
      std::printf("Pictures need gnuplot: install gnuplot-nox.\n");
    std::printf("\nAll tables, figures and models are in %s. To go on:\n", directory_.c_str());
    for (const Command& command : commands())
      std::printf("  # %s\n  %s\n", command.purpose.c_str(), command.line.c_str());
  }

  DemoOptions options_;
  std::filesystem::path directory_;
  Text text_;
  ThreadPool pool_;
  Baselines baselines_;
  std::vector<NamedRun> runs_;  // gma first, which counts for both budgets
  std::vector<Table> tables_;
  std::string sample_;
};

}  // namespace

void run(const CommonOptions& common, const DemoOptions& options) { Demo(common, options).run(); }

}  // namespace demo
