// SPDX-License-Identifier: MIT

#include "tables.hpp"

#include <cmath>
#include <sstream>

#include "legible.hpp"

namespace inspect_routing {

namespace {

// f(head, side, the cells that name them) for every head and side.
template <class F>
void for_each_side(const Inspection& inspection, const F& f) {
  for (const HeadReport& head : inspection.heads)
    for (const Side side : sides)
      f(head, side, std::to_string(head.layer + 1) + ',' + std::to_string(head.head + 1) + ',' + name_of(side) + ',');
}

std::string text_field(const std::string& bytes) { return csv_field(legible_line(bytes)); }

void write_form_names(std::ostream& out) {
  for (Index f = 0; f < surface_forms; ++f) {
    std::string name = name_of(static_cast<SurfaceForm>(f));
    for (char& c : name)
      if (c == ' ') c = '_';
    out << ',' << name;
  }
}

}  // namespace

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos &&
      (text.empty() || (text.front() != ' ' && text.back() != ' ')))
    return text;
  std::string field = "\"";
  for (const char c : text) field += c == '"' ? std::string("\"\"") : std::string(1, c);
  return field + '"';
}

std::string summary_csv(const Inspection& inspection) {
  std::ostringstream out;
  out << "layer,head,side,components,tokens,usage_entropy,usage_entropy_of_log_k,effective_components,dead,"
         "token_entropy,components_per_token,mutual_information,component_entropy,form_entropy,"
         "normalised_mutual_information,temperatures,tokens_held,forgetting_time,forgetting_time_10,forgetting_time_50,"
         "forgetting_time_90\n";
  const double log_k = std::log(double(inspection.components));
  for_each_side(inspection, [&](const HeadReport& head, Side side, const std::string& name) {
    const SideReport& s = head.side(side);
    out << name << inspection.components << ',' << s.tokens << ',' << s.usage_entropy << ','
        << (log_k > 0 ? s.usage_entropy / log_k : 1.0) << ',' << std::exp(s.usage_entropy) << ',' << s.dead << ','
        << s.token_entropy << ',' << s.token_components << ',' << s.information.information << ','
        << s.information.row_entropy << ',' << s.information.column_entropy << ',' << s.information.normalised() << ',';
    for (std::size_t m = 0; m < head.temperatures.size(); ++m) out << (m == 0 ? "" : " ") << head.temperatures[m];
    if (head.has_forgetting) {
      const ForgettingReport& f = head.forgetting;
      out << ',' << f.held << ',' << f.mean_time << ',' << f.low << ',' << f.median << ',' << f.high << '\n';
    } else {
      out << ",,,,,\n";
    }
  });
  return out.str();
}

std::string usage_csv(const Inspection& inspection) {
  std::ostringstream out;
  out << "layer,head,side,component,usage,dead,tokens";
  write_form_names(out);
  out << '\n';
  for_each_side(inspection, [&](const HeadReport& head, Side side, const std::string& name) {
    const SideReport& s = head.side(side);
    for (Index k = 0; k < inspection.components; ++k) {
      out << name << k + 1 << ',' << s.usage(k) << ',' << (is_dead(s.usage(k), inspection.components) ? 1 : 0) << ','
          << s.forms.row(k).sum();
      for (Index f = 0; f < surface_forms; ++f) out << ',' << s.forms(k, f);
      out << '\n';
    }
  });
  return out.str();
}

std::string tokens_csv(const Inspection& inspection) {
  std::ostringstream out;
  out << "layer,head,side,component,rank,responsibility,before,token,after\n";
  for_each_side(inspection, [&](const HeadReport& head, Side side, const std::string& name) {
    const auto& strongest = head.side(side).strongest;
    for (std::size_t k = 0; k < strongest.size(); ++k) {
      for (std::size_t i = 0; i < strongest[k].size(); ++i) {
        const ContextToken& t = strongest[k][i];
        out << name << k + 1 << ',' << i + 1 << ',' << t.responsibility << ',' << text_field(t.before) << ','
            << text_field(t.token) << ',' << text_field(t.after) << '\n';
      }
    }
  });
  return out.str();
}

std::string responsibilities_csv(const Inspection& inspection) {
  std::ostringstream out;
  out << "layer,head,side,token,text";
  for (Index k = 0; k < inspection.components; ++k) out << ",component_" << k + 1;
  out << '\n';
  for_each_side(inspection, [&](const HeadReport& head, Side side, const std::string& name) {
    const Matrix<double>& r = side == Side::keys ? head.window.keys : head.window.queries;
    for (Index t = 0; t < r.rows(); ++t) {
      out << name << t + 1 << ',' << text_field(inspection.window_tokens[std::size_t(t)]);
      for (Index k = 0; k < r.cols(); ++k) out << ',' << r(t, k);
      out << '\n';
    }
  });
  return out.str();
}

std::string affinity_csv(const Inspection& inspection) {
  std::ostringstream out;
  out << "layer,head,query,query_text,value,value_text,weight\n";
  const auto& tokens = inspection.window_tokens;
  for (const HeadReport& head : inspection.heads) {
    const Matrix<double>& a = head.window.affinity;
    for (Index i = 0; i < a.rows(); ++i) {
      const std::string row = std::to_string(head.layer + 1) + ',' + std::to_string(head.head + 1) + ',' +
                              std::to_string(i + 1) + ',' + text_field(tokens[std::size_t(i)]) + ',';
      out << row << "0,," << head.window.before(i) << '\n';
      for (Index j = 0; j <= i; ++j)
        out << row << j + 1 << ',' << text_field(tokens[std::size_t(j)]) << ',' << a(i, j) << '\n';
    }
  }
  return out.str();
}

}  // namespace inspect_routing
