// SPDX-License-Identifier: MIT
//
// A JSON file of finished runs: a list of objects that grows by one when a run ends. Runs in the list need not be
// repeated, so a table can be made in parts, and on several machines.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

#include "types.hpp"
#include "write_file.hpp"

namespace transformer {

class Results {
 public:
  explicit Results(std::string path) : path_(std::move(path)) {
    if (std::ifstream in(path_); in) runs_ = nlohmann::json::parse(in, nullptr, false);
    if (!runs_.is_array()) throw std::runtime_error(path_ + " does not hold a list of results");
  }

  // The first run in which all of these members have these values; null if there is none.
  const nlohmann::json* find(const nlohmann::json& members) const {
    for (const auto& run : runs_)
      if (matches(run, members)) return &run;
    return nullptr;
  }

  static bool matches(const nlohmann::json& run, const nlohmann::json& members) {
    for (const auto& [name, value] : members.items())
      if (!run.contains(name) || run[name] != value) return false;
    return true;
  }

  void add(nlohmann::json run) {
    runs_.push_back(std::move(run));
    write_file(path_, text());
  }

  // A list of JSON with one line per run.
  std::string text() const {
    std::string result = "[";
    for (const auto& run : runs_) result += (result == "[" ? "\n" : ",\n") + run.dump();
    return result + "\n]\n";
  }

  const nlohmann::json& runs() const { return runs_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  nlohmann::json runs_ = nlohmann::json::array();
};

// The processor's name and the number of threads, for the member "machine" of a result.
inline std::string machine(Index threads) {
  std::ifstream in("/proc/cpuinfo");
  std::string line, name = "unknown processor";
  while (std::getline(in, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    name = line.substr(line.find(':') + 2);
    break;
  }
  return name + ", " + std::to_string(threads) + " threads";
}

}  // namespace transformer
