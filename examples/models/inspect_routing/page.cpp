// SPDX-License-Identifier: MIT

#include "page.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

#include "legible.hpp"
#include "page_parts.hpp"

namespace inspect_routing {

namespace {

using nlohmann::json;

// Four digits are enough for the page.
json number(double value) {
  if (!std::isfinite(value)) return 0;
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return std::strtod(text, nullptr);
}

template <class Values>
json numbers(const Values& values) {
  json list = json::array();
  for (const double value : values) list.push_back(number(value));
  return list;
}

json side_data(const SideReport& side) {
  json strongest = json::array(), common = json::array(), forms = json::array();
  for (const auto& tokens : side.strongest) {
    json list = json::array();
    for (const ContextToken& t : tokens)
      list.push_back({legible(t.before), legible(t.token), legible(t.after), number(t.responsibility)});
    strongest.push_back(std::move(list));
  }
  for (const auto& tokens : side.common) {
    json list = json::array();
    for (const CommonToken& t : tokens) list.push_back({legible(t.token), t.count});
    common.push_back(std::move(list));
  }
  for (Index k = 0; k < side.forms.rows(); ++k) {
    json row = json::array();
    for (Index f = 0; f < side.forms.cols(); ++f) row.push_back(std::int64_t(side.forms(k, f)));
    forms.push_back(std::move(row));
  }
  return {{"usage", numbers(side.usage)},
          {"entropy", number(side.usage_entropy)},
          {"dead", side.dead},
          {"perToken", number(side.token_components)},
          {"information", number(side.information.information)},
          {"componentEntropy", number(side.information.row_entropy)},
          {"formEntropy", number(side.information.column_entropy)},
          {"nmi", number(side.information.normalised())},
          {"forms", std::move(forms)},
          {"strongest", std::move(strongest)},
          {"common", std::move(common)}};
}

json head_data(const HeadReport& head) {
  json data{{"layer", head.layer + 1},
            {"head", head.head + 1},
            {"temperatures", numbers(head.temperatures)},
            {"keys", side_data(head.keys)},
            {"queries", side_data(head.queries)},
            {"window",
             {{"keys", packed(head.window.keys)},
              {"queries", packed(head.window.queries)},
              {"affinity", packed(head.window.affinity)},
              {"before", numbers(head.window.before)},
              {"kept", numbers(head.window.kept)}}}};
  if (head.has_forgetting) {
    const ForgettingReport& f = head.forgetting;
    data["forgetting"] = {{"held", number(f.held)},
                          {"low", number(f.low)},
                          {"median", number(f.median)},
                          {"high", number(f.high)},
                          {"forms", numbers(f.form_times)}};
  }
  return data;
}

std::string replace(std::string text, const std::string& mark, const std::string& value) {
  return text.replace(text.find(mark), mark.size(), value);
}

}  // namespace

std::string json_for_script(const json& value) {
  std::string text;
  for (const char c : value.dump(-1, ' ', false, json::error_handler_t::replace)) {
    if (c == '<')
      text += "\\u003c";
    else if (c == '>')
      text += "\\u003e";
    else if (c == '&')
      text += "\\u0026";
    else
      text += c;
  }
  return text;
}

std::string packed(const Matrix<double>& shares) {
  std::vector<unsigned> bytes;
  for (Index i = 0; i < shares.size(); ++i) {
    const auto value = unsigned(std::lround(65535 * (std::clamp)(shares.data()[i], 0.0, 1.0)));
    bytes.push_back(value & 255);
    bytes.push_back(value >> 8);
  }
  constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    const std::size_t count = (std::min)(std::size_t(3), bytes.size() - i);
    unsigned group = 0;
    for (std::size_t k = 0; k < 3; ++k) group = (group << 8) | (k < count ? bytes[i + k] : 0);
    for (std::size_t k = 0; k < 4; ++k) text += k <= count ? digits[(group >> (18 - 6 * k)) & 63] : '=';
  }
  return text;
}

json page_data(const Inspection& inspection) {
  json heads = json::array(), forms = json::array(), tokens = json::array();
  for (const HeadReport& head : inspection.heads) heads.push_back(head_data(head));
  for (Index f = 0; f < surface_forms; ++f) forms.push_back(name_of(static_cast<SurfaceForm>(f)));
  for (const std::string& token : inspection.window_tokens) tokens.push_back(legible(token));
  return {{"checkpoint", legible(inspection.checkpoint)},
          {"text", legible(inspection.text)},
          {"mixer", name_of(inspection.model.mixer)},
          {"layers", inspection.model.layers},
          {"headsPerLayer", inspection.model.heads},
          {"width", inspection.model.width},
          {"vocabulary", inspection.model.vocabulary},
          {"isBytes", inspection.is_bytes},
          {"steps", inspection.steps},
          {"context", inspection.context},
          {"tokens", inspection.tokens},
          {"factors", inspection.factors},
          {"components", inspection.components},
          {"forms", std::move(forms)},
          {"heads", std::move(heads)},
          {"windowAt", inspection.window_position},
          {"windowTokens", std::move(tokens)}};
}

std::string page(const Inspection& inspection) {
  std::string html = part_page;
  html = replace(std::move(html), "/*STYLE*/", part_style);
  html = replace(std::move(html), "/*SCRIPT*/", part_script);
  return replace(std::move(html), "/*DATA*/", json_for_script(page_data(inspection)));  // last: a text has no marks
}

}  // namespace inspect_routing
