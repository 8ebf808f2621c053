// SPDX-License-Identifier: MIT
//
// Shared by tables of mixers: variants of a model, and finished runs (results.hpp) by variant and learning rate.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "config.hpp"
#include "progress.hpp"
#include "results.hpp"

namespace transformer {

struct Variant {
  const char* name;
  MixerKind mixer;
  std::function<void(ModelConfig&)> change;  // sets the members that differ from their defaults
};

inline void as_it_is(ModelConfig&) {}
inline void with_convolution(ModelConfig& c) { c.convolution = 4; }
// No forgetting and no convolution.
inline void plain(ModelConfig& c) { c.convolution = 1, c.has_forgetting = false; }

// The variant of this name or, if there is none, all variants whose names contain it.
inline std::vector<Variant> chosen(const std::vector<Variant>& variants, const std::string& name) {
  std::vector<Variant> exact, similar;
  for (const Variant& variant : variants) {
    if (variant.name == name) exact.push_back(variant);
    if (std::string(variant.name).find(name) != std::string::npos) similar.push_back(variant);
  }
  require(!similar.empty(), "no variant is called " + name + ", and no name contains it");
  return exact.empty() ? similar : exact;
}

// The name of a file of this run.
inline std::string file_name(const Variant& variant, double learning_rate, std::uint64_t seed) {
  std::string name = format("%s seed %llu rate %g", variant.name, static_cast<unsigned long long>(seed), learning_rate);
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
}

[[noreturn]] inline void throw_interrupted(const std::string& results, const std::string& unfinished) {
  throw std::runtime_error("interrupted; finished runs are in " + results + ", the current run is in " + unfinished);
}

// Runs of one variant at one learning rate: its seeds.
using Runs = std::vector<nlohmann::json>;

inline double mean(const Runs& runs, const char* member) {
  double sum = 0;
  for (const auto& run : runs) sum += run[member].get<double>();
  return sum / double(runs.size());
}

inline std::pair<double, double> least_and_most(const Runs& runs, const char* member) {
  std::vector<double> values;
  for (const auto& run : runs) values.push_back(run[member].get<double>());
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return {*least, *most};
}

// For the runs with these members: the seeds of every variant at its better learning rate, the best variant first.
template <class IsBetter>
std::vector<Runs> best_of_each(const Results& results, const nlohmann::json& members, const IsBetter& is_better) {
  std::map<std::string, std::map<double, Runs>> by_variant;
  for (const auto& run : results.runs())
    if (Results::matches(run, members)) by_variant[run["variant"]][run["learning_rate"]].push_back(run);
  std::vector<Runs> best;
  for (const auto& [variant, by_rate] : by_variant) {
    const Runs* first = nullptr;
    for (const auto& [rate, runs] : by_rate)
      if (!first || is_better(runs, *first)) first = &runs;
    best.push_back(*first);
  }
  std::sort(best.begin(), best.end(), is_better);
  return best;
}

}  // namespace transformer
