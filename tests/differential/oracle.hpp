// SPDX-License-Identifier: MIT
// What the differential tests compare with: the equations as the documentation states them, one loop per sum, in double
// for values and in dual numbers for gradients. It shares no code with the library and keeps every number in a
// std::vector, row by row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

namespace gma_test::oracle {

using Size = std::size_t;
constexpr double no_decay = 0, forever = -std::numeric_limits<double>::infinity();

// Dual numbers -------------------------------------------------------------------------------------------------------

/// A value and its slopes in several directions.
struct Dual {
  static constexpr int directions = 8;
  double value = 0;
  double slope[directions] = {};

  Dual() = default;
  Dual(double v) : value(v) {}  // NOLINT: numbers are duals that do not move
};

/// The value f with the slope x * a.slope.
inline Dual chain(double f, double x, const Dual& a) {
  Dual result(f);
  for (int i = 0; i < Dual::directions; ++i) result.slope[i] = x * a.slope[i];
  return result;
}
/// The value f with the slope x * a.slope + y * b.slope.
inline Dual chain(double f, double x, const Dual& a, double y, const Dual& b) {
  Dual result(f);
  for (int i = 0; i < Dual::directions; ++i) result.slope[i] = x * a.slope[i] + y * b.slope[i];
  return result;
}
inline Dual operator+(const Dual& a, const Dual& b) { return chain(a.value + b.value, 1, a, 1, b); }
inline Dual operator-(const Dual& a, const Dual& b) { return chain(a.value - b.value, 1, a, -1, b); }
inline Dual operator*(const Dual& a, const Dual& b) { return chain(a.value * b.value, b.value, a, a.value, b); }
inline Dual operator/(const Dual& a, const Dual& b) {
  const double quotient = a.value / b.value;
  return chain(quotient, 1 / b.value, a, -quotient / b.value, b);
}
inline Dual exp(const Dual& a) {
  const double e = std::exp(a.value);
  return chain(e, e, a);
}
inline Dual log(const Dual& a) { return chain(std::log(a.value), 1 / a.value, a); }

inline double value_of(double x) { return x; }
inline double value_of(const Dual& x) { return x.value; }

// What a verb is given -----------------------------------------------------------------------------------------------

template <class T>
using Numbers = std::vector<T>;

enum class Family { isotropic, diagonal, tied, full };
enum class Divisor { none, slot, row };
enum class Verb { write, read, bidirectional, causal };

/// One factor of a mixture: K components of width d.
template <class T>
struct Factor {
  Family family = Family::diagonal;
  Size components = 0, dim = 0;
  Numbers<T> weight_logits, means, log_scales, log_temperature;
};

/// All inputs of a verb. Gradients have the same form. Empty weights are ones, empty forgetting is zeros.
template <class T>
struct Given {
  std::vector<Factor<T>> factors;
  Size dim = 0, width = 0;  // d, e
  Numbers<T> queries, keys, values, key_weights, log_forgetting;
  Numbers<T> slots, mass, memory_log_forgetting;  // of the memory before; K e, K, 1

  Size components() const {
    Size product = 1;
    for (const Factor<T>& factor : factors) product *= factor.components;
    return product;
  }
  Size query_count() const { return queries.size() / dim; }
  Size key_count() const { return keys.size() / dim; }
  bool present(Size j) const { return key_weights.empty() || value_of(key_weights[j]) > 0; }
};

/// f(name, numbers) for every input; with several arguments of one form, f(name, numbers...).
template <class F, class First, class... Others>
void for_each_part(const F& f, First& first, Others&... others) {
  f("queries", first.queries, others.queries...);
  f("keys", first.keys, others.keys...);
  f("values", first.values, others.values...);
  f("key_weights", first.key_weights, others.key_weights...);
  f("log_forgetting", first.log_forgetting, others.log_forgetting...);
  f("memory.slots", first.slots, others.slots...);
  f("memory.mass", first.mass, others.mass...);
  f("memory.log_forgetting", first.memory_log_forgetting, others.memory_log_forgetting...);
  for (Size m = 0; m < first.factors.size(); ++m) {
    f("weight_logits", first.factors[m].weight_logits, others.factors[m].weight_logits...);
    f("means", first.factors[m].means, others.factors[m].means...);
    f("log_scales", first.factors[m].log_scales, others.factors[m].log_scales...);
    f("log_temperature", first.factors[m].log_temperature, others.factors[m].log_temperature...);
  }
}

/// The same numbers as duals that do not move.
inline Given<Dual> in_duals(const Given<double>& given) {
  Given<Dual> result;
  result.dim = given.dim;
  result.width = given.width;
  result.factors.resize(given.factors.size());
  for (Size m = 0; m < given.factors.size(); ++m) {
    result.factors[m].family = given.factors[m].family;
    result.factors[m].components = given.factors[m].components;
    result.factors[m].dim = given.factors[m].dim;
  }
  for_each_part(
      [](const char*, Numbers<Dual>& to, const Numbers<double>& from) { to.assign(from.begin(), from.end()); }, result,
      given);
  return result;
}

// The equations ------------------------------------------------------------------------------------------------------

/// A factor with its logarithms and exponentials taken.
template <class T>
struct Ready {
  const Factor<T>* factor = nullptr;
  Numbers<T> log_weights;      // log pi_k
  Numbers<T> scales;           // 1 / standard deviation, or L
  Numbers<T> log_determinant;  // of the precision, halved
  T inverse_temperature;
};

template <class T>
Ready<T> ready(const Factor<T>& factor) {
  using std::exp;
  using std::log;
  const Size K = factor.components, d = factor.dim;
  Ready<T> result;
  result.factor = &factor;
  T total(0);
  for (const T& logit : factor.weight_logits) total = total + exp(logit);
  for (const T& logit : factor.weight_logits) result.log_weights.push_back(logit - log(total));
  result.inverse_temperature = exp(T(0) - factor.log_temperature[0]);
  const bool is_full = factor.family == Family::full;
  for (Size i = 0; i < factor.log_scales.size(); ++i) {
    const bool is_diagonal = i % (d * d) % (d + 1) == 0;
    const T& x = factor.log_scales[i];
    result.scales.push_back(!is_full ? exp(T(0) - x) : is_diagonal ? exp(x) : x);
  }
  for (Size k = 0; k < K; ++k) {
    T sum(0);
    for (Size i = 0; i < d; ++i) {
      if (factor.family == Family::isotropic) sum = sum - factor.log_scales[k];
      if (factor.family == Family::diagonal) sum = sum - factor.log_scales[k * d + i];
      if (factor.family == Family::tied) sum = sum - factor.log_scales[i];
      if (is_full) sum = sum + factor.log_scales[k * d * d + i * d + i];
    }
    result.log_determinant.push_back(sum);
  }
  return result;
}

template <class T>
std::vector<Ready<T>> ready(const std::vector<Factor<T>>& factors) {
  std::vector<Ready<T>> result;
  for (const Factor<T>& factor : factors) result.push_back(ready(factor));
  return result;
}

/// (1), natural logarithms of p(x, k) of one factor.
template <class T>
Numbers<T> log_joint(const Ready<T>& mixture, const T* x) {
  const Factor<T>& factor = *mixture.factor;
  const Size K = factor.components, d = factor.dim;
  Numbers<T> result;
  for (Size k = 0; k < K; ++k) {
    T distance(0);
    for (Size j = 0; j < d; ++j) {
      T z(0);
      if (factor.family == Family::full) {
        for (Size i = j; i < d; ++i) {
          z = z + mixture.scales[k * d * d + i * d + j] * (x[i] - factor.means[k * d + i]);
        }
      } else {
        const Size at = factor.family == Family::isotropic ? k : factor.family == Family::tied ? j : k * d + j;
        z = mixture.scales[at] * (x[j] - factor.means[k * d + j]);
      }
      distance = distance + z * z;
    }
    const double constant = 0.5 * static_cast<double>(d) * std::log(6.283185307179586476925);
    result.push_back(mixture.log_weights[k] - T(0.5) * distance + mixture.log_determinant[k] - T(constant));
  }
  return result;
}

/// Tempered logits of the product of all factors, the last one's index fastest.
template <class T>
Numbers<T> logits(const std::vector<Ready<T>>& mixture, const T* x) {
  Numbers<T> result{T(0)};
  for (const Ready<T>& factor : mixture) {
    const Numbers<T> part = log_joint(factor, x);
    Numbers<T> longer;
    for (const T& a : result) {
      for (const T& b : part) longer.push_back(a + b * factor.inverse_temperature);
    }
    result = longer;
    x += factor.factor->dim;
  }
  return result;
}

template <class T>
T largest(const Numbers<T>& numbers) {
  T result = numbers[0];
  for (const T& x : numbers) result = value_of(x) > value_of(result) ? x : result;
  return result;
}

/// (2).
template <class T>
Numbers<T> responsibilities(const std::vector<Ready<T>>& mixture, const T* x) {
  using std::exp;
  Numbers<T> r = logits(mixture, x);
  const T top = largest(r);
  T total(0);
  for (T& l : r) {
    l = exp(l - top);
    total = total + l;
  }
  for (T& l : r) l = l / total;
  return r;
}

/// log p(x), not tempered.
template <class T>
T log_density(const std::vector<Ready<T>>& mixture, const T* x) {
  using std::exp;
  using std::log;
  T result(0);
  for (const Ready<T>& factor : mixture) {
    const Numbers<T> joint = log_joint(factor, x);
    const T top = largest(joint);
    T total(0);
    for (const T& l : joint) total = total + exp(l - top);
    result = result + top + log(total);
    x += factor.factor->dim;
  }
  return result;
}

template <class T>
struct Result {
  Numbers<T> outputs;      // Nq x e
  Numbers<T> slots, mass;  // the memory that is left behind
  T log_forgetting = T(0);
};

/// (8): forget, then write token j.
template <class T>
void write_token(const Given<T>& given, const std::vector<Ready<T>>& mixture, Size j, Result<T>& memory) {
  using std::exp;
  if (!given.present(j)) return;
  const T g = given.log_forgetting.empty() ? T(no_decay) : given.log_forgetting[j];
  const T w = given.key_weights.empty() ? T(1) : given.key_weights[j];
  if (value_of(g) == forever) {
    memory.slots.assign(memory.slots.size(), T(0));
    memory.mass.assign(memory.mass.size(), T(0));
    memory.log_forgetting = memory.log_forgetting + T(forever);
  } else {
    const T kept = exp(g);
    for (T& x : memory.slots) x = kept * x;
    for (T& x : memory.mass) x = kept * x;
    memory.log_forgetting = memory.log_forgetting + g;
  }
  const Numbers<T> r = responsibilities(mixture, &given.keys[j * given.dim]);
  for (Size k = 0; k < r.size(); ++k) {
    const T share = w * r[k];
    memory.mass[k] = memory.mass[k] + share;
    for (Size c = 0; c < given.width; ++c) {
      T& slot = memory.slots[k * given.width + c];
      slot = slot + share * given.values[j * given.width + c];
    }
  }
}

/// Below it the mass is this number, which does not move.
template <class T>
T at_least_tiny(const T& mass) {
  const double tiny = std::ldexp(1.0, -40);
  return value_of(mass) > tiny ? mass : T(tiny);
}

/// (4), (5), (6): appends the output of query i.
template <class T>
void read_token(const Given<T>& given, const std::vector<Ready<T>>& mixture, Divisor divisor, Size i,
                Result<T>& memory) {
  const Numbers<T> q = responsibilities(mixture, &given.queries[i * given.dim]);
  T total(0);
  for (Size k = 0; k < q.size(); ++k) total = total + q[k] * memory.mass[k];
  for (Size c = 0; c < given.width; ++c) {
    T y(0);
    for (Size k = 0; k < q.size(); ++k) {
      T part = q[k] * memory.slots[k * given.width + c];
      if (divisor == Divisor::slot) part = part / at_least_tiny(memory.mass[k]);
      if (divisor == Divisor::row) part = part / at_least_tiny(total);
      y = y + part;
    }
    memory.outputs.push_back(y);
  }
}

template <class T>
Result<T> run(Verb verb, Divisor divisor, const Given<T>& given) {
  const std::vector<Ready<T>> mixture = ready(given.factors);
  Result<T> result{{}, given.slots, given.mass, given.memory_log_forgetting[0]};
  for (Size j = 0; j < given.key_count() && verb != Verb::read; ++j) {
    write_token(given, mixture, j, result);
    if (verb == Verb::causal) read_token(given, mixture, divisor, j, result);
  }
  const bool reads_last = verb == Verb::read || verb == Verb::bidirectional;
  for (Size i = 0; i < given.query_count() && reads_last; ++i) read_token(given, mixture, divisor, i, result);
  return result;
}

/// The largest tempered |log p(x, k)| of all tokens that are there, at least 1: what rounding errors grow with.
inline double largest_logit(const Given<double>& given) {
  const std::vector<Ready<double>> mixture = ready(given.factors);
  double result = 1;
  const auto look = [&](const double* x) {
    for (const double l : logits(mixture, x)) result = std::max(result, std::abs(l));
  };
  for (Size i = 0; i < given.query_count(); ++i) look(&given.queries[i * given.dim]);
  for (Size j = 0; j < given.key_count(); ++j) {
    if (given.present(j)) look(&given.keys[j * given.dim]);
  }
  return result;
}

// Gradients ----------------------------------------------------------------------------------------------------------

/// The gradient of a scalar loss with respect to what a verb returned.
using Upstream = Result<double>;

/// Slopes of the loss in all directions of the duals. Numbers that do not move may be infinite.
inline Numbers<double> slopes(Verb verb, Divisor divisor, const Given<Dual>& given, const Upstream& upstream) {
  const Result<Dual> result = run(verb, divisor, given);
  Numbers<double> sum(Dual::directions, 0.0);
  const auto add = [&](const Dual& x, double gradient) {
    for (Size l = 0; l < sum.size(); ++l) sum[l] += gradient * x.slope[l];
  };
  for (Size i = 0; i < result.outputs.size(); ++i) add(result.outputs[i], upstream.outputs[i]);
  for (Size i = 0; i < result.slots.size(); ++i) add(result.slots[i], upstream.slots[i]);
  for (Size i = 0; i < result.mass.size(); ++i) add(result.mass[i], upstream.mass[i]);
  add(result.log_forgetting, upstream.log_forgetting);
  return sum;
}

/// The whole gradient, some numbers at a time.
inline Given<double> gradient(Verb verb, Divisor divisor, const Given<double>& given, const Upstream& upstream) {
  Given<Dual> duals = in_duals(given);
  Given<double> result = given;
  std::vector<Dual*> inputs;
  std::vector<double*> outputs;
  for_each_part(
      [&](const char*, Numbers<Dual>& in, Numbers<double>& out) {
        for (Size i = 0; i < in.size(); ++i) inputs.push_back(&in[i]), outputs.push_back(&out[i]);
      },
      duals, result);
  for (Size first = 0; first < inputs.size(); first += Dual::directions) {
    const Size count = std::min(inputs.size() - first, Size(Dual::directions));
    for (Size l = 0; l < count; ++l) inputs[first + l]->slope[l] = 1;
    const Numbers<double> sum = slopes(verb, divisor, duals, upstream);
    for (Size l = 0; l < count; ++l) {
      inputs[first + l]->slope[l] = 0;
      *outputs[first + l] = sum[l];
    }
  }
  return result;
}

/// The slope of the loss in one direction per part, in the order of for_each_part. `direction` has the form of `given`.
inline Numbers<double> directional(Verb verb, Divisor divisor, const Given<double>& given,
                                   const Given<double>& direction, const Upstream& upstream) {
  Size parts = 0;
  for_each_part([&](const char*, const Numbers<double>&) { ++parts; }, given);
  Numbers<double> result;
  for (Size first = 0; first < parts; first += Dual::directions) {
    Given<Dual> duals = in_duals(given);
    Size part = 0;
    for_each_part(
        [&](const char*, Numbers<Dual>& numbers, const Numbers<double>& along) {
          if (part >= first && part < first + Dual::directions) {
            for (Size i = 0; i < numbers.size(); ++i) numbers[i].slope[part - first] = along[i];
          }
          ++part;
        },
        duals, direction);
    const Numbers<double> sum = slopes(verb, divisor, duals, upstream);
    for (Size l = 0; l < std::min(parts - first, Size(Dual::directions)); ++l) result.push_back(sum[l]);
  }
  return result;
}

}  // namespace gma_test::oracle
