// SPDX-License-Identifier: MIT
// Random cases of the differential tests, each made of one seed, and the loop over them. Environment:
//   GMA_DIFFERENTIAL_SEED=s                            case s alone
//   GMA_DIFFERENTIAL_SECONDS=t                         cases 1, 2, ... for t seconds
//   GMA_DIFFERENTIAL_SEED=s GMA_DIFFERENTIAL_SECONDS=t cases s, s + 1, ... for t seconds
// With none of them a fixed number of cases from 1 on runs. Every failure prints its case's seed and one line.
#pragma once

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <sstream>

#include "../support.hpp"
#include "oracle.hpp"

namespace gma_test::differential {

using oracle::Divisor;
using oracle::Factor;
using oracle::Family;
using oracle::Given;
using oracle::Numbers;
using oracle::Size;
using oracle::Upstream;
using oracle::Verb;

constexpr const char* family_names[] = {"isotropic", "diagonal", "tied", "full"};
constexpr const char* verb_names[] = {"write", "read", "bidirectional", "causal"};

// Random choices -----------------------------------------------------------------------------------------------------

inline Size pick(Random& random, std::initializer_list<Size> list) {
  return list.begin()[static_cast<Size>(random.uniform() * static_cast<double>(list.size()))];
}
inline bool chance(Random& random, double probability) { return random.uniform() < probability; }

/// A number of tokens: around the lengths of vectors, tiles and scans.
inline Size pick_count(Random& random) {
  if (chance(random, 0.1)) return 100 + static_cast<Size>(random.uniform() * 500);
  return pick(random, {0, 1, 1, 2, 3, 7, 8, 15, 33, 47, 48, 49, 63, 64, 65, 95, 96, 97, 144, 145, 193});
}

/// Rounds to the scalar or storage type that the library is given.
using Rounding = double (*)(double);
template <class T>
double rounded(double x) {
  return static_cast<double>(static_cast<T>(x));
}

inline Numbers<double> normals(Random& random, Size count, double scale, Rounding round) {
  Numbers<double> result(count);
  for (double& x : result) x = round(scale * random.normal());
  return result;
}

inline Factor<double> random_factor(Random& random, Family family, Size components, Size dim, bool is_sharp,
                                    Rounding round) {
  Factor<double> factor;
  factor.family = family;
  factor.components = components;
  factor.dim = dim;
  const Size rows = family == Family::tied ? 1 : components;
  const Size cols = family == Family::isotropic ? 1 : family == Family::full ? dim * dim : dim;
  factor.weight_logits = normals(random, components, is_sharp ? 3 : 0.5, round);
  factor.means = normals(random, components * dim, 1, round);
  factor.log_scales = normals(random, rows * cols, is_sharp ? 0.7 : 0.3, round);
  factor.log_temperature = {round(is_sharp ? -0.4 : 0.3 * random.normal())};
  return factor;
}

/// Weights: about 1, with absent tokens, heavy, or so light that masses stay below tiny.
inline Numbers<double> random_weights(Random& random, Size count, Rounding round) {
  const double scale = static_cast<double>(pick(random, {1, 1, 1, 1000, 0}));
  const double absent = chance(random, 0.5) ? 0.2 : 0;
  Numbers<double> weights(count);
  for (double& w : weights) {
    w = chance(random, absent) ? 0 : round((0.01 + 2 * random.uniform()) * (scale > 0 ? scale : 1e-15));
  }
  return weights;
}

/// Forgetting: none, weak, as layers have it, strong, restarts here and there; NaN behind absent tokens.
inline Numbers<double> random_forgetting(Random& random, const Numbers<double>& weights, Size count, Rounding round) {
  const double scale = 0.001 * static_cast<double>(pick(random, {0, 1, 50, 500, 20000}));
  const double restarts = chance(random, 0.3) ? 0.05 : 0;
  Numbers<double> g(count);
  for (Size j = 0; j < count; ++j) {
    g[j] = chance(random, restarts) ? -infinity : round(-scale * random.uniform());
    if (!weights.empty() && !(weights[j] > 0)) g[j] = not_a_number;
  }
  return g;
}

/// Rows of tokens of weight 0 hold anything.
inline void poison(Given<double>& given) {
  for (Size j = 0; j < given.key_count(); ++j) {
    if (given.present(j)) continue;
    for (Size i = 0; i < given.dim; ++i) given.keys[j * given.dim + i] = not_a_number;
    for (Size i = 0; i < given.width; ++i) given.values[j * given.width + i] = i % 2 == 0 ? infinity : not_a_number;
  }
}

// Cases --------------------------------------------------------------------------------------------------------------

enum class Layout { dense, gaps, column_major, column_major_gaps };
constexpr const char* layout_names[] = {"dense", "gaps", "column-major", "column-major with gaps"};
inline Layout pick_layout(Random& random) { return static_cast<Layout>(pick(random, {0, 0, 1, 2, 3})); }

/// One problem for a verb, all of its numbers representable in the scalar.
struct Case {
  Verb verb = Verb::causal;
  Divisor divisor = Divisor::slot;
  bool is_product = false;
  Given<double> given;
  Upstream upstream;
  double tolerance_factor = 1;  // the largest logit
  Index tile = 0, checkpoint_interval = 256, executor = 0, segment = 0;
  Layout layouts[5] = {};  // queries, keys, values, outputs, their gradient
  int aliased = -1;        // the input that the outputs overwrite: 0 queries, 1 keys, 2 values
  std::vector<Size> cuts;  // where a causal or a written sequence is cut

  gma::Options options() const;
  std::string description() const;
};

/// What executors a case may run on, by number.
inline const char* const executor_names[] = {"none", "1 thread", "2 threads", "3 threads", "backwards"};
const gma::Executor* executor_of(Index number);

inline gma::Options Case::options() const {
  gma::Options options;
  options.normalization = static_cast<Normalization>(static_cast<int>(divisor));
  options.tile = tile;
  options.checkpoint_interval = checkpoint_interval;
  options.executor = executor_of(executor);
  options.segment = segment;
  return options;
}

inline void describe(std::ostream& out, const Given<double>& given) {
  out << given.query_count() << " queries, " << given.key_count() << " keys, "
      << (given.factors.size() > 1 ? "product of " : "");
  for (const auto& factor : given.factors) {
    out << family_names[static_cast<int>(factor.family)] << " K " << factor.components << " d " << factor.dim << ", ";
  }
  out << "e " << given.width;
  const auto range = [&](const char* name, const Numbers<double>& numbers) {
    if (numbers.empty()) return;
    double low = infinity, high = -infinity;
    for (const double x : numbers) low = std::min(low, x), high = std::max(high, x);
    out << ", " << name << " " << low << ".." << high;
  };
  range("weights", given.key_weights);
  range("g", given.log_forgetting);
  range("mass", given.mass);
}

inline std::string Case::description() const {
  std::ostringstream out;
  out << verb_names[static_cast<int>(verb)] << ", " << name_of(static_cast<Normalization>(static_cast<int>(divisor)))
      << ", ";
  describe(out, given);
  out << ", tile " << tile << ", interval " << checkpoint_interval << ", segment " << segment << ", executor "
      << executor_names[executor];
  const char* const operands[] = {"queries", "keys", "values", "outputs", "d_outputs"};
  for (int i = 0; i < 5; ++i) {
    if (layouts[i] != Layout::dense) out << ", " << operands[i] << " " << layout_names[static_cast<int>(layouts[i])];
  }
  if (aliased >= 0) out << ", outputs over " << operands[aliased];
  if (!cuts.empty()) out << ", cut at";
  for (const Size cut : cuts) out << " " << cut;
  return out.str();
}

/// Numbers are rounded by `round`; those of queries, keys, values and d_output by `round_tokens`.
inline Case random_case(Random& random, Rounding round, Rounding round_tokens) {
  Case c;
  c.verb = static_cast<Verb>(pick(random, {0, 1, 2, 2, 3, 3, 3}));
  c.divisor = static_cast<Divisor>(pick(random, {0, 1, 1, 2}));
  Given<double>& given = c.given;
  Size keys = c.verb == Verb::read ? 0 : pick_count(random);
  Size queries = c.verb == Verb::write ? 0 : c.verb == Verb::causal ? keys : pick_count(random);
  given.width = pick(random, {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33});
  const Family family = static_cast<Family>(pick(random, {0, 1, 1, 2, 3}));
  const bool is_sharp = chance(random, 0.1);
  c.is_product = chance(random, 0.4);
  const Size factors = c.is_product ? pick(random, {1, 2, 2, 3}) : 1;
  for (Size m = 0; m < factors; ++m) {
    const Size components = factors > 1 ? pick(random, {1, 2, 3, 4, 5}) : pick(random, {1, 2, 3, 5, 8, 16, 17, 33, 65});
    const Size dim = factors > 1 ? pick(random, {1, 2, 3, 5}) : pick(random, {1, 2, 3, 4, 5, 7, 8, 9, 16, 17});
    const Size small = family == Family::full ? std::min(dim, Size(5)) : dim;
    given.factors.push_back(random_factor(random, family, components, small, is_sharp, round));
    given.dim += small;
  }
  if (chance(random, 0.15)) given.width = given.dim;
  const Size K = given.components(), d = given.dim, e = given.width;
  if ((queries + keys) * K * (d + e) > 200000) {
    keys = std::min(keys, Size(97));
    queries = std::min(queries, Size(97));
  }
  given.queries = normals(random, queries * d, 1, round_tokens);
  given.keys = normals(random, keys * d, 1, round_tokens);
  given.values = normals(random, keys * e, 1, round_tokens);
  if (chance(random, 0.2)) {
    for (double& v : given.values) v = round_tokens(v + 3);
  }
  if (chance(random, 0.5)) given.key_weights = random_weights(random, keys, round);
  if (chance(random, 0.5)) given.log_forgetting = random_forgetting(random, given.key_weights, keys, round);
  poison(given);

  given.slots.assign(K * e, 0);
  given.mass.assign(K, 0);
  given.memory_log_forgetting = {0};
  const bool has_memory = c.verb == Verb::read || (c.verb != Verb::bidirectional && chance(random, 0.5));
  if (has_memory) {
    const double mass = static_cast<double>(pick(random, {1, 1, 20, 500}));
    for (double& m : given.mass) m = chance(random, 0.1) ? 0 : round(mass * random.uniform());
    for (Size k = 0; k < K; ++k) {
      for (Size i = 0; i < e; ++i) given.slots[k * e + i] = round(given.mass[k] * random.normal());
    }
    given.memory_log_forgetting = {chance(random, 0.1) ? -infinity : round(-random.uniform())};
  }
  c.upstream.outputs = normals(random, queries * e, 1, round_tokens);
  const bool has_d_memory = c.verb == Verb::write || (c.verb == Verb::causal && chance(random, 0.5));
  c.upstream.slots = has_d_memory ? normals(random, K * e, 1, round) : Numbers<double>(K * e, 0.0);
  c.upstream.mass = has_d_memory ? normals(random, K, 1, round) : Numbers<double>(K, 0.0);
  c.upstream.log_forgetting = has_d_memory ? round(random.normal()) : 0;

  c.tile = static_cast<Index>(pick(random, {0, 0, 0, 1, 5, 16, 33, 64, 96, 1000}));
  c.checkpoint_interval = static_cast<Index>(pick(random, {1, 7, 64, 100, 256, 100000}));
  c.executor = static_cast<Index>(pick(random, {0, 0, 0, 0, 1, 2, 3, 4}));
  c.segment = static_cast<Index>(pick(random, {0, 0, 0, 1, 2, 7, 50, 64, 96, 1000}));
  for (Layout& layout : c.layouts) layout = pick_layout(random);
  if (queries == keys && d == e && chance(random, 0.4)) c.aliased = static_cast<int>(pick(random, {0, 1, 2}));
  if (chance(random, 0.4)) {
    const Size cuts = pick(random, {1, 2, 5});
    for (Size i = 0; i < cuts; ++i)
      c.cuts.push_back(static_cast<Size>(random.uniform() * static_cast<double>(keys + 1)));
    std::sort(c.cuts.begin(), c.cuts.end());
  }
  c.tolerance_factor = oracle::largest_logit(given);
  return c;
}

// The loop -----------------------------------------------------------------------------------------------------------

inline double number_of(const char* variable, double otherwise) {
  const char* const text = std::getenv(variable);
  return text == nullptr || *text == '\0' ? otherwise : std::strtod(text, nullptr);
}

/// check(random, seed) for every case: makes it of `random` and puts its description into a SCOPED_TRACE. Stops after
/// twenty cases with failures.
template <class Check>
void for_each_case(std::uint64_t count, const Check& check) {
  const double seconds = number_of("GMA_DIFFERENTIAL_SECONDS", 0), seed = number_of("GMA_DIFFERENTIAL_SEED", 0);
  const std::uint64_t first = seed > 0 ? static_cast<std::uint64_t>(seed) : 1;
  const std::uint64_t last = seconds > 0 ? ~std::uint64_t(0) : seed > 0 ? first + 1 : first + count;
  const auto start = std::chrono::steady_clock::now();
  const auto failures = [] {
    const testing::TestResult* result = testing::UnitTest::GetInstance()->current_test_info()->result();
    int count_of_failures = 0;
    for (int i = 0; i < result->total_part_count(); ++i) count_of_failures += result->GetTestPartResult(i).failed();
    return count_of_failures;
  };
  int before = 0, bad_cases = 0;
  std::uint64_t i = first;
  for (; i < last; ++i) {
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
    if (seconds > 0 && passed.count() > seconds) break;
    SCOPED_TRACE(testing::Message() << "GMA_DIFFERENTIAL_SEED=" << i);
    Random random(i * 0x9E3779B97F4A7C15u);
    check(random);
    const int now = failures();
    if (now > before && ++bad_cases == static_cast<int>(number_of("GMA_DIFFERENTIAL_FAILURES", 20))) break;
    before = now;
  }
  if (seconds > 0) std::cout << "cases " << first << " to " << i - 1 << ", " << bad_cases << " bad ones\n";
}

}  // namespace gma_test::differential
