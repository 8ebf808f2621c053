// SPDX-License-Identifier: MIT
// A layer's config as the JSON text in its file.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "gma/io/safetensors_header.hpp"
#include "gma/layer/layer_config.hpp"

namespace gma::io::detail {

inline std::string config_text(const LayerConfig& config);

/// Sets the config from such a text. Returns the fault of the text, "" if there is none: it must have every member
/// that the earliest files have, each of its own kind, and none that is unknown. validate() checks whether the members
/// fit together.
inline std::string read_config(const std::string& text, LayerConfig& config);

// Implementation -----------------------------------------------------------------------------------------------------

/// The names of an enumeration's values, in order.
inline constexpr std::array<const char*, 3> names_of(Normalization) { return {"none", "slot", "row"}; }
inline constexpr std::array<const char*, 2> names_of(GateActivation) { return {"sigmoid", "silu"}; }

inline constexpr std::size_t most_factors = 64;

inline std::string json_of(bool value) { return value ? "true" : "false"; }
inline std::string json_of(Index value) { return std::to_string(value); }
inline std::string json_of(double value) { return nlohmann::json(value).dump(); }
template <class Enum>
std::enable_if_t<std::is_enum_v<Enum>, std::string> json_of(Enum value) {
  return "\"" + std::string(names_of(value)[static_cast<std::size_t>(value)]) + "\"";
}
inline std::string json_of(const std::vector<Index>& values) {
  std::string text;
  for (const Index value : values) text += (text.empty() ? "[" : ",") + std::to_string(value);
  return text.empty() ? "[]" : text + "]";
}

inline std::string config_text(const LayerConfig& config) {
  std::string text;
  gma::detail::for_each_member([&](const char* name, auto member, const auto&...) {
    text += (text.empty() ? "{\"" : ",\"") + std::string(name) + "\":" + json_of(config.*member);
  });
  return text + "}";
}

/// A value of the text.
struct ConfigValue {
  enum class Kind { none, boolean, count, number, string, counts };
  Kind kind = Kind::none;
  bool boolean = false;
  double number = 0;
  std::string string;
  std::vector<Index> counts;  // Kind::count has one
};

/// Receives the JSON piece by piece and builds no tree, because destroying a tree takes memory. The names and types of
/// the functions are those that nlohmann::json::sax_parse calls. A function that returns false ends the reading.
class ConfigHandler {
 public:
  using Kind = ConfigValue::Kind;

  std::map<std::string, ConfigValue> values;
  std::string name;  // of the member that is being read

  bool null() { return false; }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool number_integer(std::int64_t value) { return number(static_cast<double>(value)); }  // these are negative
  bool number_float(double value, const std::string&) { return number(value); }
  bool boolean(bool value) {
    current().boolean = value;
    return is_now(Kind::boolean);
  }
  bool string(std::string& value) {
    current().string = std::move(value);
    return is_now(Kind::string);
  }
  bool number_unsigned(std::uint64_t value) {
    constexpr std::uint64_t most = std::uint64_t{1} << 24;  // more than any config has
    if (!in_array_) current().number = static_cast<double>(value);
    if (value > most && !in_array_) return is_now(Kind::number);
    current().counts.push_back(static_cast<Index>(value));
    return in_array_ ? value <= most && current().counts.size() <= most_factors : is_now(Kind::count);
  }
  bool start_object(std::size_t) { return std::exchange(depth_, 1) == 0; }
  bool end_object() { return true; }
  bool start_array(std::size_t) { return is_now(Kind::counts) && !std::exchange(in_array_, true); }
  bool end_array() {
    in_array_ = false;
    return true;
  }
  bool key(std::string& key) {
    name = std::move(key);
    is_twice_ = !values.emplace(name, ConfigValue()).second;
    return !is_twice_;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception&) {
    is_json_ = false;
    return false;
  }

  bool is_object() const { return is_json_ && depth_ == 1; }
  bool is_twice() const { return is_twice_; }

 private:
  ConfigValue& current() { return values[name]; }
  bool number(double value) {
    current().number = value;
    return is_now(Kind::number);
  }
  bool is_now(Kind kind) {
    current().kind = kind;
    return depth_ == 1 && !in_array_;
  }

  int depth_ = 0;
  bool in_array_ = false, is_twice_ = false, is_json_ = true;
};

/// Whether the value is of the member's kind; if so, sets the member.
inline bool set_member(const ConfigValue& found, bool& value) {
  value = found.boolean;
  return found.kind == ConfigValue::Kind::boolean;
}
inline bool set_member(const ConfigValue& found, Index& value) {
  if (found.kind != ConfigValue::Kind::count) return false;
  value = found.counts.front();
  return true;
}
inline bool set_member(const ConfigValue& found, double& value) {
  value = found.number;
  return found.kind == ConfigValue::Kind::count || found.kind == ConfigValue::Kind::number;
}
template <class Enum>
std::enable_if_t<std::is_enum_v<Enum>, bool> set_member(const ConfigValue& found, Enum& value) {
  const auto names = names_of(value);
  const std::size_t i = static_cast<std::size_t>(std::find(names.begin(), names.end(), found.string) - names.begin());
  if (found.kind != ConfigValue::Kind::string || i == names.size()) return false;
  value = static_cast<Enum>(i);
  return true;
}
inline bool set_member(const ConfigValue& found, std::vector<Index>& value) {
  value = found.counts;
  return found.kind == ConfigValue::Kind::counts && !value.empty();
}

inline std::string read_config(const std::string& text, LayerConfig& config) {
  ConfigHandler handler;
  const bool is_read = nlohmann::json::sax_parse(text, &handler);
  if (!handler.is_object()) return "the metadata's config is no JSON object";
  if (handler.is_twice()) return "the metadata's config has " + shown(handler.name) + " twice";
  if (!is_read) return "the metadata's config has a bad value for " + shown(handler.name);
  std::string fault;
  std::size_t members = 0;
  gma::detail::for_each_member([&](const char* name, auto member, const auto&... in_earlier_files) {
    const auto found = handler.values.find(name);
    if (found != handler.values.end()) ++members;
    if (!fault.empty()) return;
    if (found == handler.values.end()) {
      if constexpr (sizeof...(in_earlier_files) == 0) {
        fault = "the metadata's config lacks " + std::string(name);
      } else {
        config.*member = (in_earlier_files, ...);
      }
    } else if (!set_member(found->second, config.*member)) {
      fault = "the metadata's config has a bad value for " + std::string(name);
    }
  });
  if (fault.empty() && members != handler.values.size()) fault = "the metadata's config has members that are not known";
  return fault;
}

}  // namespace gma::io::detail
