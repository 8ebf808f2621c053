// SPDX-License-Identifier: MIT
// Every single-head verb and its backward in double, over random shapes, families, products, layouts, token inputs,
// memories, options, executors and cuts, against plain loops and dual numbers. differential/cases.hpp says how to run
// it for hours, and how to run one case alone.
#include "differential/verbs.hpp"

namespace gma_test::differential {
namespace {

TEST(Differential, VerbsInDouble) {
  gma::Workspace<double> workspace;  // one for all cases: nothing of an earlier one may be seen
  for_each_case(400, [&](Random& random) {
    const Case c = random_case(random, &rounded<double>, &rounded<double>);
    SCOPED_TRACE(c.description());
    check_case<double>(c, random, workspace);
  });
}

/// Operands that are expressions are evaluated to the same numbers.
TEST(Differential, ExpressionsInDouble) {
  gma::Workspace<double> workspace;
  for_each_case(60, [&](Random& random) {
    Case c = random_case(random, &rounded<double>, &rounded<double>);
    if (c.verb != Verb::causal) return;
    c.aliased = -1;
    SCOPED_TRACE(c.description());
    with_mixture<double>(c, [&](const auto& mixture) {
      const gma::CompiledMixture<double> compiled = gma::compile(mixture);
      Operands<double> x(c);
      const Matrix<double> q = x.queries.view(), k = x.keys.view(), v = x.values.view();
      const auto same = [](const Matrix<double>& m) { return 1.0 * m; };
      const TokenInputs<double> tokens = tokens_of<double>(c.given);
      Memory<double> a = memory_before<double>(c), b = a;
      EXPECT_TRUE(same_bits(gma::causal(compiled, same(q), same(k), same(v), a, c.options(), tokens),
                            gma::causal(compiled, q, k, v, b, c.options(), tokens)));
      EXPECT_TRUE(same_bits(a, b));
    });
  });
}

}  // namespace
}  // namespace gma_test::differential
