// SPDX-License-Identifier: MIT

#include "lengths.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <sstream>

#include "transformer/gnuplot.hpp"
#include "transformer/progress.hpp"
#include "transformer/quoting.hpp"
#include "transformer/write_file.hpp"

namespace language_model {

namespace {

constexpr Index piece = 512, steps = 16;

// The curve with most lengths.
const LengthCurve& longest_of(const std::vector<LengthCurve>& curves) {
  return *std::max_element(curves.begin(), curves.end(),
                           [](const auto& a, const auto& b) { return a.costs.size() < b.costs.size(); });
}

// Seconds with a unit that leaves two or three digits.
std::string duration(double seconds) {
  if (seconds < 1e-3) return format("%.0f us", 1e6 * seconds);
  if (seconds < 1) return format("%.3g ms", 1e3 * seconds);
  return format("%.1f s", seconds);
}

std::string size(Index bytes) {
  if (bytes < 1000000) return format("%.0f kB", 1e-3 * double(bytes));
  return format("%.1f MB", 1e-6 * double(bytes));
}

}  // namespace

LengthCurve measure_lengths(const std::string& name, const Model<float>& model, const Vector<float>& parameters,
                            const std::vector<Token>& tokens, Index longest,
                            const std::function<void(const LengthCost&)>& finished) {
  auto cache = model.make_cache();
  {
    auto state = model.make_state();  // the first pass makes room
    model.forward(parameters, tokens.data(), (std::min)(piece, Index(tokens.size())), &state, cache);
  }
  auto state = model.make_state();
  Index at = 0;
  const auto read = [&](Index count) {
    model.forward(parameters, tokens.data() + at, count, &state, cache);
    at += count;
  };
  LengthCurve curve{name, {}};
  LengthCost cost;
  for (Index length = piece; length <= longest && length + steps <= Index(tokens.size()); length *= 2) {
    // Of the tokens since the length before, the first ones were decoded; they are counted as if they were read.
    const Index decoded = at - cost.length;
    const Stopwatch reading;
    while (at < length) read((std::min)(piece, length - at));
    cost.reading += reading.seconds() * double(length - cost.length) / double(length - cost.length - decoded);
    cost.length = length;
    cost.bytes = state.bytes();
    std::array<double, steps> seconds;
    for (double& of_token : seconds) {
      const Stopwatch decoding;
      read(1);
      of_token = decoding.seconds();
    }
    std::nth_element(seconds.begin(), seconds.begin() + steps / 2, seconds.end());
    cost.decoding = seconds[steps / 2];
    curve.costs.push_back(cost);
    if (finished) finished(cost);
  }
  return curve;
}

std::string length_table(const std::vector<LengthCurve>& curves) {
  std::string head = "| tokens |", rule = "|-------:|";
  for (const LengthCurve& curve : curves) {
    for (const char* what : {"read all", "one more", "memory"})
      head += format(" %20s |", (curve.name + ": " + what).c_str());
    for (int i = 0; i < 3; ++i) rule += std::string(21, '-') + ":|";
  }
  std::string rows;
  for (std::size_t i = 0; i < longest_of(curves).costs.size(); ++i) {
    rows += format("| %6lld |", static_cast<long long>(longest_of(curves).costs[i].length));
    for (const LengthCurve& curve : curves) {
      const bool is_known = i < curve.costs.size();
      const LengthCost cost = is_known ? curve.costs[i] : LengthCost{};
      for (const std::string& figure : {duration(cost.reading), duration(cost.decoding), size(cost.bytes)})
        rows += format(" %20s |", is_known ? figure.c_str() : "-");
    }
    rows += "\n";
  }
  return head + "\n" + rule + "\n" + rows;
}

bool write_lengths(const std::filesystem::path& directory, const std::vector<LengthCurve>& curves) {
  std::ostringstream csv, plot;
  csv << "model,tokens,reading_seconds,decoding_seconds_per_token,state_bytes\n";
  for (std::size_t i = 0; i < curves.size(); ++i) {
    plot << "$model" << i << " << EOD\n";
    for (const LengthCost& c : curves[i].costs) {
      csv << curves[i].name << ',' << c.length << ',' << c.reading << ',' << c.decoding << ',' << c.bytes << '\n';
      plot << c.length << ' ' << c.reading << ' ' << 1e3 * c.decoding << ' ' << 1e-6 * double(c.bytes) << '\n';
    }
    plot << "EOD\n";
  }
  plot << "set terminal svg size 1100,400 font 'sans,12' background 'white'\n"
          "set output 'lengths.svg'\n"
          "set multiplot layout 1,3\n"
          "set logscale xy\nset grid\nset key top left\nset xlabel 'tokens of the stream'\n"
          "set xtics ('512' 512, '2k' 2048, '8k' 8192, '32k' 32768, '128k' 131072, '512k' 524288)\nset format y '%g'\n";
  int column = 2;
  for (const char* title : {"seconds to read all of them", "milliseconds for one more", "megabytes of memory"}) {
    plot << "set title '" << title << "'\nplot";
    for (std::size_t i = 0; i < curves.size(); ++i)
      plot << (i == 0 ? " " : ", ") << "$model" << i << " using 1:" << column
           << " with linespoints lw 2 pt 7 ps 0.5 title " << transformer::gnuplot_string(curves[i].name)
           << " noenhanced";
    plot << '\n';
    ++column;
  }
  plot << "unset multiplot\n";
  write_file(directory / "lengths.csv", csv.str());
  write_file(directory / "lengths.md", length_table(curves));
  return transformer::run_gnuplot(directory, "lengths.gnuplot", plot.str());
}

}  // namespace language_model
