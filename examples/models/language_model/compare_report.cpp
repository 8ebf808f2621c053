// SPDX-License-Identifier: MIT

#include "compare_report.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "transformer/comparison.hpp"
#include "transformer/progress.hpp"
#include "transformer/quoting.hpp"

namespace language_model {

namespace {

bool is_better(const Runs& a, const Runs& b) { return mean(a, "validation_loss") < mean(b, "validation_loss"); }

std::string spread(const Runs& runs) {
  if (runs.size() < 2) return {};
  const auto [least, most] = least_and_most(runs, "validation_loss");
  return format(" (%.4f to %.4f)", least, most);
}

std::string table_of(const std::vector<Runs>& best) {
  std::string table =
      "| variant | parameters | tokens | nats per token | bits per byte | seeds | learning rate | seconds |\n"
      "|---|---:|---:|---:|---:|---:|---:|---:|\n";
  for (const Runs& runs : best) {
    const auto& run = runs.front();
    table +=
        format("| %s | %lld | %lld | %.4f%s | %.3f | %zu | %g | %.0f |\n", run["variant"].get<std::string>().c_str(),
               run["parameters"].get<long long>(), run["tokens"].get<long long>(), mean(runs, "validation_loss"),
               spread(runs).c_str(), mean(runs, "bits_per_byte"), runs.size(), run["learning_rate"].get<double>(),
               mean(runs, "seconds"));
  }
  return table;
}

// The loss by position, within the context of training and beyond it.
std::string position_table_of(const std::vector<Runs>& best) {
  std::string header = "| variant |", rule = "|---|", rows;
  for (const Runs& runs : best) {
    const auto positions = runs.front().value("loss_by_position", nlohmann::json::array());
    if (positions.empty()) continue;
    rows += "| " + runs.front()["variant"].get<std::string>() + " |";
    const bool is_first = header == "| variant |";
    for (const auto& bin : positions) {
      if (is_first) {
        header += format(" %lld-%lld |", bin["begin"].get<long long>(), bin["end"].get<long long>());
        rule += "---:|";
      }
      rows += format(" %.3f |", bin["loss"].get<double>());
    }
    rows += '\n';
  }
  return rows.empty() ? rows : header + "\n" + rule + "\n" + rows;
}

// One panel of curves; points(run) gives its lines of x and y.
template <class Points>
void write_panel(std::string& script, const std::vector<Runs>& best, const char* settings, const Points& points) {
  std::string data, plot;
  for (std::size_t i = 0; i < best.size(); ++i) {
    const std::string lines = points(best[i].front());
    if (lines.empty()) continue;
    const std::string block = format("$data%zu_%zu", i, script.size());
    data += block + " << EOD\n" + lines + "EOD\n";
    plot += (plot.empty() ? "plot " : ", \\\n  ") + block + " using 1:2 with lines lw 2 title \"" +
            best[i].front()["variant"].get<std::string>() + "\"";
  }
  if (!plot.empty()) script += data + settings + plot + "\n";
}

// Variants whose loss is far from the best one's have a line in the tables but none in the plot.
std::string script_of(std::vector<Runs> best, const std::string& image) {
  const double most = 1.3 * mean(best.front(), "validation_loss");
  const auto is_far = [&](const Runs& runs) { return mean(runs, "validation_loss") > most; };
  best.erase(std::remove_if(best.begin(), best.end(), is_far), best.end());
  std::string script = "set terminal svg size 1200,460 font 'sans,11' background 'white'\nset output " +
                       transformer::gnuplot_string(image) +
                       "\nset multiplot layout 1,3\nset grid lc rgb 'gray85'\nset key font ',8' samplen 1.5\n"
                       "set ylabel 'nats per token, held out'\n";
  // The axis starts where the curves have come down; above, they look alike.
  double top = 0;
  for (const Runs& runs : best) top = (std::max)(top, 1.08 * runs.front()["validation_loss"].get<double>());
  script += format("set yrange [:%.3f]\n", 1.25 * top);
  const auto curve = [](const char* member, double unit) {
    return [member, unit](const nlohmann::json& run) {
      std::string lines;
      for (const auto& p : run["curve"])
        lines += format("%g %.4f\n", p[member].get<double>() / unit, p["loss"].get<double>());
      return lines;
    };
  };
  write_panel(script, best, "set xlabel 'million tokens trained on'\n", curve("tokens", 1e6));
  write_panel(script, best, "set xlabel 'seconds of training'\nunset key\n", curve("seconds", 1));
  write_panel(script, best, "set xlabel 'position in a window of 8 contexts'\nset logscale x 2\nset xrange [32:]\n",
              [](const nlohmann::json& run) {
                std::string lines;
                for (const auto& bin : run.value("loss_by_position", nlohmann::json::array()))
                  lines += format("%g %.4f\n", 0.5 * (bin["begin"].get<double>() + bin["end"].get<double>()),
                                  bin["loss"].get<double>());
                return lines;
              });
  return script + "unset multiplot\n";
}

}  // namespace

void report(const Results& results, const nlohmann::json& members, const CompareOptions& options) {
  const std::vector<Runs> best = best_of_each(results, members, is_better);
  const std::string positions = position_table_of(best);
  std::string tables = table_of(best);
  if (!positions.empty())
    tables += "\nLoss by position, trained on the first " +
              std::to_string(best.front().front()["context"].get<long long>()) + ":\n\n" + positions;
  std::printf("\n%s", tables.c_str());
  if (!options.table.empty()) write_file(options.table, tables);
  if (options.plot.empty()) return;
  const std::string script = options.plot + ".gnuplot";
  write_file(script, script_of(best, options.plot));
  if (std::system(("gnuplot " + transformer::shell_word(script)).c_str()) != 0)
    throw std::runtime_error("gnuplot failed on " + script + "; on Debian and Ubuntu: apt-get install gnuplot-nox");
}

}  // namespace language_model
