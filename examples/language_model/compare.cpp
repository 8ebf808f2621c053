// SPDX-License-Identifier: MIT
//
// A table of mixers at equal numbers of parameters, tokens and schedule. Every finished run is added to a JSON file at
// once, and runs that are there already are not made again: the table may be made in pieces, and on several machines.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>

#include "commands.hpp"
#include "config_json.hpp"
#include "training_run.hpp"

namespace language_model {

namespace {

struct Variant {
  const char* name;
  MixerKind mixer;
  std::function<void(ModelConfig&)> change;
};

const std::vector<Variant>& variants() {
  const auto plain = [](ModelConfig& c) { c.convolution = 1, c.has_forgetting = false; };
  const auto as_it_is = [](ModelConfig&) {};
  const auto convolution = [](ModelConfig& c) { c.convolution = 4; };
  const auto components = [](std::vector<Index> sizes, Index taps) {
    return [sizes, taps](ModelConfig& c) { c.components = sizes, c.convolution = taps; };
  };
  static const std::vector<Variant> all = {
      {"performer", MixerKind::performer, plain},
      {"linear", MixerKind::linear, plain},
      {"gma as in the paper", MixerKind::gma_plain, as_it_is},
      {"performer + forgetting + convolution", MixerKind::performer, as_it_is},
      {"linear + forgetting + convolution", MixerKind::linear, as_it_is},
      {"mamba", MixerKind::mamba, as_it_is},
      {"sdpa", MixerKind::sdpa, as_it_is},
      {"sdpa + convolution", MixerKind::sdpa, convolution},
      {"window 64 + convolution", MixerKind::window, convolution},
      {"gma 64 + forgetting", MixerKind::gma, components({64}, 1)},
      {"gma 64 + forgetting + convolution", MixerKind::gma, components({64}, 4)},
      {"gma 8 x 8 + forgetting + convolution", MixerKind::gma, components({8, 8}, 4)},
      {"gma 16 x 16 + forgetting + convolution", MixerKind::gma, components({16, 16}, 4)},
  };
  return all;
}

struct Budget {
  ModelConfig model;
  TrainConfig train;
};

Budget budget_of(const std::string& name) {
  Budget b;
  b.train.seconds = 0;
  const auto set = [&](Index layers, Index width, Index heads, Index mlp, Index context, Index batch, double tokens) {
    b.model.layers = layers, b.model.width = width, b.model.heads = heads, b.model.mlp_width = mlp;
    b.train.context = context, b.train.batch = batch;
    b.train.steps = static_cast<std::int64_t>(tokens / double(context * batch));
  };
  if (name == "smoke") {
    set(1, 32, 2, 64, 64, 2, 2e3);
  } else if (name == "small") {
    set(2, 96, 2, 256, 256, 4, 4e5);
  } else if (name == "medium") {
    set(4, 128, 4, 352, 512, 8, 4e6);
  } else if (name == "full") {
    set(4, 192, 4, 576, 512, 8, 20e6);
  } else {
    throw std::invalid_argument("budget is " + name + ", expected smoke, small, medium or full");
  }
  b.train.shards = b.train.batch;
  return b;
}

Index parameters_of(const ModelConfig& config) { return Model<float>(config).layout().parameters(); }

/// The width of the MLP with which a model comes closest to a number of parameters.
Index matching_mlp_width(ModelConfig config, Index target) {
  config.mlp_width = 1;
  const Index one = parameters_of(config);
  config.mlp_width = 2;
  const Index each = parameters_of(config) - one;
  return (std::max)(Index(1), 1 + (target - one + each / 2) / each);
}

std::string machine(Index threads) {
  std::ifstream in("/proc/cpuinfo");
  std::string line, name = "unknown processor";
  while (std::getline(in, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    name = line.substr(line.find(':') + 2);
    break;
  }
  return name + ", " + std::to_string(threads) + " threads";
}

class Comparison {
 public:
  Comparison(const CommonOptions& common, const CompareOptions& options)
      : options_(options), budget_(budget_of(options.budget)), pool_(common.threads) {
    text_ = load_text(common.text, budget_.train.context);
    if (std::ifstream in(options.results); in) results_ = nlohmann::json::parse(in);
    if (!results_.is_array()) throw std::runtime_error(options.results + " holds no list of results");
    ModelConfig model = budget_.model;
    model.mixer = MixerKind::gma;
    parameters_ = parameters_of(model);
  }

  void run() {
    for (std::uint64_t seed = 1; seed <= options_.seeds; ++seed) {
      for (const Variant& variant : variants()) {
        if (!options_.only.empty() && std::string(variant.name).find(options_.only) == std::string::npos) continue;
        for (const double rate : options_.learning_rates) one(variant, rate, seed);
      }
    }
    write_table();
  }

 private:
  void one(const Variant& variant, double rate, std::uint64_t seed) {
    TrainConfig train = budget_.train;
    train.learning_rate = rate;
    train.seed = seed;
    const std::int64_t tokens = train.steps * train.batch * train.context;
    for (const auto& r : results_) {
      if (r["variant"] == variant.name && r["seed"] == seed && r["learning_rate"] == rate && r["tokens"] == tokens &&
          r["budget"] == options_.budget) {
        return;
      }
    }
    ModelConfig model = budget_.model;
    model.mixer = variant.mixer;
    variant.change(model);
    model.mlp_width = matching_mlp_width(model, parameters_);
    RunOptions run_options;
    run_options.is_quiet = true;
    TrainingRun training(model, train, text_, pool_, run_options);
    const RunResult r = training.train();
    if (TrainingRun::is_interrupted())
      throw std::runtime_error("interrupted; what is finished is in " + options_.results);
    nlohmann::json curve = nlohmann::json::array();
    for (const CurvePoint& p : r.curve) {
      curve.push_back({{"tokens", p.bytes}, {"seconds", p.seconds}, {"loss", p.validation / bits_per_nat}});
    }
    results_.push_back({{"mixer", name_of(variant.mixer)},
                        {"variant", variant.name},
                        {"budget", options_.budget},
                        {"seed", seed},
                        {"parameters", r.parameters},
                        {"tokens", tokens},
                        {"token", "byte"},
                        {"context", train.context},
                        {"text", text_.name},
                        {"learning_rate", rate},
                        {"validation_loss", r.windowed / bits_per_nat},
                        {"bits_per_byte", r.windowed},
                        {"streamed_bits_per_byte", r.streamed},
                        {"seconds", r.seconds},
                        {"machine", machine(pool_.size())},
                        {"curve", curve}});
    save();
    std::printf("%-40s seed %llu  rate %g  %lld parameters  %.4f nats, %.3f bits a byte, %.0f s\n", variant.name,
                static_cast<unsigned long long>(seed), rate, static_cast<long long>(r.parameters),
                r.windowed / bits_per_nat, r.windowed, r.seconds);
    std::fflush(stdout);
  }

  /// Beside the file, then over it: it is never half written.
  void save() const {
    const std::filesystem::path path = options_.results, fresh = options_.results + ".new";
    if (path.has_parent_path()) std::filesystem::create_directories(path.parent_path());
    {
      std::ofstream out(fresh);
      out << results_.dump(1) << '\n';
      if (!out.flush()) throw std::runtime_error("cannot write " + fresh.string());
    }
    std::filesystem::rename(fresh, path);
  }

  /// Every variant at its better learning rate, the best first; the mean and the spread over seeds.
  void write_table() const {
    std::string table =
        "| variant | parameters | tokens | nats a byte | bits a byte | seeds | learning rate | seconds |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|\n";
    std::vector<std::pair<double, std::string>> rows;
    for (const Variant& variant : variants()) {
      double best = 0;
      std::string row;
      for (const double rate : options_.learning_rates) {
        double sum = 0, least = 0, most = 0, seconds = 0;
        int count = 0;
        nlohmann::json last;
        for (const auto& r : results_) {
          if (r["variant"] != variant.name || r["learning_rate"] != rate || r["budget"] != options_.budget) continue;
          const double loss = r["validation_loss"];
          least = count == 0 ? loss : (std::min)(least, loss);
          most = count == 0 ? loss : (std::max)(most, loss);
          sum += loss;
          seconds += double(r["seconds"]);
          ++count;
          last = r;
        }
        if (count == 0 || (!row.empty() && sum / count >= best)) continue;
        best = sum / count;
        row = format("| %s | %lld | %lld | %.4f%s | %.3f | %d | %g | %.0f |\n", variant.name,
                     static_cast<long long>(last["parameters"]), static_cast<long long>(last["tokens"]), best,
                     count > 1 ? format(" (%.4f to %.4f)", least, most).c_str() : "", best * bits_per_nat, count, rate,
                     seconds / count);
      }
      if (!row.empty()) rows.emplace_back(best, row);
    }
    std::sort(rows.begin(), rows.end());
    for (const auto& [loss, row] : rows) table += row;
    std::printf("\n%s", table.c_str());
    if (options_.table.empty()) return;
    std::ofstream out(options_.table);
    out << table;
    if (!out.flush()) throw std::runtime_error("cannot write " + options_.table);
  }

  CompareOptions options_;
  Budget budget_;
  ThreadPool pool_;
  Text text_;
  nlohmann::json results_ = nlohmann::json::array();
  Index parameters_ = 0;
};

}  // namespace

int compare_command(const CommonOptions& common, const CompareOptions& options) {
  Comparison(common, options).run();
  return 0;
}

}  // namespace language_model
