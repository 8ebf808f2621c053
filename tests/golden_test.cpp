// SPDX-License-Identifier: MIT
//
// The public functions against golden cases: inputs, outputs and all gradients computed by an independent
// implementation in float64 with automatic differentiation. tests/golden/generate.py is that implementation and says
// what the cases are.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <gma/gma.hpp>
#include <limits>
#include <map>
#include <ostream>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "families.hpp"

namespace {

using gma::Index;
using Matrix = gma::Matrix<double>;
using Vector = gma::Vector<double>;

constexpr double forward_tolerance = 1e-12;
constexpr double gradient_tolerance = 1e-10;
constexpr double zero_tolerance = 1e-13;  // absolute, for what is zero in exact arithmetic and rounding noise otherwise

// ---------------------------------------------------------------------------------------------------------------------
// Cases and their file. The format is described at the end of generate.py.
// ---------------------------------------------------------------------------------------------------------------------

struct Case {
  std::string name, operation, covariance, normalization;
  bool is_product = false;
  Index factors = 0;
  std::map<std::string, Matrix> tensors;

  bool has(const std::string& tensor) const { return tensors.count(tensor) != 0; }

  const Matrix& matrix(const std::string& tensor) const {
    const auto found = tensors.find(tensor);
    if (found == tensors.end()) throw std::runtime_error("case \"" + name + "\" has no tensor " + tensor);
    used_.insert(tensor);
    return found->second;
  }

  Vector vector(const std::string& tensor) const {
    const Matrix& m = matrix(tensor);
    if (m.cols() != 1) throw std::runtime_error("case \"" + name + "\": " + tensor + " is not a column");
    return m.col(0);
  }

  double scalar(const std::string& tensor) const {
    const Matrix& m = matrix(tensor);
    if (m.size() != 1) throw std::runtime_error("case \"" + name + "\": " + tensor + " is not a scalar");
    return m(0, 0);
  }

  // What no check has asked for. A tensor that nobody looks at is an expectation that nobody holds.
  std::vector<std::string> unused() const {
    std::vector<std::string> names;
    for (const auto& [tensor, value] : tensors)
      if (used_.count(tensor) == 0) names.push_back(tensor);
    return names;
  }

 private:
  mutable std::set<std::string> used_;
};

void PrintTo(const Case& c, std::ostream* out) { *out << '"' << c.name << '"'; }

class Parser {
 public:
  explicit Parser(std::istream& in) : in_(in) {}

  std::vector<Case> parse() {
    expect("gma-golden");
    expect("1");
    expect("cases");
    const Index count = size("the number of cases");
    std::vector<Case> cases;
    std::set<std::string> names;
    for (std::string word = next(); !word.empty(); word = next()) {
      if (word != "case") fail("expected `case`, found `" + word + "`");
      cases.push_back(parse_case());
      if (!names.insert(cases.back().name).second) fail("a second case \"" + cases.back().name + "\"");
    }
    if (static_cast<Index>(cases.size()) != count)
      fail("announced " + std::to_string(count) + " cases, found " + std::to_string(cases.size()));
    return cases;
  }

 private:
  Case parse_case() {
    Case c;
    c.operation = one_of({"bidirectional", "causal", "write", "read", "density", "merge"});
    c.covariance = one_of({"isotropic", "diagonal", "tied", "full"});
    c.normalization = one_of({"none", "slot", "row"});
    c.is_product = one_of({"plain", "product"}) == "product";
    c.factors = size("the number of factors");
    if (!c.is_product && c.factors > 1) fail("a plain mixture with several factors");
    c.name = quoted();
    for (std::string word = next(); word != "end"; word = next()) {
      if (word != "tensor") fail("case \"" + c.name + "\": expected `tensor` or `end`, found `" + word + "`");
      const std::string tensor = next();
      if (tensor.empty()) fail("case \"" + c.name + "\": a tensor without a name");
      const Index rows = size("rows of " + tensor);
      const Index cols = size("columns of " + tensor);
      Matrix values(rows, cols);
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j) values(i, j) = number("case \"" + c.name + "\": an entry of " + tensor);
      if (!c.tensors.emplace(tensor, std::move(values)).second)
        fail("case \"" + c.name + "\": a second tensor " + tensor);
    }
    return c;
  }

  // The next word, or nothing at the end of the file. A comment runs to the end of its line.
  std::string next() {
    for (;;) {
      std::string word;
      if (words_ >> word) return word;
      std::string line;
      if (!std::getline(in_, line)) return {};
      ++line_;
      const std::string::size_type comment = line.find('#');
      words_ = std::istringstream(comment == std::string::npos ? line : line.substr(0, comment));
    }
  }

  std::string quoted() {
    std::string before, text;
    if (!std::getline(words_, before, '"') || !std::getline(words_, text, '"') || words_.eof() || text.empty())
      fail("expected a name in quotes");
    return text;
  }

  std::string one_of(const std::vector<std::string>& choices) {
    const std::string word = next();
    for (const std::string& choice : choices)
      if (word == choice) return word;
    fail("`" + word + "` is none of the words allowed here, such as `" + choices.front() + "`");
  }

  void expect(const std::string& expected) {
    const std::string word = next();
    if (word != expected) fail("expected `" + expected + "`, found `" + word + "`");
  }

  Index size(const std::string& what) {
    const std::string word = next();
    if (word.empty() || word.size() > 6 || word.find_first_not_of("0123456789") != std::string::npos)
      fail(what + " should be a size, found `" + word + "`");
    return static_cast<Index>(std::stol(word));
  }

  double number(const std::string& what) {
    const std::string word = next();
    char* end = nullptr;
    const double value = std::strtod(word.c_str(), &end);
    if (word.empty() || *end != '\0') fail(what + " should be a number, found `" + word + "`");
    return value;
  }

  [[noreturn]] void fail(const std::string& message) const {
    throw std::runtime_error("golden cases, line " + std::to_string(line_) + ": " + message);
  }

  std::istream& in_;
  std::istringstream words_;
  int line_ = 0;
};

std::string golden_path() {
#ifdef GMA_GOLDEN_DIR
  return std::string(GMA_GOLDEN_DIR) + "/cases.txt";
#else
  const std::string here = __FILE__;
  const std::string::size_type slash = here.find_last_of("/\\");
  return (slash == std::string::npos ? std::string() : here.substr(0, slash + 1)) + "golden/cases.txt";
#endif
}

// Test names are needed before any test can fail, so an error is kept for GoldenFile.IsWellFormed to report.
struct File {
  std::vector<Case> cases;
  std::string error;
};

const File& golden_file() {
  static const File file = [] {
    File f;
    std::ifstream in(golden_path());
    if (!in) {
      f.error = "cannot open " + golden_path();
      return f;
    }
    try {
      f.cases = Parser(in).parse();
    } catch (const std::exception& e) {
      f.error = e.what();
    }
    return f;
  }();
  return file;
}

std::vector<Case> parse_text(const std::string& text) {
  std::istringstream in(text);
  return Parser(in).parse();
}

TEST(GoldenFile, IsWellFormed) {
  ASSERT_EQ(golden_file().error, "");
  EXPECT_GE(golden_file().cases.size(), 45u);
}

TEST(GoldenFile, IsReadAsWritten) {
  const std::vector<Case> cases = parse_text(
      "# a comment\ngma-golden 1 cases 1\ncase read full row product 2 \"two words\"\n"
      "tensor a 2 3\n1 -2.5e-3 nan\ninf -inf 0.1\ntensor b 0 4\nend\n");
  ASSERT_EQ(cases.size(), 1u);
  EXPECT_EQ(cases[0].name, "two words");
  EXPECT_EQ(cases[0].operation, "read");
  EXPECT_TRUE(cases[0].is_product);
  const Matrix& a = cases[0].matrix("a");
  EXPECT_EQ(a(0, 1), -2.5e-3);
  EXPECT_TRUE(std::isnan(a(0, 2)));
  EXPECT_EQ(a(1, 1), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(a(1, 2), 0.1);
  EXPECT_EQ(cases[0].unused(), std::vector<std::string>{"b"});
  EXPECT_THROW(cases[0].matrix("c"), std::runtime_error);
}

TEST(GoldenFile, IsRefusedWhenMalformed) {
  const std::string head = "gma-golden 1 cases 1\n";
  const std::string start = head + "case read full row plain 1 \"a\"\n";
  const std::vector<std::string> malformed = {
      "", "gma-golden 2 cases 0\n", "gma-golden 1 cases many\n",
      "gma-golden 1 cases 2\ncase read full row plain 1 \"a\"\nend\n",  // one missing
      "gma-golden 1 cases 2\ncase read full row plain 1 \"a\"\nend\ncase read full row plain 1 \"a\"\nend",  // same
                                                                                                             // name
      head + "case fly full row plain 1 \"a\"\nend\n", head + "case read round row plain 1 \"a\"\nend\n",
      head + "case read full row plain 2 \"a\"\nend\n", head + "case read full row plain 1 a\nend\n",
      head + "case read full row plain 1 \"a\nend\n",
      start,                                              // no end
      start + "tensor t 1 2\n1 2\n",                      // no end
      start + "tensor t 1 2\n1\nend\n",                   // a number missing
      start + "tensor t 1 2\n1 2 3\nend\n",               // a number too many
      start + "tensor t 1 2\n1 2x\nend\n",                // not a number
      start + "tensor t -1 2\n1 2\nend\n",                // not a size
      start + "tensor t 1 1\n1\ntensor t 1 1\n1\nend\n",  // the same tensor
      start + "tensor t 1 1\n1\nend\nend\n",              // something after the end
  };
  for (const std::string& text : malformed) EXPECT_THROW(parse_text(text), std::runtime_error) << text;
}

// ---------------------------------------------------------------------------------------------------------------------
// Comparisons.
// ---------------------------------------------------------------------------------------------------------------------

// ||actual - expected|| <= tolerance ||expected||; where the expected array is zero, within rounding noise of zero.
void expect_close(const std::string& what, const Matrix& actual, const Matrix& expected, double tolerance) {
  ASSERT_EQ(actual.rows(), expected.rows()) << what;
  ASSERT_EQ(actual.cols(), expected.cols()) << what;
  const double size = expected.norm();
  const double error = (actual - expected).norm();
  const double bound = size > 0 ? tolerance * size : zero_tolerance;
  EXPECT_LE(error, bound) << what << ": relative error " << (size > 0 ? error / size : error)  // NaN fails as well
                          << "\nactual\n"
                          << actual << "\nexpected\n"
                          << expected;
}

// The total log-forgetting of a memory, which may be -inf.
void expect_total(const std::string& what, double actual, double expected) {
  if (std::isinf(expected)) {
    EXPECT_EQ(actual, expected) << what;
  } else {
    EXPECT_NEAR(actual, expected, forward_tolerance * (1 + std::abs(expected))) << what;
  }
}

void expect_memory(const Case& c, const gma::Memory<double>& actual) {
  expect_close("final memory, slots", actual.slots, c.matrix("final_memory.slots"), forward_tolerance);
  expect_close("final memory, mass", actual.mass, c.matrix("final_memory.mass"), forward_tolerance);
  expect_total("final memory, log_forgetting", actual.log_forgetting, c.scalar("final_memory.log_forgetting"));
}

// ---------------------------------------------------------------------------------------------------------------------
// Inputs of a case as the library's types.
// ---------------------------------------------------------------------------------------------------------------------

gma::Options options_of(const Case& c, Index tile = 0, Index checkpoint_interval = 256) {
  gma::Options options;
  options.normalization = c.normalization == "none"   ? gma::Normalization::none
                          : c.normalization == "slot" ? gma::Normalization::slot
                                                      : gma::Normalization::row;
  options.tile = tile;
  options.checkpoint_interval = checkpoint_interval;
  return options;
}

// The operator's own choice of tiles, then tiles and checkpoints so small that even these cases have several.
std::vector<gma::Options> all_options_of(const Case& c) {
  return {options_of(c), options_of(c, 1, 1), options_of(c, 3, 4)};
}

std::string describe(const gma::Options& options) {
  return "tile " + std::to_string(options.tile) + ", checkpoint interval " +
         std::to_string(options.checkpoint_interval);
}

gma::TokenInputs<double> tokens_of(const Case& c) {
  gma::TokenInputs<double> tokens;
  if (c.has("key_weights")) tokens.key_weights = c.vector("key_weights");
  if (c.has("log_forgetting")) tokens.log_forgetting = c.vector("log_forgetting");
  if (c.has("slot_log_forgetting")) tokens.slot_log_forgetting = c.matrix("slot_log_forgetting");
  return tokens;
}

// An absent memory is an empty one.
gma::Memory<double> memory_of(const Case& c, const std::string& name) {
  gma::Memory<double> memory;
  if (!c.has(name + ".slots")) return memory;
  memory.slots = c.matrix(name + ".slots");
  memory.mass = c.vector(name + ".mass");
  memory.log_forgetting = c.scalar(name + ".log_forgetting");
  return memory;
}

template <class Covariance>
gma::Mixture<double, Covariance> factor_of(const Case& c, Index m) {
  const std::string prefix = "factors." + std::to_string(m) + ".";
  const Matrix& means = c.matrix(prefix + "means");
  gma::Mixture<double, Covariance> factor(means.rows(), means.cols());
  factor.weight_logits = c.vector(prefix + "weight_logits");
  factor.means = means;
  factor.log_scales = c.matrix(prefix + "log_scales");
  factor.log_temperature = c.scalar(prefix + "log_temperature");
  return factor;
}

// Plain and product mixtures as the list of their factors.
template <class Covariance>
std::vector<gma::Mixture<double, Covariance>> factors_of(const gma::Mixture<double, Covariance>& mixture) {
  return {mixture};
}

template <class Covariance>
std::vector<gma::Mixture<double, Covariance>> factors_of(const gma::ProductMixture<double, Covariance>& mixture) {
  return mixture.factors;
}

// ---------------------------------------------------------------------------------------------------------------------
// Gradients.
// ---------------------------------------------------------------------------------------------------------------------

// The strict upper triangle of a full factor is no parameter: its gradient is zero exactly.
template <class Covariance>
void expect_no_gradient_above_diagonal(const gma::Mixture<double, Covariance>&, Index) {}

void expect_no_gradient_above_diagonal(const gma::Mixture<double, gma::Full>& gradient, Index d) {
  for (Index k = 0; k < gradient.log_scales.rows(); ++k)
    for (Index i = 0; i < d; ++i)
      for (Index j = i + 1; j < d; ++j) EXPECT_EQ(gradient.log_scales(k, i * d + j), 0) << "above the diagonal";
}

template <class Mixture>
void expect_mixture_gradient(const Case& c, const Mixture& gradient) {
  const auto factors = factors_of(gradient);
  ASSERT_EQ(static_cast<Index>(factors.size()), c.factors);
  for (Index m = 0; m < c.factors; ++m) {
    const auto& actual = factors[static_cast<std::size_t>(m)];
    const std::string name = "grad.factors." + std::to_string(m) + ".";
    const auto check = [&](const std::string& parameter, const Matrix& value) {
      expect_close(name + parameter, value, c.matrix(name + parameter), gradient_tolerance);
    };
    check("weight_logits", actual.weight_logits);
    check("means", actual.means);
    check("log_scales", actual.log_scales);
    check("log_temperature", Matrix::Constant(1, 1, actual.log_temperature));
    expect_no_gradient_above_diagonal(actual, actual.means.cols());
  }
}

// An absent token has no gradient, not even a small one; a restart has none with respect to its g.
template <class Gradients>
void expect_exact_zeros(const Case& c, const Gradients& gradient) {
  const Vector weights = c.has("key_weights") ? c.vector("key_weights") : Vector(Vector::Ones(c.matrix("keys").rows()));
  for (Index j = 0; j < weights.size(); ++j) {
    const bool absent = weights(j) == 0;
    const bool restarts = c.has("log_forgetting") && std::isinf(c.vector("log_forgetting")(j));
    if (absent) {
      EXPECT_TRUE((gradient.keys.row(j).array() == 0).all()) << "key of absent token " << j;
      EXPECT_TRUE((gradient.values.row(j).array() == 0).all()) << "value of absent token " << j;
      EXPECT_EQ(gradient.key_weights(j), 0) << "weight of absent token " << j;
    }
    if (c.has("log_forgetting") && (absent || restarts)) {
      EXPECT_EQ(gradient.log_forgetting(j), 0) << "log_forgetting of token " << j;
    }
    for (Index k = 0; c.has("slot_log_forgetting") && k < c.matrix("slot_log_forgetting").cols(); ++k) {
      if (!absent && !restarts && std::isfinite(c.matrix("slot_log_forgetting")(j, k))) continue;
      EXPECT_EQ(gradient.slot_log_forgetting(j, k), 0) << "slot_log_forgetting of token " << j << ", slot " << k;
    }
  }
}

// Everything the case has a gradient for. What was not given to the operator has no golden gradient.
template <class Gradients>
void expect_gradients(const Case& c, const Gradients& gradient) {
  const auto check = [&](const std::string& name, const Matrix& value) {
    if (c.has("grad." + name)) expect_close("grad." + name, value, c.matrix("grad." + name), gradient_tolerance);
  };
  check("queries", gradient.queries);
  check("keys", gradient.keys);
  check("values", gradient.values);
  check("key_weights", gradient.key_weights);
  check("log_forgetting", gradient.log_forgetting);
  check("slot_log_forgetting", gradient.slot_log_forgetting);
  check("memory.slots", gradient.memory.slots);
  check("memory.mass", gradient.memory.mass);
  check("memory.log_forgetting", Matrix::Constant(1, 1, gradient.memory.log_forgetting));
  expect_mixture_gradient(c, gradient.mixture);
  if (c.has("keys")) expect_exact_zeros(c, gradient);
}

// ---------------------------------------------------------------------------------------------------------------------
// Operators.
// ---------------------------------------------------------------------------------------------------------------------

template <class Mixture>
void check_reference(const Case& c, const Mixture& mixture, bool is_causal) {
  const gma::Options options = options_of(c);
  const gma::TokenInputs<double> tokens = tokens_of(c);
  const Matrix &queries = c.matrix("queries"), &keys = c.matrix("keys"), &values = c.matrix("values");
  const Matrix output = gma::reference::attention(mixture, queries, keys, values, options, is_causal, tokens);
  expect_close("reference::attention", output, c.matrix("output"), forward_tolerance);
  if (!c.has("affinity")) return;
  const Matrix affinity = gma::reference::affinity(mixture, queries, keys, options, is_causal, tokens);
  expect_close("reference::affinity", affinity, c.matrix("affinity"), forward_tolerance);
}

template <class Mixture>
void check_bidirectional(const Case& c, const Mixture& mixture) {
  const gma::TokenInputs<double> tokens = tokens_of(c);
  const Matrix &queries = c.matrix("queries"), &keys = c.matrix("keys"), &values = c.matrix("values");
  const Matrix &expected = c.matrix("output"), &d_output = c.matrix("d_output");
  check_reference(c, mixture, false);
  for (const gma::Options& options : all_options_of(c)) {
    SCOPED_TRACE(describe(options));
    expect_close("output", gma::bidirectional(mixture, queries, keys, values, options, tokens), expected,
                 forward_tolerance);
    expect_close("output through compile()",
                 gma::bidirectional(gma::compile(mixture), queries, keys, values, options, tokens), expected,
                 forward_tolerance);
    expect_gradients(c, gma::bidirectional_backward(mixture, queries, keys, values, d_output, options, tokens));
  }
}

// The form without a memory.
template <class Mixture>
void check_causal(const Case& c, const Mixture& mixture) {
  const gma::TokenInputs<double> tokens = tokens_of(c);
  const Matrix &queries = c.matrix("queries"), &keys = c.matrix("keys"), &values = c.matrix("values");
  const Matrix &expected = c.matrix("output"), &d_output = c.matrix("d_output");
  check_reference(c, mixture, true);
  for (const gma::Options& options : all_options_of(c)) {
    SCOPED_TRACE(describe(options));
    expect_close("output", gma::causal(mixture, queries, keys, values, options, tokens), expected, forward_tolerance);
    expect_close("output through compile()", gma::causal(gma::compile(mixture), queries, keys, values, options, tokens),
                 expected, forward_tolerance);
    expect_gradients(c, gma::causal_backward(mixture, queries, keys, values, d_output, options, tokens));
  }
}

// The form that continues from a memory and leaves it advanced.
template <class Mixture>
void check_resumed(const Case& c, const Mixture& mixture) {
  const gma::TokenInputs<double> tokens = tokens_of(c);
  const Matrix &queries = c.matrix("queries"), &keys = c.matrix("keys"), &values = c.matrix("values");
  const Matrix &expected = c.matrix("output"), &d_output = c.matrix("d_output");
  const gma::Memory<double> initial = memory_of(c, "memory"), d_final = memory_of(c, "d_final_memory");
  for (const gma::Options& options : all_options_of(c)) {
    SCOPED_TRACE(describe(options));
    gma::Memory<double> memory = initial;
    expect_close("output", gma::causal(mixture, queries, keys, values, memory, options, tokens), expected,
                 forward_tolerance);
    expect_memory(c, memory);
    expect_gradients(c,
                     gma::causal_backward(mixture, queries, keys, values, d_output, initial, d_final, options, tokens));
  }
}

template <class Mixture>
void check_write(const Case& c, const Mixture& mixture) {
  const gma::TokenInputs<double> tokens = tokens_of(c);
  const Matrix &keys = c.matrix("keys"), &values = c.matrix("values");
  const gma::Memory<double> initial = memory_of(c, "memory"), d_memory = memory_of(c, "d_final_memory");
  gma::Memory<double> memory = initial;
  gma::write(mixture, keys, values, memory, tokens);
  expect_memory(c, memory);
  if (c.has("memory.slots"))
    expect_gradients(c, gma::write_backward(mixture, keys, values, d_memory, tokens, initial));
  else
    expect_gradients(c, gma::write_backward(mixture, keys, values, d_memory, tokens));
}

template <class Mixture>
void check_read(const Case& c, const Mixture& mixture) {
  const Matrix &queries = c.matrix("queries"), &expected = c.matrix("output"), &d_output = c.matrix("d_output");
  const gma::Memory<double> memory = memory_of(c, "memory");
  for (const gma::Options& options : all_options_of(c)) {
    SCOPED_TRACE(describe(options));
    expect_close("output", gma::read(mixture, queries, memory, options), expected, forward_tolerance);
    expect_close("output through compile()", gma::read(gma::compile(mixture), queries, memory, options), expected,
                 forward_tolerance);
    expect_gradients(c, gma::read_backward(mixture, queries, memory, d_output, options));
  }
}

template <class Mixture>
void check_density(const Case& c, const Mixture& mixture) {
  const Matrix &queries = c.matrix("queries"), &r = c.matrix("responsibilities"), &density = c.matrix("log_density");
  expect_close("responsibilities", gma::responsibilities(mixture, queries), r, forward_tolerance);
  expect_close("log_density", gma::log_density(mixture, queries), density, forward_tolerance);
  const gma::CompiledMixture<double> compiled = gma::compile(mixture);
  expect_close("responsibilities, compiled", gma::responsibilities(compiled, queries), r, forward_tolerance);
  expect_close("log_density, compiled", gma::log_density(compiled, queries), density, forward_tolerance);
}

void check_merge(const Case& c) { expect_memory(c, gma::merge(memory_of(c, "memory"), memory_of(c, "second_memory"))); }

template <class Mixture>
void check_operator(const Case& c, const Mixture& mixture) {
  if (c.operation == "bidirectional") return check_bidirectional(c, mixture);
  if (c.operation == "causal")
    return c.has("final_memory.slots") ? check_resumed(c, mixture) : check_causal(c, mixture);
  if (c.operation == "write") return check_write(c, mixture);
  if (c.operation == "read") return check_read(c, mixture);
  if (c.operation == "density") return check_density(c, mixture);
  FAIL() << "no check for operator " << c.operation;
}

template <class Covariance>
void check_covariance(const Case& c) {
  if (!c.is_product) return check_operator(c, factor_of<Covariance>(c, 0));
  gma::ProductMixture<double, Covariance> product;
  for (Index m = 0; m < c.factors; ++m) product.factors.push_back(factor_of<Covariance>(c, m));
  check_operator(c, product);
}

class Golden : public testing::TestWithParam<Case> {};

TEST_P(Golden, Matches) {
  const Case& c = GetParam();
  SCOPED_TRACE("case \"" + c.name + "\"");
  if (c.operation == "merge") {
    check_merge(c);
  } else {
    bool is_known = false;
    gma_test::all_families::for_each([&](auto family) {
      if (c.covariance != family.name) return;
      is_known = true;
      check_covariance<decltype(family)>(c);
    });
    EXPECT_TRUE(is_known) << "no family " << c.covariance;
  }
  if (!HasFailure())
    for (const std::string& tensor : c.unused()) ADD_FAILURE() << "nothing was compared with tensor " << tensor;
}

std::string test_name(const testing::TestParamInfo<Case>& info) {
  std::string name = info.param.name;
  for (char& letter : name)
    if (letter == ' ') letter = '_';
  return name;
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Golden);
INSTANTIATE_TEST_SUITE_P(Case, Golden, testing::ValuesIn(golden_file().cases), test_name);

}  // namespace
