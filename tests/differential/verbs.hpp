// SPDX-License-Identifier: MIT
// Random comparison of the single-head verbs with the oracle, in one scalar.
#pragma once

#include <sstream>

#include "library.hpp"

namespace gma_test::differential {

/// The parts that a causal or a written sequence is cut into: [begin, end) each.
inline std::vector<std::pair<Size, Size>> parts_of(const Case& c) {
  std::vector<std::pair<Size, Size>> parts;
  Size begin = 0;
  for (const Size cut : c.cuts) {
    parts.emplace_back(begin, cut);
    begin = cut;
  }
  parts.emplace_back(begin, c.given.key_count());
  return parts;
}

template <class S>
TokenInputs<S> part_of(const TokenInputs<S>& tokens, const std::pair<Size, Size>& part) {
  return gma_test::part_of(tokens, static_cast<Index>(part.first), static_cast<Index>(part.second - part.first));
}

/// The operands of a case, stored as T.
template <class T>
struct Operands {
  Operand<T> queries, keys, values, outputs, d_outputs;

  explicit Operands(const Case& c)
      : queries(c.given.queries, c.given.query_count(), c.given.dim, c.layouts[0]),
        keys(c.given.keys, c.given.key_count(), c.given.dim, c.layouts[1]),
        values(c.given.values, c.given.key_count(), c.given.width, c.layouts[2]),
        outputs(c.given.query_count(), c.given.width, c.layouts[3]),
        d_outputs(c.upstream.outputs, c.given.query_count(), c.given.width, c.layouts[4]) {}

  /// Where a case has its outputs.
  Operand<T>& target(const Case& c) {
    return c.aliased == 0 ? queries : c.aliased == 1 ? keys : c.aliased == 2 ? values : outputs;
  }
};

template <class S>
Memory<S> memory_before(const Case& c) {
  const bool is_new = norm(c.given.mass) == 0 && c.given.memory_log_forgetting[0] == 0;
  if (is_new && c.tile % 2 == 0) return {};  // sized by the verb
  return memory_of<S>(c.given.slots, c.given.mass, c.given.memory_log_forgetting[0], c.given.width);
}

/// Saved and loaded, the memory has the same bits.
template <class S>
void expect_saved(const Memory<S>& memory) {
  std::stringstream stream;
  gma::save(memory, stream);
  EXPECT_EQ(stream.str().size(), gma::serialized_size(memory));
  Memory<S> loaded;
  gma::load(loaded, stream);
  EXPECT_TRUE(same_bits(loaded, memory));
}

// Forward ------------------------------------------------------------------------------------------------------------

/// The memory after all parts were written: one after the other, or each to its own memory and then merged.
template <class S, class T>
Memory<S> written(const Case& c, const gma::CompiledMixture<S>& mixture, Operands<T>& x, gma::Workspace<S>& workspace) {
  const TokenInputs<S> tokens = tokens_of<S>(c.given);
  Memory<S> memory = memory_before<S>(c);
  std::vector<Memory<S>> memories;
  for (const auto& part : parts_of(c)) {
    const Size count = part.second - part.first;
    const bool merges = c.cuts.size() > 1 && part.first > 0;
    if (merges) memories.emplace_back();
    gma::write(mixture, rows(x.keys.view(), part.first, count), rows(x.values.view(), part.first, count),
               merges ? memories.back() : memory, part_of(tokens, part), workspace);
  }
  if (memories.empty()) return memory;
  Memory<S> later = memories.back();
  for (Size i = memories.size() - 1; i-- > 0;) later = gma::merge(memories[i], later);
  return gma::merge(memory, later);
}

/// What the library returns. `memory` is empty where the form without one was called.
template <class S, class T>
Memory<S> forward(const Case& c, const gma::CompiledMixture<S>& mixture, Operands<T>& x, gma::Workspace<S>& workspace) {
  const gma::Options options = c.options();
  const TokenInputs<S> tokens = tokens_of<S>(c.given);
  View<T> out = x.target(c).view();
  Memory<S> memory = memory_before<S>(c);
  if (c.verb == Verb::write) return written(c, mixture, x, workspace);
  if (c.verb == Verb::read) {
    gma::read_into(out, mixture, x.queries.view(), memory, options, workspace);
    return memory;
  }
  if (c.verb == Verb::bidirectional) {
    gma::bidirectional_into(out, mixture, x.queries.view(), x.keys.view(), x.values.view(), options, tokens, workspace);
    return {};
  }
  if (memory.empty() && c.cuts.empty() && c.checkpoint_interval == 64) {
    gma::causal_into(out, mixture, x.queries.view(), x.keys.view(), x.values.view(), options, tokens, workspace);
    return {};
  }
  for (const auto& part : parts_of(c)) {
    const Size count = part.second - part.first;
    gma::causal_into(rows(out, part.first, count), mixture, rows(x.queries.view(), part.first, count),
                     rows(x.keys.view(), part.first, count), rows(x.values.view(), part.first, count), memory, options,
                     part_of(tokens, part), workspace);
  }
  return memory;
}

template <class S, class T>
void check_forward(const Case& c, const gma::CompiledMixture<S>& mixture, gma::Workspace<S>& workspace) {
  const oracle::Result<double> expected = oracle::run(c.verb, c.divisor, c.given);
  double storage = 0;
  if (!std::is_same_v<T, S>) {  // outputs are rounded to T, and may not exceed it
    storage = std::is_same_v<T, Eigen::half> ? 0x1p-11 : 0x1p-8;
    for (const double y : expected.outputs) {
      if (std::abs(y) > 3e4) return;
    }
  }
  Operands<T> x(c);
  const Index elsewhere = c.aliased >= 0 ? 0 : x.outputs.written();
  const Memory<S> memory = forward(c, mixture, x, workspace);
  const double tolerance = forward_tolerance<S>() * c.tolerance_factor;
  // Subnormal numbers of T are rounded absolutely.
  const double floor = storage > 0 ? 0x1p-14 * std::sqrt(static_cast<double>(expected.outputs.size())) : 0;
  expect_close("outputs", x.target(c).numbers(), expected.outputs, tolerance + storage, floor);
  if (c.aliased < 0) {
    EXPECT_EQ(x.outputs.written() - elsewhere, static_cast<Index>(expected.outputs.size())) << "numbers written";
  }
  if (memory.empty()) return;
  expect_close("slots", numbers_of(in_double(memory.slots)), expected.slots, tolerance);
  expect_close("mass", numbers_of(Vector<double>(memory.mass.template cast<double>())), expected.mass, tolerance);
  expect_close("log_forgetting", {static_cast<double>(memory.log_forgetting)}, {expected.log_forgetting}, tolerance);
  expect_saved(memory);
}

/// Responsibilities are what a read finds of slots that are unit vectors; their gradients follow.
template <class S>
Case case_of_responsibilities(const Case& c, Random& random) {
  Case r = c;
  const Size K = c.given.components();
  r.verb = Verb::read;
  r.divisor = Divisor::none;
  r.given.width = K;
  r.given.slots.assign(K * K, 0);
  for (Size k = 0; k < K; ++k) r.given.slots[k * K + k] = 1;
  r.given.keys.clear();
  r.given.values.clear();
  r.given.key_weights.clear();
  r.given.log_forgetting.clear();
  r.upstream.outputs = normals(random, c.given.query_count() * K, 1, &rounded<S>);
  r.upstream.slots.assign(K * K, 0);
  return r;
}

template <class S>
void check_densities(const Case& c, const gma::CompiledMixture<S>& mixture) {
  Operands<S> x(c);
  const double tolerance = forward_tolerance<S>() * c.tolerance_factor;
  const auto ready = oracle::ready(c.given.factors);
  Numbers<double> r, density;
  double largest = 0;  // a density near 1 is the difference of larger numbers
  for (Size i = 0; i < c.given.query_count(); ++i) {
    const double* token = &c.given.queries[i * c.given.dim];
    for (const double number : oracle::responsibilities(ready, token)) r.push_back(number);
    density.push_back(oracle::log_density(ready, token));
    for (const auto& factor : ready) {
      for (const double l : oracle::log_joint(factor, token)) largest = std::max(largest, std::abs(l));
    }
  }
  expect_close("responsibilities", numbers_of(in_double(gma::responsibilities(mixture, x.queries.view()))), r,
               tolerance);
  expect_close("log_density",
               numbers_of(Vector<double>(gma::log_density(mixture, x.queries.view()).template cast<double>())), density,
               tolerance, largest);
}

// Backward -----------------------------------------------------------------------------------------------------------

inline void put(Numbers<double>& target, const Numbers<double>& part, Size begin) {
  if (part.empty()) return;
  ASSERT_LE(begin + part.size(), target.size());
  std::copy(part.begin(), part.end(), target.begin() + static_cast<std::ptrdiff_t>(begin));
}

/// The gradients of one part of the tokens go to their rows; those of the mixture add up, and the memory's is replaced.
template <class M>
void put(Given<double>& all, const gma::Gradients<M>& one, Size begin) {
  const auto numbers = [](const auto& part) {
    Numbers<double> result(static_cast<Size>(part.size()));
    for (Size i = 0; i < result.size(); ++i) result[i] = static_cast<double>(part.data()[i]);
    return result;
  };
  put(all.queries, numbers(one.queries), begin * all.dim);
  put(all.keys, numbers(one.keys), begin * all.dim);
  put(all.values, numbers(one.values), begin * all.width);
  put(all.key_weights, numbers(one.key_weights), begin);
  put(all.log_forgetting, numbers(one.log_forgetting), begin);
  all.slots = numbers(one.memory.slots);
  all.mass = numbers(one.memory.mass);
  all.memory_log_forgetting = {static_cast<double>(one.memory.log_forgetting)};
  add(one.mixture, all.factors);
}

template <class M>
Given<double> backward(const Case& c, const M& mixture, gma::Workspace<typename M::Scalar>& workspace) {
  using S = typename M::Scalar;
  Operands<S> x(c);
  const gma::Options options = c.options();
  const TokenInputs<S> tokens = tokens_of<S>(c.given);
  Given<double> all = zeros_like(c.given);
  gma::Gradients<M> one;
  Memory<S> d_memory = memory_of<S>(c.upstream.slots, c.upstream.mass, c.upstream.log_forgetting, c.given.width);
  if (c.verb == Verb::read) {
    put(all, gma::read_backward(mixture, x.queries.view(), memory_before<S>(c), x.d_outputs.view(), options), 0);
    return all;
  }
  if (c.verb == Verb::bidirectional) {
    gma::bidirectional_backward_into(one, mixture, x.queries.view(), x.keys.view(), x.values.view(), x.d_outputs.view(),
                                     options, tokens, workspace);
    put(all, one, 0);
    return all;
  }
  const auto parts = parts_of(c);
  const gma::CompiledMixture<S> compiled = gma::compile(mixture);
  std::vector<Memory<S>> before{memory_before<S>(c)};
  for (Size i = 0; i + 1 < parts.size(); ++i) {
    const Size count = parts[i].second - parts[i].first;
    before.push_back(before.back());
    gma::write(compiled, rows(x.keys.view(), parts[i].first, count), rows(x.values.view(), parts[i].first, count),
               before.back(), part_of(tokens, parts[i]), workspace);
  }
  for (Size i = parts.size(); i-- > 0;) {
    const Size begin = parts[i].first, count = parts[i].second - begin;
    const View<S> k = rows(x.keys.view(), begin, count), v = rows(x.values.view(), begin, count);
    if (c.verb == Verb::write) {
      one = gma::write_backward(mixture, k, v, d_memory, part_of(tokens, parts[i]), before[i]);
    } else {
      gma::causal_backward_into(one, mixture, rows(x.queries.view(), begin, count), k, v,
                                rows(x.d_outputs.view(), begin, count), before[i], d_memory, options,
                                part_of(tokens, parts[i]), workspace);
    }
    put(all, one, begin);
    d_memory = one.memory;
  }
  return all;
}

// The tests ----------------------------------------------------------------------------------------------------------

template <class S>
constexpr double gradient_tolerance() {
  return std::is_same_v<S, float> ? float_gradient_tolerance : autodiff_tolerance;
}
/// Terms of a part of the gradient may cancel to this part of the whole; double sees what float then does not.
template <class S>
constexpr double gradient_floor() {
  return std::is_same_v<S, float> ? 1e-1 : 1e-3;
}

template <class S>
void check_case(const Case& c, Random& random, gma::Workspace<S>& workspace) {
  with_mixture<S>(c, [&](const auto& mixture) {
    const gma::CompiledMixture<S> compiled = gma::compile(mixture);
    check_forward<S, S>(c, compiled, workspace);
    const Given<double> gradient = backward(c, mixture, workspace);
    expect_absent_gradients(c.given, gradient);
    expect_gradient(c, gradient, gradient_tolerance<S>() * c.tolerance_factor, gradient_floor<S>(), random);
    if (c.verb != Verb::read) return;
    check_densities(c, compiled);
    const Case r = case_of_responsibilities<S>(c, random);
    Operands<S> x(r);
    const auto of_r = gma::responsibilities_backward(mixture, x.queries.view(), x.d_outputs.view());
    Given<double> d = zeros_like(r.given);
    d.queries = numbers_of(in_double(of_r.tokens));
    for (auto* part : {&d.slots, &d.mass, &d.memory_log_forgetting}) part->clear();
    add(of_r.mixture, d.factors);
    expect_gradient(r, d, gradient_tolerance<S>() * c.tolerance_factor, gradient_floor<S>(), random,
                    norm(r.upstream.outputs));
  });
}

}  // namespace gma_test::differential
