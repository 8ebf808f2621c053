// SPDX-License-Identifier: MIT
// One tester for every operator: each mixture family, normalisation, direction and scalar, against the dense reference
// in double, and all gradients against central differences and against an autodiff scalar, under random upstream
// gradients. GMA_REDUCED_TESTS leaves out the autodiff scalar and the longest sequences.
#include "support.hpp"

#ifndef GMA_REDUCED_TESTS
#include <unsupported/Eigen/AutoDiff>
#endif

namespace gma_test {
namespace {

using gma_test::name_of;

/// self, cross: bidirectional(), with as many queries as keys or not. memory: write() to a memory that is not zero,
/// then read(). causal, resumed: causal(), from nothing or from a memory that is not zero.
enum class Direction { self, cross, memory, causal, resumed };
constexpr Direction all_directions[] = {Direction::self, Direction::cross, Direction::memory, Direction::causal,
                                        Direction::resumed};
const char* name_of(Direction direction) {
  constexpr const char* names[] = {"self", "cross", "memory", "causal", "resumed"};
  return names[static_cast<int>(direction)];
}
bool is_causal(Direction direction) { return direction == Direction::causal || direction == Direction::resumed; }
bool has_memory(Direction direction) { return direction == Direction::memory || direction == Direction::resumed; }

/// What an operator returns: outputs, and the memory afterwards where there is one.
template <class S>
struct Outputs {
  Matrix<S> y;
  Memory<S> memory;
};

template <class S, class M>
Outputs<S> forward(Direction direction, const M& mixture, const Matrix<S>& queries, const Matrix<S>& keys,
                   const Matrix<S>& values, const TokenInputs<S>& tokens, const Memory<S>& memory,
                   const Options& options) {
  Outputs<S> out{Matrix<S>(), memory};
  switch (direction) {
    case Direction::self:
    case Direction::cross:
      out.y = gma::bidirectional(mixture, queries, keys, values, options, tokens);
      break;
    case Direction::memory:
      gma::write(mixture, keys, values, out.memory, tokens);
      out.y = gma::read(mixture, queries, out.memory, options);
      break;
    case Direction::causal:
    case Direction::resumed:
      out.y = gma::causal(mixture, queries, keys, values, out.memory, options, tokens);
      break;
  }
  return out;
}

/// With a compiled mixture every family shares one instance of the operators, which keeps this file quick to build.
template <class S, class M>
Outputs<S> forward(Direction direction, const Problem<S, M>& problem, const Options& options) {
  return forward<S>(direction, gma::compile(problem.mixture), problem.queries, problem.keys, problem.values,
                    problem.tokens, problem.memory, options);
}

struct Sizes {
  Index tokens = 7, components = 4, dim = 3, width = 2;
  Index earlier = 5;  ///< tokens that the memory before has seen
};

enum class Tokens { plain, weighted, restarted };
const char* name_of(Tokens tokens) {
  constexpr const char* names[] = {"plain", "weighted and forgetting", "weighted, forgetting and restarted"};
  return names[static_cast<int>(tokens)];
}

/// A problem and the tokens that its memory before came from.
template <class S, class M>
struct Case {
  Problem<S, M> problem;
  Matrix<S> earlier_keys, earlier_values;
  TokenInputs<S> earlier_tokens;
};

template <class S, class M>
Case<S, M> make_case(Direction direction, const Sizes& sizes, Regime regime, Tokens tokens, std::uint64_t seed) {
  Random random(seed);
  Case<S, M> result;
  Problem<S, M>& problem = result.problem;
  randomize(problem.mixture, sizes.components, sizes.dim, regime, random);
  const bool cross = direction == Direction::cross || direction == Direction::memory;
  problem.queries = random.matrix<S>(cross ? sizes.tokens / 2 + 2 : sizes.tokens, sizes.dim);
  problem.keys = random.matrix<S>(sizes.tokens, sizes.dim);
  problem.values = random.matrix<S>(sizes.tokens, sizes.width);
  if (tokens != Tokens::plain) {
    problem.tokens = random_tokens<S>(sizes.tokens, tokens == Tokens::restarted, random);
    poison_absent(problem.tokens, problem.keys, problem.values);
  }
  if (has_memory(direction)) {
    result.earlier_keys = random.matrix<S>(sizes.earlier, sizes.dim);
    result.earlier_values = random.matrix<S>(sizes.earlier, sizes.width);
    if (tokens != Tokens::plain) result.earlier_tokens = random_tokens<S>(sizes.earlier, false, random);
    Memory<double> memory;
    dense_write(problem.mixture.template cast<double>(), in_double(result.earlier_keys),
                in_double(result.earlier_values), memory, in_double(result.earlier_tokens));
    problem.memory = {memory.slots.cast<S>(), memory.mass.cast<S>(), static_cast<S>(memory.log_forgetting)};
  }
  return result;
}

/// The dense reference in double, over the earlier tokens and these, read by these; in causal directions the recurrence
/// has to agree with it.
template <class S, class M>
Outputs<double> dense(Direction direction, const Case<S, M>& item, const Options& options) {
  const Problem<S, M>& problem = item.problem;
  const auto mixture = problem.mixture.template cast<double>();
  const bool resumes = has_memory(direction);
  Matrix<double> queries = in_double(problem.queries);
  Matrix<double> keys = in_double(problem.keys), values = in_double(problem.values);
  TokenInputs<double> tokens = in_double(problem.tokens);
  Outputs<double> out;
  if (resumes) {
    keys = stacked(in_double(item.earlier_keys), keys);
    values = stacked(in_double(item.earlier_values), values);
    if (tokens.key_weights.size() != 0 || keys.rows() == item.earlier_keys.rows()) {
      tokens = stacked(in_double(item.earlier_tokens), tokens);
    }
    if (is_causal(direction)) queries = stacked(in_double(item.earlier_keys), queries);
  }
  out.y = gma::reference::attention(mixture, queries, keys, values, options, is_causal(direction), tokens)
              .bottomRows(problem.queries.rows());
  if (is_causal(direction)) {
    const Matrix<double> y =
        gma::reference::causal(mixture, queries, keys, values, out.memory, options, tokens).bottomRows(out.y.rows());
    EXPECT_TRUE(close(y, out.y, forward_tolerance<double>()));
  } else {
    dense_write(mixture, keys, values, out.memory, tokens);
  }
  return out;
}

template <class Family>
class Operators : public testing::Test {};
TYPED_TEST_SUITE(Operators, all_families::Flavours, FamilyNames);

// Forward ------------------------------------------------------------------------------------------------------------

template <class S, class Family>
void check_forward(const Sizes& sizes, Regime regime, Tokens tokens, Index tile) {
  using M = typename Family::template Type<S>;
  for (const Direction direction : all_directions) {
    const Case<S, M> item =
        make_case<S, M>(direction, sizes, regime, tokens, static_cast<std::uint64_t>(1000 + sizes.tokens));
    const auto mixture = item.problem.mixture.template cast<double>();
    const double logit = regime == Regime::degenerate
                             ? std::max(largest_logit(mixture, in_double(item.problem.queries)),
                                        largest_logit(mixture, in_double(item.problem.keys)))
                             : 1.0;
    const double tolerance = forward_tolerance<S>() * logit;
    for (const Normalization normalization : all_normalizations) {
      SCOPED_TRACE(std::string(name_of(direction)) + ", " + name_of(normalization) + ", " + name_of(regime) + ", " +
                   name_of(tokens) + ", N = " + std::to_string(sizes.tokens) + ", tile = " + std::to_string(tile) +
                   ", bytes " + std::to_string(sizeof(S)));
      Options options;
      options.normalization = normalization;
      options.tile = tile;
      const Outputs<S> actual = forward<S>(direction, item.problem, options);
      const Outputs<double> expected = dense(direction, item, options);
      EXPECT_TRUE(close(actual.y, expected.y, tolerance));
      if (direction != Direction::self && direction != Direction::cross) {
        EXPECT_TRUE(close(in_double(actual.memory), expected.memory, tolerance));
      }
    }
  }
}

template <class S, class Family>
void check_forward_sizes() {
#ifdef GMA_REDUCED_TESTS
  const std::vector<Index> lengths = {0, 1, 7, 65};
#else
  const std::vector<Index> lengths = {0, 1, 7, 63, 64, 65, 200};
#endif
  for (const Index length : lengths) {
    Sizes sizes;
    sizes.tokens = length;
    for (const Tokens tokens : {Tokens::plain, Tokens::restarted}) {
      check_forward<S, Family>(sizes, Regime::generic, tokens, 0);
      check_forward<S, Family>(sizes, Regime::generic, tokens, 16);
    }
  }
  Sizes sizes;
  sizes.tokens = 21;  // three tiles of six and a half
  for (const Regime regime : all_regimes) check_forward<S, Family>(sizes, regime, Tokens::weighted, 6);
  sizes = {9, 1, 2, 3, 4};
  check_forward<S, Family>(sizes, Regime::generic, Tokens::weighted, 2);
}

TYPED_TEST(Operators, EqualTheDenseReferenceInDouble) { check_forward_sizes<double, TypeParam>(); }
TYPED_TEST(Operators, EqualTheDenseReferenceInFloat) { check_forward_sizes<float, TypeParam>(); }

// Gradients ----------------------------------------------------------------------------------------------------------

template <class S>
struct Upstream {
  Matrix<S> y;
  Memory<S> memory;  ///< empty where no memory comes back
};

template <class S, class M>
Upstream<S> make_upstream(Direction direction, const Problem<S, M>& problem, bool with_log_forgetting,
                          std::uint64_t seed) {
  Random random(seed);
  const Index components = problem.mixture.components(), width = problem.values.cols();
  Upstream<S> upstream{random.matrix<S>(problem.queries.rows(), width), {}};
  if (direction != Direction::self && direction != Direction::cross) {
    upstream.memory = {random.matrix<S>(components, width), random.vector<S>(components),
                       static_cast<S>(with_log_forgetting ? random.normal() : 0.0)};
  }
  return upstream;
}

/// The scalar whose gradient is checked: the inner product of everything that comes back with its upstream gradient.
template <class S>
S loss(const Outputs<S>& out, const Upstream<double>& upstream) {
  S sum(0);
  for (Index i = 0; i < out.y.rows(); ++i) {
    for (Index j = 0; j < out.y.cols(); ++j) sum += out.y(i, j) * upstream.y(i, j);
  }
  for (Index i = 0; i < upstream.memory.slots.rows(); ++i) {
    for (Index j = 0; j < out.y.cols(); ++j) sum += out.memory.slots(i, j) * upstream.memory.slots(i, j);
    sum += out.memory.mass(i) * upstream.memory.mass(i);
  }
  if (upstream.memory.log_forgetting != 0) sum += out.memory.log_forgetting * upstream.memory.log_forgetting;
  return sum;
}

template <class S, class Covariance>
void add(gma::Mixture<S, Covariance>& a, const gma::Mixture<S, Covariance>& b) {
  a.weight_logits += b.weight_logits;
  a.means += b.means;
  a.log_scales += b.log_scales;
  a.log_temperature += b.log_temperature;
}
template <class S, class Covariance>
void add(gma::ProductMixture<S, Covariance>& a, const gma::ProductMixture<S, Covariance>& b) {
  for (std::size_t m = 0; m < a.factors.size(); ++m) add(a.factors[m], b.factors[m]);
}

template <class S, class M>
gma::Gradients<M> backward(Direction direction, const Problem<S, M>& problem, const Upstream<S>& upstream,
                           const Options& options) {
  if (direction == Direction::self || direction == Direction::cross) {
    return gma::bidirectional_backward(problem.mixture, problem.queries, problem.keys, problem.values, upstream.y,
                                       options, problem.tokens);
  }
  if (is_causal(direction)) {
    return gma::causal_backward(problem.mixture, problem.queries, problem.keys, problem.values, upstream.y,
                                problem.memory, upstream.memory, options, problem.tokens);
  }
  Memory<S> memory = problem.memory;
  gma::write(problem.mixture, problem.keys, problem.values, memory, problem.tokens);
  const gma::Gradients<M> of_read = gma::read_backward(problem.mixture, problem.queries, memory, upstream.y, options);
  const Memory<S> d_memory{upstream.memory.slots + of_read.memory.slots, upstream.memory.mass + of_read.memory.mass,
                           upstream.memory.log_forgetting + of_read.memory.log_forgetting};
  gma::Gradients<M> gradients =
      gma::write_backward(problem.mixture, problem.keys, problem.values, d_memory, problem.tokens, problem.memory);
  gradients.queries = of_read.queries;
  add(gradients.mixture, of_read.mixture);
  return gradients;
}

struct Part {
  std::string name;
  Vector<double> values;
};

/// `gradients` as named vectors, in the order of the problem's parts.
template <class M>
std::vector<Part> parts_of(gma::Gradients<M> gradients, bool with_memory) {
  std::vector<Part> parts;
  for_each_part(gradients, with_memory, [&](const std::string& name, auto& matrix) {
    Part part{name, Vector<double>(matrix.size())};
    for (Index i = 0; i < matrix.size(); ++i) part.values(i) = static_cast<double>(matrix.data()[i]);
    parts.push_back(part);
  });
  return parts;
}

void expect_close(const std::vector<Part>& actual, const std::vector<Part>& expected, double tolerance,
                  const char* what) {
  ASSERT_EQ(actual.size(), expected.size());
  double total = 0;
  for (const Part& part : expected) total += part.values.squaredNorm();
  // A part whose true gradient vanishes (components that are all the same) is held to the size of the whole.
  const double smallest = 1e-3 * std::sqrt(total);
  for (std::size_t p = 0; p < expected.size(); ++p) {
    ASSERT_EQ(actual[p].name, expected[p].name);
    ASSERT_EQ(actual[p].values.size(), expected[p].values.size()) << actual[p].name;
    if (expected[p].values.size() == 0) continue;
    const double difference = (actual[p].values - expected[p].values).norm();
    const double scale = std::max(expected[p].values.norm(), smallest);
    EXPECT_LE(difference, tolerance * scale) << what << " of " << actual[p].name;
  }
}

/// A weight of zero says that the token is not there, and has no gradient by definition: only a step away from zero,
/// which would bring the token back, has a slope.
bool is_absent(const std::string& part, double number) { return part == "key_weights" && !(number > 0); }

/// Difference quotients of every number of the problem. Masses and weights are divided by, or may not
/// become negative, and so are stepped in proportion to themselves; sharp components need a shorter step.
template <class M>
std::vector<Part> differences(Direction direction, Regime regime, Problem<double, M> problem,
                              const Upstream<double>& upstream, const Options& options) {
  const double unit = regime == Regime::degenerate ? 2e-5 : 1e-3;
  std::vector<Part> parts;
  for_each_part(problem, [&](const std::string& name, auto& matrix) {
    Part part{name, Vector<double>(matrix.size())};
    for (Index i = 0; i < matrix.size(); ++i) {
      double& number = matrix.data()[i];
      const double kept = number;
      const double step = name == "key_weights" || name == "memory.mass" ? 1e-3 * kept : unit;
      if (step == 0 || is_absent(name, kept)) {
        part.values(i) = 0;
        continue;
      }
      part.values(i) = difference_quotient(
          number, step, [&] { return loss<double>(forward<double>(direction, problem, options), upstream); });
    }
    parts.push_back(part);
  });
  return parts;
}

#ifndef GMA_REDUCED_TESTS
using Autodiff = Eigen::AutoDiffScalar<Eigen::VectorXd>;

template <class M>
std::vector<Part> autodiff(Direction direction, const Problem<double, M>& problem, const Upstream<double>& upstream,
                           const Options& options) {
  const auto lift = [](const auto& matrix) { return matrix.template cast<Autodiff>().eval(); };
  using Mixture = decltype(problem.mixture.template cast<Autodiff>());
  Problem<Autodiff, Mixture> lifted{
      problem.mixture.template cast<Autodiff>(),
      lift(problem.queries),
      lift(problem.keys),
      lift(problem.values),
      {lift(problem.tokens.key_weights), lift(problem.tokens.log_forgetting)},
      {lift(problem.memory.slots), lift(problem.memory.mass), Autodiff(problem.memory.log_forgetting)}};
  Index count = 0;
  for_each_part(lifted, [&](const std::string&, auto& matrix) { count += matrix.size(); });
  Index index = 0;
  for_each_part(lifted, [&](const std::string& name, auto& matrix) {
    for (Index i = 0; i < matrix.size(); ++i, ++index) {
      Autodiff& number = matrix.data()[i];
      number.derivatives() = Eigen::VectorXd::Unit(count, index);
      if (is_absent(name, number.value())) number.derivatives().setZero();
    }
  });
  const Autodiff value = loss<Autodiff>(forward<Autodiff>(direction, lifted, options), upstream);
  std::vector<Part> parts;
  index = 0;
  for_each_part(lifted, [&](const std::string& name, auto& matrix) {
    parts.push_back({name, value.derivatives().segment(index, matrix.size())});
    index += matrix.size();
  });
  return parts;
}
#endif

template <class Family>
void check_gradients(const Sizes& sizes, Regime regime, Tokens tokens, const Options& base) {
  using M = typename Family::template Type<double>;
  for (const Direction direction : all_directions) {
    Case<double, M> item =
        make_case<double, M>(direction, sizes, regime, tokens, static_cast<std::uint64_t>(2000 + sizes.tokens));
    if (has_memory(direction)) item.problem.memory.mass.array() += 0.1;  // differences need a mass to step from
    const Upstream<double> upstream = make_upstream(direction, item.problem, tokens == Tokens::weighted, 7);
    for (const Normalization normalization : all_normalizations) {
      SCOPED_TRACE(std::string(name_of(direction)) + ", " + name_of(normalization) + ", " + name_of(regime) + ", " +
                   name_of(tokens) + ", N = " + std::to_string(sizes.tokens));
      Options options = base;
      options.normalization = normalization;
      const std::vector<Part> analytic =
          parts_of(backward(direction, item.problem, upstream, options), has_memory(direction));
      expect_close(analytic, differences(direction, regime, item.problem, upstream, options), difference_tolerance,
                   "central difference");
#ifndef GMA_REDUCED_TESTS
      expect_close(analytic, autodiff(direction, item.problem, upstream, options), autodiff_tolerance, "autodiff");
#endif
    }
  }
}

TYPED_TEST(Operators, HaveTheGradientsOfCentralDifferencesAndOfAutodiff) {
  Options options;
  options.tile = 4;
  options.checkpoint_interval = 8;
  Sizes sizes;
  sizes.tokens = 13;
  for (const Tokens tokens : {Tokens::plain, Tokens::weighted, Tokens::restarted}) {
    check_gradients<TypeParam>(sizes, Regime::generic, tokens, options);
  }
  options.segment = 5;
  check_gradients<TypeParam>(sizes, Regime::generic, Tokens::restarted, options);
  options.segment = 0;
  sizes.tokens = 5;
  check_gradients<TypeParam>(sizes, Regime::trivial, Tokens::weighted, options);
  check_gradients<TypeParam>(sizes, Regime::degenerate, Tokens::weighted, options);
  sizes = {6, 1, 2, 1, 3};
  check_gradients<TypeParam>(sizes, Regime::generic, Tokens::weighted, {});
}

}  // namespace
}  // namespace gma_test
