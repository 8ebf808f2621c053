// SPDX-License-Identifier: MIT
//
// Shared by tables of mixers: variants of a model, and finished runs (results.hpp) by variant and learning rate.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "config.hpp"
#include "progress.hpp"
#include "results.hpp"
#include "statistics.hpp"

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
// Positions instead, so that the order of tokens is not lost.
inline void plain_with_positions(ModelConfig& c) { plain(c), c.has_positions = true; }

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

// A member of a run, or another one if it is missing. A number that was not finite is null in a file: infinity here.
inline double number(const nlohmann::json& run, const char* member, const char* otherwise) {
  const nlohmann::json& value = run.at(run.contains(member) ? member : otherwise);
  return value.is_null() ? std::numeric_limits<double>::infinity() : value.get<double>();
}

inline std::vector<double> numbers(const Runs& runs, const char* member, const char* otherwise) {
  std::vector<double> values;
  for (const auto& run : runs) values.push_back(number(run, member, otherwise));
  return values;
}

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

// The runs of one variant at the rate that validation chose.
struct AtChosenRate {
  Runs runs;  // one per seed
  double learning_rate;
  std::vector<double> rates;  // among which it was chosen, ascending

  // Then a better rate may be outside of the grid.
  bool is_at_edge() const { return learning_rate == rates.front() || learning_rate == rates.back(); }
};

// Of one variant: the rate of the least mean validation loss, over the seeds that all rates have, or over all seeds if
// there are no such. Of equal rates it is the least. A seed that was run twice counts once.
inline AtChosenRate at_chosen_rate(const Runs& runs_of_variant) {
  std::map<double, std::map<std::uint64_t, nlohmann::json>> by_rate;
  for (const auto& run : runs_of_variant) by_rate[run.at("learning_rate")].emplace(run.at("seed"), run);
  const auto is_common = [&](std::uint64_t seed) {
    return std::all_of(by_rate.begin(), by_rate.end(), [&](const auto& entry) { return entry.second.count(seed) > 0; });
  };
  const auto& first = by_rate.begin()->second;
  const bool has_common =
      std::any_of(first.begin(), first.end(), [&](const auto& entry) { return is_common(entry.first); });
  AtChosenRate chosen{{}, by_rate.begin()->first, {}};
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [rate, runs] : by_rate) {
    chosen.rates.push_back(rate);
    std::vector<double> losses;
    for (const auto& [seed, run] : runs)
      if (!has_common || is_common(seed)) losses.push_back(number(run, "validation_loss", "validation_loss"));
    if (mean(losses) < least) least = mean(losses), chosen.learning_rate = rate;
  }
  for (const auto& [seed, run] : by_rate[chosen.learning_rate]) chosen.runs.push_back(run);
  return chosen;
}

}  // namespace transformer
