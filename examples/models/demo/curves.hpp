// SPDX-License-Identifier: MIT
//
// Learning curves as CSV, drawn by gnuplot if it is installed.
#pragma once

#include <filesystem>
#include <ostream>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "language_model/baselines.hpp"
#include "language_model/run_result.hpp"
#include "transformer/gnuplot.hpp"
#include "transformer/write_file.hpp"

namespace demo {

using namespace language_model;

struct NamedRun {
  std::string budget;  // "same bytes" or "same seconds"
  RunResult result;
};

inline void write_curves(const std::filesystem::path& path, const std::vector<NamedRun>& runs) {
  std::ostringstream out;
  out << "mixer,budget,steps,bytes,seconds,training_bits_per_byte,validation_bits_per_byte\n";
  for (const NamedRun& run : runs)
    for (const CurvePoint& p : run.result.curve)
      out << name_of(run.result.model.mixer) << ',' << run.budget << ',' << p.steps << ',' << p.bytes << ','
          << p.seconds << ',' << p.training << ',' << p.validation << '\n';
  write_file(path, out.str());
}

namespace detail {

// One panel: the runs of one budget, with the counting models as horizontal lines.
inline void write_panel(std::ostream& out, const std::vector<NamedRun>& runs, const Baselines& baselines,
                        const std::string& budget, const std::string& x_label, const std::string& x) {
  out << "set title 'the " << budget << "'\nset xlabel '" << x_label << "'\nplot \\\n";
  for (const auto& [order, name, dashes] : {std::tuple(3, "trigram", "'_'"), std::tuple(5, "5-gram", "'-'")})
    out << "  " << baselines.ngrams[std::size_t(order - 1)] << " with lines dashtype " << dashes
        << " lc rgb 'gray40' title '" << name << "', \\\n";
  if (baselines.xz) out << "  " << *baselines.xz << " with lines dashtype '.' lc rgb 'gray40' title 'xz -9e', \\\n";
  for (std::size_t i = 0; i < runs.size(); ++i)
    if (runs[i].budget == budget || i == 0)
      out << "  $run" << i << " using " << x << " with lines lw 2 title '" << name_of(runs[i].result.model.mixer)
          << "', \\\n";
  out << "  NaN notitle\n";
}

}  // namespace detail

// Writes curve.gnuplot into the directory and runs it, which gives curve.svg. Returns false if gnuplot is missing.
inline bool draw_curves(const std::filesystem::path& directory, const std::vector<NamedRun>& runs,
                        const Baselines& baselines) {
  std::ostringstream out;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    out << "$run" << i << " << EOD\n";
    for (const CurvePoint& p : runs[i].result.curve)
      out << double(p.bytes) / 1e6 << ' ' << p.seconds << ' ' << p.validation << '\n';
    out << "EOD\n";
  }
  out << "set terminal svg size 1100,520 font 'sans,12' background 'white'\n"
         "set output 'curve.svg'\n"
         "set multiplot layout 1,2\n"
         "set ylabel 'validation, bits per byte'\nset yrange [1.8:4]\nset grid\nset bmargin 7\n"
         "set key outside bottom center horizontal\n";
  detail::write_panel(out, runs, baselines, "same bytes", "megabytes of text trained on", "1:3");
  detail::write_panel(out, runs, baselines, "same seconds", "seconds of training", "2:3");
  out << "unset multiplot\n";
  return transformer::run_gnuplot(directory, "curve.gnuplot", out.str());
}

}  // namespace demo
