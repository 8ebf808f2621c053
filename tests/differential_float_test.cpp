// SPDX-License-Identifier: MIT
// Every single-head verb and its backward in float, and with tokens in 16-bit storage, against plain loops and dual
// numbers in double. differential/cases.hpp says how to run it for hours, and how to run one case alone.
#include "differential/verbs.hpp"

namespace gma_test::differential {
namespace {

TEST(Differential, VerbsInFloat) {
  gma::Workspace<float> workspace;  // one for all cases: nothing of an earlier one may be seen
  for_each_case(400, [&](Random& random) {
    const Case c = random_case(random, &rounded<float>, &rounded<float>);
    SCOPED_TRACE(c.description());
    check_case<float>(c, random, workspace);
  });
}

template <class T>
void check_storage() {
  gma::Workspace<float> workspace;
  for_each_case(150, [&](Random& random) {
    const Case c = random_case(random, &rounded<float>, &rounded<T>);
    SCOPED_TRACE(c.description());
    with_mixture<float>(c, [&](const auto& mixture) { check_forward<float, T>(c, gma::compile(mixture), workspace); });
  });
}
TEST(Differential, VerbsOnBfloat16) { check_storage<Eigen::bfloat16>(); }
TEST(Differential, VerbsOnHalf) { check_storage<Eigen::half>(); }

}  // namespace
}  // namespace gma_test::differential
