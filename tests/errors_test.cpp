// SPDX-License-Identifier: MIT
// Bad input: the type of the exception, a message that names the function, the argument and both sizes, and outputs and
// memories that are as they were.
#include <limits>
#include <locale>

#include "support.hpp"

namespace gma_test {
namespace {

using Mixture = gma::Mixture<double, gma::Diagonal>;
using Words = std::vector<std::string>;

class Errors : public testing::Test {
 protected:
  Random random{1};
  Mixture mixture;
  Matrix<double> queries, keys, values;
  Memory<double> memory;
  const Options options{};
  const TokenInputs<double> none{};
  gma::Workspace<double> workspace;

  void SetUp() override {
    randomize(mixture, 4, 3, Regime::generic, random);
    queries = random.matrix<double>(8, 3);
    keys = random.matrix<double>(8, 3);
    values = random.matrix<double>(8, 2);
    gma::write(mixture, keys, values, memory);
  }

  /// Every forward verb with these arguments fails with these words, and leaves its output and the memory alone.
  /// `with_queries`: whether the fault is one that a verb with queries sees, or one of keys, values and tokens.
  void expect_writers_fail(const Matrix<double>& k, const Matrix<double>& v, const TokenInputs<double>& tokens,
                           Words words) {
    const Memory<double> before = memory;
    Matrix<double> out = Matrix<double>::Constant(queries.rows(), v.cols(), 7);
    const Matrix<double> d_output = Matrix<double>::Zero(queries.rows(), v.cols());
    const Matrix<double> untouched = out;
    const auto named = [&](const char* function) {
      Words all = words;
      all.push_back(std::string("gma::") + function + ": ");
      return all;
    };
    expect_error([&] { gma::write(mixture, k, v, memory, tokens); }, named("write"));
    EXPECT_TRUE(same_bits(memory, before));
    expect_error([&] { gma::bidirectional(mixture, queries, k, v, options, tokens); }, named("bidirectional"));
    expect_error([&] { gma::bidirectional_into(out, mixture, queries, k, v, options, tokens, workspace); },
                 named("bidirectional"));
    expect_error([&] { gma::bidirectional_backward(mixture, queries, k, v, d_output, options, tokens); },
                 named("bidirectional_backward"));
    if (k.rows() == queries.rows()) {
      expect_error([&] { gma::causal(mixture, queries, k, v, options, tokens); }, named("causal"));
      expect_error([&] { gma::causal(mixture, queries, k, v, memory, options, tokens); }, named("causal"));
      expect_error([&] { gma::causal_into(out, mixture, queries, k, v, memory, options, tokens, workspace); },
                   named("causal"));
      expect_error([&] { gma::causal_backward(mixture, queries, k, v, d_output, options, tokens); },
                   named("causal_backward"));
    }
    expect_error([&] { gma::write_backward(mixture, k, v, memory, tokens); }, named("write_backward"));
    EXPECT_TRUE(same_bits(memory, before));
    EXPECT_TRUE(same_bits(out, untouched));
    Memory<double> fresh;
    expect_error([&] { gma::write(mixture, k, v, fresh, tokens); }, named("write"));
    if (k.rows() == queries.rows()) {
      expect_error([&] { gma::causal(mixture, queries, k, v, fresh, options, tokens); }, named("causal"));
    }
    EXPECT_TRUE(fresh.empty());
  }
};

TEST_F(Errors, ShapesOfKeysAndValues) {
  expect_writers_fail(random.matrix<double>(8, 5), values, none, {"keys", "5", "3", "dim"});
  expect_writers_fail(keys, random.matrix<double>(7, 2), none, {"values", "7", "8"});
}

TEST_F(Errors, ShapesOfQueries) {
  const Matrix<double> wide = random.matrix<double>(8, 4), longer = random.matrix<double>(9, 3);
  const Memory<double> before = memory;
  const Words words = {"queries", "4", "3", "dim"};
  expect_error([&] { gma::bidirectional(mixture, wide, keys, values); }, words);
  expect_error([&] { gma::causal(mixture, wide, keys, values); }, words);
  expect_error([&] { gma::causal(mixture, wide, keys, values, memory); }, words);
  expect_error([&] { gma::read(mixture, wide, memory); }, {"gma::read", "queries", "4", "3"});
  expect_error([&] { gma::read_backward(mixture, wide, memory, values); }, {"gma::read_backward", "queries", "4", "3"});
  expect_error([&] { gma::bidirectional_backward(mixture, wide, keys, values, values); }, words);
  expect_error([&] { gma::causal_backward(mixture, wide, keys, values, values); }, words);
  expect_error([&] { gma::responsibilities(mixture, wide); }, {"gma::responsibilities", "4", "3"});
  expect_error([&] { gma::log_density(mixture, wide); }, {"gma::log_density", "4", "3"});
  expect_error([&] { gma::causal(mixture, longer, keys, values, memory); }, {"gma::causal", "queries", "9", "8"});
  expect_error([&] { gma::causal_backward(mixture, longer, keys, values, values); },
               {"gma::causal_backward", "queries", "9", "8"});
  EXPECT_TRUE(same_bits(memory, before));
}

TEST_F(Errors, ShapesOfOutputsAndTheirGradients) {
  Matrix<double> out = Matrix<double>::Constant(8, 3, 7);
  const Matrix<double> untouched = out, before_values = values;
  const Memory<double> before = memory;
  const Words words = {"out", "8 x 3", "8 x 2"};
  expect_error([&] { gma::bidirectional_into(out, mixture, queries, keys, values, options, none, workspace); }, words);
  expect_error([&] { gma::causal_into(out, mixture, queries, keys, values, options, none, workspace); }, words);
  expect_error([&] { gma::causal_into(out, mixture, queries, keys, values, memory, options, none, workspace); }, words);
  expect_error([&] { gma::read_into(out, mixture, queries, memory, options, workspace); }, words);
  EXPECT_TRUE(same_bits(out, untouched));
  EXPECT_TRUE(same_bits(memory, before));
  const Words gradient = {"d_output", "8 x 3", "8 x 2"};
  expect_error([&] { gma::bidirectional_backward(mixture, queries, keys, values, out); }, gradient);
  expect_error([&] { gma::causal_backward(mixture, queries, keys, values, out); }, gradient);
  expect_error([&] { gma::read_backward(mixture, queries, memory, out); }, gradient);
}

TEST_F(Errors, ShapesOfTokenInputs) {
  expect_writers_fail(keys, values, {Vector<double>::Ones(7), {}}, {"key_weights", "7", "8"});
  expect_writers_fail(keys, values, {{}, Vector<double>::Zero(9)}, {"log_forgetting", "9", "8"});
}

TEST_F(Errors, WeightsAreFiniteAndNotNegative) {
  for (const double bad : {-1e-30, -1.0, infinity, -infinity, not_a_number}) {
    Vector<double> weights = Vector<double>::Ones(8);
    weights(5) = bad;
    expect_writers_fail(keys, values, {weights, {}}, {"key_weights", "token 5"});
  }
}

TEST_F(Errors, ForgettingIsNotPositive) {
  for (const double bad : {1e-30, 1.0, infinity, not_a_number}) {
    TokenInputs<double> tokens{{}, Vector<double>::Zero(8)};
    tokens.log_forgetting(6) = bad;
    expect_writers_fail(keys, values, tokens, {"log_forgetting", "token 6"});
    tokens.key_weights = Vector<double>::Ones(8);
    expect_writers_fail(keys, values, tokens, {"log_forgetting", "token 6"});
    tokens.key_weights(6) = 0;  // an absent token's forgetting is ignored
    EXPECT_TRUE(all_finite(gma::causal(mixture, queries, keys, values, options, tokens)));
  }
}

TEST_F(Errors, MemoriesOfAnotherSize) {
  Memory<double> other = gma::empty_memory<double>(5, 2), wide = gma::empty_memory<double>(4, 3), torn = memory;
  torn.mass.conservativeResize(3);
  const auto fails = [&](Memory<double> bad, const Words& words) {
    const Memory<double> before = bad;
    expect_error([&] { gma::write(mixture, keys, values, bad); }, words);
    expect_error([&] { gma::causal(mixture, queries, keys, values, bad); }, words);
    expect_error([&] { gma::causal_backward(mixture, queries, keys, values, values, bad, memory); }, words);
    expect_error([&] { gma::causal_backward(mixture, queries, keys, values, values, memory, bad); }, words);
    expect_error([&] { gma::write_backward(mixture, keys, values, bad); }, words);
    expect_error([&] { gma::write_backward(mixture, keys, values, memory, {}, bad); }, words);
    expect_error([&] { gma::merge(bad, memory); }, {"gma::merge"});
    expect_error([&] { gma::merge(memory, bad); }, {"gma::merge"});
    EXPECT_TRUE(same_bits(bad, before));
  };
  fails(other, {"memory", "5 x 2", "4 x 2"});
  fails(wide, {"memory", "4 x 3", "4 x 2"});
  fails(torn, {"memory", "mass", "3", "4"});
  for (const Memory<double>& bad : {other, torn}) {
    expect_error([&] { gma::read(mixture, queries, bad); }, {"gma::read", "memory"});
    expect_error([&] { gma::read_backward(mixture, queries, bad, values); }, {"gma::read_backward", "memory"});
  }
  expect_error([&] { gma::read(mixture, queries, Memory<double>()); }, {"gma::read", "memory is empty", "4"});
  expect_error([&] { gma::read_backward(mixture, queries, Memory<double>(), values); },
               {"gma::read_backward", "memory is empty", "4"});
  expect_error([&] { gma::write_backward(mixture, keys, values, Memory<double>()); }, {"d_memory", "0 x 0", "4 x 2"});
  expect_error([] { gma::empty_memory<double>(0, 2); }, {"gma::empty_memory", "components is 0"});
}

TEST_F(Errors, MixturesWithoutComponentsOrDimension) {
  expect_error([] { Mixture(0, 3); }, {"components is 0"});
  expect_error([] { Mixture(3, 0); }, {"dim is 0"});
  expect_error([] { Mixture(-1, 3); }, {"components is -1"});
  const Mixture empty;
  const gma::ProductMixture<double, gma::Diagonal> no_factors;
  const gma::CompiledMixture<double> not_compiled;
  gma::ProductMixture<double, gma::Diagonal> one_bad;
  one_bad.factors = {mixture, empty};
  const Memory<double> before = memory;
  const auto fails = [&](const auto& bad, const std::string& name) {
    expect_error([&] { gma::responsibilities(bad, queries); }, {"gma::responsibilities", name});
    expect_error([&] { gma::causal(bad, queries, keys, values, memory); }, {"gma::causal", name});
    expect_error([&] { gma::bidirectional(bad, queries, keys, values); }, {"gma::bidirectional", name});
    expect_error([&] { gma::write(bad, keys, values, memory); }, {"gma::write", name});
    expect_error([&] { gma::read(bad, queries, memory); }, {"gma::read", name});
  };
  fails(empty, "mixture.means is 0 x 0");
  fails(no_factors, "mixture.factors is empty");
  fails(one_bad, "mixture.factors[1].means is 0 x 0");
  fails(not_compiled, "mixture is empty");
  expect_error([&] { gma::compile(empty); }, {"gma::compile"});
  expect_error([&] { gma::reference::affinity(empty, queries, keys, options, false); }, {"reference::affinity"});
  EXPECT_TRUE(same_bits(memory, before));
}

/// Products of counts that wrap round: to 0, to a believable 6,464, to a negative number; and one just above the bound.
TEST_F(Errors, SlotsThatAreTooMany) {
  const std::vector<std::vector<Index>> sizes = {{8192, 8192, 8192, 8192, 8192},
                                                 {5154, 6872, 4566, 4090, 27889},
                                                 {2, 2, 2, 2, 2, 2, 2, 23, 23, 37, 67, 149, 853, 1471, 2939},
                                                 std::vector<Index>(63, 2),
                                                 {4096, 4097}};
  for (const std::vector<Index>& components : sizes) {
    gma::ProductMixture<double, gma::Diagonal> bad;
    gma::CompiledMixture<double> compiled;
    for (const Index count : components) {
      bad.factors.emplace_back(count, 1);
      compiled.factors.push_back(gma::compile(bad.factors.back()).factors.front());
    }
    const Index dim = bad.dim();
    EXPECT_GT(bad.components(), gma::max_slots);
    EXPECT_EQ(bad.components(), compiled.components());
    const Matrix<double> x = random.matrix<double>(3, dim), v = random.matrix<double>(3, 2);
    const Words words = {"slots", "expected at most 16777216"};
    expect_error([&] { gma::validate(bad); }, words);
    expect_error([&] { gma::compile(bad); }, words);
    expect_error([&] { gma::responsibilities_backward(bad, x, x); }, words);
    expect_error([&] { gma::causal_backward(bad, x, x, v, v); }, words);
    expect_error([&] { gma::usage_penalty_backward(bad, x); }, words);
    expect_error([&] { gma::reference::affinity(bad, x, x, options, false); }, words);
    expect_error([&] { gma::random_product_mixture<double>(components, dim, 1); }, words);
    const auto fails = [&](const auto& mixture_of_any_form) {
      Memory<double> fresh;
      expect_error([&] { gma::responsibilities(mixture_of_any_form, x); }, words);
      expect_error([&] { gma::log_density(mixture_of_any_form, x); }, words);
      expect_error([&] { gma::usage(mixture_of_any_form, x); }, words);
      expect_error([&] { gma::write(mixture_of_any_form, x, v, fresh); }, words);
      expect_error([&] { gma::read(mixture_of_any_form, x, fresh); }, words);
      expect_error([&] { gma::causal(mixture_of_any_form, x, x, v, fresh); }, words);
      expect_error([&] { gma::bidirectional(mixture_of_any_form, x, x, v); }, words);
      EXPECT_TRUE(fresh.empty());
    };
    fails(bad);
    fails(compiled);
    gma::LayerConfig config;
    config.width = dim;
    config.components = components;
    expect_error([&] { gma::validate(config); }, words);
    expect_error([&] { gma::random_layer<double>(config, 1); }, words);
  }
  expect_error([] { Mixture(gma::max_slots + 1, 1); }, {"components is 16777217", "at most 16777216"});
  expect_error([] { gma::random_product_mixture<double>({gma::max_slots, 2}, 2, 1); }, {"slots"});
}

TEST(Counts, NeverOverflow) {
  using gma::detail::product_of_counts;
  using gma::detail::sum_of_counts;
  constexpr Index most = std::numeric_limits<Index>::max();
  EXPECT_EQ(product_of_counts(3, 4), 12);
  EXPECT_EQ(product_of_counts(most, 1), most);
  EXPECT_EQ(product_of_counts(most / 2, 2), most - 1);
  EXPECT_EQ(product_of_counts(most / 2 + 1, 2), most);
  EXPECT_EQ(product_of_counts(most, most), most);
  EXPECT_EQ(product_of_counts(most, 0), 0);
  EXPECT_EQ(product_of_counts(-2, most), 0);
  EXPECT_EQ(sum_of_counts(3, 4), 7);
  EXPECT_EQ(sum_of_counts(most, 0), most);
  EXPECT_EQ(sum_of_counts(most - 1, 2), most);
  EXPECT_EQ(sum_of_counts(1, most, most), most);
  EXPECT_EQ(gma::Full::scale_cols(most / 2), most);
}

TEST(Counts, LayersThatAreTooLarge) {
  constexpr Index most = std::numeric_limits<Index>::max();
  gma::LayerConfig good;
  good.width = 16;
  good.heads = 2;
  good.window = gma::max_window;
  gma::validate(good);
  const auto fails = [&](auto change, const std::string& member) {
    gma::LayerConfig config = good;
    change(config);
    expect_error([&] { gma::validate(config); }, {"LayerConfig", member, "expected at most"});
  };
  for (const Index count : {most, most - 1, most / 2 + 1, Index(1) << 32, gma::max_columns + 2}) {
    fails([&](gma::LayerConfig& c) { c.width = count; }, "width");
    fails([&](gma::LayerConfig& c) { c.heads = c.width = count; }, "width");
    fails([&](gma::LayerConfig& c) { c.heads = count; }, "heads");
    fails([&](gma::LayerConfig& c) { c.key_value_heads = count; }, "key_value_heads");
    fails([&](gma::LayerConfig& c) { c.head_width = count; }, "head_width");
    fails([&](gma::LayerConfig& c) { c.value_width = count; }, "value_width");
    fails([&](gma::LayerConfig& c) { c.convolution = count; }, "convolution");
    fails([&](gma::LayerConfig& c) { c.window = count; }, "window");
    fails([&](gma::LayerConfig& c) { c.components = {count}; }, "components");
    fails([&](gma::LayerConfig& c) { c.components = {count, count}; }, "components");
  }
  fails([](gma::LayerConfig& c) { c.window = gma::max_window + 1; }, "window");
  gma::LayerConfig never_forgets = good;
  never_forgets.longest_time = infinity;
  expect_error([&] { gma::validate(never_forgets); }, {"longest_time", "inf", "expected finite times"});
  never_forgets.longest_time = 1e300;  // a gate that is 0 to begin with
  EXPECT_TRUE(gma::random_layer<float>(never_forgets, 1).forget_bias.allFinite());
  fails([](gma::LayerConfig& c) { c.head_width = gma::max_columns; }, "heads, head_width and value_width");
  fails([](gma::LayerConfig& c) { c.value_width = gma::max_columns / 2; }, "heads, head_width and value_width");
  fails([](gma::LayerConfig& c) { c.heads = c.width = gma::max_columns; }, "heads, head_width and value_width");
}

TEST_F(Errors, ParametersOfAnotherShape) {
  const auto fails = [&](const Mixture& bad, const Words& words) {
    expect_error([&] { gma::validate(bad); }, words);
    expect_error([&] { gma::causal(bad, queries, keys, values, memory); }, words);
    expect_error([&] { gma::causal_backward(bad, queries, keys, values, values); }, words);
  };
  Mixture bad = mixture;
  bad.weight_logits.conservativeResize(5);
  fails(bad, {"mixture.weight_logits", "5", "4"});
  bad = mixture;
  bad.log_scales.resize(1, 3);
  fails(bad, {"mixture.log_scales", "1 x 3", "4 x 3", "diagonal"});
}

TEST_F(Errors, ValidateFindsWhatIsNotFinite) {
  for (const double value : {not_a_number, infinity, -infinity}) {
    const auto fails = [&](auto change, const Words& words) {
      Mixture bad = mixture;
      change(bad);
      expect_error([&] { gma::validate(bad); }, words);
      gma::ProductMixture<double, gma::Diagonal> product;
      product.factors = {mixture, bad};
      Words named = words;
      named.push_back("factors[1]");
      expect_error([&] { gma::validate(product); }, named);
    };
    fails([&](Mixture& m) { m.weight_logits(2) = value; }, {"weight_logits", "row 2"});
    fails([&](Mixture& m) { m.means(3, 1) = value; }, {"means", "row 3, column 1"});
    fails([&](Mixture& m) { m.log_scales(0, 2) = value; }, {"log_scales", "row 0, column 2"});
    fails([&](Mixture& m) { m.log_temperature = value; }, {"log_temperature"});
  }
  gma::validate(mixture);
}

/// Any number may be given for "all tokens": gradients are those of one interval.
TEST_F(Errors, CheckpointIntervalsOfAnyLength) {
  Random source(3);
  const Matrix<double> x = source.matrix<double>(300, 3), v = source.matrix<double>(300, 2);
  Options options_of_one;
  options_of_one.checkpoint_interval = 300;
  const auto expected = gma::causal_backward(mixture, x, x, v, v, options_of_one);
  constexpr Index most = std::numeric_limits<Index>::max();
  for (const Index interval : {most, most - 1, most - 300, most / 2}) {
    for (const Index tile : {Index(0), Index(7), most}) {
      Options long_ones;
      long_ones.checkpoint_interval = interval;
      long_ones.tile = tile;
      const auto actual = gma::causal_backward(mixture, x, x, v, v, long_ones);
      EXPECT_LE(relative_error(actual.queries, expected.queries), autodiff_tolerance);
      EXPECT_LE(relative_error(actual.keys, expected.keys), autodiff_tolerance);
      EXPECT_LE(relative_error(actual.values, expected.values), autodiff_tolerance);
      EXPECT_LE(relative_error(actual.mixture.means, expected.mixture.means), autodiff_tolerance);
    }
  }
}

/// Numbers with points for thousands and commas for fractions, as a program may have asked for everywhere.
struct Foreign : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

TEST(Messages, DoNotDependOnTheLocale) {
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Foreign));
  Vector<double> weights = Vector<double>::Ones(12345);
  weights(9876) = -0.5;
  const Mixture mixture(1, 1);
  const Matrix<double> x = Matrix<double>::Zero(12345, 1);
  expect_error([&] { gma::causal(mixture, x.topRows(1234), x, x); }, {"1234 rows, expected 12345"});
  expect_error([&] { gma::causal(mixture, x, x, x, Options{}, {weights, {}}); }, {"is -0.5 at token 9876"});
  std::locale::global(before);
}

TEST_F(Errors, OptionsOutOfRange) {
  Options bad;
  bad.tile = -1;
  const Memory<double> before = memory;
  expect_error([&] { gma::causal(mixture, queries, keys, values, memory, bad); }, {"gma::causal", "tile is -1"});
  expect_error([&] { gma::bidirectional(mixture, queries, keys, values, bad); }, {"gma::bidirectional", "tile is -1"});
  expect_error([&] { gma::read(mixture, queries, memory, bad); }, {"gma::read", "tile is -1"});
  bad = {};
  bad.checkpoint_interval = 0;
  expect_error([&] { gma::causal_backward(mixture, queries, keys, values, values, bad); },
               {"gma::causal_backward", "checkpoint_interval is 0"});
  EXPECT_TRUE(same_bits(memory, before));
}

}  // namespace
}  // namespace gma_test
