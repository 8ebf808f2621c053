// SPDX-License-Identifier: MIT

#include "compare_report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "transformer/comparison.hpp"
#include "transformer/progress.hpp"
#include "transformer/quoting.hpp"

namespace language_model {

namespace {

// The losses of the seeds. Runs without a test have one figure for both.
std::vector<double> validation_losses(const Runs& runs) { return numbers(runs, "validation_loss", "validation_loss"); }
std::vector<double> test_losses(const Runs& runs) { return numbers(runs, "test_loss", "validation_loss"); }

double mean_test_loss(const AtChosenRate& variant) { return mean(test_losses(variant.runs)); }

std::string name_of(const AtChosenRate& variant) { return variant.runs.front().at("variant").get<std::string>(); }

// All variants of these runs, the least test loss first.
std::vector<AtChosenRate> best_first(const Runs& runs) {
  std::map<std::string, Runs> by_variant;
  for (const auto& run : runs) by_variant[run.at("variant")].push_back(run);
  std::vector<AtChosenRate> variants;
  for (const auto& [name, runs_of_variant] : by_variant) variants.push_back(at_chosen_rate(runs_of_variant));
  std::sort(variants.begin(), variants.end(),
            [](const auto& a, const auto& b) { return mean_test_loss(a) < mean_test_loss(b); });
  return variants;
}

std::string finite(const char* pattern, double value) { return std::isfinite(value) ? format(pattern, value) : "-"; }

std::string rate_of(const AtChosenRate& variant) {
  const char* mark = variant.rates.size() < 2 ? " (only one)" : variant.is_at_edge() ? " (edge)" : "";
  return format("%g%s", variant.learning_rate, mark);
}

std::string interval_of(const std::vector<double>& losses) {
  const double half = half_interval(losses);
  return std::isfinite(half) ? format("%.4f to %.4f", mean(losses) - half, mean(losses) + half) : "-";
}

std::string table_of(const std::vector<AtChosenRate>& variants) {
  // The test must not choose what it is compared with.
  const AtChosenRate& best = *std::min_element(variants.begin(), variants.end(), [](const auto& a, const auto& b) {
    return mean(validation_losses(a.runs)) < mean(validation_losses(b.runs));
  });
  std::string table =
      "| variant | parameters | test, nats per token | sd | n | 95 % interval | p | test, bits per byte | validation, "
      "nats per token | learning rate |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";
  for (const AtChosenRate& variant : variants) {
    const std::vector<double> losses = test_losses(variant.runs);
    const std::string p =
        &variant == &best ? "reference" : finite("%.2g", welch_test(losses, test_losses(best.runs)).p);
    table +=
        format("| %s | %lld | %s | %s | %zu | %s | %s | %s | %s | %s |\n", name_of(variant).c_str(),
               variant.runs.front().at("parameters").get<long long>(), finite("%.4f", mean(losses)).c_str(),
               finite("%.4f", standard_deviation(losses)).c_str(), losses.size(), interval_of(losses).c_str(),
               p.c_str(), finite("%.3f", mean(numbers(variant.runs, "test_bits_per_byte", "bits_per_byte"))).c_str(),
               finite("%.4f", mean(validation_losses(variant.runs))).c_str(), rate_of(variant).c_str());
  }
  return table +
         "\nn seeds: the mean, the standard deviation, the interval of the mean by Student's t. p: Welch's two-sided "
         "test against the variant\nthat is best in validation, not corrected for the number of variants. Edge: the "
         "best rate is the least or the greatest of its grid.\n";
}

// What a model is and costs; runs of earlier versions do not say it.
std::string cost_table_of(const std::vector<AtChosenRate>& variants) {
  std::string rows;
  for (const AtChosenRate& variant : variants) {
    const auto& run = variant.runs.front();
    if (!run.contains("model")) continue;
    const auto of = [&](const char* member) { return mean(numbers(variant.runs, member, member)); };
    rows += format("| %s | %lld | %lld | %lld | %.0f | %.0f | %.0f |\n", name_of(variant).c_str(),
                   run["model"].at("layers").get<long long>(), run["model"].at("mlp_width").get<long long>(),
                   run.at("state_numbers").get<long long>(), of("training_tokens_per_second"),
                   of("decoding_tokens_per_second"), of("seconds"));
  }
  if (rows.empty()) return rows;
  return "\n| variant | layers | MLP width | numbers in a stream's state after the context | training, tokens per "
         "second | decoding, tokens per second | seconds of training |\n|---|---:|---:|---:|---:|---:|---:|\n" +
         rows;
}

// The different values of a member, for example of commits.
std::string all_of(const std::vector<AtChosenRate>& variants, const char* member) {
  std::set<std::string> values;
  for (const AtChosenRate& variant : variants)
    for (const auto& run : variant.runs) values.insert(run.value(member, ""));
  values.erase("");
  std::string text;
  for (const std::string& value : values) text += (text.empty() ? "" : "; ") + value;
  return text.empty() ? "not recorded" : text;
}

std::string origin_of(const std::vector<AtChosenRate>& variants) {
  const auto& run = variants.front().runs.front();
  return format(
      "\n%s; %lld tokens of training (a token is %s) in contexts of %lld.\nCommit: %s. Compiler: %s. Flags: "
      "%s. Machine: %s.\n",
      run.at("text").get<std::string>().c_str(), run.at("tokens").get<long long>(), run.value("token", "byte").c_str(),
      run.at("context").get<long long>(), all_of(variants, "commit").c_str(), all_of(variants, "compiler").c_str(),
      all_of(variants, "flags").c_str(), all_of(variants, "machine").c_str());
}

// A point of the mean over the seeds, with the least and the greatest value.
struct BandPoint {
  double x, mean, least, most;
};
using Band = std::vector<BandPoint>;

struct Point {
  double x, y;
};
using PointsOf = std::function<std::vector<Point>(const nlohmann::json& run)>;

// As many points as all runs have.
Band band_of(const Runs& runs, const PointsOf& points_of) {
  std::vector<std::vector<Point>> lines;
  for (const auto& run : runs) lines.push_back(points_of(run));
  std::size_t count = lines.front().size();
  for (const auto& line : lines) count = (std::min)(count, line.size());
  Band band;
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<double> x, y;
    for (const auto& line : lines) x.push_back(line[i].x), y.push_back(line[i].y);
    const auto [least, most] = std::minmax_element(y.begin(), y.end());
    if (std::isfinite(mean(y))) band.push_back({mean(x), mean(y), *least, *most});
  }
  return band;
}

nlohmann::json positions_of(const nlohmann::json& run) {
  return run.value("loss_by_position", nlohmann::json::array());
}

// The loss by position, within the context of training and beyond it: the mean over the seeds.
std::string position_table_of(const std::vector<AtChosenRate>& variants) {
  std::string header = "| variant |", rule = "|---|", rows;
  for (const AtChosenRate& variant : variants) {
    const auto bins = positions_of(variant.runs.front());
    if (bins.empty()) continue;
    if (rows.empty()) {
      for (const auto& bin : bins)
        header += format(" %lld-%lld |", bin["begin"].get<long long>(), bin["end"].get<long long>()), rule += "---:|";
    }
    rows += "| " + name_of(variant) + " |";
    for (std::size_t i = 0; i < bins.size(); ++i) {
      std::vector<double> losses;
      for (const auto& run : variant.runs)
        if (const auto others = positions_of(run); i < others.size())
          losses.push_back(number(others[i], "loss", "loss"));
      rows += " " + finite("%.3f", mean(losses)) + " |";
    }
    rows += '\n';
  }
  if (rows.empty()) return rows;
  return format("\nTest loss by position, trained on the first %lld:\n\n",
                variants.front().runs.front().at("context").get<long long>()) +
         header + "\n" + rule + "\n" + rows;
}

std::string tables_of(const std::vector<AtChosenRate>& variants) {
  return table_of(variants) + origin_of(variants) + cost_table_of(variants) + position_table_of(variants);
}

// One panel of curves: lines are means over the seeds, bands go from the least to the greatest value.
void write_panel(std::string& script, const std::vector<AtChosenRate>& variants, const char* settings,
                 const PointsOf& points_of) {
  std::string data, bands, lines;
  for (std::size_t i = 0; i < variants.size(); ++i) {
    const Band band = band_of(variants[i].runs, points_of);
    if (band.empty()) continue;
    const std::string block = format("$data%zu_%zu", i, script.size());
    data += block + " << EOD\n";
    for (const BandPoint& p : band) data += format("%g %.4f %.4f %.4f\n", p.x, p.mean, p.least, p.most);
    data += "EOD\n";
    const auto separator = [](const std::string& list) { return list.empty() ? "" : ", \\\n  "; };
    const std::string color = format(" lt %zu", i + 1);  // eight colours: then they come again, with other dashes
    if (variants[i].runs.size() > 1)
      bands += separator(bands) + block + " using 1:3:4 with filledcurves" + color +
               " fillstyle transparent solid 0.2 noborder notitle";
    lines += separator(lines) + block + " using 1:2 with lines" + color +
             format(" lw 2 dashtype %zu title \"", 1 + i / 8) + name_of(variants[i]) + "\"";
  }
  if (lines.empty()) return;
  script += data + settings + "plot " + bands + (bands.empty() ? "" : ", \\\n  ") + lines + "\n";
}

// Variants whose loss is far from the best one's have a line in the tables but none in the plot.
std::string script_of(std::vector<AtChosenRate> variants, const std::string& image) {
  const double most = 1.3 * mean_test_loss(variants.front());
  const auto is_far = [&](const AtChosenRate& variant) { return !(mean_test_loss(variant) <= most); };
  variants.erase(std::remove_if(variants.begin(), variants.end(), is_far), variants.end());
  std::string script = "set terminal svg size 1500,520 font 'sans,11' background 'white'\nset output " +
                       transformer::gnuplot_string(image) +
                       "\nset multiplot layout 1,3\nset grid lc rgb 'gray85'\nset key font ',8' samplen 1.5\n"
                       "set ylabel 'validation, nats per token'\n";
  // The axis starts where the curves have come down; above, they look alike.
  double top = 0;
  for (const AtChosenRate& variant : variants) top = (std::max)(top, 1.08 * mean_test_loss(variant));
  if (top > 0) script += format("set yrange [:%.3f]\n", 1.25 * top);
  const auto curve = [](const char* member, double unit) {
    return [member, unit](const nlohmann::json& run) {
      std::vector<Point> points;
      for (const auto& p : run.at("curve"))
        points.push_back({p[member].get<double>() / unit, number(p, "loss", "loss")});
      return points;
    };
  };
  write_panel(script, variants, "set xlabel 'million tokens trained on'\n", curve("tokens", 1e6));
  write_panel(script, variants, "set xlabel 'seconds of training'\nunset key\n", curve("seconds", 1));
  write_panel(script, variants,
              "set xlabel 'position in a window of 8 contexts'\nset ylabel 'test, nats per token'\nset logscale x 2\n"
              "set xrange [32:]\n",
              [](const nlohmann::json& run) {
                std::vector<Point> points;
                for (const auto& bin : positions_of(run))
                  points.push_back(
                      {0.5 * (bin["begin"].get<double>() + bin["end"].get<double>()), number(bin, "loss", "loss")});
                return points;
              });
  return script + "unset multiplot\n";
}

}  // namespace

void report(const Results& results, const nlohmann::json& members, const CompareOptions& options) {
  Runs runs, earlier;
  for (const auto& run : results.runs())
    if (Results::matches(run, members)) (run.value("evaluation", "") == test_apart ? runs : earlier).push_back(run);
  const std::vector<AtChosenRate> variants = best_first(runs);
  std::string tables = tables_of(variants);
  if (!earlier.empty())
    tables +=
        "\nRuns of an earlier version, in which all of the held-out text chose the rate and gave the figures "
        "(they are not comparable with those above):\n\n" +
        tables_of(best_first(earlier));
  std::printf("\n%s", tables.c_str());
  if (!options.table.empty()) write_file(options.table, tables);
  if (options.plot.empty()) return;
  const std::string script = options.plot + ".gnuplot";
  write_file(script, script_of(variants, options.plot));
  if (std::system(("gnuplot " + transformer::shell_word(script)).c_str()) != 0)
    throw std::runtime_error("gnuplot failed on " + script + "; on Debian and Ubuntu: apt-get install gnuplot-nox");
}

}  // namespace language_model
